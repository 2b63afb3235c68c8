/* The wakeup channel.  HL_WAKE_PIPE forces the pipe, so that its code is tested where
 * there is an eventfd too. */
#include "core/wake.h"
#include "core/sys.h"

#if defined(HL_LINUX) && !defined(HL_WAKE_PIPE)

int
hl_wake_open(hl_wake *w)
{
    w->rfd = w->wfd = hl_sys_eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return w->rfd < 0 ? -errno : 0;
}

#else

int
hl_wake_open(hl_wake *w)
{
    int fds[2];
    if (hl_sys_pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) {
        w->rfd = w->wfd = -1;
        return -errno;
    }
    w->rfd = fds[0];
    w->wfd = fds[1];
    return 0;
}

#endif

/* Idempotent, and the fields are blanked first: nothing closes a number twice. */
void
hl_wake_close(hl_wake *w)
{
    int rfd = w->rfd, wfd = w->wfd;
    w->rfd = w->wfd = -1;
    if (wfd >= 0 && wfd != rfd) {
        (void)hl_sys_close(wfd);
    }
    if (rfd >= 0) {
        (void)hl_sys_close(rfd);
    }
}

/* A full channel (EAGAIN) will wake the reader anyway, so nothing but an interruption
 * is worth another try.  errno is the interrupted code's when this runs in a handler.
 */
void
hl_wake_signal(const hl_wake *w)
{
    const uint64_t one = 1;
    int saved = errno;
    while (hl_sys_write(w->wfd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    errno = saved;
}

/* All wake-ups up to now are answered by the turn that follows, so one read may take
 * many.  One that comes during the read makes the descriptor ready again. */
void
hl_wake_drain(const hl_wake *w)
{
    uint64_t buf[64]; /* an eventfd gives 8 bytes for all signals, a pipe 8 for each */
    ssize_t n;
    do {
        n = hl_sys_read(w->rfd, buf, sizeof(buf));
    } while (n == (ssize_t)sizeof(buf) || (n < 0 && errno == EINTR));
}

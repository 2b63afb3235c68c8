/* The epoll backend: level-triggered, the generation of a watch in the kernel's cookie.
 */
#include "core/mem.h"
#include "core/poll.h"
#include "core/sys.h"

#ifdef HL_LINUX

#include <limits.h>

#define FIRST_CAP 256

typedef struct {
    hl_poll base;
    int epfd;
    bool no_pwait2;         /* the kernel, or a seccomp filter, has none */
    struct epoll_event *ev; /* where the kernel writes; used by wait() alone */
    int cap;
} epoll_poll;

/* Only closes our copy of the descriptor: after a fork the parent's set goes on. */
static void
epoll_close(hl_poll *base)
{
    epoll_poll *p = (epoll_poll *)base;
    (void)hl_sys_close(p->epfd);
    free(p->ev);
    free(p);
}

/* CLOEXEC: a child that is executed must not hold the set, and with it the watches,
 * alive. */
static int
epoll_open(hl_poll **out)
{
    int rc = -ENOMEM;
    epoll_poll *p = hl_calloc(1, sizeof(*p));
    if (p == NULL) {
        return rc;
    }
    p->cap = FIRST_CAP;
    p->ev = hl_malloc((size_t)p->cap * sizeof(*p->ev));
    if (p->ev == NULL) {
        goto fail_poll;
    }
    p->epfd = hl_sys_epoll_create1(EPOLL_CLOEXEC);
    if (p->epfd < 0) {
        rc = -errno;
        goto fail_events;
    }
    p->base.ops = &hl_poll_epoll;
    *out = &p->base;
    return 0;

fail_events:
    free(p->ev);
fail_poll:
    free(p);
    return rc;
}

static inline int
control(epoll_poll *p, int op, int fd, struct epoll_event *ev)
{
    return hl_sys_epoll_ctl(p->epfd, op, fd, ev) < 0 ? -errno : 0;
}

/* One side of two is given up: fails only for a descriptor that is closed, or has
 * another file by now, of which nobody need be told. */
static inline int
lessen(epoll_poll *p, int fd, struct epoll_event *ev)
{
    return hl_sys_epoll_ctl(p->epfd, EPOLL_CTL_MOD, fd, ev) < 0 ? -errno : 0;
}

/* Fails for a descriptor that is closed already: then it is out of the set as well, or,
 * where a duplicate keeps its file open, the loop gets another set. */
static inline void
forget(epoll_poll *p, int fd)
{
    struct epoll_event ev = {0, {0}};
    (void)hl_sys_epoll_ctl(p->epfd, EPOLL_CTL_DEL, fd, &ev);
}

/* The kernel drops a descriptor that is closed, so what the table remembers (`old`) may
 * be out of date either way.  The first call goes by `old`, the second by the kernel.
 */
static int
epoll_change(hl_poll *base, int fd, uint32_t gen, uint32_t old, uint32_t want)
{
    epoll_poll *p = (epoll_poll *)base;
    struct epoll_event ev = {
        .events = (want & HL_READ ? EPOLLIN : 0u) | (want & HL_WRITE ? EPOLLOUT : 0u),
        .data.u64 = (uint64_t)gen << 32 | (uint32_t)fd,
    };
    if (want == 0) {
        if (old != 0) {
            forget(p, fd);
        }
        return 0;
    }
    bool gives_up = want != old && (want & ~old) == 0;
    int rc = gives_up ? lessen(p, fd, &ev)
                      : control(p, old ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev);
    if (rc == -ENOENT) {
        rc = control(p, EPOLL_CTL_ADD, fd, &ev);
        return rc < 0 ? rc : 1; /* another file under the number */
    }
    else if (rc == -EEXIST) {
        rc = control(p, EPOLL_CTL_MOD, fd, &ev);
    }
    return rc;
}

/* epoll_wait() knows milliseconds only: rounded up, so that no timer is early. */
static int
to_ms(int64_t ns)
{
    int64_t ms = ns / 1000000 + (ns % 1000000 != 0);
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

static int
wait_raw(epoll_poll *p, int cap, int64_t timeout_ns)
{
    if (timeout_ns <= 0) {
        return hl_sys_epoll_wait(p->epfd, p->ev, cap, timeout_ns < 0 ? -1 : 0);
    }
    if (HL_LIKELY(!p->no_pwait2)) {
        hl_kernel_timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        int n = hl_sys_epoll_pwait2(p->epfd, p->ev, cap, &ts);
        if (HL_LIKELY(n >= 0 || (errno != ENOSYS && errno != EPERM))) {
            return n;
        }
        /* Not asked again: milliseconds have to do from now on. */
        p->no_pwait2 = true;
    }
    return hl_sys_epoll_wait(p->epfd, p->ev, cap, to_ms(timeout_ns));
}

/* Room for `cap` events, or as many as there is memory for. */
static int
make_room(epoll_poll *p, int cap)
{
    if (HL_UNLIKELY(cap > p->cap)) {
        struct epoll_event *ev = hl_realloc(p->ev, (size_t)cap * sizeof(*ev));
        if (ev != NULL) {
            p->ev = ev;
            p->cap = cap;
        }
    }
    return cap < p->cap ? cap : p->cap;
}

/* asyncio's reading of the bits: an error or a hang-up is neither IN nor OUT, so it
 * sets both sides. */
static inline uint32_t
sides(uint32_t events)
{
    return (events & ~(uint32_t)EPOLLOUT ? HL_READ : 0u) |
           (events & ~(uint32_t)EPOLLIN ? HL_WRITE : 0u);
}

static int
epoll_await(hl_poll *base, hl_fired *out, int cap, int64_t timeout_ns)
{
    epoll_poll *p = (epoll_poll *)base;
    assert(cap > 0);
    int n = wait_raw(p, make_room(p, cap), timeout_ns);
    if (n < 0) {
        return -errno;
    }
    for (int i = 0; i < n; i++) {
        uint64_t cookie = p->ev[i].data.u64;
        out[i] = (hl_fired){(int)(uint32_t)cookie, (uint32_t)(cookie >> 32),
                            sides(p->ev[i].events)};
    }
    return n;
}

/* A loop can itself be watched by another poller, by this number. */
static int
epoll_fileno(hl_poll *base)
{
    return ((epoll_poll *)base)->epfd;
}

const hl_poll_ops hl_poll_epoll = {
    .name = "epoll",
    .max_fd = INT_MAX,
    .open = epoll_open,
    .close = epoll_close,
    .ctl = epoll_change,
    .wait = epoll_await,
    .fileno = epoll_fileno,
};

#endif /* HL_LINUX */

/* The pipe behind Python's signal wakeup fd. */
#include "core/sigpair.h"
#include "core/sys.h"

#include <string.h>

/* Writes all the fields: what an earlier pair, or a parent process, left there is gone.
 */
int
hl_sigpair_open(hl_sigpair *p)
{
    int fds[2];
    if (hl_sys_pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0) {
        return -errno;
    }
    memset(p, 0, sizeof(*p));
    p->rfd = fds[0];
    p->wfd = fds[1];
    p->old.fd = -1;
    p->pid = getpid();
    return 0;
}

/* The caller has taken the write end out of the interpreter first: the C signal handler
 * would write into whatever gets its number next. */
void
hl_sigpair_close(hl_sigpair *p)
{
    (void)hl_sys_close(p->rfd);
    (void)hl_sys_close(p->wfd);
    memset(p, 0, sizeof(*p));
}

/* An end that has nothing, or is broken, gives 0 alike: there is nothing to deliver,
 * and nobody here to tell. */
size_t
hl_sigpair_read(const hl_sigpair *p, unsigned char *buf, size_t cap)
{
    ssize_t n;
    do {
        n = hl_sys_read(p->rfd, buf, cap);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? 0 : (size_t)n;
}

/* Device and inode tell a descriptor from the next owner of its number.  For pipes and
 * sockets the inode is unique as long as they are open. */
hl_fdid
hl_fdid_of(int fd)
{
    struct stat st;
    if (fd < 0 || hl_sys_fstat(fd, &st) < 0) {
        return (hl_fdid){.fd = -1};
    }
    return (hl_fdid){fd, st.st_dev, st.st_ino};
}

/* Between this look and the use of the number another thread may still close it: the
 * window is as wide as the interpreter's own for its wakeup fd. */
bool
hl_fdid_valid(hl_fdid id)
{
    if (id.fd < 0) {
        return false;
    }
    hl_fdid now = hl_fdid_of(id.fd);
    return now.fd == id.fd && now.dev == id.dev && now.ino == id.ino;
}

void
hl_fdid_forward(hl_fdid id, const unsigned char *buf, size_t n)
{
    if (hl_fdid_valid(id)) {
        ssize_t rc;
        do {
            rc = hl_sys_write(id.fd, buf, n);
        } while (rc < 0 && errno == EINTR);
        /* Full or closed at its other end: the interpreter would have lost it too. */
    }
}

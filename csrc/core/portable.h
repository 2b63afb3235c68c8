/* What Linux and the BSDs do in one system call and others (macOS) in several: a new
 * descriptor that is non-blocking and close-on-exec.  Only core/sys.h includes this.
 *
 * Between those calls another thread may fork and exec, and its child then has the
 * descriptor too; Python's own sockets and pipes have that window there as well.
 *
 * HL_PORTABLE takes this way on Linux, so that it is compiled and tested
 * (`make portable`). */
#ifndef HL_CORE_PORTABLE_H
#define HL_CORE_PORTABLE_H

#include "core/base.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(SOCK_NONBLOCK) && defined(SOCK_CLOEXEC) && !defined(HL_PORTABLE)

/* Also part of the type that Python's socket objects are made with. */
#define HL_SOCK_NONBLOCK SOCK_NONBLOCK
#define HL_SOCK_CLOEXEC SOCK_CLOEXEC
#define HL_MSG_NOSIGNAL MSG_NOSIGNAL

#define hl_raw_socket(family, type, proto) socket(family, type, proto)
#define hl_raw_accept4(fd, a, len, flags) accept4(fd, a, len, flags)
#define hl_raw_pipe2(fds, flags) pipe2(fds, flags)

#else

#define HL_SOCK_NONBLOCK 0
#define HL_SOCK_CLOEXEC 0
#define HL_MSG_NOSIGNAL 0 /* Python ignores SIGPIPE, unless told otherwise */

/* `fd` itself, or -1 with errno: it is closed then. */
static inline int
hl_portable_flags(int fd)
{
    if (fd < 0) {
        return -1;
    }
    int old = fcntl(fd, F_GETFL);
    if (old < 0 || fcntl(fd, F_SETFL, old | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        int err = errno;
        close(fd);
        errno = err;
        return -1;
    }
    return fd;
}

/* The flags are the two of above, which is all that hotloop asks for. */
static inline int
hl_raw_socket(int family, int type, int proto)
{
    return hl_portable_flags(socket(family, type, proto));
}

static inline int
hl_raw_accept4(int fd, struct sockaddr *a, socklen_t *len, int flags)
{
    (void)flags;
    return hl_portable_flags(accept(fd, a, len));
}

static inline int
hl_raw_pipe2(int fds[2], int flags)
{
    (void)flags;
    if (pipe(fds) < 0) {
        return -1;
    }
    if (hl_portable_flags(fds[0]) < 0) {
        int err = errno;
        close(fds[1]);
        errno = err;
        return -1;
    }
    if (hl_portable_flags(fds[1]) < 0) {
        int err = errno;
        close(fds[0]);
        errno = err;
        return -1;
    }
    return 0;
}

#endif

#endif

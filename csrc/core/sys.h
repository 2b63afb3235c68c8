/* Every system call that hotloop makes, under one roof: hl_sys_NAME() is NAME(), and in
 * a build for fault injection a site that can be told to fail.  The lint (syscalls)
 * keeps the rest of csrc/ from calling the system by itself.
 *
 * Not here: what cannot fail, clock_gettime() and getpid(). */
#ifndef HL_CORE_SYS_H
#define HL_CORE_SYS_H

#include "core/base.h"
#include "core/fault.h"
#include "core/portable.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#ifdef HL_LINUX
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

/* What the kernel takes on every architecture, 32-bit ones too. */
typedef struct {
    int64_t sec, nsec;
} hl_kernel_timespec;
#endif

/* Result, name, parameters, the call, the same call doing as little as it may.  `never`
 * stands where a call does all or nothing. */
#define HL_SYS_CALLS(X, never)                                                         \
    X(ssize_t, read, (int fd, void *p, size_t n), read(fd, p, n), read(fd, p, 1))      \
    X(ssize_t, readv, (int fd, const struct iovec *v, int n), readv(fd, v, n),         \
      read(fd, v->iov_base, 1))                                                        \
    X(ssize_t, write, (int fd, const void *p, size_t n), write(fd, p, n),              \
      write(fd, p, 1))                                                                 \
    X(ssize_t, writev, (int fd, const struct iovec *v, int n), writev(fd, v, n),       \
      write(fd, v->iov_base, 1))                                                       \
    X(ssize_t, recv, (int fd, void *p, size_t n, int flags), recv(fd, p, n, flags),    \
      recv(fd, p, 1, flags))                                                           \
    X(ssize_t, send, (int fd, const void *p, size_t n, int flags),                     \
      send(fd, p, n, flags), send(fd, p, 1, flags))                                    \
    X(ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags),                   \
      sendmsg(fd, m, flags), send(fd, m->msg_iov->iov_base, 1, flags))                 \
    X(ssize_t, recvfrom,                                                               \
      (int fd, void *p, size_t n, int flags, struct sockaddr *a, socklen_t *len),      \
      recvfrom(fd, p, n, flags, a, len), never)                                        \
    X(ssize_t, sendto,                                                                 \
      (int fd, const void *p, size_t n, int flags, const struct sockaddr *a,           \
       socklen_t len),                                                                 \
      sendto(fd, p, n, flags, a, len), never)                                          \
    X(int, accept4, (int fd, struct sockaddr *a, socklen_t *len, int flags),           \
      hl_raw_accept4(fd, a, len, flags), never)                                        \
    X(int, socket, (int family, int type, int proto),                                  \
      hl_raw_socket(family, type, proto), never)                                       \
    X(int, connect, (int fd, const struct sockaddr *a, socklen_t len),                 \
      connect(fd, a, len), never)                                                      \
    X(int, shutdown, (int fd, int how), shutdown(fd, how), never)                      \
    X(int, getsockname, (int fd, struct sockaddr *a, socklen_t *len),                  \
      getsockname(fd, a, len), never)                                                  \
    X(int, getpeername, (int fd, struct sockaddr *a, socklen_t *len),                  \
      getpeername(fd, a, len), never)                                                  \
    X(int, getsockopt, (int fd, int level, int name, void *p, socklen_t *len),         \
      getsockopt(fd, level, name, p, len), never)                                      \
    X(int, setsockopt, (int fd, int level, int name, const void *p, socklen_t len),    \
      setsockopt(fd, level, name, p, len), never)                                      \
    X(int, fcntl, (int fd, int cmd, int arg), fcntl(fd, cmd, arg), never)              \
    X(int, fstat, (int fd, struct stat *out), fstat(fd, out), never)                   \
    X(int, pipe2, (int fds[2], int flags), hl_raw_pipe2(fds, flags), never)            \
    X(int, poll, (struct pollfd * p, nfds_t n, int ms), poll(p, n, ms), never)         \
    X(int, pselect, (int top, fd_set *r, fd_set *w, const struct timespec *ts),        \
      pselect(top, r, w, NULL, ts, NULL), never)

#define HL_SYS_CALLS_LINUX(X, never)                                                   \
    X(int, eventfd, (unsigned count, int flags), eventfd(count, flags), never)         \
    X(int, epoll_create1, (int flags), epoll_create1(flags), never)                    \
    X(int, epoll_ctl, (int epfd, int op, int fd, struct epoll_event *ev),              \
      epoll_ctl(epfd, op, fd, ev), never)                                              \
    X(int, epoll_wait, (int epfd, struct epoll_event *ev, int n, int ms),              \
      epoll_wait(epfd, ev, n, ms), epoll_wait(epfd, ev, 1, ms))                        \
    X(int, epoll_pwait2,                                                               \
      (int epfd, struct epoll_event *ev, int n, const hl_kernel_timespec *ts),         \
      hl_raw_epoll_pwait2(epfd, ev, n, ts), hl_raw_epoll_pwait2(epfd, ev, 1, ts))

#ifdef HL_LINUX
/* Not through libc: musl has no wrapper, glibc only from 2.35 on. */
static inline int
hl_raw_epoll_pwait2(int epfd, struct epoll_event *ev, int n,
                    const hl_kernel_timespec *ts)
{
#ifdef SYS_epoll_pwait2
    return (int)syscall(SYS_epoll_pwait2, epfd, ev, n, ts, NULL, 0);
#else
    (void)epfd, (void)ev, (void)n, (void)ts;
    errno = ENOSYS;
    return -1;
#endif
}
#endif

#ifndef HL_FAULTS

/* An inlined call of the same arguments: nothing is left of the wrapper. */
#define HL_SYS_DEFINE(result, name, params, call, less)                                \
    static inline result hl_sys_##name params                                          \
    {                                                                                  \
        return call;                                                                   \
    }

HL_SYS_CALLS(HL_SYS_DEFINE, )
#ifdef HL_LINUX
HL_SYS_CALLS_LINUX(HL_SYS_DEFINE, )
#endif

static inline int
hl_sys_close(int fd)
{
    return close(fd);
}

#else

#define HL_SYS_LIST(...) __VA_ARGS__
#define HL_SYS_DECLARE(result, name, params, call, less)                               \
    result hl_faulty_##name(hl_site *site, HL_SYS_LIST params);

HL_SYS_CALLS(HL_SYS_DECLARE, )
#ifdef HL_LINUX
HL_SYS_CALLS_LINUX(HL_SYS_DECLARE, )
#endif
/* A close() that fails has closed the descriptor all the same, on Linux. */
int hl_faulty_close(hl_site *site, int fd);

#define hl_sys_read(...) hl_faulty_read(HL_SITE("read"), __VA_ARGS__)
#define hl_sys_readv(...) hl_faulty_readv(HL_SITE("readv"), __VA_ARGS__)
#define hl_sys_write(...) hl_faulty_write(HL_SITE("write"), __VA_ARGS__)
#define hl_sys_writev(...) hl_faulty_writev(HL_SITE("writev"), __VA_ARGS__)
#define hl_sys_recv(...) hl_faulty_recv(HL_SITE("recv"), __VA_ARGS__)
#define hl_sys_send(...) hl_faulty_send(HL_SITE("send"), __VA_ARGS__)
#define hl_sys_sendmsg(...) hl_faulty_sendmsg(HL_SITE("sendmsg"), __VA_ARGS__)
#define hl_sys_recvfrom(...) hl_faulty_recvfrom(HL_SITE("recvfrom"), __VA_ARGS__)
#define hl_sys_sendto(...) hl_faulty_sendto(HL_SITE("sendto"), __VA_ARGS__)
#define hl_sys_accept4(...) hl_faulty_accept4(HL_SITE("accept4"), __VA_ARGS__)
#define hl_sys_socket(...) hl_faulty_socket(HL_SITE("socket"), __VA_ARGS__)
#define hl_sys_connect(...) hl_faulty_connect(HL_SITE("connect"), __VA_ARGS__)
#define hl_sys_shutdown(...) hl_faulty_shutdown(HL_SITE("shutdown"), __VA_ARGS__)
#define hl_sys_getsockname(...)                                                        \
    hl_faulty_getsockname(HL_SITE("getsockname"), __VA_ARGS__)
#define hl_sys_getpeername(...)                                                        \
    hl_faulty_getpeername(HL_SITE("getpeername"), __VA_ARGS__)
#define hl_sys_getsockopt(...) hl_faulty_getsockopt(HL_SITE("getsockopt"), __VA_ARGS__)
#define hl_sys_setsockopt(...) hl_faulty_setsockopt(HL_SITE("setsockopt"), __VA_ARGS__)
#define hl_sys_fcntl(...) hl_faulty_fcntl(HL_SITE("fcntl"), __VA_ARGS__)
#define hl_sys_fstat(...) hl_faulty_fstat(HL_SITE("fstat"), __VA_ARGS__)
#define hl_sys_pipe2(...) hl_faulty_pipe2(HL_SITE("pipe2"), __VA_ARGS__)
#define hl_sys_poll(...) hl_faulty_poll(HL_SITE("poll"), __VA_ARGS__)
#define hl_sys_pselect(...) hl_faulty_pselect(HL_SITE("pselect"), __VA_ARGS__)
#define hl_sys_eventfd(...) hl_faulty_eventfd(HL_SITE("eventfd"), __VA_ARGS__)
#define hl_sys_epoll_create1(...)                                                      \
    hl_faulty_epoll_create1(HL_SITE("epoll_create1"), __VA_ARGS__)
#define hl_sys_epoll_ctl(...) hl_faulty_epoll_ctl(HL_SITE("epoll_ctl"), __VA_ARGS__)
#define hl_sys_epoll_wait(...) hl_faulty_epoll_wait(HL_SITE("epoll_wait"), __VA_ARGS__)
#define hl_sys_epoll_pwait2(...)                                                       \
    hl_faulty_epoll_pwait2(HL_SITE("epoll_pwait2"), __VA_ARGS__)
#define hl_sys_close(...) hl_faulty_close(HL_SITE("close"), __VA_ARGS__)

#endif
#endif

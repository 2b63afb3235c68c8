/* Every case runs over every backend of this system; `B` is the one in turn. */
#include "check.h"
#include "core/clock.h"
#include "core/poll.h"

#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define MS 1000000
#define RW (HL_READ | HL_WRITE)

static const hl_poll_ops *B;

/* Linked with -Wl,--wrap=syscall: a kernel without epoll_pwait2, or a seccomp filter.
 */
static int refuse_pwait2, pwait2_calls;
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

long
__wrap_syscall(long number, ...)
{
    va_list ap;
    long a[6];
    va_start(ap, number);
    for (int i = 0; i < 6; i++) {
        a[i] = va_arg(ap, long);
    }
    va_end(ap);
#ifdef SYS_epoll_pwait2
    if (number == SYS_epoll_pwait2) {
        pwait2_calls++;
        if (refuse_pwait2) {
            errno = refuse_pwait2;
            return -1;
        }
    }
#endif
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static bool
is_epoll(void)
{
    return strcmp(B->name, "epoll") == 0;
}

static hl_poll *
open_poll(void)
{
    hl_poll *p = NULL;
    CHECK_EQ(B->open(&p), 0);
    CHECK(p->ops == B);
    return p;
}

static void
make_pipe(int fd[2])
{
    CHECK_EQ(pipe2(fd, O_NONBLOCK | O_CLOEXEC), 0);
}

static void
make_pair(int fd[2])
{
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
}

static void
close_both(const int fd[2])
{
    CHECK_EQ(close(fd[0]), 0);
    CHECK_EQ(close(fd[1]), 0);
}

/* The events of fd in one wait that does not block; 0 when it is not among them. */
static uint32_t
now(hl_poll *p, int fd, uint32_t gen)
{
    hl_fired f[16];
    int n = B->wait(p, f, 16, 0);
    CHECK(n >= 0);
    for (int i = 0; i < n; i++) {
        if (f[i].fd == fd) {
            CHECK_EQ(f[i].gen, gen);
            return f[i].events;
        }
    }
    return 0;
}

static void
check_wait_not_early(hl_poll *p, int64_t ns)
{
    hl_fired f;
    int64_t start = hl_clock_ns();
    CHECK_EQ(B->wait(p, &f, 1, ns), 0);
    CHECK(hl_clock_ns() - start >= ns);
}

static void
check_timeouts(hl_poll *p)
{
    static const int64_t ns[] = {1, 999, 50000, 999999, MS, MS + 1, 1700001, 20 * MS};
    for (size_t i = 0; i < sizeof(ns) / sizeof(*ns); i++) {
        check_wait_not_early(p, ns[i]);
    }
    check_wait_not_early(p, 0);
}

static void
test_timeouts_are_never_early(void)
{
    hl_poll *p = open_poll();
    check_timeouts(p); /* with nothing to watch */
    int fd[2];
    make_pipe(fd);
    CHECK_EQ(B->ctl(p, fd[0], 1, 0, HL_READ), 0);
    check_timeouts(p);
    close_both(fd);
    B->close(p);
}

static void
test_without_pwait2(void)
{
    const int error[] = {ENOSYS, EPERM};
    for (int i = 0; i < 2; i++) {
        hl_poll *p = open_poll();
        refuse_pwait2 = error[i];
        pwait2_calls = 0;
        check_timeouts(p);
        CHECK(pwait2_calls <= 1); /* it learns */
        refuse_pwait2 = 0;
        B->close(p);
    }
}

/* A huge timeout is no overflow: the event comes, not a timeout in the past. */
static void
test_huge_timeouts(void)
{
    const int64_t huge[] = {INT64_MAX, INT64_MAX / 2, (int64_t)INT_MAX * MS + 1, -1};
    int fd[2];
    make_pipe(fd);
    CHECK_EQ(write(fd[1], "x", 1), 1);
    for (int refuse = 0; refuse < 2; refuse++) {
        hl_poll *p = open_poll();
        refuse_pwait2 = refuse ? ENOSYS : 0;
        CHECK_EQ(B->ctl(p, fd[0], 1, 0, HL_READ), 0);
        for (int i = 0; i < 4; i++) {
            hl_fired f;
            CHECK_EQ(B->wait(p, &f, 1, huge[i]), 1);
        }
        refuse_pwait2 = 0;
        B->close(p);
    }
    close_both(fd);
}

static void
nothing(int signum)
{
    (void)signum;
}

static void
test_interrupted(void)
{
    hl_poll *p = open_poll();
    struct sigaction sa = {.sa_handler = nothing}, old;
    /* Again and again, should the first come before the wait. */
    struct itimerval it = {{0, 5000}, {0, 5000}}, off = {{0, 0}, {0, 0}};
    hl_fired f;
    CHECK_EQ(sigaction(SIGVTALRM, &sa, &old), 0);
    CHECK_EQ(sigaction(SIGALRM, &sa, &old), 0);
    CHECK_EQ(setitimer(ITIMER_REAL, &it, NULL), 0);
    CHECK_EQ(B->wait(p, &f, 1, -1), -EINTR);
    CHECK_EQ(B->wait(p, &f, 1, (int64_t)3600 * 1000 * MS), -EINTR);
    CHECK_EQ(setitimer(ITIMER_REAL, &off, NULL), 0);
    CHECK_EQ(sigaction(SIGALRM, &old, NULL), 0);
    (void)alarm(120); /* it shares the timer */
    B->close(p);
}

static void
test_pipe(void)
{
    hl_poll *p = open_poll();
    int fd[2];
    make_pipe(fd);
    CHECK_EQ(B->ctl(p, fd[0], 11, 0, HL_READ), 0);
    CHECK_EQ(B->ctl(p, fd[1], 12, 0, HL_WRITE), 0);
    CHECK_EQ(now(p, fd[0], 11), 0);
    CHECK_EQ(now(p, fd[1], 12), HL_WRITE);
    CHECK_EQ(write(fd[1], "x", 1), 1);
    CHECK_EQ(now(p, fd[0], 11), HL_READ);
    CHECK_EQ(now(p, fd[0], 11), HL_READ); /* level-triggered */
    char c;
    CHECK_EQ(read(fd[0], &c, 1), 1);
    CHECK_EQ(now(p, fd[0], 11), 0);
    CHECK_EQ(B->ctl(p, fd[1], 12, HL_WRITE, 0), 0);
    CHECK_EQ(now(p, fd[1], 12), 0);
    CHECK_EQ(B->ctl(p, fd[0], 11, HL_READ, 0), 0);
    CHECK_EQ(B->ctl(p, fd[0], 11, 0, 0), 0); /* nothing to give up */
    close_both(fd);
    B->close(p);
}

static void
test_both_sides_of_a_socket(void)
{
    hl_poll *p = open_poll();
    int fd[2];
    make_pair(fd);
    CHECK_EQ(B->ctl(p, fd[0], 1, 0, HL_READ), 0);
    CHECK_EQ(now(p, fd[0], 1), 0);
    CHECK_EQ(B->ctl(p, fd[0], 2, HL_READ, RW), 0); /* and the generation moves along */
    CHECK_EQ(now(p, fd[0], 2), HL_WRITE);
    CHECK_EQ(write(fd[1], "x", 1), 1);
    CHECK_EQ(now(p, fd[0], 2), RW);
    CHECK_EQ(B->ctl(p, fd[0], 3, RW, HL_READ), 0);
    CHECK_EQ(now(p, fd[0], 3), HL_READ);
    CHECK_EQ(B->ctl(p, fd[0], 4, HL_READ, HL_READ), 0);
    CHECK_EQ(now(p, fd[0], 4), HL_READ);
    CHECK_EQ(B->ctl(p, fd[0], UINT32_MAX, HL_READ, HL_WRITE), 0);
    CHECK_EQ(now(p, fd[0], UINT32_MAX), HL_WRITE);
    close_both(fd);
    B->close(p);
}

static void
test_hang_up(void)
{
    hl_poll *p = open_poll();
    int fd[2];
    make_pipe(fd);
    CHECK_EQ(B->ctl(p, fd[0], 1, 0, HL_READ), 0);
    CHECK_EQ(close(fd[1]), 0);
    CHECK(now(p, fd[0], 1) & HL_READ); /* end of file */
    CHECK_EQ(close(fd[0]), 0);
    make_pipe(fd);
    CHECK_EQ(B->ctl(p, fd[1], 2, 0, HL_WRITE), 0);
    CHECK_EQ(close(fd[0]), 0);
    CHECK(now(p, fd[1], 2) & HL_WRITE); /* broken pipe */
    CHECK_EQ(close(fd[1]), 0);
    make_pair(fd);
    CHECK_EQ(B->ctl(p, fd[0], 3, 0, RW), 0);
    CHECK_EQ(close(fd[1]), 0);
    CHECK_EQ(now(p, fd[0], 3), RW);
    CHECK_EQ(close(fd[0]), 0);
    B->close(p);
}

static void
test_failed_connect(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof(a);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int port = socket(AF_INET, SOCK_STREAM, 0); /* bound, but it does not listen */
    CHECK(port >= 0);
    CHECK_EQ(bind(port, (struct sockaddr *)&a, len), 0);
    CHECK_EQ(getsockname(port, (struct sockaddr *)&a, &len), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(fd >= 0);
    if (connect(fd, (struct sockaddr *)&a, len) < 0 && errno == EINPROGRESS) {
        hl_poll *p = open_poll();
        hl_fired f;
        CHECK_EQ(B->ctl(p, fd, 1, 0, HL_WRITE), 0);
        CHECK_EQ(B->wait(p, &f, 1, -1), 1);
        CHECK(f.events & HL_WRITE);
        B->close(p);
    }
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(close(port), 0);
}

/* Wait must sleep, not spin and not fail, over a descriptor that was closed. */
static void
wait_quietly(hl_poll *p)
{
    hl_fired f;
    int64_t start = hl_clock_ns();
    int turns = 0;
    while (hl_clock_ns() - start < 10 * MS) {
        CHECK_EQ(B->wait(p, &f, 1, 10 * MS), 0);
        turns++;
    }
    CHECK(turns <= 3);
}

static void
test_closed_while_watched(void)
{
    hl_poll *p = open_poll();
    int fd[2], other[2];
    make_pair(fd);
    make_pipe(other);
    CHECK_EQ(B->ctl(p, other[0], 5, 0, HL_READ), 0);
    CHECK_EQ(B->ctl(p, fd[0], 1, 0, RW), 0);
    CHECK_EQ(B->ctl(p, fd[1], 1, 0, HL_READ), 0);
    close_both(fd);
    wait_quietly(p);
    CHECK_EQ(write(other[1], "x", 1), 1); /* the others go on */
    CHECK_EQ(now(p, other[0], 5), HL_READ);
    CHECK_EQ(B->ctl(p, fd[0], 1, RW, 0), 0);
    CHECK_EQ(B->ctl(p, fd[1], 1, HL_READ, 0), 0);
    close_both(other);
    B->close(p);
}

/* Closed and opened again under the same number, with a wait in between or not. */
static void
reopen(uint32_t old, uint32_t want, bool wait)
{
    hl_poll *p = open_poll();
    int fd[2], again[2];
    make_pair(fd);
    CHECK_EQ(B->ctl(p, fd[0], 1, 0, old), 0);
    close_both(fd);
    if (wait) {
        CHECK_EQ(now(p, fd[0], 1), 0);
        CHECK_EQ(now(p, fd[0], 1), 0);
    }
    make_pair(again);
    CHECK_EQ(again[0], fd[0]);
    /* What came before this one's owner speaks up is not for the one that is gone. */
    CHECK_EQ(write(again[1], "x", 1), 1);
    CHECK_EQ(now(p, fd[0], 1), 0);
    CHECK_EQ(B->ctl(p, fd[0], 2, old, want), 1);
    CHECK_EQ(write(again[1], "x", 1), 1);
    CHECK_EQ(now(p, fd[0], 2), want);
    CHECK_EQ(B->ctl(p, fd[0], 2, want, 0), 0);
    CHECK_EQ(now(p, fd[0], 2), 0);
    close_both(again);
    B->close(p);
}

static void
test_reopened_while_watched(void)
{
    for (int wait = 0; wait < 2; wait++) {
        for (uint32_t old = HL_READ; old <= RW; old++) {
            for (uint32_t want = HL_READ; want <= RW; want++) {
                reopen(old, want, wait);
            }
        }
    }
}

/* Watched in fact, though the caller thinks it is not. */
static void
test_added_twice(void)
{
    hl_poll *p = open_poll();
    int fd[2];
    make_pair(fd);
    CHECK_EQ(B->ctl(p, fd[0], 1, 0, HL_READ), 0);
    CHECK_EQ(B->ctl(p, fd[0], 2, 0, HL_WRITE), 0);
    CHECK_EQ(now(p, fd[0], 2), HL_WRITE);
    close_both(fd);
    B->close(p);
}

static void
test_bad_descriptors(void)
{
    hl_poll *p = open_poll();
    int fd[2];
    make_pipe(fd);
    close_both(fd);
    CHECK_EQ(B->ctl(p, fd[0], 1, 0, HL_READ), -EBADF);
    CHECK_EQ(B->ctl(p, fd[0], 1, HL_READ, RW), -EBADF);
    CHECK_EQ(B->ctl(p, fd[0], 1, HL_READ, HL_READ), -EBADF);
    CHECK_EQ(B->ctl(p, fd[0], 1, HL_READ, 0), 0);
    CHECK_EQ(B->ctl(p, -1, 1, 0, HL_READ), -EBADF);
    CHECK_EQ(B->ctl(p, -1, 1, HL_READ, 0), 0);
    if (B->max_fd != INT_MAX) {
        CHECK_EQ(B->ctl(p, B->max_fd, 1, 0, HL_READ), -EINVAL);
        CHECK_EQ(B->ctl(p, INT_MAX, 1, 0, HL_READ), -EINVAL);
        CHECK_EQ(B->ctl(p, B->max_fd, 1, HL_READ, 0), 0);
    }
    wait_quietly(p);
    B->close(p);
}

static void
test_regular_file(void)
{
    hl_poll *p = open_poll();
    char name[] = "/tmp/hl-test-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0);
    CHECK_EQ(unlink(name), 0);
    if (is_epoll()) {
        CHECK_EQ(B->ctl(p, fd, 1, 0, HL_READ), -EPERM);
        CHECK_EQ(B->ctl(p, fd, 1, HL_READ, 0), 0);
        wait_quietly(p);
    }
    else {
        CHECK_EQ(B->ctl(p, fd, 1, 0, RW), 0);
        CHECK_EQ(now(p, fd, 1), RW);
    }
    CHECK_EQ(close(fd), 0);
    B->close(p);
}

#define MANY 300

/* With all of them ready and room for 7, everyone has his turn before anyone has his
 * third. */
static void
go_round(hl_poll *p, int pair[][2])
{
    static int seen[1024];
    hl_fired f[7];
    memset(seen, 0, sizeof(seen));
    for (int i = 0; i < (2 * MANY) / 7 + 2; i++) {
        CHECK_EQ(B->wait(p, f, 7, 0), 7);
        for (int j = 0; j < 7; j++) {
            CHECK(++seen[f[j].fd] <= 2);
        }
    }
    for (int i = 0; i < MANY; i++) {
        CHECK(seen[pair[i][0]] >= 1 && seen[pair[i][1]] >= 1);
    }
}

static void
test_many(void)
{
    static int pair[MANY][2];
    static hl_fired f[1000];
    struct rlimit old, more;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    more = old;
    more.rlim_cur =
        old.rlim_max == RLIM_INFINITY || old.rlim_max > 1024 ? 1024 : old.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &more), 0);
    hl_poll *p = open_poll();
    for (int i = 0; i < MANY; i++) {
        make_pair(pair[i]);
        for (int j = 0; j < 2; j++) {
            CHECK_EQ(B->ctl(p, pair[i][j], (uint32_t)i, 0, RW), 0);
        }
    }
    CHECK_EQ(B->wait(p, f, 1000, -1),
             2 * MANY); /* more than it has room for at first */
    go_round(p, pair);
    for (int i = 0; i < MANY; i += 2) { /* every other pair goes, without a word */
        close_both(pair[i]);
    }
    CHECK_EQ(B->wait(p, f, 1000, 0), MANY);
    for (int i = 1; i < MANY; i += 2) {
        CHECK_EQ(B->ctl(p, pair[i][1], (uint32_t)i, RW, 0), 0);
        close_both(pair[i]);
    }
    wait_quietly(p);
    B->close(p);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
}

static void
test_no_memory(void)
{
    static hl_fired f[1000];
    int rc, left = 0;
    hl_poll *p = NULL;
    do { /* each of its allocations fails once; the sanitizer sees the leaks */
        check_allocs_left = left++;
        rc = B->open(&p);
        check_allocs_left = -1;
    } while (rc == -ENOMEM);
    CHECK_EQ(rc, 0);
    CHECK(left > 1);
    int fd[2];
    make_pipe(fd);
    CHECK_EQ(B->ctl(p, fd[1], 1, 0, HL_WRITE), 0);
    check_allocs_left = 0;
    CHECK_EQ(B->wait(p, f, 1000, -1), 1); /* makes do with the room it has */
    check_allocs_left = -1;
    close_both(fd);
    B->close(p);
}

static void
test_open_without_descriptors(void)
{
    struct rlimit old, none;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = 0;
    hl_poll *p = NULL;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    int rc = B->open(&p);
    const hl_poll_ops *found = hl_poll_find(NULL);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    CHECK(found == hl_poll_backends[0]); /* not a lesser one without a word */
    if (is_epoll()) {
        CHECK_EQ(rc, -EMFILE);
    }
    else {
        CHECK_EQ(rc, 0);
        B->close(p);
    }
}

static void
test_fileno(void)
{
    hl_poll *p = open_poll();
    int fd = B->fileno(p);
    if (is_epoll()) {
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        B->close(p);
        CHECK(fcntl(fd, F_GETFD) < 0);
    }
    else {
        CHECK_EQ(fd, -1);
        B->close(p);
    }
}

static void
test_find(void)
{
    CHECK(hl_poll_find(NULL) == hl_poll_backends[0]);
    CHECK(hl_poll_find(B->name) == B);
    CHECK(hl_poll_find("") == NULL);
    CHECK(hl_poll_find("nonesuch") == NULL);
    CHECK(hl_poll_find("select") == &hl_poll_select);
#ifdef HL_LINUX
    CHECK(hl_poll_find(NULL) == &hl_poll_epoll);
#endif
}

int
main(void)
{
    check_start();
    for (const hl_poll_ops *const *b = hl_poll_backends; *b != NULL; b++) {
        B = *b;
        printf("# %s\n", B->name);
        RUN(test_find);
        RUN(test_fileno);
        RUN(test_timeouts_are_never_early);
        RUN(test_without_pwait2);
        RUN(test_huge_timeouts);
        RUN(test_interrupted);
        RUN(test_pipe);
        RUN(test_both_sides_of_a_socket);
        RUN(test_hang_up);
        RUN(test_failed_connect);
        RUN(test_closed_while_watched);
        RUN(test_reopened_while_watched);
        RUN(test_added_twice);
        RUN(test_bad_descriptors);
        RUN(test_regular_file);
        RUN(test_many);
        RUN(test_no_memory);
        RUN(test_open_without_descriptors);
    }
    return 0;
}

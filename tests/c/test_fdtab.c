#include "check.h"
#include "core/fdtab.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define RW (HL_READ | HL_WRITE)

/* A poller that only takes notes, and fails on order. */
static struct {
    hl_poll base;
    int calls, fd, fail;
    uint32_t gen, old, want;
    struct {
        uint32_t gen, want;
    } kernel[1024];
} fake;

static int
fake_ctl(hl_poll *p, int fd, uint32_t gen, uint32_t old, uint32_t want)
{
    CHECK(p == &fake.base);
    fake.calls++;
    fake.fd = fd;
    fake.gen = gen;
    fake.old = old;
    fake.want = want;
    if (fake.fail == 0 && fd < 1024) {
        CHECK_EQ(fake.kernel[fd].want, old);
        fake.kernel[fd].gen = gen;
        fake.kernel[fd].want = want;
    }
    return fake.fail;
}

static const hl_poll_ops fake_ops = {.name = "fake", .max_fd = 1000, .ctl = fake_ctl};

static hl_entry
entry(uintptr_t n)
{
    return (hl_entry){n << 3, (void *)n};
}

static void
check_entry(hl_entry e, uintptr_t n)
{
    CHECK(e.tagged == n << 3 && e.arg == (void *)n);
}

static void
start(hl_fdtab *t)
{
    memset(&fake, 0, sizeof(fake));
    fake.base.ops = &fake_ops;
    hl_fdtab_init(t);
}

static void
test_what_the_poller_is_told(void)
{
    hl_fdtab t;
    hl_entry old;
    start(&t);
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 0, HL_READ, entry(1), &old), 0);
    check_entry(old, 0);
    CHECK(fake.calls == 1 && fake.fd == 0 && fake.old == 0 && fake.want == HL_READ);
    uint32_t gen = t.v[0].gen;
    CHECK_EQ(fake.gen, gen);
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 0, HL_WRITE, entry(2), &old), 0);
    check_entry(old, 0);
    CHECK(fake.calls == 2 && fake.old == HL_READ && fake.want == RW);
    CHECK_EQ(t.v[0].gen, gen); /* a second side is the same watch */
    CHECK_EQ(t.used, 1);
    check_entry(t.v[0].on[0], 1);
    check_entry(t.v[0].on[1], 2);
    hl_fdtab_clear(&t, &fake.base, 0, HL_READ, &old);
    check_entry(old, 1);
    CHECK(fake.calls == 3 && fake.old == RW && fake.want == HL_WRITE);
    CHECK(t.v[0].gen == gen && fake.gen == gen);
    hl_fdtab_clear(&t, &fake.base, 0, HL_WRITE, &old);
    check_entry(old, 2);
    CHECK(fake.calls == 4 && fake.want == 0);
    CHECK(t.v[0].gen != gen); /* empty: what was fetched is stale */
    CHECK_EQ(t.used, 0);
    CHECK(hl_fdtab_check(&t));
    hl_fdtab_fini(&t);
}

static void
test_clear_of_nothing(void)
{
    hl_fdtab t;
    hl_entry old = entry(9);
    start(&t);
    for (int fd = -2; fd < 3; fd++) {
        hl_fdtab_clear(&t, &fake.base, fd, HL_READ, &old);
        check_entry(old, 0);
    }
    hl_fdtab_clear(&t, &fake.base, INT_MAX, HL_READ, &old);
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 0, HL_READ, entry(1), &old), 0);
    uint32_t gen = t.v[0].gen;
    hl_fdtab_clear(&t, &fake.base, 0, HL_WRITE, &old);
    check_entry(old, 0);
    CHECK(fake.calls == 1 && t.v[0].gen == gen && t.used == 1);
    hl_fdtab_fini(&t);
}

static void
test_replace(void)
{
    hl_fdtab t;
    hl_entry old;
    start(&t);
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 1, HL_READ, entry(1), &old), 0);
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 1, HL_WRITE, entry(2), &old), 0);
    uint32_t gen = t.v[1].gen;
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 1, HL_READ, entry(3), &old), 0);
    check_entry(old, 1);
    check_entry(t.v[1].on[0], 3);
    check_entry(t.v[1].on[1], 2);
    CHECK(t.v[1].gen != gen); /* an event for the former owner is stale ... */
    CHECK_EQ(fake.kernel[1].gen, t.v[1].gen); /* ... one for the other side is not */
    CHECK(t.used == 1 && hl_fdtab_check(&t));

    gen = t.v[1].gen;
    fake.fail = -EBADF; /* asyncio replaces without looking, so this is no error */
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 1, HL_READ, entry(4), &old), 0);
    check_entry(old, 3);
    CHECK_EQ(t.v[1].gen, gen);
    fake.fail = -EPERM; /* now a regular file: it would be silent for ever */
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 1, HL_READ, entry(5), &old), -EPERM);
    check_entry(old, 0);
    check_entry(t.v[1].on[0], 4);
    CHECK_EQ(t.v[1].gen, gen);
    CHECK(hl_fdtab_check(&t));
    hl_fdtab_fini(&t);
}

static void
test_failures_change_nothing(void)
{
    const int error[] = {-EBADF, -EPERM, -ENOMEM, -ENOSPC};
    hl_fdtab t;
    hl_entry old;
    start(&t);
    for (int i = 0; i < 4; i++) {
        fake.fail = error[i];
        old = entry(9);
        CHECK_EQ(hl_fdtab_set(&t, &fake.base, 0, HL_READ, entry(1), &old), error[i]);
        check_entry(old, 0);
        CHECK(t.used == 0 && t.v[0].want == 0 && t.v[0].on[0].tagged == 0);
        fake.fail = 0;
        CHECK_EQ(hl_fdtab_set(&t, &fake.base, 0, HL_READ, entry(1), &old), 0);
        fake.fail = error[i];
        uint32_t gen = t.v[0].gen;
        CHECK_EQ(hl_fdtab_set(&t, &fake.base, 0, HL_WRITE, entry(2), &old), error[i]);
        CHECK(t.used == 1 && t.v[0].want == HL_READ && t.v[0].gen == gen);
        check_entry(t.v[0].on[0], 1);
        check_entry(t.v[0].on[1], 0);
        hl_fdtab_clear(&t, &fake.base, 0, HL_READ, &old); /* cannot fail */
        check_entry(old, 1);
        CHECK(hl_fdtab_check(&t) && t.used == 0);
        fake.kernel[0].want = 0;
    }
    hl_fdtab_fini(&t);
}

static void
test_bad_descriptors(void)
{
    hl_fdtab t;
    hl_entry old;
    hl_watch *w;
    start(&t);
    CHECK_EQ(hl_fdtab_get(&t, -1, &w), -EBADF);
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, -1, HL_READ, entry(1), &old), -EBADF);
    CHECK_EQ(hl_fdtab_get(&t, INT_MAX, &w), -EBADF); /* and no gigabytes */
    CHECK_EQ(hl_fdtab_get(&t, 1 << 30, &w), -EBADF);
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 1000, HL_READ, entry(1), &old), -EINVAL);
    CHECK(t.cap == 0 && fake.calls == 0);
    CHECK(hl_fdtab_peek(&t, -1) == NULL && hl_fdtab_peek(&t, 0) == NULL);
    hl_fdtab_fini(&t);
}

static void
test_growth(void)
{
    hl_fdtab t;
    hl_entry old;
    hl_watch *w;
    struct rlimit lim, more;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &lim), 0);
    more = lim;
    more.rlim_cur = lim.rlim_max > 1024 ? 1024 : lim.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &more), 0);
    start(&t);
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 2, HL_WRITE, entry(7), &old), 0);
    CHECK_EQ(dup2(0, 700), 700);
    check_allocs_left = 0;
    CHECK_EQ(hl_fdtab_get(&t, 700, &w), -ENOMEM);
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 700, HL_READ, entry(1), &old), -ENOMEM);
    check_allocs_left = -1;
    CHECK(t.used == 1 && hl_fdtab_peek(&t, 700) == NULL && hl_fdtab_check(&t));
    CHECK_EQ(hl_fdtab_set(&t, &fake.base, 700, HL_READ, entry(1), &old), 0);
    check_entry(t.v[2].on[1], 7);
    check_entry(t.v[700].on[0], 1);
    CHECK_EQ(hl_fdtab_get(&t, t.cap - 1, &w),
             0); /* inside: room is room, open or not */
    CHECK(w->gen == 0 && w->want == 0 && w->owner == NULL);
    CHECK(t.used == 2 && hl_fdtab_check(&t));
    CHECK_EQ(close(700), 0);
    hl_fdtab_fini(&t);
    hl_fdtab_fini(&t);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &lim), 0);
}

static void
test_random(void)
{
    static uintptr_t model[60][2];
    hl_fdtab t;
    hl_entry old;
    hl_watch *w;
    start(&t);
    CHECK_EQ(hl_fdtab_get(&t, 0, &w), 0); /* room for all, so that none need be open */
    CHECK(t.cap >= 60);
    memset(model, 0, sizeof(model));
    for (uintptr_t i = 1; i < 50000; i++) {
        int fd = (int)check_random(60), s = (int)check_random(2);
        uint32_t side = s ? HL_WRITE : HL_READ;
        uint32_t before = t.v[fd].gen;
        bool was = model[fd][0] || model[fd][1];
        if (check_random(2)) {
            CHECK_EQ(hl_fdtab_set(&t, &fake.base, fd, side, entry(i), &old), 0);
            check_entry(old, model[fd][s]);
            model[fd][s] = i;
        }
        else {
            hl_fdtab_clear(&t, &fake.base, fd, side, &old);
            check_entry(old, model[fd][s]);
            model[fd][s] = 0;
        }
        bool is = model[fd][0] || model[fd][1];
        CHECK(!was || is || t.v[fd].gen != before);
        CHECK_EQ(fake.kernel[fd].want, t.v[fd].want);
        CHECK(!is || fake.kernel[fd].gen == t.v[fd].gen);
        if (i % 256 == 0) {
            CHECK(hl_fdtab_check(&t));
        }
    }
    CHECK(hl_fdtab_check(&t));
    hl_fdtab_fini(&t);
}

/* ---- over the real backends ---- */

/* Is exactly `want` of fd ready, under the generation that the table has now? */
static void
check_ready(hl_fdtab *t, hl_poll *p, int fd, uint32_t want)
{
    hl_fired f[4];
    int n = p->ops->wait(p, f, 4, 0);
    CHECK_EQ(n, want != 0);
    if (n > 0) {
        CHECK(f[0].fd == fd && f[0].events == want && f[0].gen == t->v[fd].gen);
    }
}

/* fd[0] is watched, closed behind our back, and another socket gets its number; then
 * `side` is set for the new one. */
static void
reopen(const hl_poll_ops *ops, uint32_t first, uint32_t side)
{
    hl_fdtab t;
    hl_entry old;
    hl_poll *p;
    int fd[2], again[2];
    hl_fdtab_init(&t);
    CHECK_EQ(ops->open(&p), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    CHECK_EQ(hl_fdtab_set(&t, p, fd[0], first, entry(1), &old), 0);
    CHECK_EQ(close(fd[0]) | close(fd[1]), 0);
    check_ready(&t, p, fd[0], 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, again), 0);
    CHECK_EQ(again[0], fd[0]);
    CHECK_EQ(hl_fdtab_set(&t, p, fd[0], side, entry(2), &old), 1);
    CHECK_EQ(write(again[1], "x", 1), 1);
    check_ready(&t, p, fd[0], first | side);
    CHECK(hl_fdtab_check(&t));
    hl_fdtab_clear(&t, p, fd[0], first, &old);
    hl_fdtab_clear(&t, p, fd[0], side, &old);
    check_ready(&t, p, fd[0], 0);
    CHECK(t.used == 0 && hl_fdtab_check(&t));
    CHECK_EQ(close(again[0]) | close(again[1]), 0);
    hl_fdtab_fini(&t);
    ops->close(p);
}

static void
test_reopened_while_watched(void)
{
    for (const hl_poll_ops *const *b = hl_poll_backends; *b != NULL; b++) {
        reopen(*b, HL_READ, HL_READ);
        reopen(*b, HL_READ, HL_WRITE);
        reopen(*b, HL_WRITE, HL_READ);
        reopen(*b, HL_WRITE, HL_WRITE);
    }
}

/* One side of a number that was taken over is given up: the other side is still for the
 * file of before, also when the number is watched again. */
static void
test_taken_over_and_half_given_up(void)
{
    for (const hl_poll_ops *const *b = hl_poll_backends; *b != NULL; b++) {
        hl_fdtab t;
        hl_entry old;
        hl_poll *p;
        int fd[2], again[2];
        hl_fdtab_init(&t);
        CHECK_EQ((*b)->open(&p), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
        CHECK_EQ(hl_fdtab_set(&t, p, fd[0], HL_READ, entry(1), &old), 0);
        CHECK_EQ(hl_fdtab_set(&t, p, fd[0], HL_WRITE, entry(2), &old), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, again), 0);
        CHECK_EQ(dup2(again[0], fd[0]), fd[0]);
        hl_fdtab_clear(&t, p, fd[0], HL_WRITE, &old);
        check_ready(&t, p, fd[0], 0);
        CHECK_EQ(hl_fdtab_set(&t, p, fd[0], HL_WRITE, entry(3), &old), 1);
        CHECK_EQ(close(fd[0]) | close(fd[1]), 0);
        CHECK_EQ(close(again[0]) | close(again[1]), 0);
        hl_fdtab_fini(&t);
        (*b)->close(p);
    }
}

/* A duplicate keeps the file of before open, and with it the kernel's watch under the
 * number: what that reports is told from news of the file that has the number now. */
static void
test_taken_over_while_a_duplicate_lives(void)
{
    for (const hl_poll_ops *const *b = hl_poll_backends; *b != NULL; b++) {
        hl_fdtab t;
        hl_entry old;
        hl_poll *p;
        int fd[2], again[2];
        hl_fdtab_init(&t);
        CHECK_EQ((*b)->open(&p), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
        CHECK_EQ(hl_fdtab_set(&t, p, fd[0], HL_READ, entry(1), &old), 0);
        int duplicate = dup(fd[0]);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, again), 0);
        CHECK_EQ(dup2(again[0], fd[0]), fd[0]);
        CHECK_EQ(hl_fdtab_set(&t, p, fd[0], HL_WRITE, entry(2), &old), 1);
        hl_fdtab_clear(&t, p, fd[0], HL_READ, &old); /* as the loop does then */
        check_entry(old, 1);
        CHECK_EQ(hl_fdtab_set(&t, p, fd[0], HL_READ, entry(3), &old), 0);
        CHECK_EQ(write(fd[1], "x", 1), 1); /* for the file of before */
        hl_fired f[4];
        uint32_t told = 0;
        for (int i = 0, n = (*b)->wait(p, f, 4, 0); i < n; i++) {
            told |= f[i].gen == t.v[fd[0]].gen ? f[i].events : 0;
        }
        CHECK_EQ(told, HL_WRITE);
        CHECK_EQ(close(fd[0]) | close(fd[1]) | close(duplicate), 0);
        CHECK_EQ(close(again[0]) | close(again[1]), 0);
        hl_fdtab_fini(&t);
        (*b)->close(p);
    }
}

/* A second poller is told of all there is, whatever has been closed by then. */
static void
test_retell(void)
{
    for (const hl_poll_ops *const *b = hl_poll_backends; *b != NULL; b++) {
        const hl_poll_ops *ops = *b;
        hl_fdtab t;
        hl_entry old;
        hl_poll *first, *second;
        int fd[2], gone[2];
        hl_fdtab_init(&t);
        CHECK_EQ(ops->open(&first), 0);
        CHECK_EQ(ops->open(&second), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, gone), 0);
        CHECK_EQ(hl_fdtab_set(&t, first, fd[0], HL_READ, entry(1), &old), 0);
        CHECK_EQ(hl_fdtab_set(&t, first, fd[0], HL_WRITE, entry(2), &old), 0);
        CHECK_EQ(hl_fdtab_set(&t, first, gone[0], HL_READ, entry(3), &old), 0);
        CHECK_EQ(close(gone[0]) | close(gone[1]), 0);
        CHECK_EQ(hl_fdtab_retell(&t, second, NULL), 0);
        if (ops == hl_poll_find("epoll")) { /* select would trip over the closed one */
            CHECK_EQ(write(fd[1], "x", 1), 1);
            check_ready(&t, second, fd[0], RW);
        }
        hl_fdtab_fini(&t);
        CHECK_EQ(close(fd[0]) | close(fd[1]), 0);
        ops->close(first);
        ops->close(second);
    }
}

/* A second poller that is told in place of the first: what the first had lost to
 * another file the second does not watch either. */
static void
test_retell_in_place(void)
{
    for (const hl_poll_ops *const *b = hl_poll_backends; *b != NULL; b++) {
        const hl_poll_ops *ops = *b;
        hl_fdtab t;
        hl_entry old;
        hl_poll *first, *second;
        int kept[2], lost[2], other[2];
        hl_fdtab_init(&t);
        CHECK_EQ(ops->open(&first), 0);
        CHECK_EQ(ops->open(&second), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, kept), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, lost), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, other), 0);
        CHECK_EQ(hl_fdtab_set(&t, first, kept[0], HL_WRITE, entry(1), &old), 0);
        CHECK_EQ(hl_fdtab_set(&t, first, lost[0], HL_WRITE, entry(2), &old), 0);
        CHECK_EQ(dup2(other[0], lost[0]), lost[0]);
        CHECK_EQ(hl_fdtab_retell(&t, second, first), 0);
        for (int i = 0; i < 2; i++) { /* nor does the first, which may be kept */
            hl_fired fired[4];
            hl_poll *p = i ? first : second;
            CHECK_EQ(ops->wait(p, fired, 4, 0), 1);
            CHECK_EQ(fired[0].fd, kept[0]);
        }
        hl_fdtab_fini(&t);
        CHECK_EQ(close(kept[0]) | close(kept[1]) | close(lost[0]) | close(lost[1]), 0);
        CHECK_EQ(close(other[0]) | close(other[1]), 0);
        ops->close(first);
        ops->close(second);
    }
}

/* An event that was fetched before the watch changed hands is told from one after. */
static void
test_stale_events(void)
{
    for (const hl_poll_ops *const *b = hl_poll_backends; *b != NULL; b++) {
        const hl_poll_ops *ops = *b;
        hl_fdtab t;
        hl_entry old;
        hl_poll *p;
        hl_fired f;
        int fd[2];
        hl_fdtab_init(&t);
        CHECK_EQ(ops->open(&p), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
        CHECK_EQ(hl_fdtab_set(&t, p, fd[0], HL_WRITE, entry(1), &old), 0);
        CHECK_EQ(ops->wait(p, &f, 1, -1), 1);
        hl_fdtab_clear(&t, p, fd[0], HL_WRITE, &old);
        CHECK_EQ(hl_fdtab_set(&t, p, fd[0], HL_WRITE, entry(2), &old), 0);
        CHECK(f.gen != t.v[fd[0]].gen);
        check_ready(&t, p, fd[0], HL_WRITE);
        CHECK_EQ(close(fd[0]) | close(fd[1]), 0);
        hl_fdtab_clear(&t, p, fd[0], HL_WRITE, &old); /* closed already */
        check_entry(old, 2);
        hl_fdtab_fini(&t);
        ops->close(p);
    }
}

int
main(void)
{
    check_start();
    RUN(test_what_the_poller_is_told);
    RUN(test_clear_of_nothing);
    RUN(test_replace);
    RUN(test_failures_change_nothing);
    RUN(test_bad_descriptors);
    RUN(test_growth);
    RUN(test_random);
    RUN(test_reopened_while_watched);
    RUN(test_taken_over_and_half_given_up);
    RUN(test_taken_over_while_a_duplicate_lives);
    RUN(test_retell);
    RUN(test_retell_in_place);
    RUN(test_stale_events);
    return 0;
}

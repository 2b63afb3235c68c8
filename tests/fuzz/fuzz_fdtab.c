/* The descriptor table over the real pollers, and descriptors treated as badly as
 * programs do: closed behind the loop's back, duplicated, their numbers taken over.
 *
 * What must hold: an event that the table takes for good belongs to the watch that
 * stands there, and the file that was watched is ready in that moment; and a watch
 * whose number was left alone is told of everything. */
#include "fuzz.h"

#include "core/fdtab.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#define FIRST 40 /* numbers that the program works on; its own lie below */
#define NUMBERS 16
#define FILES 12
#define MOST_WATCHES 4096

typedef struct {
    int peer; /* -1: closed, which makes the other end ready on both sides */
    int held; /* how many of the numbers stand for it */
} file;

typedef struct {
    int file;
    bool intact; /* the number has stood for that file ever since */
} watch;

typedef struct {
    hl_fdtab t;
    hl_poll *p;
    file files[FILES];
    int at[NUMBERS];            /* which file a number stands for, or -1 */
    int on[NUMBERS][2];         /* index of the watch on that side, or 0 */
    bool ghost[NUMBERS][FILES]; /* the file lost that number while it was watched */
    watch made[MOST_WATCHES];   /* [0] is nobody */
    int count;
} model;

static hl_entry
entry(int n)
{
    return (hl_entry){(uintptr_t)n << 3, NULL};
}

/* ---- the program's side ---- */

static void
let_go(model *m, int n)
{
    for (int side = 0; side < 2; side++) {
        m->made[m->on[n][side]].intact = false;
    }
    if (m->at[n] >= 0) {
        file *f = &m->files[m->at[n]];
        m->ghost[n][m->at[n]] |= m->on[n][0] || m->on[n][1];
        f->held--;
        if (f->held == 0 && f->peer >= 0) {
            CHECK_EQ(close(f->peer), 0);
            f->peer = -1;
        }
        m->at[n] = -1;
    }
}

static void
close_number(model *m, int n)
{
    if (m->at[n] >= 0) {
        CHECK_EQ(close(FIRST + n), 0);
        let_go(m, n);
    }
}

static void
open_number(model *m, int n, bool is_pipe)
{
    int fd[2], i = 0;
    while (i < FILES && m->files[i].held > 0) {
        i++;
    }
    if (i == FILES) {
        return;
    }
    if (is_pipe) {
        CHECK_EQ(pipe2(fd, O_NONBLOCK | O_CLOEXEC), 0);
    }
    else {
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
    }
    CHECK(fd[0] < FIRST && fd[1] < FIRST);
    /* Over whatever stands there: no moment in which the number is closed. */
    CHECK_EQ(dup2(fd[0], FIRST + n), FIRST + n);
    let_go(m, n);
    CHECK_EQ(close(fd[0]), 0);
    m->files[i] = (file){fd[1], 1};
    for (int k = 0; k < NUMBERS; k++) {
        m->ghost[k][i] = false;
    }
    m->at[n] = i;
}

static void
duplicate(model *m, int from, int to)
{
    if (m->at[from] < 0 || from == to) {
        return;
    }
    int i = m->at[from];
    m->files[i].held++; /* before `to` lets go of what may be the same file */
    CHECK_EQ(dup2(FIRST + from, FIRST + to), FIRST + to);
    let_go(m, to);
    m->at[to] = i;
}

static void
act_on_file(model *m, int n, unsigned what)
{
    char buf[4096];
    if (m->at[n] < 0) {
        return;
    }
    file *f = &m->files[m->at[n]];
    switch (what % 4) {
    case 0:
        (void)!(f->peer >= 0 ? write(f->peer, "x", 1) : 0);
        break;
    case 1:
        (void)!read(FIRST + n, buf, sizeof(buf));
        break;
    case 2:
        while (write(FIRST + n, buf, sizeof(buf)) > 0) { /* full: not writable */
        }
        break;
    default:
        if (f->peer >= 0) {
            CHECK_EQ(close(f->peer), 0);
            f->peer = -1;
        }
    }
}

/* ---- the loop's side ---- */

static void
unwatch(model *m, int n, int side)
{
    hl_entry old;
    hl_fdtab_clear(&m->t, m->p, FIRST + n, side ? HL_WRITE : HL_READ, &old);
    CHECK_EQ(old.tagged >> 3, m->on[n][side]);
    m->on[n][side] = 0;
}

static void
watch_number(model *m, int n, int side)
{
    hl_entry old;
    int before = m->on[n][side];
    if (m->count == MOST_WATCHES) {
        return;
    }
    /* A file that lost its number to another and got it back: the kernel has kept the
     * watch, so nothing tells that the other side's is for the file in between. */
    int other = m->on[n][!side];
    if (m->at[n] >= 0 && m->ghost[n][m->at[n]] && m->made[other].file != m->at[n]) {
        unwatch(m, n, !side);
    }
    int rc = hl_fdtab_set(&m->t, m->p, FIRST + n, side ? HL_WRITE : HL_READ,
                          entry(m->count), &old);
    if (rc < 0) {
        CHECK(m->at[n] < 0 && rc == -EBADF && old.tagged == 0);
        return;
    }
    CHECK_EQ(old.tagged >> 3, before);
    /* A side of a closed descriptor may be replaced, as with asyncio: the file is then
     * the one that was watched. */
    int f = m->at[n] >= 0 ? m->at[n] : m->made[before].file;
    m->made[m->count] = (watch){f, m->at[n] >= 0};
    m->on[n][side] = m->count++;
    if (rc > 0 && m->on[n][!side] != 0) { /* as loop/watch.c does */
        unwatch(m, n, !side);
    }
}

/* What the file, under whichever number it is open, is ready for: poll()'s bits. */
static int
ready_for(const model *m, int f)
{
    for (int n = 0; n < NUMBERS; n++) {
        if (m->at[n] == f) {
            struct pollfd p = {.fd = FIRST + n, .events = POLLIN | POLLOUT};
            while (poll(&p, 1, 0) < 0) {
                CHECK_EQ(errno, EINTR); /* libFuzzer's own timer */
            }
            return p.revents;
        }
    }
    return 0;
}

/* Backends differ in whether a hang-up is also news to who writes. */
static bool
may_be_told(const model *m, int f, int side)
{
    return ready_for(m, f) & ((side ? POLLOUT : POLLIN) | POLLHUP | POLLERR);
}

static bool
must_be_told(const model *m, int f, int side)
{
    return ready_for(m, f) & (side ? POLLOUT | POLLERR : POLLIN | POLLHUP);
}

static void
look(model *m)
{
    hl_fired fired[4 * NUMBERS];
    bool told[NUMBERS][2] = {{false}};
    int n = m->p->ops->wait(m->p, fired, 4 * NUMBERS, 0);
    CHECK(n >= 0);
    for (int i = 0; i < n; i++) {
        int number = fired[i].fd - FIRST;
        hl_watch *w = hl_fdtab_peek(&m->t, fired[i].fd);
        CHECK(number >= 0 && number < NUMBERS && w != NULL);
        for (int side = 0; side < 2 && w->gen == fired[i].gen; side++) {
            if (fired[i].events & w->want & (side ? HL_WRITE : HL_READ)) {
                int at = m->on[number][side];
                CHECK(at != 0 && w->on[side].tagged >> 3 == (uintptr_t)at);
                CHECK(may_be_told(m, m->made[at].file, side));
                told[number][side] = true;
            }
        }
    }
    for (int k = 0; k < NUMBERS; k++) {
        for (int side = 0; side < 2; side++) {
            const watch *one = &m->made[m->on[k][side]];
            CHECK(!one->intact || told[k][side] || !must_be_told(m, one->file, side));
        }
    }
}

/* Another poller is told of all there is; as after a fork, what stands there by now is
 * watched, so nothing may have been lost; or in place of the one before. */
static void
start_again(model *m, bool fork)
{
    const hl_poll_ops *ops = m->p->ops;
    hl_poll *fresh;
    for (int n = 0; n < NUMBERS && fork; n++) {
        for (int side = 0; side < 2; side++) {
            if (m->on[n][side] != 0 && !m->made[m->on[n][side]].intact) {
                unwatch(m, n, side);
            }
        }
    }
    CHECK_EQ(ops->open(&fresh), 0);
    CHECK_EQ(hl_fdtab_retell(&m->t, fresh, fork ? NULL : m->p), 0);
    ops->close(m->p);
    m->p = fresh;
}

static void
step(model *m, fuzz_input *in)
{
    unsigned op = fuzz_byte(in), b = fuzz_byte(in);
    int n = (int)(b % NUMBERS), other = (int)(b / NUMBERS);
    switch (op % 12) {
    case 0:
    case 1:
        open_number(m, n, op >= 128);
        break;
    case 2:
        close_number(m, n);
        break;
    case 3:
        duplicate(m, other, n);
        break;
    case 4:
    case 5:
    case 6:
        watch_number(m, n, other % 2);
        break;
    case 7:
        unwatch(m, n, other % 2);
        break;
    case 8:
    case 9:
        act_on_file(m, n, (unsigned)other);
        break;
    case 10:
        if (b < 16) {
            start_again(m, b % 2);
        }
        break;
    default:
        look(m);
    }
    CHECK(hl_fdtab_check(&m->t));
}

static void
fuzz_one(fuzz_input *in)
{
    model *m = calloc(1, sizeof(*m));
    const hl_poll_ops *ops = hl_poll_find(fuzz_byte(in) % 2 ? "select" : "epoll");
    CHECK(m != NULL && ops != NULL);
    CHECK_EQ(ops->open(&m->p), 0);
    hl_fdtab_init(&m->t);
    m->count = 1;
    for (int n = 0; n < NUMBERS; n++) {
        m->at[n] = -1;
    }
    for (int steps = 0; in->left > 0 && steps < 1000; steps++) {
        step(m, in);
    }
    look(m);
    for (int n = 0; n < NUMBERS; n++) {
        close_number(m, n);
    }
    hl_fdtab_fini(&m->t);
    ops->close(m->p);
    free(m);
}

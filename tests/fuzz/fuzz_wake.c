/* The wakeup channel and the signal pipe: no wake-up is lost, none stays, a signal's
 * number comes out as it went in, and nothing is written to who took a number over. */
#include "fuzz.h"

#include "core/sigpair.h"
#include "core/wake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>

#define PIPE_MOST 4096 /* what a pipe holds at least */

static bool
readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, 0) < 0) {
        CHECK_EQ(errno, EINTR); /* libFuzzer's own timer */
    }
    return p.revents != 0;
}

typedef struct {
    hl_wake w;
    bool woken;
    hl_sigpair s;
    unsigned char sent[PIPE_MOST];
    size_t head, tail; /* sent[head..tail) is in the pipe */
    int other[2];      /* the pipe that signals are passed on to */
    hl_fdid id;
    bool same; /* other[1] is still what `id` was taken of */
} model;

static void
send_signals(model *m, unsigned first, unsigned n)
{
    for (; n > 0 && m->tail < PIPE_MOST; n--, first++) {
        unsigned char b = m->sent[m->tail++] = (unsigned char)first;
        CHECK_EQ(write(m->s.wfd, &b, 1), 1);
    }
}

/* Never more than there is, in order; and what was read goes to the chained one. */
static void
read_signals(model *m, size_t cap)
{
    unsigned char buf[256], echo[256];
    size_t n = hl_sigpair_read(&m->s, buf, cap), in = m->tail - m->head;
    CHECK_EQ(n, in < cap ? in : cap);
    CHECK(memcmp(buf, m->sent + m->head, n) == 0);
    m->head += n;
    hl_fdid_forward(m->id, buf, n);
    ssize_t got = read(m->other[0], echo, sizeof(echo));
    if (m->same && n > 0) {
        CHECK(got == (ssize_t)n && memcmp(echo, buf, n) == 0);
    }
    else {
        CHECK(got <= 0);
    }
    if (m->head == m->tail) {
        m->head = m->tail = 0;
    }
}

/* The chained descriptor is closed, and its number given to another pipe. */
static void
replace(model *m, bool take_anew)
{
    int number = m->other[1];
    CHECK_EQ(close(m->other[0]) | close(number), 0);
    CHECK(!hl_fdid_valid(m->id));
    int fds[2];
    CHECK_EQ(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    if (fds[0] == number) { /* the kernel gave the number to the other end */
        fds[0] = dup(number);
        CHECK(fds[0] >= 0);
    }
    if (fds[1] != number) {
        CHECK_EQ(dup3(fds[1], number, O_CLOEXEC), number);
        CHECK_EQ(close(fds[1]), 0);
    }
    m->other[0] = fds[0];
    m->other[1] = number;
    m->same = take_anew;
    if (take_anew) {
        m->id = hl_fdid_of(number);
    }
}

static void
step(model *m, fuzz_input *in)
{
    unsigned op = fuzz_byte(in), n = fuzz_byte(in);
    switch (op % 7) {
    case 0:
        errno = (int)n;
        for (unsigned i = 0; i <= n * (op / 32); i++) {
            hl_wake_signal(&m->w);
            m->woken = true;
        }
        CHECK_EQ(errno, n); /* it may run in a signal handler */
        break;
    case 1:
        hl_wake_drain(&m->w);
        m->woken = false;
        break;
    case 2:
    case 3:
        send_signals(m, op, n % 64);
        break;
    case 4:
        read_signals(m, n % 256 + (n == 0));
        break;
    case 5:
        replace(m, n % 2);
        break;
    default: /* a second user of the same descriptor does not change what it is */
        CHECK_EQ(hl_fdid_valid(m->id), m->same);
        CHECK(!hl_fdid_valid(hl_fdid_of(-1)));
    }
    CHECK_EQ(readable(m->w.rfd), m->woken);
    CHECK_EQ(readable(m->s.rfd), m->head != m->tail);
}

static void
fuzz_one(fuzz_input *in)
{
    model m = {.same = true};
    CHECK_EQ(hl_wake_open(&m.w), 0);
    CHECK_EQ(hl_sigpair_open(&m.s), 0);
    CHECK_EQ(pipe2(m.other, O_NONBLOCK | O_CLOEXEC), 0);
    m.id = hl_fdid_of(m.other[1]);
    while (in->left > 0) {
        step(&m, in);
    }
    CHECK_EQ(close(m.other[0]) | close(m.other[1]), 0);
    hl_sigpair_close(&m.s);
    hl_wake_close(&m.w);
    hl_wake_close(&m.w);
}

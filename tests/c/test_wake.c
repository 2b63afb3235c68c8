#include "check.h"
#include "core/poll.h"
#include "core/wake.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#define THREADS 4
#define SIGNALS 20000

static hl_wake shared;
static atomic_int sent;

/* Is it readable right now? */
static bool
is_set(const hl_wake *w)
{
    hl_poll *p;
    hl_fired f;
    CHECK_EQ(hl_poll_select.open(&p), 0);
    CHECK_EQ(hl_poll_select.ctl(p, w->rfd, 0, 0, HL_READ), 0);
    int n = hl_poll_select.wait(p, &f, 1, 0);
    hl_poll_select.close(p);
    CHECK(n >= 0);
    return n > 0;
}

static void
test_open_close(void)
{
    hl_wake w;
    CHECK_EQ(hl_wake_open(&w), 0);
    for (int i = 0; i < 2; i++) {
        int fd = i ? w.wfd : w.rfd;
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    }
    int rfd = w.rfd, wfd = w.wfd;
    hl_wake_close(&w);
    CHECK(w.rfd == -1 && w.wfd == -1);
    CHECK(fcntl(rfd, F_GETFD) < 0 && fcntl(wfd, F_GETFD) < 0);
    hl_wake_close(&w); /* twice does no harm */
}

static void
test_signal_and_drain(void)
{
    hl_wake w;
    CHECK_EQ(hl_wake_open(&w), 0);
    CHECK(!is_set(&w));
    hl_wake_drain(&w); /* nothing there: does not block */
    for (int n = 1; n < 300; n += 37) {
        for (int i = 0; i < n; i++) {
            hl_wake_signal(&w);
        }
        CHECK(is_set(&w));
        hl_wake_drain(&w);
        CHECK(!is_set(&w)); /* however many there were */
    }
    hl_wake_close(&w);
}

static void
test_never_blocks_and_keeps_errno(void)
{
    hl_wake w;
    CHECK_EQ(hl_wake_open(&w), 0);
    uint64_t almost = UINT64_MAX - 1; /* fills an eventfd; for a pipe just a message */
    CHECK_EQ(write(w.wfd, &almost, sizeof(almost)), sizeof(almost));
    errno = ENOTTY;
    for (int i = 0; i < 10000; i++) { /* fills a pipe */
        hl_wake_signal(&w);
        CHECK_EQ(errno, ENOTTY);
    }
    CHECK(is_set(&w));
    hl_wake_drain(&w);
    CHECK(!is_set(&w));
    hl_wake_close(&w);
}

static void
on_signal(int signum)
{
    (void)signum;
    hl_wake_signal(&shared);
}

static void
test_from_a_signal_handler(void)
{
    CHECK_EQ(hl_wake_open(&shared), 0);
    struct sigaction sa = {.sa_handler = on_signal}, old;
    CHECK_EQ(sigaction(SIGUSR1, &sa, &old), 0);
    errno = ENOTTY;
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(errno, ENOTTY);
    CHECK(is_set(&shared));
    CHECK_EQ(sigaction(SIGUSR1, &old, NULL), 0);
    hl_wake_close(&shared);
}

static void *
signaller(void *arg)
{
    for (int i = 0; i < SIGNALS; i++) {
        atomic_fetch_add(&sent, 1); /* first the message, then the wake-up */
        hl_wake_signal(&shared);
    }
    return arg;
}

/* The order drain, then look, loses nothing: the last message always finds a wake-up
 * behind it.  If one were lost, the wait for ever would hit the watchdog. */
static void
sleep_until_all_came(const hl_poll_ops *ops)
{
    pthread_t t[THREADS];
    hl_poll *p;
    hl_fired f[4];
    atomic_store(&sent, 0);
    CHECK_EQ(hl_wake_open(&shared), 0);
    CHECK_EQ(ops->open(&p), 0);
    CHECK_EQ(ops->ctl(p, shared.rfd, 7, 0, HL_READ), 0);
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_create(&t[i], NULL, signaller, NULL), 0);
    }
    while (atomic_load(&sent) < THREADS * SIGNALS) {
        CHECK_EQ(ops->wait(p, f, 4, -1), 1);
        CHECK(f[0].fd == shared.rfd && f[0].gen == 7 && (f[0].events & HL_READ));
        hl_wake_drain(&shared);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(t[i], NULL), 0);
    }
    hl_wake_drain(&shared);
    CHECK_EQ(ops->wait(p, f, 4, 0), 0);
    ops->close(p);
    hl_wake_close(&shared);
}

static void
test_threads(void)
{
    for (const hl_poll_ops *const *b = hl_poll_backends; *b != NULL; b++) {
        sleep_until_all_came(*b);
    }
}

int
main(void)
{
    check_start();
    RUN(test_open_close);
    RUN(test_signal_and_drain);
    RUN(test_never_blocks_and_keeps_errno);
    RUN(test_from_a_signal_handler);
    RUN(test_threads);
    return 0;
}

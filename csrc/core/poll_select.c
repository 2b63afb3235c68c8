/* The select backend: on every POSIX system, for descriptors below FD_SETSIZE.
 *
 * select() knows numbers only.  So this file remembers which file each number stood for
 * when it was given to us, and looks again before it reports: what was opened under a
 * number that its owner closed without a word is never taken for the file before. */
#include "core/mem.h"
#include "core/poll.h"
#include "core/sys.h"

#include <limits.h>

#define MAX_WAIT_S (31 * 24 * 3600) /* POSIX promises no longer select() than that */

typedef struct {
    hl_poll base;
    fd_set read, write;
    int top;  /* one above the highest descriptor in either set */
    int next; /* where the next report starts, so that a short one starves nobody */
    uint32_t gen[FD_SETSIZE];
    struct {
        dev_t dev;
        ino_t ino;
    } file[FD_SETSIZE]; /* what is watched under each number */
} select_poll;

/* The sets are plain memory: there is no kernel object that could leak, or be shared
 * with the child of a fork. */
static int
select_open(hl_poll **out)
{
    select_poll *p = hl_calloc(1, sizeof(*p));
    if (p == NULL) {
        return -ENOMEM;
    }
    FD_ZERO(&p->read);
    FD_ZERO(&p->write);
    p->base.ops = &hl_poll_select;
    *out = &p->base;
    return 0;
}

static void
select_close(hl_poll *base)
{
    free(base);
}

/* Is the number still the file that is watched?  (Files without an inode of their own,
 * an eventfd say, all look alike.) */
static bool
is_same(const select_poll *p, int fd)
{
    struct stat st;
    return hl_sys_fstat(fd, &st) == 0 && st.st_dev == p->file[fd].dev &&
           st.st_ino == p->file[fd].ino;
}

/* Takes the file of this number for the one that is watched: 1 if it is another than
 * before, or 0. */
static int
note(select_poll *p, int fd, const struct stat *st)
{
    int other = st->st_dev != p->file[fd].dev || st->st_ino != p->file[fd].ino;
    p->file[fd].dev = st->st_dev;
    p->file[fd].ino = st->st_ino;
    return other;
}

/* The same, or -EBADF. */
static int
remember(select_poll *p, int fd)
{
    struct stat st;
    return hl_sys_fstat(fd, &st) < 0 ? -EBADF : note(p, fd, &st);
}

/* Nobody but us would tell that a descriptor is closed.  Giving up one side of it is no
 * error: wait() drops what it finds closed. */
static int
remember_rest(select_poll *p, int fd)
{
    struct stat st;
    return hl_sys_fstat(fd, &st) < 0 ? 0 : note(p, fd, &st);
}

static inline bool
is_watched(const select_poll *p, int fd)
{
    return FD_ISSET(fd, &p->read) || FD_ISSET(fd, &p->write);
}

/* Keeps `top` exact: select() looks at every number below it, ready or not. */
static void
set_sides(select_poll *p, int fd, uint32_t want)
{
    FD_CLR(fd, &p->read);
    FD_CLR(fd, &p->write);
    if (want & HL_READ) {
        FD_SET(fd, &p->read);
    }
    if (want & HL_WRITE) {
        FD_SET(fd, &p->write);
    }
    if (want != 0 && fd >= p->top) {
        p->top = fd + 1;
    }
    while (p->top > 0 && !is_watched(p, p->top - 1)) {
        p->top--;
    }
}

/* Other than epoll, select() cannot tell when a number has come to stand for another
 * file; so this never returns 1. */
static int
select_change(hl_poll *base, int fd, uint32_t gen, uint32_t old, uint32_t want)
{
    select_poll *p = (select_poll *)base;
    if (fd < 0 || fd >= FD_SETSIZE) {
        return want == 0 ? 0 : fd < 0 ? -EBADF : -EINVAL;
    }
    bool gives_up = want != old && (want & ~old) == 0;
    int other = want == 0 ? 0 : gives_up ? remember_rest(p, fd) : remember(p, fd);
    if (other < 0) {
        return other;
    }
    if (want == 0) { /* forgotten: whatever is there next time is another file */
        p->file[fd].dev = 0;
        p->file[fd].ino = 0;
    }
    p->gen[fd] = gen;
    set_sides(p, fd, want);
    return old != 0 && other > 0;
}

/* A closed descriptor makes every select() fail.  epoll forgets it silently, and so do
 * we, also where its number is in use again.  Were there any? */
static HL_COLD bool
drop_closed(select_poll *p)
{
    bool any = false;
    for (int fd = p->top - 1; fd >= 0; fd--) {
        if (is_watched(p, fd) && !is_same(p, fd)) {
            set_sides(p, fd, 0);
            any = true;
        }
    }
    return any;
}

/* The first ready descriptor in [from, to), or -1; *left counts the bits not yet seen.
 */
static int
next_ready(const fd_set *r, const fd_set *w, int from, int to, int *left)
{
    for (int fd = from; fd < to && *left > 0; fd++) {
        int bits = !!FD_ISSET(fd, r) + !!FD_ISSET(fd, w);
        if (bits != 0) {
            *left -= bits;
            return fd;
        }
    }
    return -1;
}

/* In the order of the numbers, going on where a report that was cut short ended. */
static int
report(select_poll *p, const fd_set *r, const fd_set *w, int left, hl_fired *out,
       int cap)
{
    int start = p->next < p->top ? p->next : 0, n = 0;
    const int part[2][2] = {{start, p->top}, {0, start}};
    p->next = 0;
    for (int i = 0; i < 2; i++) {
        int fd = part[i][0];
        while ((fd = next_ready(r, w, fd, part[i][1], &left)) >= 0) {
            if (HL_UNLIKELY(!is_same(p, fd))) {
                set_sides(p, fd, 0); /* its owner closed it: this is a stranger's */
                fd++;
                continue;
            }
            out[n++] = (hl_fired){fd, p->gen[fd],
                                  (FD_ISSET(fd, r) ? HL_READ : 0u) |
                                      (FD_ISSET(fd, w) ? HL_WRITE : 0u)};
            fd++;
            if (n == cap) {
                p->next = fd;
                return n;
            }
        }
    }
    return n;
}

/* EINTR goes to the caller: the signal's Python handler has to run before the next
 * wait. */
static int
select_await(hl_poll *base, hl_fired *out, int cap, int64_t timeout_ns)
{
    select_poll *p = (select_poll *)base;
    struct timespec ts = {0, 0};
    if (timeout_ns > 0) {
        int64_t sec = timeout_ns / 1000000000;
        ts.tv_sec = sec < MAX_WAIT_S ? (time_t)sec : MAX_WAIT_S;
        ts.tv_nsec = (long)(timeout_ns % 1000000000);
    }
    assert(cap > 0);
    for (;;) {
        fd_set r = p->read,
               w = p->write; /* select() overwrites them, even if it fails */
        int n = hl_sys_pselect(p->top, &r, &w, timeout_ns < 0 ? NULL : &ts);
        if (n >= 0) {
            return report(p, &r, &w, n, out, cap);
        }
        if (errno != EBADF) {
            return -errno;
        }
        /* It failed at once, so the timeout is still whole.  When the closed one has
         * been opened again by another thread meanwhile, the caller's next wait will
         * do. */
        if (!drop_closed(p)) {
            return 0;
        }
    }
}

static int
select_fileno(hl_poll *base)
{
    (void)base;
    return -1;
}

const hl_poll_ops hl_poll_select = {
    .name = "select",
    .max_fd = FD_SETSIZE,
    .open = select_open,
    .close = select_close,
    .ctl = select_change,
    .wait = select_await,
    .fileno = select_fileno,
};

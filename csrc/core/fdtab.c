/* The table of watched descriptors: keeps its slots and the poller in step. */
#include "core/fdtab.h"
#include "core/mem.h"
#include "core/sys.h"

#include <limits.h>
#include <string.h>

#define FIRST_CAP 64

void
hl_fdtab_init(hl_fdtab *t)
{
    *t = (hl_fdtab){0};
}

/* The entries' objects are the loop's to release, before this. */
void
hl_fdtab_fini(hl_fdtab *t)
{
    free(t->v);
    hl_fdtab_init(t);
}

/* Room for fd, which must be open: the kernel then vouches for its being small.  New
 * slots are all zero, which is what "never watched" looks like, their generation
 * included. */
static HL_COLD int
grow(hl_fdtab *t, int fd)
{
    if (hl_sys_fcntl(fd, F_GETFD, 0) < 0) {
        return -EBADF;
    }
    int cap = t->cap ? t->cap : FIRST_CAP;
    while (cap <= fd) {
        if (cap > INT_MAX / 2) {
            return -ENOMEM;
        }
        cap *= 2;
    }
    if ((size_t)cap > SIZE_MAX / sizeof(*t->v)) {
        return -ENOMEM;
    }
    hl_watch *v = hl_realloc(t->v, (size_t)cap * sizeof(*v));
    if (v == NULL) {
        return -ENOMEM;
    }
    memset(v + t->cap, 0, (size_t)(cap - t->cap) * sizeof(*v));
    t->v = v;
    t->cap = cap;
    return 0;
}

/* Pointers into the table die here: growing moves it.  Callers take the pointer last.
 */
int
hl_fdtab_get(hl_fdtab *t, int fd, hl_watch **out)
{
    if (fd < 0) {
        return -EBADF;
    }
    if (HL_UNLIKELY(fd >= t->cap)) {
        int rc = grow(t, fd);
        if (rc < 0) {
            return rc;
        }
    }
    *out = &t->v[fd];
    return 0;
}

static inline hl_entry *
side_of(hl_watch *w, uint32_t side)
{
    return &w->on[hl_side_index(side)];
}

/* A side that is set already: the file behind the number may have been replaced without
 * our knowledge, and then the poller has lost it.  What was fetched for the former
 * owner becomes stale; nothing is lost by it, since pollers are level-triggered. */
static int
refresh(hl_watch *w, hl_poll *p, int fd)
{
    int rc = p->ops->ctl(p, fd, w->gen + 1, w->want, w->want);
    if (rc >= 0) {
        w->gen++;
    }
    return rc == -EBADF ? 0 : rc;
}

int
hl_fdtab_set(hl_fdtab *t, hl_poll *p, int fd, uint32_t side, hl_entry on, hl_entry *old)
{
    hl_watch *w;
    assert(on.tagged != 0);
    *old = (hl_entry){0, NULL};
    if (fd >= p->ops->max_fd) {
        return -EINVAL; /* before the table grows for it */
    }
    int rc = hl_fdtab_get(t, fd, &w);
    if (rc < 0) {
        return rc;
    }
    /* The poller is told first: it is the part that can fail, and until it has agreed
     * the slot stays as it is. */
    uint32_t want = w->want | side;
    rc =
        want == w->want ? refresh(w, p, fd) : p->ops->ctl(p, fd, w->gen, w->want, want);
    if (rc < 0) {
        return rc;
    }
    if (HL_UNLIKELY(rc > 0 && want != w->want)) {
        /* A duplicate may keep the file of before open, and with it the kernel's watch
         * of this number: its events shall be stale. */
        (void)p->ops->ctl(p, fd, ++w->gen, want, want);
    }
    t->used += w->want == 0;
    w->want = (uint8_t)want;
    *old = *side_of(w, side);
    *side_of(w, side) = on;
    return rc;
}

/* The generation goes up when the slot falls empty: events for it that were fetched
 * together with the one that led here are stale from now on. */
void
hl_fdtab_clear(hl_fdtab *t, hl_poll *p, int fd, uint32_t side, hl_entry *old)
{
    hl_watch *w = hl_fdtab_peek(t, fd);
    *old = (hl_entry){0, NULL};
    if (w == NULL || !(w->want & side)) {
        return;
    }
    uint32_t want = w->want & ~side;
    /* Fails for a closed descriptor, which the poller drops by itself, and for one that
     * is a regular file's by now, which is not in the set. */
    if (p->ops->ctl(p, fd, w->gen, w->want, want) > 0) {
        /* The file it was is closed: the other side shall not watch its successor. */
        (void)p->ops->ctl(p, fd, w->gen, want, 0);
    }
    w->want = (uint8_t)want;
    *old = *side_of(w, side);
    *side_of(w, side) = (hl_entry){0, NULL};
    if (want == 0) {
        w->gen++;
        t->used--;
    }
}

/* Whether a poller has lost a number to another file, as ctl() tells it; it goes on not
 * to watch that one. */
static int
has_lost(hl_poll *p, int fd, const hl_watch *w)
{
    int rc = p->ops->ctl(p, fd, w->gen, w->want, w->want);
    if (rc > 0) {
        (void)p->ops->ctl(p, fd, w->gen, w->want, 0);
    }
    return rc;
}

/* Generations stay as they are: the new poller has nothing in flight that could be
 * taken for something else. */
int
hl_fdtab_retell(const hl_fdtab *t, hl_poll *p, hl_poll *before)
{
    for (int fd = 0; fd < t->cap; fd++) {
        const hl_watch *w = &t->v[fd];
        int rc = w->want == 0 || before == NULL ? 0 : has_lost(before, fd, w);
        if (w->want != 0 && rc == 0) {
            rc = p->ops->ctl(p, fd, w->gen, 0, w->want);
        }
        /* EPERM: the number is a file's by now that cannot be watched, a regular one.
         */
        if (rc < 0 && rc != -EBADF && rc != -EPERM) {
            return rc;
        }
    }
    return 0;
}

#ifndef NDEBUG
/* For the tests' debug builds: the invariants of the header, over the whole table. */
bool
hl_fdtab_check(const hl_fdtab *t)
{
    int used = 0;
    for (int fd = 0; fd < t->cap; fd++) {
        const hl_watch *w = &t->v[fd];
        uint32_t want =
            (w->on[0].tagged ? HL_READ : 0) | (w->on[1].tagged ? HL_WRITE : 0);
        if (w->want != want) {
            return false;
        }
        used += want != 0;
    }
    return used == t->used;
}
#endif

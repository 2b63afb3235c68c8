/* fd -> watch: who is told when a descriptor becomes ready.
 *
 * A watch has two sides.  Each side holds the ring entry to push when that side is
 * ready (tagged 0: nobody).  The table stores the entries but owns no reference: the
 * loop layer does.  The generation of a slot goes up whenever the slot falls empty or
 * its descriptor changes hands, so that an event already fetched from the kernel is
 * recognised as stale. */
#ifndef HL_CORE_FDTAB_H
#define HL_CORE_FDTAB_H

#include "core/base.h"
#include "core/poll.h"
#include "core/ring.h"

typedef struct {
    hl_entry on[2]; /* [0] reader, [1] writer */
    const void
        *owner; /* the transport that has this descriptor, only compared; or NULL */
    uint32_t gen;
    uint8_t want; /* interest that the poller has been told */
} hl_watch;

typedef struct {
    hl_watch *v;
    int cap;
    int used; /* slots with a side set */
} hl_fdtab;

/* Where a side's entry stands in `on`. */
static inline int
hl_side_index(uint32_t side)
{
    assert(side == HL_READ || side == HL_WRITE);
    return side == HL_WRITE;
}

/* Invariant: want has exactly the bits of the sides whose entry is not empty. */

void hl_fdtab_init(hl_fdtab *t);
void hl_fdtab_fini(hl_fdtab *t);

/* NULL when fd was never seen.  The pointer lives until the next hl_fdtab_get(). */
static inline hl_watch *
hl_fdtab_peek(hl_fdtab *t, int fd)
{
    return fd >= 0 && fd < t->cap ? &t->v[fd] : NULL;
}

/* Makes room: 0 and *out, or -ENOMEM; -EBADF for fd < 0, and for a descriptor past the
 * end of the table that is not open: a made-up number must not cost gigabytes. */
int hl_fdtab_get(hl_fdtab *t, int fd, hl_watch **out);

/* Sets one side (HL_READ or HL_WRITE) to `on` (tagged != 0) and tells the poller; *old
 * gets what was there.  0, or 1 when the poller knows the number for another file's by
 * now: what the other side holds was meant for the one before.  On failure nothing has
 * changed, and *old is empty: -EBADF, -EPERM, -ENOMEM, or -EINVAL for a descriptor that
 * the backend cannot hold (ops->max_fd). Replacing a side asks the poller again, since
 * the number may stand for another file by now, but forgives a closed descriptor, as
 * asyncio does. */
int hl_fdtab_set(hl_fdtab *t, hl_poll *p, int fd, uint32_t side, hl_entry on,
                 hl_entry *old);
/* Clears one side; *old gets what was there (tagged 0 if nothing was).  Never fails:
 * a descriptor that is closed already has left the kernel's set by itself. */
void hl_fdtab_clear(hl_fdtab *t, hl_poll *p, int fd, uint32_t side, hl_entry *old);

/* Tells a poller that has just been opened of every watch.  0, or the first -errno,
 * then it is of no use; a descriptor that is closed by now is passed over, and one that
 * has another file by now than the one that `before`, the poller so far, watches. NULL:
 * not to be asked, since after a fork it is the parent's too. */
int hl_fdtab_retell(const hl_fdtab *t, hl_poll *p, hl_poll *before);

#ifndef NDEBUG
bool hl_fdtab_check(const hl_fdtab *t); /* the invariants hold; walks the whole table */
#endif

#endif

/* The slow half of the ready ring: making it, growing it. */
#include "core/ring.h"
#include "core/mem.h"

/* The capacity is a power of two, so that a place is one mask away from the counters.
 */
int
hl_ring_init(hl_ring *r, size_t cap)
{
    assert(cap > 0 && (cap & (cap - 1)) == 0);
    *r = (hl_ring){.mask = cap - 1};
    r->v = hl_malloc(cap * sizeof(*r->v));
    return r->v == NULL ? -ENOMEM : 0;
}

/* The entries have been popped by then: the ring cannot release what it does not know.
 */
void
hl_ring_fini(hl_ring *r)
{
    free(r->v);
    *r = (hl_ring){0};
}

/* head and tail keep their values, since a caller may hold one as the mark where its
 * batch ends; only the places that the new mask gives them change. */
HL_COLD int
hl_ring_grow(hl_ring *r)
{
    size_t old_cap = r->mask + 1, cap = old_cap * 2;
    if (cap > SIZE_MAX / sizeof(*r->v)) {
        return -ENOMEM;
    }
    hl_entry *v = hl_malloc(cap * sizeof(*v));
    if (v == NULL) {
        return -ENOMEM;
    }
    for (size_t i = r->head; i != r->tail; i++) {
        v[i & (cap - 1)] = r->v[i & r->mask];
    }
    free(r->v);
    r->v = v;
    r->mask = cap - 1;
    return 0;
}

/* The ready ring: a growable power-of-two queue of tagged entries.
 *
 * An entry is a pointer with its kind in the low bits, and one argument.  The ring does
 * not know what the kinds mean and owns nothing: whoever pushes gives a reference,
 * whoever pops takes it. */
#ifndef HL_CORE_RING_H
#define HL_CORE_RING_H

#include "core/base.h"

#include <stdlib.h>

#define HL_KIND_MASK ((uintptr_t)7)

typedef struct {
    uintptr_t tagged; /* object | kind; objects are at least 8-aligned */
    void *arg;
} hl_entry;

typedef struct {
    hl_entry *v;
    size_t head, tail, mask; /* head and tail run freely; length is tail - head */
} hl_ring;

/* 0 or -ENOMEM.  cap must be a power of two. */
int hl_ring_init(hl_ring *r, size_t cap);
void hl_ring_fini(hl_ring *r);
/* Doubles the capacity: 0 or -ENOMEM, and then the ring is as it was. */
int hl_ring_grow(hl_ring *r);

static inline size_t
hl_ring_len(const hl_ring *r)
{
    return r->tail - r->head;
}

static inline int
hl_ring_push(hl_ring *r, uintptr_t tagged, void *arg)
{
    if (HL_UNLIKELY(r->tail - r->head > r->mask)) {
        int rc = hl_ring_grow(r);
        if (rc < 0) {
            return rc;
        }
    }
    r->v[r->tail++ & r->mask] = (hl_entry){tagged, arg};
    return 0;
}

/* The ring must not be empty. */
static inline hl_entry
hl_ring_pop(hl_ring *r)
{
    assert(r->tail != r->head);
    return r->v[r->head++ & r->mask];
}

/* The i-th entry from the front, for traversal. */
static inline hl_entry *
hl_ring_at(hl_ring *r, size_t i)
{
    assert(i < hl_ring_len(r));
    return &r->v[(r->head + i) & r->mask];
}

#endif

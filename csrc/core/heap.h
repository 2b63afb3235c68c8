/* The timer heap: 4-ary, ordered by (when, sequence), so that equal deadlines come out
 * in the order they went in.  Each node knows its place, so that a cancelled timer
 * leaves at once.  The heap owns nothing. */
#ifndef HL_CORE_HEAP_H
#define HL_CORE_HEAP_H

#include "core/base.h"

#define HL_HEAP_OUT SIZE_MAX /* index of a node that is in no heap */

typedef struct {
    double when;  /* seconds on the loop's clock; never NaN */
    uint64_t seq; /* given by push */
    size_t index; /* place in the heap, or HL_HEAP_OUT */
} hl_timer;

typedef struct {
    /* The node's deadline as an integer that compares like it, and a copy of its
     * number: comparing touches the array alone. */
    uint64_t key, seq;
    hl_timer *node;
} hl_heap_slot;

typedef struct {
    hl_heap_slot *v;
    size_t len, cap;
    uint64_t next_seq;
} hl_heap;

void hl_heap_init(hl_heap *h);
void hl_heap_fini(hl_heap *h);
/* Puts a node in that is in no heap, at node->when: 0 or -ENOMEM. */
int hl_heap_push(hl_heap *h, hl_timer *node);
/* Takes the earliest out; the heap must not be empty. */
hl_timer *hl_heap_pop(hl_heap *h);
/* Takes a node out that is in. */
void hl_heap_remove(hl_heap *h, hl_timer *node);

/* Is the node in this very heap? */
static inline bool
hl_heap_holds(const hl_heap *h, const hl_timer *node)
{
    return node->index < h->len && h->v[node->index].node == node;
}

static inline hl_timer *
hl_heap_top(const hl_heap *h)
{
    return h->len ? h->v[0].node : NULL;
}

#ifndef NDEBUG
bool
hl_heap_check(const hl_heap *h); /* order, keys and indexes hold; walks all of it */
#endif

#endif

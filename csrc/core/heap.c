/* The 4-ary timer heap.  Four children lie in 96 bytes, so a level costs about one
 * cache miss, and the heap is half as deep as a binary one. */
#include "core/heap.h"
#include "core/mem.h"

#include <string.h>

#define ARITY 4
#define FIRST_CAP 64
/* Below this many slots the memory is not worth a realloc. */
#define SHRINK_ABOVE 4096

/* The sequence number decides between equal deadlines, so no two slots are ever equal
 * and the order is total: timers due at the same moment fire in the order they were
 * made. */
static inline bool
before(const hl_heap_slot *a, const hl_heap_slot *b)
{
#ifdef __SIZEOF_INT128__
    /* Two instructions and no jump: which of two timers is the earlier one cannot be
     * predicted, and a wrong guess costs as much as a whole level of the heap. */
    __extension__ typedef unsigned __int128 wide;
    return ((wide)a->key << 64 | a->seq) < ((wide)b->key << 64 | b->seq);
#else
    return a->key < b->key || (a->key == b->key && a->seq < b->seq);
#endif
}

/* The bits of a double compare like it once those of negative ones are turned over;
 * -0.0 and 0.0 are one deadline. */
static inline uint64_t
key_of(double when)
{
    uint64_t bits;
    when += 0.0;
    memcpy(&bits, &when, sizeof(bits));
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

/* The earliest of the children, the first of which is at `child`, below len. */
static inline size_t
least_child(const hl_heap *h, size_t child)
{
    const hl_heap_slot *v = h->v;
    if (HL_LIKELY(child + ARITY <= h->len)) {
        size_t a = child + before(&v[child + 1], &v[child]);
        size_t b = child + 2 + before(&v[child + 3], &v[child + 2]);
        return before(&v[b], &v[a]) ? b : a;
    }
    size_t least = child;
    while (++child < h->len) {
        if (before(&v[child], &v[least])) {
            least = child;
        }
    }
    return least;
}

/* The only writer of a slot: a node's index is right after every call, so that a walk
 * may stop anywhere and hl_heap_holds() still tells the truth. */
static inline void
put(hl_heap *h, size_t i, hl_heap_slot s)
{
    h->v[i] = s;
    s.node->index = i;
}

/* Both walks move a hole, not the slot: the slot is written once, at the end. */
static void
sift_up(hl_heap *h, size_t i, hl_heap_slot s)
{
    while (i > 0) {
        size_t parent = (i - 1) / ARITY;
        if (!before(&s, &h->v[parent])) {
            break;
        }
        put(h, i, h->v[parent]);
        i = parent;
    }
    put(h, i, s);
}

static void
sift_down(hl_heap *h, size_t i, hl_heap_slot s)
{
    for (;;) {
        size_t child = i * ARITY + 1;
        if (child >= h->len) {
            break;
        }
        size_t least = least_child(h, child);
        if (!before(&h->v[least], &s)) {
            break;
        }
        put(h, i, h->v[least]);
        i = least;
    }
    put(h, i, s);
}

/* Gives the array a new size; on failure it stays what it was. */
static HL_COLD int
resize(hl_heap *h, size_t cap)
{
    if (cap > SIZE_MAX / sizeof(*h->v)) {
        return -ENOMEM;
    }
    hl_heap_slot *v = hl_realloc(h->v, cap * sizeof(*v));
    if (v == NULL) {
        return -ENOMEM;
    }
    h->v = v;
    h->cap = cap;
    return 0;
}

void
hl_heap_init(hl_heap *h)
{
    *h = (hl_heap){0};
}

/* The nodes live in the handles, which outlive the heap when a program keeps them: each
 * learns that it is in no heap, so that a later cancel() does not look for it here. */
void
hl_heap_fini(hl_heap *h)
{
    for (size_t i = 0; i < h->len; i++) {
        h->v[i].node->index = HL_HEAP_OUT;
    }
    free(h->v);
    hl_heap_init(h);
}

/* Grows before the node is touched: on failure it is where it was, in no heap.  The key
 * is copied into the slot; whoever changes node->when afterwards changes nothing here.
 */
int
hl_heap_push(hl_heap *h, hl_timer *node)
{
    assert(node->when == node->when);
    if (HL_UNLIKELY(h->len == h->cap)) {
        int rc = resize(h, h->cap ? h->cap * 2 : FIRST_CAP);
        if (rc < 0) {
            return rc;
        }
    }
    /* 64 bits: at a timer each nanosecond they last for centuries. */
    node->seq = h->next_seq++;
    sift_up(h, h->len++, (hl_heap_slot){key_of(node->when), node->seq, node});
    return 0;
}

/* Fills the hole at i with the last slot, and gives memory back after a burst.  The
 * last slot may belong above the hole or below it: it comes from another branch. */
static void
close_hole(hl_heap *h, size_t i)
{
    hl_heap_slot last = h->v[--h->len];
    if (i < h->len) {
        if (i > 0 && before(&last, &h->v[(i - 1) / ARITY])) {
            sift_up(h, i, last);
        }
        else {
            sift_down(h, i, last);
        }
    }
    if (HL_UNLIKELY(h->cap > SHRINK_ABOVE && h->len < h->cap / 8)) {
        (void)resize(h, h->cap / 2); /* failing costs nothing but the memory */
    }
}

/* The caller gets the reference that it gave with the push: nothing is released here,
 * since releasing a handle can run code that schedules. */
hl_timer *
hl_heap_pop(hl_heap *h)
{
    assert(h->len > 0);
    hl_timer *node = h->v[0].node;
    close_hole(h, 0);
    node->index = HL_HEAP_OUT;
    return node;
}

/* What cancel() costs: one sift.  The node is out at once, so a cancelled timer keeps
 * neither its handle nor what that refers to. */
void
hl_heap_remove(hl_heap *h, hl_timer *node)
{
    assert(hl_heap_holds(h, node));
    close_hole(h, node->index);
    node->index = HL_HEAP_OUT;
}

#ifndef NDEBUG
/* For the tests' debug builds: walks all of it after an operation. */
bool
hl_heap_check(const hl_heap *h)
{
    for (size_t i = 0; i < h->len; i++) {
        const hl_heap_slot *s = &h->v[i];
        if (s->node->index != i || s->node->seq != s->seq || s->seq >= h->next_seq) {
            return false;
        }
        if (i > 0 && !before(&h->v[(i - 1) / ARITY], s)) {
            return false;
        }
    }
    return h->len <= h->cap;
}
#endif

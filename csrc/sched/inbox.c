/* What other threads queue, where no GIL keeps them apart from the loop's own.
 *
 * The ring and the heap are touched by the thread that runs the loop, and by no other;
 * while none does, by none.  Everybody else leaves an entry in the inbox, under a lock
 * that is held for a few instructions.  It is emptied onto the ring before each push of
 * the loop's own and before each turn, so that the order of all entries is that in
 * which they were queued. */
#include "sched/inbox.h"

#if HL_FREE_THREADED

/* The kinds that only an inbox holds: a timer on its way into the heap, or out of it.
 */
enum { KIND_TIMER = 4, KIND_UNTIMER = 5 };

#define INBOX_CAP 64

int
hl_inbox_init(hl_inbox *in)
{
    return hl_ring_init(&in->queue, INBOX_CAP);
}

/* After hl_inbox_clear(), when nobody knows the loop any more. */
void
hl_inbox_fini(hl_inbox *in)
{
    hl_ring_fini(&in->queue);
}

/* The thread that runs the loop from here on; 0: none.  The outer one of a nested run
 * is the same. */
void
hl_inbox_own(hl_inbox *in, uintptr_t thread)
{
    __atomic_store_n(&in->runner, thread, __ATOMIC_RELEASE);
}

/* Steals what the entry owns.  0, or -1 with MemoryError. */
int
hl_inbox_put(hl_inbox *in, hl_entry e)
{
    int rc = -1;
    hl_mutex_lock(&in->lock);
    if (in->queue.v != NULL) {
        rc = hl_ring_push(&in->queue, e.tagged, e.arg);
        HL_STORE(in->waiting, hl_ring_len(&in->queue));
    }
    hl_mutex_unlock(&in->lock);
    if (rc < 0) {
        hl_entry_drop(e);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* A timer that was cancelled stays referenced by the ring, lest the last reference be
 * dropped here: its entry runs nothing. */
static int
take_one(hl_sched *s, hl_entry e)
{
    PyObject *obj = hl_entry_object(e);
    hl_timer *node = (hl_timer *)e.arg;
    switch (hl_entry_kind(e)) {
    case KIND_TIMER:
        return hl_heap_push(&s->timers, node); /* on failure its index stays */
    case KIND_UNTIMER:
        if (hl_heap_holds(&s->timers, node)) {
            hl_heap_remove(&s->timers, node);
            Py_DECREF(obj); /* the heap's; the entry's goes with the ring */
        }
        return hl_ring_push(&s->ready, (uintptr_t)obj | HL_KIND_HANDLE, NULL);
    default:
        return hl_ring_push(&s->ready, e.tagged, e.arg);
    }
}

/* In the loop's thread.  What does not fit stays.  0, or -1 with MemoryError. */
int
hl_inbox_drain(hl_sched *s)
{
    hl_inbox *in = &s->inbox;
    int rc = 0;
    hl_mutex_lock(&in->lock);
    while (rc == 0 && hl_ring_len(&in->queue) > 0) {
        rc = take_one(s, *hl_ring_at(&in->queue, 0));
        if (rc == 0) {
            (void)hl_ring_pop(&in->queue);
        }
    }
    HL_STORE(in->waiting, hl_ring_len(&in->queue));
    hl_mutex_unlock(&in->lock);
    if (rc < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Runs finalisers, which may put something in: each entry is out before it is dropped.
 */
void
hl_inbox_clear(hl_inbox *in)
{
    for (;;) {
        hl_entry e = {0, NULL};
        hl_mutex_lock(&in->lock);
        if (in->queue.v != NULL && hl_ring_len(&in->queue) > 0) {
            e = hl_ring_pop(&in->queue);
            HL_STORE(in->waiting, hl_ring_len(&in->queue));
        }
        hl_mutex_unlock(&in->lock);
        if (e.tagged == 0) {
            return;
        }
        hl_entry_drop(e);
    }
}

/* The world stands still: nobody is in the middle of a push. */
int
hl_inbox_traverse(hl_inbox *in, visitproc visit, void *arg)
{
    size_t n = in->queue.v == NULL ? 0 : hl_ring_len(&in->queue);
    for (size_t i = 0; i < n; i++) {
        int rc = hl_entry_visit(*hl_ring_at(&in->queue, i), visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

/* Into the heap: steals the reference to op, as the heap's.  In the loop's own thread
 * behind those that were made before it elsewhere. */
int
hl_sched_add_timer(hl_sched *s, PyObject *op, hl_timer *node)
{
    if (!hl_sched_mine(s)) {
        node->index = HL_HEAP_OUT - 1; /* in no heap, but on its way into one */
        return hl_inbox_put(&s->inbox, (hl_entry){(uintptr_t)op | KIND_TIMER, node});
    }
    if (hl_sched_drain(s) < 0 || hl_heap_push(&s->timers, node) < 0) {
        Py_DECREF(op);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Out of the heap, if it is there: the caller holds op.  0, or -1 with MemoryError. */
int
hl_sched_drop_timer(hl_sched *s, PyObject *op, hl_timer *node)
{
    if (!hl_sched_mine(s)) {
        hl_entry e = {(uintptr_t)Py_NewRef(op) | KIND_UNTIMER, node};
        return hl_inbox_put(&s->inbox, e);
    }
    if (hl_sched_drain(s) < 0) {
        return -1;
    }
    if (hl_heap_holds(&s->timers, node)) {
        hl_heap_remove(&s->timers, node);
        Py_DECREF(op);
    }
    return 0;
}

#endif

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

/* ---- forks ---- */

/* Runs in the child, where there is no thread but this one: locks that others had, or
 * were about to be given, are nobody's. */
static PyObject *
count_fork(PyObject *ref, PyObject *Py_UNUSED(ignored))
{
    PyObject *mod;
    int alive = PyWeakref_GetRef(ref, &mod);
    if (alive < 0) {
        return NULL;
    }
    hl_state *st = alive ? PyModule_GetState(mod) : NULL;
    if (st != NULL) {
        for (int i = 0; i < HL_TASK_LISTS; i++) {
            memset(&st->tasks[i].lock, 0, sizeof(st->tasks[i].lock));
        }
        HL_COUNT(st->forks); /* an inbox has its turn when it is used */
    }
    Py_XDECREF(mod);
    Py_RETURN_NONE;
}

static PyMethodDef count_fork_def = {"_count_fork", count_fork, METH_NOARGS, NULL};

/* The interpreter keeps such a callback as long as it is, so that must not keep us. */
int
hl_inbox_exec(hl_state *st)
{
    PyObject *ref = PyWeakref_NewRef(st->mod, NULL);
    PyObject *func = ref == NULL ? NULL : PyCFunction_New(&count_fork_def, ref);
    PyObject *os = func == NULL ? NULL : PyImport_ImportModule("os");
    PyObject *reg = os == NULL ? NULL : PyObject_GetAttrString(os, "register_at_fork");
    PyObject *none = reg == NULL ? NULL : PyTuple_New(0);
    PyObject *kw = none == NULL ? NULL : Py_BuildValue("{sO}", "after_in_child", func);
    PyObject *res = kw == NULL ? NULL : PyObject_Call(reg, none, kw);
    Py_XDECREF(ref);
    Py_XDECREF(func);
    Py_XDECREF(os);
    Py_XDECREF(reg);
    Py_XDECREF(none);
    Py_XDECREF(kw);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* The first use in the child of a fork.  Where the lock was held somebody was in the
 * middle of the queue: what is in it is given up, with its memory.  (Two threads of the
 * child that do this at once, to a loop of its parent's, are one too many.) */
void
hl_inbox_forked(hl_sched *s)
{
    hl_inbox *in = &s->inbox;
    HL_STORE(in->forks, HL_LOAD(s->st->forks));
    memset(&in->lock, 0, sizeof(in->lock));
#if HL_SHOWS_WHEN_ASKED
    memset(&s->show_lock, 0, sizeof(s->show_lock));
    HL_STORE(s->shower, (uintptr_t)0);
#endif
    if (in->locked) {
        in->locked = false;
        HL_STORE(in->waiting, (size_t)0);
        in->queue = (hl_ring){0};
        (void)hl_ring_init(&in->queue, INBOX_CAP); /* without: as if it were closed */
    }
}

/* ---- the queue ---- */

int
hl_inbox_init(hl_sched *s)
{
    s->inbox.forks = HL_LOAD(s->st->forks);
    return hl_ring_init(&s->inbox.queue, INBOX_CAP);
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
hl_inbox_put(hl_sched *s, hl_entry e)
{
    hl_inbox *in = &s->inbox;
    int rc = -1;
    hl_inbox_lock(s);
    if (in->queue.v != NULL) {
        rc = hl_ring_push(&in->queue, e.tagged, e.arg);
        HL_STORE(in->waiting, hl_ring_len(&in->queue));
    }
    hl_inbox_unlock(s);
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
    hl_inbox_lock(s);
    while (rc == 0 && hl_ring_len(&in->queue) > 0) {
        rc = take_one(s, *hl_ring_at(&in->queue, 0));
        if (rc == 0) {
            (void)hl_ring_pop(&in->queue);
        }
    }
    HL_STORE(in->waiting, hl_ring_len(&in->queue));
    hl_inbox_unlock(s);
    if (rc < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Runs finalisers, which may put something in: each entry is out before it is dropped.
 */
void
hl_inbox_clear(hl_sched *s)
{
    hl_inbox *in = &s->inbox;
    for (;;) {
        hl_entry e = {0, NULL};
        hl_inbox_lock(s);
        if (in->queue.v != NULL && hl_ring_len(&in->queue) > 0) {
            e = hl_ring_pop(&in->queue);
            HL_STORE(in->waiting, hl_ring_len(&in->queue));
        }
        hl_inbox_unlock(s);
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
        return hl_inbox_put(s, (hl_entry){(uintptr_t)op | KIND_TIMER, node});
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
        return hl_inbox_put(s, e);
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

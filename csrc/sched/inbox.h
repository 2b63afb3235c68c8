/* The inbox of a loop where there is no GIL; with one, pushing is all there is to it.
 */
#ifndef HL_SCHED_INBOX_H
#define HL_SCHED_INBOX_H

#include "sched/sched.h"

#if HL_FREE_THREADED

int hl_inbox_exec(hl_state *st);
int hl_inbox_init(hl_sched *s); /* 0 or -ENOMEM */
void hl_inbox_fini(hl_inbox *in);
void hl_inbox_own(hl_inbox *in, uintptr_t thread);
int hl_inbox_put(hl_sched *s, hl_entry e);
int hl_inbox_drain(hl_sched *s);
void hl_inbox_clear(hl_sched *s);
void hl_inbox_forked(hl_sched *s);
int hl_inbox_traverse(hl_inbox *in, visitproc visit, void *arg);

/* The lock.  A thread that had it when the process was forked is not there to give it
 * back in the child. */
static inline void
hl_inbox_lock(hl_sched *s)
{
    if (HL_UNLIKELY(HL_LOAD(s->inbox.forks) != HL_LOAD(s->st->forks))) {
        hl_inbox_forked(s);
    }
    hl_mutex_lock(&s->inbox.lock);
    s->inbox.locked = true;
}

static inline void
hl_inbox_unlock(hl_sched *s)
{
    s->inbox.locked = false;
    hl_mutex_unlock(&s->inbox.lock);
}

/* Does this thread run the loop? */
static inline bool
hl_sched_mine(const hl_sched *s)
{
    return HL_LOAD(s->inbox.runner) == _Py_ThreadId();
}

/* In the loop's thread: what others have queued goes where it belongs.  0, or -1 with
 * MemoryError. */
static inline int
hl_sched_drain(hl_sched *s)
{
    return HL_LIKELY(HL_LOAD(s->inbox.waiting) == 0) ? 0 : hl_inbox_drain(s);
}

static inline bool
hl_sched_nothing_ready(const hl_sched *s)
{
    return hl_ring_len(&s->ready) == 0 && HL_LOAD(s->inbox.waiting) == 0;
}

/* About to sleep: false when there is something to do. */
static inline bool
hl_sched_sleep(hl_sched *s)
{
    hl_inbox_lock(s);
    s->sleeping = HL_LOAD(s->inbox.waiting) == 0;
    bool may = s->sleeping;
    hl_inbox_unlock(s);
    return may;
}

static inline void
hl_sched_awake(hl_sched *s)
{
    hl_inbox_lock(s);
    s->sleeping = false;
    hl_inbox_unlock(s);
}

#define hl_sched_run_by(s, thread) hl_inbox_own(&(s)->inbox, (thread))
#define hl_sched_this_thread() _Py_ThreadId()

int hl_sched_add_timer(hl_sched *s, PyObject *op, hl_timer *node);
int hl_sched_drop_timer(hl_sched *s, PyObject *op, hl_timer *node);

#else

#define hl_inbox_lock(s) ((void)(s))
#define hl_inbox_unlock(s) ((void)(s))
#define hl_inbox_exec(st) ((void)(st), 0)
#define hl_sched_run_by(s, thread) ((void)(s))
#define hl_sched_this_thread() 0

static inline int
hl_sched_drain(hl_sched *s)
{
    (void)s;
    return 0;
}

static inline bool
hl_sched_nothing_ready(const hl_sched *s)
{
    return hl_ring_len(&s->ready) == 0;
}

static inline bool
hl_sched_sleep(hl_sched *s)
{
    s->sleeping = true;
    return true;
}

static inline void
hl_sched_awake(hl_sched *s)
{
    s->sleeping = false;
}

/* Into the heap: steals the reference to op, as the heap's.  0, or -1 with MemoryError.
 */
static inline int
hl_sched_add_timer(hl_sched *s, PyObject *op, hl_timer *node)
{
    if (hl_heap_push(&s->timers, node) < 0) {
        Py_DECREF(op);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Out of the heap, if it is there: the caller holds op.  0 or -1. */
static inline int
hl_sched_drop_timer(hl_sched *s, PyObject *op, hl_timer *node)
{
    if (hl_heap_holds(&s->timers, node)) {
        hl_heap_remove(&s->timers, node);
        Py_DECREF(op);
    }
    return 0;
}

#endif

#endif

/* The scheduler that a loop embeds: the ready ring and the timers.
 *
 * It is the first member of every loop object, so a future finds it from its loop
 * pointer without a Python call.  All of it belongs to the thread that runs the loop;
 * under the GIL other threads may push (call_soon_threadsafe), without one they go by
 * the inbox. */
#ifndef HL_SCHED_SCHED_H
#define HL_SCHED_SCHED_H

#include "core/heap.h"
#include "core/ring.h"
#include "py/state.h"

/* Kinds of ring entries; the object is always a strong reference that the ring owns. */
enum {
    HL_KIND_HANDLE = 0, /* run a Handle; arg unused */
    HL_KIND_STEP = 1,   /* step a Task; arg: exception to throw (owned) or NULL */
    HL_KIND_WAKE = 2,   /* wake a Task; arg: the finished Future (owned) */
    HL_KIND_CONT = 3,   /* call arg, an hl_cont_fn, with the object */
};

/* The object of an entry (borrowed; NULL for an empty one) and its kind. */
static inline PyObject *
hl_entry_object(hl_entry e)
{
    return (PyObject *)(e.tagged & ~HL_KIND_MASK);
}

static inline int
hl_entry_kind(hl_entry e)
{
    return (int)(e.tagged & HL_KIND_MASK);
}

/* A C continuation.  0, or -1 with an exception set: SystemExit and KeyboardInterrupt
 * then leave run_forever(), anything else goes to the exception handler. */
typedef int (*hl_cont_fn)(PyObject *self);

/* Up to 3.13 the record of the current tasks is one dictionary for all loops.  Without
 * a GIL it is the one thing that loops in two threads would both write at every step,
 * so there a task is put into it only when somebody looks (current.c). */
#define HL_SHOWS_WHEN_ASKED (HL_FREE_THREADED && !HL_TASKS_IN_TSTATE)

#if HL_FREE_THREADED
/* inbox.c */
typedef struct {
    hl_mutex lock;    /* for the queue, for sleeping, and for the wakeup descriptor */
    uintptr_t runner; /* the thread that runs the loop, or 0 */
    size_t waiting;   /* the queue's length, for a look without the lock */
    unsigned forks;   /* st->forks when it was made: else the lock is the parent's */
    bool locked;      /* by whoever has the lock */
    hl_ring queue;
} hl_inbox;
#endif

typedef struct hl_sched {
    hl_ring ready;
    hl_heap timers;
#if HL_FREE_THREADED
    hl_inbox inbox;
    unsigned task_list; /* the one of st->tasks that its tasks are on */
#endif
    hl_state *st;
    bool plain; /* open, debug off, call_soon not overridden: nobody can tell a
                   direct push from loop.call_soon() */
    bool debug;
    bool sleeping;     /* in, or about to enter, a poll that blocks */
    bool running;      /* hl_run() is at work */
    bool in_callback;  /* a callback or step of this loop is running on its thread */
    PyObject *current; /* borrowed: the task that asyncio's record shows for this loop,
                          or would if asked (`hides`), because we put it there and have
                          not cleared it yet */
#if HL_SHOWS_WHEN_ASKED
    hl_mutex show_lock; /* for the two below, and for each change of current */
    uintptr_t shower;   /* the thread that changes the loop's place there, or 0 */
    bool asked;         /* somebody has looked: something may be in the record */
    bool hides;         /* current is in the record only if somebody has looked */
#endif
    PyObject **task_slot; /* while the loop runs, where its thread state keeps the
                             current task (3.14); else NULL */
    PyObject **loop_slot; /* and its running loop */
    hl_entry *flush; /* run when the running callback or step is over; owned refs */
    size_t at_flush, n_flush, cap_flush; /* those before at_flush have run */
} hl_sched;

/* What every loop object begins with.  `brand` holds the address of hl_loop_brand in
 * our loops: it tells them from any other object without a look at their type. */
typedef struct {
    PyObject_HEAD
    const void *brand;
    hl_sched sched;
} hl_loop_head;

extern const char hl_loop_brand;

static inline bool
hl_is_loop(PyObject *op)
{
    return Py_TYPE(op)->tp_basicsize >= (Py_ssize_t)sizeof(hl_loop_head) &&
           ((hl_loop_head *)op)->brand == &hl_loop_brand;
}

/* The scheduler of one of our loops, or NULL for a foreign loop (op may be NULL). */
static inline hl_sched *
hl_sched_of(PyObject *op)
{
    return op != NULL && hl_is_loop(op) ? &((hl_loop_head *)op)->sched : NULL;
}

/* The scheduler if a direct push is indistinguishable from loop.call_soon(), or NULL.
 */
static inline hl_sched *
hl_sched_plain(PyObject *op)
{
    hl_sched *s = hl_sched_of(op);
    return s != NULL && HL_LIKELY(s->plain) ? s : NULL;
}

/* The loop that embeds a scheduler (borrowed). */
static inline PyObject *
hl_sched_loop(hl_sched *s)
{
    return (PyObject *)hl_container_of(s, hl_loop_head, sched);
}

int hl_sched_init(hl_sched *s, hl_state *st); /* 0 or -1 */
/* Drops every entry and timer; runs Python code through finalisers. */
void hl_sched_clear(hl_sched *s);
void hl_sched_fini(hl_sched *s);
int hl_sched_traverse(hl_sched *s, visitproc visit, void *arg);

/* Appends an entry.  Takes its own reference to obj; arg is stolen for STEP and WAKE,
 * on failure too.  0, or -1 with MemoryError. */
int hl_sched_push(hl_sched *s, int kind, PyObject *obj, void *arg);
/* The same, but steals the reference to obj too. */
int hl_sched_push_steal(hl_sched *s, int kind, PyObject *obj, void *arg);
/* Drops an entry that will not run. */
void hl_entry_drop(hl_entry e);
int hl_entry_visit(hl_entry e, visitproc visit, void *arg);

/* Have fn(obj) run as soon as the running callback or step returns to C.  0 or -1. */
int hl_sched_flush_later(hl_sched *s, PyObject *obj, hl_cont_fn fn);
/* Runs what hl_sched_flush_later() collected.  0, or -1 with an exception. */
int hl_sched_flush_now(hl_sched *s);

/* loop.call_soon(func, arg, context=ctx) by its Python name, for loops that are not
 * plain or not ours; arg and ctx may be NULL.  0 or -1. */
int hl_call_soon(hl_state *st, PyObject *loop, PyObject *func, PyObject *arg,
                 PyObject *ctx);

/* ---- current.c: asyncio's record of the current task ---- */
/* Around a run, in its thread.  The slots are those of the run that this one is in. */
typedef struct {
    PyObject **task_slot, **loop_slot;
} hl_current_slots;
hl_current_slots hl_current_bind(hl_sched *s);
void hl_current_unbind(hl_sched *s, hl_current_slots outer);
/* Makes task current for loop: 0, or -1 (RuntimeError when another one is). */
int hl_current_enter(hl_sched *s, PyObject *loop, PyObject *task);
/* Its step is over.  In a dictionary with a GIL the record stays for the next step,
 * unless the task is done: whatever its release runs sees no current task.  0, or -1
 * with an exception when the record of a thread state has been tampered with. */
int hl_current_leave(hl_sched *s, PyObject *loop, PyObject *task, bool done);
/* Clears what we left behind; cheap when there is nothing.  Keeps a set exception. */
void hl_current_clear(hl_sched *s, PyObject *loop);
#if HL_SHOWS_WHEN_ASKED
/* tp_hash of loops: whoever looks for a loop in the record asks for its hash first. */
Py_hash_t hl_current_hash(PyObject *loop);
#endif
/* Puts task (None: none) in place of the current one, which is returned (new reference,
 * None for none); NULL with an exception. */
PyObject *hl_current_swap(hl_state *st, PyObject *loop, PyObject *task);

/* ---- handle.c ---- */
/* A new Handle, in no queue; ctx NULL: a copy of the current context. */
PyObject *hl_handle_new(hl_sched *s, PyObject *loop, PyObject *callback,
                        PyObject *const *args, Py_ssize_t nargs, PyObject *ctx);
/* A new Handle that is queued; from another thread it is call_soon_threadsafe()'s. */
PyObject *hl_handle_soon(hl_sched *s, PyObject *loop, PyObject *callback,
                         PyObject *const *args, Py_ssize_t nargs, PyObject *ctx,
                         bool threadsafe);
/* The same for a handle that nobody gets to see: 0 or -1. */
int hl_handle_push(hl_sched *s, PyObject *loop, PyObject *callback,
                   PyObject *const *args, Py_ssize_t nargs, PyObject *ctx);
/* Has the collector see the handle that was handed out last, if somebody has kept it.
 * Before the loop sleeps or stops, and wherever a handle leaves its queue unrun. */
void hl_handle_settle(hl_state *st);
/* What the collector has to visit for a handle that a queue owns. */
int hl_handle_visit(PyObject *op, visitproc visit, void *arg);
/* A new TimerHandle that is in the heap; `when` on the loop's clock. */
PyObject *hl_timer_new(hl_sched *s, PyObject *loop, double when, PyObject *callback,
                       PyObject *const *args, Py_ssize_t nargs, PyObject *ctx);
/* For a deadline that was given as something else than a float. */
void hl_timer_given(PyObject *timer, PyObject *when);
/* Runs the callback, and reports what it raises; -1 only for what must propagate. */
int hl_handle_run(hl_state *st, PyObject *handle);
/* The same for a handle that has left its queue, and whose reference the caller owns.
 */
int hl_handle_run_queued(hl_state *st, PyObject *handle);
bool hl_handle_cancelled(PyObject *handle);
/* What a queued handle is going to call, all borrowed; nargs is -1 if it is cancelled
 * or has a tuple of arguments. */
typedef struct {
    hl_state *st;
    PyObject *loop, *func, *const *args;
    int nargs;
} hl_queued_call;
hl_queued_call hl_handle_look(PyObject *handle);
/* handle.cancel() without a Python call: 0 or -1. */
int hl_handle_cancel(PyObject *handle);
/* Is op one of our handles, of exactly our types? */
static inline bool
hl_handle_check(hl_state *st, PyObject *op)
{
    return Py_IS_TYPE(op, st->t_Handle) || Py_IS_TYPE(op, st->t_TimerHandle) ||
           Py_IS_TYPE(op, st->t_ThreadSafeHandle);
}
/* The TimerHandle (borrowed) that a heap node belongs to. */
PyObject *hl_timer_handle(hl_timer *node);

/* ---- future.c ---- */
PyObject *hl_future_new(hl_state *st, PyObject *loop);
/* On an exact Future of ours.  -1 with InvalidStateError when it is done. */
int hl_future_set_result(hl_state *st, PyObject *fut, PyObject *result);
int hl_future_set_exception(hl_state *st, PyObject *fut, PyObject *exc);
bool hl_future_done(PyObject *fut); /* any Future or Task of ours */
/* For any waiter, foreign ones and None too: sets the exception, or the result when exc
 * is NULL, unless the waiter is done already.  0 or -1. */
int hl_waiter_set(hl_state *st, PyObject *waiter, PyObject *result, PyObject *exc);

/* ---- task.c ---- */
/* name, context: NULL or None for none; eager: start at once. */
PyObject *hl_task_new(hl_state *st, PyTypeObject *type, PyObject *coro, PyObject *loop,
                      PyObject *name, PyObject *context, bool eager);
/* Is op a Task of ours or of a subclass?  Most callbacks are not, and smaller. */
static inline bool
hl_task_check(hl_state *st, PyObject *op)
{
    return Py_IS_TYPE(op, st->t_Task) ||
           (HL_UNLIKELY(Py_TYPE(op)->tp_basicsize > (Py_ssize_t)sizeof(hl_base_task)) &&
            PyType_IsSubtype(Py_TYPE(op), st->t_Task));
}
/* A callable that wakes the task from the future it is called with: what the fused
 * waiter of a future looks like from outside. */
PyObject *hl_task_wakeup(hl_state *st, PyObject *task);
/* One step or wake-up from the ring; steals exc / fut.  -1: what must propagate. */
int hl_task_run_step(hl_sched *s, PyObject *task, PyObject *exc);
int hl_task_run_wake(hl_sched *s, PyObject *task, PyObject *fut);

int hl_sched_exec(PyObject *mod, hl_state *st); /* makes the types of this layer */

#endif

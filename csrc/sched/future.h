/* What future.c and task.c share: both keep their state in the base object's fields. */
#ifndef HL_SCHED_FUTURE_H
#define HL_SCHED_FUTURE_H

#include "py/compat.h"
#include "sched/sched.h"

#define AS_FUTURE(op) ((hl_base_future *)(op))

/* A Task of ours; Python subclasses put their own fields behind. */
typedef struct {
    HL_BASE_TASK_FIELDS
    hl_state *st;  /* valid while mod is held */
    PyObject *mod; /* owned; dropped last */
    HL_OWN_TASK_REGISTERED
#if HL_FREE_THREADED && !HL_TASKS_IN_TSTATE
    hl_task_list *list; /* that the node is, or was, on */
#define HL_SET_TASK_LIST(t, l) ((t)->list = (l))
#else
#define HL_SET_TASK_LIST(t, l) ((void)(l))
#endif
} TaskObject;

#define AS_TASK(op) ((TaskObject *)(op))

/* Futures have no field of their own, so that hotloop.Task can extend hotloop.Future
 * and asyncio.Task both: the state is found by way of the loop, or of the type. */
static inline hl_state *
hl_future_state(PyObject *op)
{
    hl_sched *s = hl_sched_of(AS_FUTURE(op)->loop);
    return HL_LIKELY(s != NULL) ? s->st : hl_state_by_type(Py_TYPE(op));
}

/* Somebody has looked at the exception: the finaliser need not tell of it.  From any
 * thread, so under the lock: the bit shares its word with others. */
static inline void
hl_future_retrieved(hl_base_future *f)
{
    HL_LOCK(f);
    f->log_tb = 0;
    HL_UNLOCK();
}

static inline bool
hl_future_exact(hl_state *st, PyObject *op)
{
    return Py_IS_TYPE(op, st->t_Future) || Py_IS_TYPE(op, st->t_Task);
}

/* 0, or -1 with RuntimeError when __init__ has not run. */
int hl_future_alive(PyObject *op);
/* repr() by that function of asyncio's, whatever other threads do meanwhile. */
PyObject *hl_future_describe(PyObject *func, PyObject *op);
/* Clears what __init__ sets and takes the loop (NULL or None: the current one). */
int hl_future_init(hl_state *st, PyObject *op, PyObject *loop);
/* On a pending one (the caller has looked): sets the outcome, schedules the callbacks.
 */
int hl_future_finish(hl_state *st, PyObject *op, PyObject *result);
int hl_future_fail(hl_state *st, PyObject *op, PyObject *exc);
/* 1 cancelled, 0 was done already, -1 with an exception.  msg may be NULL. */
int hl_future_cancel(hl_state *st, PyObject *op, PyObject *msg);
int hl_future_schedule(hl_state *st, PyObject *op);
/* Adds a callback, or schedules it when the future is done.  callback may be an exact
 * Task itself when the loop is of the same module as the task: the fused waiter. */
int hl_future_add_callback(hl_state *st, PyObject *op, PyObject *callback,
                           PyObject *ctx);
/* 0: *out is the result; 1: *out is the exception to raise; -1: an exception is set
 * (cancelled, or not done).  Marks an exception as retrieved. */
int hl_future_outcome(hl_state *st, PyObject *op, PyObject **out);
PyObject *hl_cancelled_error(hl_state *st, PyObject *op);
void hl_future_set_cancelled_error(hl_state *st, PyObject *op);

PyObject *hl_future_iter(PyObject *op); /* futiter.c */
void hl_future_finalize(PyObject *op);
int hl_future_traverse_base(PyObject *op, visitproc visit, void *arg);
void hl_future_clear_base(PyObject *op);
/* loop.call_exception_handler({message, key: op, ...}) from a finaliser. */
void hl_future_complain(hl_state *st, PyObject *op, PyObject *message, PyObject *key,
                        PyObject *exc);

extern PyMethodDef hl_future_methods[];
extern PyGetSetDef hl_future_getset[];

/* ---- step.c ---- */
/* One step, the task being current and its context entered; exc is borrowed. */
int hl_task_step(hl_state *st, TaskObject *t, PyObject *exc);
/* A step, or a wake-up by a finished future, whose context somebody else has entered.
 */
int hl_task_step_in(hl_state *st, TaskObject *t, PyObject *exc);
int hl_task_wake_in(hl_state *st, TaskObject *t, PyObject *fut);
int hl_task_step_soon(hl_state *st, TaskObject *t, PyObject *exc);
/* waiter.cancel(msg=msg): 1, 0, or -1. */
int hl_task_cancel_waiter(hl_state *st, PyObject *waiter, PyObject *msg);

/* ---- wakeup.c ---- */
/* A callable that steps the task, throwing exc (or NULL). */
PyObject *hl_task_stepper(hl_state *st, PyObject *task, PyObject *exc);

/* ---- registry.c ---- */
int hl_task_enlist(hl_state *st, TaskObject *t);
int hl_task_delist(hl_state *st, TaskObject *t); /* the task is done */
void hl_task_unlink(TaskObject *t); /* off whatever list it is on; idempotent */
int hl_registry_install(PyObject *mod, hl_state *st);

int hl_wakeup_exec(PyObject *mod, hl_state *st);
int hl_handle_exec(PyObject *mod, hl_state *st);
int hl_future_exec(PyObject *mod, hl_state *st);
int hl_futiter_exec(PyObject *mod, hl_state *st);
int hl_task_exec(PyObject *mod, hl_state *st);

#endif

/* Task: a coroutine and its place in the loop.
 *
 * On a plain loop of ours a step is one entry on the ready ring, and waiting for a
 * future of ours stores the task in the future: no handle, no wrapper, no Python call.
 * Anywhere else (debug mode, an overridden call_soon, a foreign loop) the task goes
 * through loop.call_soon() with a TaskWakeup object, as asyncio's does. */
#include "sched/future.h"

#include "py/err.h"

/* ---- the wrapper for the slow road ---- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *task; /* owned */
    PyObject *exc;  /* owned or NULL: what a step throws */
    bool step;      /* called without arguments: a step; else with the future */
} WakeupObject;

static int task_step_in(hl_state *st, TaskObject *t, PyObject *exc);
static int task_wake_in(hl_state *st, TaskObject *t, PyObject *fut);

static PyObject *
Wakeup_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    WakeupObject *w = (WakeupObject *)op;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if ((kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0) || nargs != !w->step) {
        PyErr_SetString(PyExc_TypeError, w->step ? "a task's step takes no arguments"
                                                 : "a task's wakeup takes a future");
        return NULL;
    }
    if (w->task == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the task is gone");
        return NULL;
    }
    TaskObject *t = AS_TASK(Py_NewRef(w->task));
    int rc = w->step ? task_step_in(t->st, t, w->exc) : task_wake_in(t->st, t, args[0]);
    Py_DECREF(t);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
wakeup_new(hl_state *st, PyObject *task, bool step, PyObject *exc)
{
    WakeupObject *w = PyObject_GC_New(WakeupObject, st->t_TaskWakeup);
    if (w == NULL) {
        return NULL;
    }
    w->vectorcall = Wakeup_call;
    w->task = Py_NewRef(task);
    w->exc = Py_XNewRef(exc);
    w->step = step;
    PyObject_GC_Track(w);
    return (PyObject *)w;
}

PyObject *
hl_task_wakeup(hl_state *st, PyObject *task)
{
    return wakeup_new(st, task, false, NULL);
}

static int
Wakeup_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((WakeupObject *)op)->task);
    Py_VISIT(((WakeupObject *)op)->exc);
    return 0;
}

static int
Wakeup_clear(PyObject *op)
{
    Py_CLEAR(((WakeupObject *)op)->task);
    Py_CLEAR(((WakeupObject *)op)->exc);
    return 0;
}

static void
Wakeup_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)Wakeup_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyObject *
Wakeup_self(PyObject *op, void *closure)
{
    (void)closure;
    PyObject *task = ((WakeupObject *)op)->task;
    return Py_NewRef(task == NULL ? Py_None : task);
}

/* Two wake-ups of the same task are the same callback. */
static PyObject *
Wakeup_compare(PyObject *a, PyObject *b, int op)
{
    if (!Py_IS_TYPE(b, Py_TYPE(a)) || (op != Py_EQ && op != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    WakeupObject *x = (WakeupObject *)a, *y = (WakeupObject *)b;
    bool same = x->task == y->task && x->step == y->step && x->exc == y->exc;
    return PyBool_FromLong(same == (op == Py_EQ));
}

static Py_hash_t
Wakeup_hash(PyObject *op)
{
    return (Py_hash_t)((uintptr_t)((WakeupObject *)op)->task >> 4);
}

/* The name that asyncio's own wake-ups go by in repr(future). */
static PyObject *
Wakeup_name(PyObject *op, void *closure)
{
    return PyUnicode_FromFormat("%s%s", (const char *)closure,
                                ((WakeupObject *)op)->step ? "task_step"
                                                           : "task_wakeup");
}

static PyGetSetDef wakeup_getset[] = {
    {"__name__", Wakeup_name, NULL, NULL, ""},
    {"__qualname__", Wakeup_name, NULL, NULL, "Task."},
    {"__self__", Wakeup_self, NULL, "The task.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef wakeup_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(WakeupObject, vectorcall),
     Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot wakeup_slots[] = {
    {Py_tp_dealloc, Wakeup_dealloc},
    {Py_tp_traverse, Wakeup_traverse},
    {Py_tp_clear, Wakeup_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_richcompare, Wakeup_compare},
    {Py_tp_hash, Wakeup_hash},
    {Py_tp_getset, wakeup_getset},
    {Py_tp_members, wakeup_members},
    {0, NULL},
};

static PyType_Spec wakeup_spec = {
    .name = "hotloop._core.TaskWakeup",
    .basicsize = sizeof(WakeupObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = wakeup_slots,
};

/* ---- scheduling ---- */

static int
step_soon(hl_state *st, TaskObject *t, PyObject *exc)
{
    hl_sched *s = hl_sched_plain(t->loop);
    if (HL_LIKELY(s != NULL)) {
        return hl_sched_push(s, HL_KIND_STEP, (PyObject *)t, Py_XNewRef(exc));
    }
    PyObject *wrapper = wakeup_new(st, (PyObject *)t, true, exc);
    if (wrapper == NULL) {
        return -1;
    }
    /* A call_soon() of the user's may do anything to the task meanwhile. */
    PyObject *ctx = Py_NewRef(t->context), *loop = Py_NewRef(t->loop);
    int rc = hl_call_soon(st, loop, wrapper, NULL, ctx);
    Py_DECREF(loop);
    Py_DECREF(ctx);
    Py_DECREF(wrapper);
    return rc;
}

static HL_COLD int
fail_soon(hl_state *st, TaskObject *t, const char *format, ...)
{
    va_list va;
    va_start(va, format);
    PyObject *text = PyUnicode_FromFormatV(format, va);
    va_end(va);
    PyObject *exc = text == NULL ? NULL : PyObject_CallOneArg(PyExc_RuntimeError, text);
    Py_XDECREF(text);
    int rc = exc == NULL ? -1 : step_soon(st, t, exc);
    Py_XDECREF(exc);
    return rc;
}

/* ---- registration ---- */

static int
enlist(hl_state *st, TaskObject *t)
{
    if (HL_LIKELY(st->tasks_listed)) {
        hl_list_push(&st->tasks, &t->node);
        return 0;
    }
    PyObject *r = PyObject_CallOneArg(st->i_register_task, (PyObject *)t);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* The task is done. */
static int
delist(hl_state *st, TaskObject *t)
{
    if (HL_LIKELY(st->tasks_listed)) {
        hl_list_remove(&t->node);
        return 0;
    }
    PyObject *r = PyObject_CallOneArg(st->i_unregister_task, (PyObject *)t);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* ---- cancelling ---- */

/* task._fut_waiter.cancel(msg=msg): 1, 0, or -1.  A chain of tasks that await each
 * other recurses once per link. */
static int
cancel_waiter(hl_state *st, PyObject *waiter, PyObject *msg)
{
    if (Py_IS_TYPE(waiter, st->t_Future)) {
        return hl_future_cancel(st, waiter, msg);
    }
    if (Py_EnterRecursiveCall(" while cancelling a task")) {
        return -1;
    }
    PyObject *r = PyObject_CallMethodOneArg(waiter, st->s_cancel, msg);
    Py_LeaveRecursiveCall();
    int truth = r == NULL ? -1 : PyObject_IsTrue(r);
    Py_XDECREF(r);
    return truth;
}

static PyObject *
Task_cancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"msg", NULL};
    TaskObject *t = AS_TASK(op);
    PyObject *msg = Py_None;
    if ((PyTuple_GET_SIZE(args) > 0 || kwargs != NULL) &&
        !PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", names, &msg)) {
        return NULL;
    }
    if (hl_future_alive(op) < 0) {
        return NULL;
    }
    t->log_tb = 0;
    if (t->state != HL_PENDING) {
        Py_RETURN_FALSE;
    }
    t->num_cancels_requested++;
    if (t->fut_waiter != NULL) {
        PyObject *waiter = Py_NewRef(t->fut_waiter);
        int rc = cancel_waiter(t->st, waiter, msg);
        Py_DECREF(waiter);
        if (rc != 0) {
            return rc < 0 ? NULL : Py_NewRef(Py_True);
        }
    }
    t->must_cancel = 1;
    Py_XSETREF(t->cancel_msg, Py_NewRef(msg));
    Py_RETURN_TRUE;
}

/* ---- waiting ---- */

/* task._fut_waiter = fut (stolen); a cancel() that came meanwhile goes on to it. */
static int
now_waiting(hl_state *st, TaskObject *t, PyObject *fut)
{
    Py_XSETREF(t->fut_waiter, fut);
    if (HL_LIKELY(!t->must_cancel)) {
        return 0;
    }
    PyObject *waiter = Py_NewRef(fut);
    PyObject *msg = Py_NewRef(t->cancel_msg == NULL ? Py_None : t->cancel_msg);
    int rc = cancel_waiter(st, waiter, msg);
    Py_DECREF(msg);
    Py_DECREF(waiter);
    if (rc > 0) {
        t->must_cancel = 0;
    }
    return rc < 0 ? -1 : 0;
}

#define DIFFERENT_LOOP "Task %R got Future %R attached to a different loop"
#define NOT_FROM                                                                       \
    "yield was used instead of yield from "                                            \
    "in task %R with %R"

/* The coroutine awaits a future of exactly our types; steals fut. */
static int
wait_native(hl_state *st, TaskObject *t, PyObject *fut)
{
    hl_base_future *f = AS_FUTURE(fut);
    int rc;
    if (HL_UNLIKELY(f->loop != t->loop)) {
        rc = fail_soon(st, t, DIFFERENT_LOOP, t, fut);
        goto done;
    }
    if (HL_UNLIKELY(!f->blocking)) {
        rc = fail_soon(st, t, NOT_FROM, t, fut);
        goto done;
    }
    f->blocking = 0;
    if (HL_LIKELY(hl_is_loop(t->loop))) {
        rc = hl_future_add_callback(st, fut, (PyObject *)t, t->context);
    }
    else {
        PyObject *wakeup = hl_task_wakeup(st, (PyObject *)t);
        rc = wakeup == NULL ? -1 : hl_future_add_callback(st, fut, wakeup, t->context);
        Py_XDECREF(wakeup);
    }
    if (HL_LIKELY(rc == 0)) {
        return now_waiting(st, t, fut);
    }
done:
    Py_DECREF(fut);
    return rc;
}

static PyObject *
foreign_loop(hl_state *st, PyObject *fut)
{
    PyObject *method;
    if (PyObject_HasAttr(fut, st->s_get_loop)) {
        method = PyObject_GetAttr(fut, st->s_get_loop);
        PyObject *loop = method == NULL ? NULL : PyObject_CallNoArgs(method);
        Py_XDECREF(method);
        return loop;
    }
    return PyObject_GetAttr(fut, st->s__loop);
}

/* fut.add_done_callback(wakeup, context=ctx) by its Python name. */
static int
add_wakeup(hl_state *st, TaskObject *t, PyObject *fut)
{
    PyObject *wakeup = hl_task_wakeup(st, (PyObject *)t);
    if (wakeup == NULL) {
        return -1;
    }
    PyObject *ctx = Py_NewRef(t->context);
    PyObject *stack[] = {fut, wakeup, ctx};
    PyObject *r =
        PyObject_VectorcallMethod(st->s_add_done_callback, stack, 2, st->kw_context);
    Py_DECREF(ctx);
    Py_DECREF(wakeup);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* Anything that speaks the future protocol; steals fut. */
static int
wait_foreign(hl_state *st, TaskObject *t, PyObject *fut, int blocking)
{
    int rc = -1;
    PyObject *loop = foreign_loop(st, fut);
    if (loop == NULL) {
        goto done;
    }
    bool other = loop != t->loop;
    Py_DECREF(loop);
    if (other || !blocking) {
        rc = fail_soon(st, t, other ? DIFFERENT_LOOP : NOT_FROM, t, fut);
        goto done;
    }
    if (PyObject_SetAttr(fut, st->s__asyncio_future_blocking, Py_False) < 0 ||
        add_wakeup(st, t, fut) < 0) {
        goto done;
    }
    return now_waiting(st, t, fut);
done:
    Py_DECREF(fut);
    return rc;
}

/* -1 error, 0 no future at all, 1 future, 2 future with the flag set. */
static int
blocking_flag(hl_state *st, PyObject *op)
{
    PyObject *flag = PyObject_GetAttr(op, st->s__asyncio_future_blocking);
    if (flag == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    int truth = flag == Py_None ? -2 : PyObject_IsTrue(flag);
    Py_DECREF(flag);
    return truth == -2 ? 0 : truth < 0 ? -1 : 1 + truth;
}

/* What the coroutine yielded; steals it. */
static int
yielded(hl_state *st, TaskObject *t, PyObject *value)
{
    int rc;
    if (HL_UNLIKELY(value == (PyObject *)t)) {
        rc = fail_soon(st, t, "Task cannot await on itself: %R", t);
        Py_DECREF(value);
        return rc;
    }
    if (HL_LIKELY(hl_future_exact(st, value))) {
        return wait_native(st, t, value);
    }
    if (value == Py_None) {
        Py_DECREF(value);
        return step_soon(st, t, NULL);
    }
    int flag = blocking_flag(st, value);
    if (flag > 0) {
        return wait_foreign(st, t, value, flag == 2);
    }
    if (flag < 0) {
        rc = -1;
    }
    else if (PyObject_TypeCheck(value, &PyGen_Type)) {
        rc = fail_soon(st, t,
                       "yield was used instead of yield from for "
                       "generator in task %R with %R",
                       t, value);
    }
    else {
        rc = fail_soon(st, t, "Task got bad yield: %R", value);
    }
    Py_DECREF(value);
    return rc;
}

/* ---- stepping ---- */

/* The coroutine returned; steals value. */
static int
returned(hl_state *st, TaskObject *t, PyObject *value)
{
    int rc = delist(st, t);
    if (rc < 0) {
        /* fall through with the error set */
    }
    else if (HL_UNLIKELY(t->must_cancel)) {
        t->must_cancel = 0; /* cancelled right before it stopped */
        PyObject *msg = Py_XNewRef(t->cancel_msg);
        rc = hl_future_cancel(st, (PyObject *)t, msg) < 0 ? -1 : 0;
        Py_XDECREF(msg);
    }
    else {
        rc = hl_future_finish(st, (PyObject *)t, value);
    }
    Py_DECREF(value);
    return rc;
}

/* The coroutine raised what is set. */
static int
raised(hl_state *st, TaskObject *t)
{
    PyObject *exc = PyErr_GetRaisedException();
    int rc = delist(st, t);
    if (rc < 0) {
        Py_DECREF(exc);
        return -1;
    }
    if (PyErr_GivenExceptionMatches(exc, st->i_CancelledError)) {
        Py_XSETREF(t->cancelled_exc, exc);
        return hl_future_cancel(st, (PyObject *)t, NULL) < 0 ? -1 : 0;
    }
    rc = hl_future_fail(st, (PyObject *)t, exc);
    if (rc == 0 && (PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt) ||
                    PyErr_GivenExceptionMatches(exc, PyExc_SystemExit))) {
        PyErr_SetRaisedException(exc);
        return -1;
    }
    Py_DECREF(exc);
    return rc;
}

static PySendResult
throw_into(hl_state *st, PyObject *coro, PyObject *exc, PyObject **out)
{
    *out = PyObject_CallMethodOneArg(coro, st->s_throw, exc);
    if (*out != NULL) {
        return PYGEN_NEXT;
    }
    if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyObject *stop = PyErr_GetRaisedException();
        *out = Py_NewRef(((PyStopIterationObject *)stop)->value != NULL
                             ? ((PyStopIterationObject *)stop)->value
                             : Py_None);
        Py_DECREF(stop);
        return PYGEN_RETURN;
    }
    return PYGEN_ERROR;
}

/* The exception to throw, given that cancel() was called since the last step; new ref.
 */
static PyObject *
cancellation(hl_state *st, TaskObject *t, PyObject *exc)
{
    t->must_cancel = 0;
    if (exc != NULL && PyErr_GivenExceptionMatches(exc, st->i_CancelledError)) {
        return Py_NewRef(exc);
    }
    return hl_cancelled_error(st, (PyObject *)t);
}

/* One step, the task being current and its context entered.  exc is borrowed. */
static int
step(hl_state *st, TaskObject *t, PyObject *exc)
{
    if (HL_UNLIKELY(t->state != HL_PENDING)) {
        PyErr_Format(st->i_InvalidStateError, "_step(): already done: %R %R", t,
                     exc == NULL ? Py_None : exc);
        return -1;
    }
    PyObject *made = NULL;
    if (HL_UNLIKELY(t->must_cancel)) {
        exc = made = cancellation(st, t, exc);
        if (made == NULL) {
            return -1;
        }
    }
    Py_CLEAR(t->fut_waiter);
    if (HL_UNLIKELY(t->coro == NULL)) {
        PyErr_SetString(PyExc_RuntimeError, "uninitialized Task object");
        Py_XDECREF(made);
        return -1;
    }
    PyObject *coro = Py_NewRef(t->coro), *value = NULL;
    PySendResult how = exc == NULL ? PyIter_Send(coro, Py_None, &value)
                                   : throw_into(st, coro, exc, &value);
    Py_DECREF(coro);
    Py_XDECREF(made);
    switch (how) {
    case PYGEN_NEXT:
        return yielded(st, t, value);
    case PYGEN_RETURN:
        return returned(st, t, value);
    default:
        return raised(st, t);
    }
}

/* A step whose context somebody else has entered (the slow road). */
static int
task_step_in(hl_state *st, TaskObject *t, PyObject *exc)
{
    PyObject *args[] = {Py_NewRef(t->loop), (PyObject *)t};
    hl_sched *s = hl_sched_of(t->loop);
    if (s != NULL) {
        hl_current_clear(s, t->loop);
    }
    PyObject *r = PyObject_Vectorcall(st->i_enter_task, args, 2, NULL);
    int rc = r == NULL ? -1 : step(st, t, exc);
    if (r != NULL) {
        Py_DECREF(r);
        PyObject *saved = PyErr_GetRaisedException();
        r = PyObject_Vectorcall(st->i_leave_task, args, 2, NULL);
        if (r == NULL && saved == NULL) {
            rc = -1;
        }
        else if (saved != NULL) {
            PyErr_Clear();
            PyErr_SetRaisedException(saved);
        }
        Py_XDECREF(r);
    }
    Py_DECREF(args[0]);
    return rc;
}

/* How a future that is not exactly ours ended: NULL for a result (or an error that is
 * thrown into the task, in *exc).  Calls fut.result(). */
static PyObject *
foreign_exception(PyObject *fut)
{
    PyObject *r = PyObject_CallMethodNoArgs(fut, PyUnicode_InternFromString("result"));
    if (r != NULL) {
        Py_DECREF(r);
        return NULL;
    }
    return PyErr_GetRaisedException();
}

/* What to throw for the finished future: NULL for nothing; new reference. */
static PyObject *
wake_exception(hl_state *st, PyObject *fut)
{
    if (HL_LIKELY(hl_future_exact(st, fut))) {
        if (HL_LIKELY(AS_FUTURE(fut)->state == HL_FINISHED &&
                      AS_FUTURE(fut)->exception == NULL)) {
            AS_FUTURE(fut)->log_tb = 0;
            return NULL;
        }
        PyObject *out;
        int rc = hl_future_outcome(st, fut, &out);
        if (rc < 0) {
            return PyErr_GetRaisedException();
        }
        if (rc == 0) {
            Py_CLEAR(out);
        }
        return out;
    }
    return foreign_exception(fut);
}

static int
task_wake_in(hl_state *st, TaskObject *t, PyObject *fut)
{
    PyObject *exc = wake_exception(st, fut);
    int rc = task_step_in(st, t, exc);
    Py_XDECREF(exc);
    return rc;
}

/* ---- from the ring ---- */

static HL_COLD int
report_step(hl_sched *s, TaskObject *t)
{
    hl_current_clear(s, t->loop);
    return hl_report(s->st, t->loop, "Exception in callback of a task's step",
                     s->st->s_task, (PyObject *)t, NULL, NULL);
}

/* The fused step; exc is borrowed.  The caller holds the task. */
static int
run(hl_sched *s, TaskObject *t, PyObject *exc)
{
    PyObject *ctx = t->context;
    if (HL_UNLIKELY(hl_current_enter(s, t->loop, (PyObject *)t) < 0)) {
        return report_step(s, t);
    }
    if (HL_UNLIKELY(PyContext_Enter(ctx) < 0)) {
        return report_step(s, t);
    }
    Py_INCREF(ctx);
    int rc = step(s->st, t, exc);
    if (HL_UNLIKELY(PyContext_Exit(ctx) < 0)) {
        rc = -1;
    }
    Py_DECREF(ctx);
    if (t->state != HL_PENDING) {
        hl_current_done(s, t->loop);
    }
    return HL_LIKELY(rc == 0) ? 0 : report_step(s, t);
}

int
hl_task_run_step(hl_sched *s, PyObject *task, PyObject *exc)
{
    int rc = run(s, AS_TASK(task), exc);
    Py_XDECREF(exc);
    return rc;
}

int
hl_task_run_wake(hl_sched *s, PyObject *task, PyObject *fut)
{
    PyObject *exc = wake_exception(s->st, fut);
    int rc = run(s, AS_TASK(task), exc);
    Py_XDECREF(exc);
    Py_DECREF(fut);
    return rc;
}

/* ---- making ---- */

/* 1 if coro is a coroutine, 0 if not, -1 on error. */
static int
is_coroutine(hl_state *st, PyObject *coro)
{
    if (HL_LIKELY(PyCoro_CheckExact(coro))) {
        return 1;
    }
    int known = PySet_Contains(st->coro_types, (PyObject *)Py_TYPE(coro));
    if (known != 0) {
        return known;
    }
    PyObject *r = PyObject_CallOneArg(st->i_iscoroutine, coro);
    int truth = r == NULL ? -1 : PyObject_IsTrue(r);
    Py_XDECREF(r);
    if (truth > 0 && PySet_GET_SIZE(st->coro_types) < 100 &&
        PySet_Add(st->coro_types, (PyObject *)Py_TYPE(coro)) < 0) {
        return -1;
    }
    return truth;
}

static int
swap_current(hl_state *st, PyObject *loop, PyObject *task, PyObject **old)
{
    PyObject *args[] = {loop, task};
    *old = PyObject_Vectorcall(st->i_swap_current_task, args, 2, NULL);
    return *old == NULL ? -1 : 0;
}

static int
call_one(PyObject *func, PyObject *arg)
{
    PyObject *r = PyObject_CallOneArg(func, arg);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* The first step, at once, inside whatever runs now. */
static int
eager_start(hl_state *st, TaskObject *t)
{
    PyObject *prev, *self;
    if (swap_current(st, t->loop, (PyObject *)t, &prev) < 0) {
        return -1;
    }
    int rc = call_one(st->i_register_eager_task, (PyObject *)t);
    if (rc == 0 && (rc = PyContext_Enter(t->context)) == 0) {
        rc = step(st, t, NULL);
        if (PyContext_Exit(t->context) < 0) {
            rc = -1;
        }
    }
    PyObject *saved = PyErr_GetRaisedException();
    if (swap_current(st, t->loop, prev, &self) < 0 ||
        call_one(st->i_unregister_eager_task, (PyObject *)t) < 0) {
        rc = -1;
    }
    Py_XDECREF(self);
    Py_DECREF(prev);
    if (saved != NULL) {
        PyErr_Clear();
        PyErr_SetRaisedException(saved);
    }
    if (t->state == HL_PENDING) {
        if (enlist(st, t) < 0) {
            rc = -1;
        }
    }
    else {
        Py_CLEAR(t->coro); /* it will not run again; frees its frame early */
    }
    return rc;
}

static PyObject *
make_name(hl_state *st, PyObject *name)
{
    if (name == NULL || name == Py_None) {
        /* A number stands for "Task-N" until somebody asks, as in the base. */
        return PyLong_FromUnsignedLongLong(++st->task_counter);
    }
    return PyUnicode_CheckExact(name) ? Py_NewRef(name) : PyObject_Str(name);
}

static int
start(hl_state *st, TaskObject *t, bool eager)
{
    if (eager) {
        PyObject *r = PyObject_CallMethodNoArgs(t->loop, st->s_is_running);
        int running = r == NULL ? -1 : PyObject_IsTrue(r);
        Py_XDECREF(r);
        if (running != 0) {
            return running < 0 ? -1 : eager_start(st, t);
        }
    }
    return step_soon(st, t, NULL) < 0 ? -1 : enlist(st, t);
}

/* After hl_future_init(): the rest of __init__. */
static int
init_rest(hl_state *st, TaskObject *t, PyObject *coro, PyObject *name,
          PyObject *context, bool eager)
{
    int ok = is_coroutine(st, coro);
    if (ok <= 0) {
        t->log_destroy_pending = 0;
        if (ok == 0) {
            PyErr_Format(PyExc_TypeError, "a coroutine was expected, got %R", coro);
        }
        return -1;
    }
    PyObject *ctx = context == NULL || context == Py_None ? PyContext_CopyCurrent()
                                                          : Py_NewRef(context);
    if (ctx == NULL) {
        return -1;
    }
    Py_XSETREF(t->context, ctx);
    Py_CLEAR(t->fut_waiter);
    t->must_cancel = 0;
    t->log_destroy_pending = 1;
    t->num_cancels_requested = 0;
    Py_XSETREF(t->coro, Py_NewRef(coro));
    PyObject *label = make_name(st, name);
    if (label == NULL) {
        return -1;
    }
    Py_XSETREF(t->name, label);
    return start(st, t, eager);
}

static PyObject *
alloc(hl_state *st, PyTypeObject *type)
{
    PyObject *op;
    hl_freelist *list = &st->free_tasks;
    if (HL_LIKELY(list->n > 0 && type == st->t_Task)) {
        op = PyObject_Init(list->v[--list->n], type);
        PyObject_GC_Track(op);
    }
    else {
        op = type->tp_alloc(type, 0);
        if (op == NULL) {
            return NULL;
        }
    }
    AS_TASK(op)->st = st;
    AS_TASK(op)->mod = Py_NewRef(st->mod);
    hl_list_init(&AS_TASK(op)->node);
    return op;
}

PyObject *
hl_task_new(hl_state *st, PyTypeObject *type, PyObject *coro, PyObject *loop,
            PyObject *name, PyObject *context, bool eager)
{
    PyObject *op = alloc(st, type);
    if (op == NULL) {
        return NULL;
    }
    if (HL_UNLIKELY(hl_future_init(st, op, loop) < 0 ||
                    init_rest(st, AS_TASK(op), coro, name, context, eager) < 0)) {
        Py_DECREF(op);
        return NULL;
    }
    return op;
}

static PyObject *
Task_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    hl_state *st = hl_state_by_type(type);
    if (st == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "hotloop has been unloaded");
        return NULL;
    }
    return alloc(st, type);
}

static int
Task_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"coro", "loop", "name", "context", "eager_start", NULL};
    PyObject *coro, *loop = Py_None, *name = Py_None, *context = Py_None;
    int eager = 0;
    TaskObject *t = AS_TASK(op);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOp:Task", names, &coro, &loop,
                                     &name, &context, &eager)) {
        return -1;
    }
    hl_list_remove(&t->node); /* __init__ may be called again */
    if (hl_future_init(t->st, op, loop) < 0) {
        return -1;
    }
    return init_rest(t->st, t, coro, name, context, eager != 0);
}

/* ---- the collector ---- */

static int
Task_traverse(PyObject *op, visitproc visit, void *arg)
{
    TaskObject *t = AS_TASK(op);
    Py_VISIT(t->mod);
    Py_VISIT(t->fut_waiter);
    Py_VISIT(t->coro);
    Py_VISIT(t->name);
    Py_VISIT(t->context);
    return hl_future_traverse_base(op, visit, arg);
}

static int
Task_clear(PyObject *op)
{
    TaskObject *t = AS_TASK(op);
    hl_future_clear_base(op);
    Py_CLEAR(t->context);
    Py_CLEAR(t->coro);
    Py_CLEAR(t->name);
    Py_CLEAR(t->fut_waiter);
    hl_future_clear_dict(op);
    return 0;
}

static bool
forgotten(TaskObject *t)
{
    return t->state == HL_PENDING && t->log_destroy_pending && t->loop != NULL;
}

static void
Task_finalize(PyObject *op)
{
    TaskObject *t = AS_TASK(op);
    /* Off the list even if the report brings it back to life: asyncio's set holds weak
     * references, which are dead by now. */
    hl_list_remove(&t->node);
    if (forgotten(t) && t->st->s_message != NULL) {
        PyObject *saved = PyErr_GetRaisedException();
        PyObject *message =
            PyUnicode_FromString("Task was destroyed but it is pending!");
        hl_future_complain(t->st, op, message, t->st->s_task, NULL);
        Py_XDECREF(message);
        PyErr_SetRaisedException(saved);
    }
    hl_future_finalize(op);
}

static void
Task_dealloc(PyObject *op)
{
    TaskObject *t = AS_TASK(op);
    PyTypeObject *type = Py_TYPE(op);
    hl_state *st = t->st;
    bool finalized =
        type != st->t_Task || t->log_tb || forgotten(t) || PyObject_GC_IsFinalized(op);
    /* As for futures: finalise only who has something to say. */
    if (finalized && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyObject *mod = t->mod;
    PyObject_GC_UnTrack(op);
    hl_list_remove(&t->node);
    PyObject_ClearWeakRefs(op);
    (void)Task_clear(op);
    t->mod = NULL;
    if (!finalized && st->free_tasks.n < HL_FREE_MAX && st->t_Task == type) {
        t->state = HL_PENDING;
        t->blocking = t->must_cancel = t->log_destroy_pending = 0;
        t->num_cancels_requested = 0;
        st->free_tasks.v[st->free_tasks.n++] = op;
    }
    else {
        type->tp_free(op);
    }
    Py_DECREF(type);
    Py_DECREF(mod);
}

/* ---- the Python face ---- */

static PyObject *
Task_refuse_result(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(value))
{
    PyErr_SetString(PyExc_RuntimeError, "Task does not support set_result operation");
    return NULL;
}

static PyObject *
Task_refuse_exception(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(value))
{
    PyErr_SetString(PyExc_RuntimeError,
                    "Task does not support set_exception operation");
    return NULL;
}

static PyObject *
Task_cancelling(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(AS_TASK(op)->num_cancels_requested);
}

static PyObject *
Task_uncancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TaskObject *t = AS_TASK(op);
    if (t->num_cancels_requested > 0) {
        t->num_cancels_requested--;
        if (HL_UNCANCEL_CLEARS_MUST_CANCEL && t->num_cancels_requested == 0) {
            t->must_cancel = 0;
        }
    }
    return PyLong_FromLong(t->num_cancels_requested);
}

static PyObject *
Task_get_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    PyObject *limit = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:get_stack", names, &limit)) {
        return NULL;
    }
    return PyObject_CallFunctionObjArgs(AS_TASK(op)->st->i_task_get_stack, op, limit,
                                        NULL);
}

static PyObject *
Task_print_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "file", NULL};
    PyObject *limit = Py_None, *file = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OO:print_stack", names, &limit,
                                     &file)) {
        return NULL;
    }
    return PyObject_CallFunctionObjArgs(AS_TASK(op)->st->i_task_print_stack, op, limit,
                                        file, NULL);
}

static PyObject *
or_none(PyObject *value)
{
    return Py_NewRef(value == NULL ? Py_None : value);
}

static PyObject *
Task_get_coro(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return or_none(AS_TASK(op)->coro);
}

static PyObject *
Task_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return or_none(AS_TASK(op)->context);
}

static PyObject *
Task_get_name(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TaskObject *t = AS_TASK(op);
    if (t->name != NULL && PyLong_CheckExact(t->name)) {
        PyObject *text = PyUnicode_FromFormat("Task-%S", t->name);
        if (text == NULL) {
            return NULL;
        }
        Py_SETREF(t->name, text);
    }
    return or_none(t->name);
}

static PyObject *
Task_set_name(PyObject *op, PyObject *value)
{
    PyObject *text =
        PyUnicode_CheckExact(value) ? Py_NewRef(value) : PyObject_Str(value);
    if (text == NULL) {
        return NULL;
    }
    Py_XSETREF(AS_TASK(op)->name, text);
    Py_RETURN_NONE;
}

static PyObject *
Task_repr(PyObject *op)
{
    return PyObject_CallOneArg(AS_TASK(op)->st->i_task_repr, op);
}

static PyObject *
get_log_destroy_pending(PyObject *op, void *closure)
{
    (void)closure;
    return PyBool_FromLong(AS_TASK(op)->log_destroy_pending);
}

static int
set_log_destroy_pending(PyObject *op, PyObject *value, void *closure)
{
    (void)closure;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete attribute");
        return -1;
    }
    int truth = PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    AS_TASK(op)->log_destroy_pending = truth ? 1 : 0;
    return 0;
}

static PyObject *
get_must_cancel(PyObject *op, void *closure)
{
    (void)closure;
    return PyBool_FromLong(AS_TASK(op)->must_cancel);
}

static PyObject *
get_object(PyObject *op, void *closure)
{
    return or_none(*(PyObject **)((char *)op + (size_t)closure));
}

static PyMethodDef task_methods[] = {
    {"set_result", Task_refuse_result, METH_O, "Not supported by tasks."},
    {"set_exception", Task_refuse_exception, METH_O, "Not supported by tasks."},
    {"cancel", (PyCFunction)(void (*)(void))Task_cancel, METH_VARARGS | METH_KEYWORDS,
     "Request that the task be cancelled; False if it is done."},
    {"cancelling", Task_cancelling, METH_NOARGS,
     "The number of pending cancellation requests."},
    {"uncancel", Task_uncancel, METH_NOARGS,
     "Take one cancellation request back; return how many remain."},
    {"get_stack", (PyCFunction)(void (*)(void))Task_get_stack,
     METH_VARARGS | METH_KEYWORDS, "The frames of the task's stack."},
    {"print_stack", (PyCFunction)(void (*)(void))Task_print_stack,
     METH_VARARGS | METH_KEYWORDS, "Print the task's stack or traceback."},
    {"get_coro", Task_get_coro, METH_NOARGS, "The coroutine the task runs."},
    {"get_context", Task_get_context, METH_NOARGS,
     "The contextvars.Context the task runs in."},
    {"get_name", Task_get_name, METH_NOARGS, "The task's name."},
    {"set_name", Task_set_name, METH_O, "Set the task's name, made a string."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef task_getset[] = {
    {"_log_destroy_pending", get_log_destroy_pending, set_log_destroy_pending, NULL,
     NULL},
    {"_must_cancel", get_must_cancel, NULL, NULL, NULL},
    {"_coro", get_object, NULL, NULL, (void *)offsetof(TaskObject, coro)},
    {"_fut_waiter", get_object, NULL, NULL, (void *)offsetof(TaskObject, fut_waiter)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot task_slots[] = {
    {Py_tp_new, Task_new},
    {Py_tp_init, Task_init},
    {Py_tp_dealloc, Task_dealloc},
    {Py_tp_finalize, Task_finalize},
    {Py_tp_traverse, Task_traverse},
    {Py_tp_clear, Task_clear},
    {Py_tp_repr, Task_repr},
    {Py_tp_iter, hl_future_iter},
    {Py_am_await, hl_future_iter},
    {Py_tp_methods, task_methods},
    {Py_tp_getset, task_getset},
    {Py_tp_doc, "A coroutine on a hotloop event loop; see asyncio.Task."},
    {0, NULL},
};

static PyType_Spec task_spec = {
    .name = "hotloop.Task",
    .basicsize = sizeof(TaskObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = task_slots,
};

/* ---- what all_tasks() walks ---- */

static PyObject *
listed_tasks(PyObject *mod, PyObject *Py_UNUSED(ignored))
{
    hl_state *st = hl_state_of(mod);
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    for (hl_node *n = st->tasks.next; n != &st->tasks; n = n->next) {
        /* Nothing below runs foreign code or drops a reference: the list stays put. */
        if (PyList_Append(list, (PyObject *)hl_container_of(n, TaskObject, node)) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

static PyObject *
unlink_task(PyObject *mod, PyObject *op)
{
    hl_state *st = hl_state_of(mod);
    if (!hl_task_check(st, op) || hl_list_empty(&AS_TASK(op)->node)) {
        Py_RETURN_FALSE;
    }
    hl_list_remove(&AS_TASK(op)->node);
    Py_RETURN_TRUE;
}

static PyMethodDef registry_methods[] = {
    {"_listed_tasks", listed_tasks, METH_NOARGS, "The unfinished tasks of ours."},
    {"_unlink_task", unlink_task, METH_O, "Take a task off that list."},
    {NULL, NULL, 0, NULL},
};

static int
install_registry(PyObject *mod, hl_state *st)
{
    if (PyModule_AddFunctions(mod, registry_methods) < 0) {
        return -1;
    }
    PyObject *listed = PyObject_GetAttrString(mod, "_listed_tasks");
    PyObject *unlink = PyObject_GetAttrString(mod, "_unlink_task");
    PyObject *r = listed == NULL || unlink == NULL
                      ? NULL
                      : PyObject_CallFunctionObjArgs(st->i_install_registry, listed,
                                                     unlink, NULL);
    Py_XDECREF(listed);
    Py_XDECREF(unlink);
    if (r == NULL) {
        return -1;
    }
    st->tasks_listed = r == Py_True;
    Py_DECREF(r);
    return 0;
}

int
hl_task_exec(PyObject *mod, hl_state *st)
{
    PyObject *bases = PyTuple_Pack(2, st->t_Future, st->i_BaseTask);
    if (bases == NULL) {
        return -1;
    }
    int rc = hl_type_add(mod, &st->t_TaskWakeup, &wakeup_spec, NULL);
    if (rc == 0) {
        rc = hl_type_add(mod, &st->t_Task, &task_spec, bases);
    }
    Py_DECREF(bases);
    return rc < 0 ? -1 : install_registry(mod, st);
}

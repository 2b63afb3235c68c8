/* A task's step: resume the coroutine, see what it yields, wait for that.
 *
 * On a plain loop of ours a step is one entry on the ready ring, and waiting for a
 * future of ours stores the task in the future: no handle, no wrapper, no Python call.
 * Anywhere else (debug mode, an overridden call_soon, a foreign loop) the task goes
 * through loop.call_soon() with a TaskWakeup object, as asyncio's does. */
#include "py/err.h"
#include "sched/future.h"

/* ---- scheduling ---- */

/* Borrows exc.  The entry is asyncio's call_soon(self.__step, exc) without a handle. */
int
hl_task_step_soon(hl_state *st, TaskObject *t, PyObject *exc)
{
    hl_sched *s = hl_sched_plain(t->loop);
    if (HL_LIKELY(s != NULL)) {
        return hl_sched_push(s, HL_KIND_STEP, (PyObject *)t, Py_XNewRef(exc));
    }
    PyObject *wrapper = hl_task_stepper(st, (PyObject *)t, exc);
    if (wrapper == NULL) {
        return -1;
    }
    if (HL_UNLIKELY(hl_future_alive((PyObject *)t) < 0)) {
        Py_DECREF(wrapper);
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

/* asyncio throws its complaints into the coroutine, in the next turn, rather than
 * raising them at whoever steps it. */
static HL_COLD int
fail_soon(hl_state *st, TaskObject *t, const char *format, ...)
{
    va_list va;
    va_start(va, format);
    PyObject *text = PyUnicode_FromFormatV(format, va);
    va_end(va);
    PyObject *exc = text == NULL ? NULL : PyObject_CallOneArg(PyExc_RuntimeError, text);
    Py_XDECREF(text);
    int rc = exc == NULL ? -1 : hl_task_step_soon(st, t, exc);
    Py_XDECREF(exc);
    return rc;
}

/* ---- cancelling ---- */

/* task._fut_waiter.cancel(msg=msg): 1, 0, or -1.  A chain of tasks that await each
 * other recurses once per link. */
int
hl_task_cancel_waiter(hl_state *st, PyObject *waiter, PyObject *msg)
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

/* ---- waiting ---- */

/* task._fut_waiter = fut (stolen); a cancel() that came meanwhile goes on to it. */
static int
now_waiting(hl_state *st, TaskObject *t, PyObject *fut)
{
    if (HL_LIKELY(!t->must_cancel)) {
        HL_SETREF(t, t->fut_waiter, fut);
        return 0;
    }
    PyObject *waiter = Py_NewRef(fut);
    HL_SETREF(t, t->fut_waiter, fut);
    PyObject *msg = Py_NewRef(t->cancel_msg == NULL ? Py_None : t->cancel_msg);
    int rc = hl_task_cancel_waiter(st, waiter, msg);
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
    if (HL_UNLIKELY(hl_awaited_by_add(f, (PyObject *)t) < 0)) {
        rc = -1;
        goto done;
    }
    f->blocking = 0;
    hl_sched *s = hl_sched_of(t->loop);
    if (HL_LIKELY(s != NULL && Py_IS_TYPE(t, s->st->t_Task))) {
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

/* The attribute (a new reference) or NULL when there is none: 0; -1 on any other error.
 */
static int
optional_attr(PyObject *op, PyObject *name, PyObject **out)
{
    *out = PyObject_GetAttr(op, name);
    if (*out == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
    }
    return 0;
}

/* asyncio.futures._get_loop(): the method, or for old implementations the attribute. */
static PyObject *
foreign_loop(hl_state *st, PyObject *fut)
{
    PyObject *method;
    if (optional_attr(fut, st->s_get_loop, &method) < 0) {
        return NULL;
    }
    if (method == NULL) {
        return PyObject_GetAttr(fut, st->s__loop);
    }
    PyObject *loop = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    return loop;
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

/* asyncio keeps track of the waiters of its native futures and what derives from them.
 */
static inline bool
is_base_future(hl_state *st, PyObject *op)
{
    return hl_future_exact(st, op) ||
           PyObject_TypeCheck(op, (PyTypeObject *)st->i_BaseFuture);
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
    if (is_base_future(st, fut) &&
        hl_awaited_by_add(AS_FUTURE(fut), (PyObject *)t) < 0) {
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
    PyObject *flag;
    if (optional_attr(op, st->s__asyncio_future_blocking, &flag) < 0) {
        return -1;
    }
    if (flag == NULL) {
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
        return hl_task_step_soon(st, t, NULL);
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
    int rc = hl_task_delist(st, t);
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
        /* The coroutine may have ended its own task by an unbound method. */
        rc = hl_future_set_result(st, (PyObject *)t, value);
    }
    Py_DECREF(value);
    return rc;
}

/* The coroutine raised what is set.  A task that ends by KeyboardInterrupt or
 * SystemExit has it as its outcome, and it goes on out of the loop as well. */
static int
raised(hl_state *st, TaskObject *t)
{
    PyObject *exc = PyErr_GetRaisedException();
    int rc = hl_task_delist(st, t);
    if (rc < 0) {
        Py_DECREF(exc);
        return -1;
    }
    if (PyErr_GivenExceptionMatches(exc, st->i_CancelledError)) {
        HL_SETREF(t, t->cancelled_exc, exc);
        return hl_future_cancel(st, (PyObject *)t, NULL) < 0 ? -1 : 0;
    }
    rc = hl_future_set_exception(st, (PyObject *)t, exc);
    if (rc == 0 && (PyErr_GivenExceptionMatches(exc, PyExc_KeyboardInterrupt) ||
                    PyErr_GivenExceptionMatches(exc, PyExc_SystemExit))) {
        PyErr_SetRaisedException(exc);
        return -1;
    }
    Py_DECREF(exc);
    return rc;
}

/* Coroutines have no slot for it: by the method's name, which for any object with the
 * coroutine protocol may be foreign code.  StopIteration is its return. */
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
int
hl_task_step(hl_state *st, TaskObject *t, PyObject *exc)
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
    /* Before the coroutine runs: dropping what it waited for may run foreign code. */
    if (t->fut_waiter != NULL) {
        HL_SETREF(t, t->fut_waiter, NULL);
    }
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
int
hl_task_step_in(hl_state *st, TaskObject *t, PyObject *exc)
{
    if (HL_UNLIKELY(hl_future_alive((PyObject *)t) < 0)) {
        return -1;
    }
    PyObject *args[] = {Py_NewRef(t->loop), (PyObject *)t};
    hl_sched *s = hl_sched_of(t->loop);
    if (s != NULL) {
        hl_current_clear(s, t->loop);
    }
    PyObject *r = PyObject_Vectorcall(st->i_enter_task, args, 2, NULL);
    int rc = r == NULL ? -1 : hl_task_step(st, t, exc);
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
foreign_exception(hl_state *st, PyObject *fut)
{
    PyObject *r = PyObject_CallMethodNoArgs(fut, st->s_result);
    if (r != NULL) {
        Py_DECREF(r);
        return NULL;
    }
    return PyErr_GetRaisedException();
}

/* What to throw for the finished future: NULL for nothing; new reference. */
static PyObject *
wake_exception(hl_state *st, TaskObject *t, PyObject *fut)
{
    if (HL_KNOWS_WAITERS && is_base_future(st, fut) &&
        hl_awaited_by_discard(AS_FUTURE(fut), (PyObject *)t) < 0) {
        return PyErr_GetRaisedException();
    }
    if (HL_LIKELY(hl_future_exact(st, fut))) {
        if (HL_LIKELY(AS_FUTURE(fut)->state == HL_FINISHED &&
                      AS_FUTURE(fut)->exception == NULL)) {
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
    return foreign_exception(st, fut);
}

/* The wake-up of the slow road: fut is held by the caller's arguments. */
int
hl_task_wake_in(hl_state *st, TaskObject *t, PyObject *fut)
{
    PyObject *exc = wake_exception(st, t, fut);
    int rc = hl_task_step_in(st, t, exc);
    Py_XDECREF(exc);
    return rc;
}

/* ---- from the ring ---- */

/* A step's errors are the task's outcome; what comes here is a failure of the
 * machinery, such as a record that was tampered with, or one that must propagate. */
static HL_COLD int
report_step(hl_sched *s, TaskObject *t)
{
    PyObject *loop = hl_sched_loop(s);
    hl_current_clear(s, loop);
    return hl_report(s->st, loop, "Exception in callback of a task's step",
                     s->st->s_task, (PyObject *)t, NULL, NULL);
}

/* Since the entry was queued __init__ has been called again, or it never was: the task
 * is on another loop, or on none. */
static HL_COLD int
run_displaced(hl_sched *s, TaskObject *t, PyObject *exc)
{
    PyObject *ctx = Py_XNewRef(t->context);
    int rc = -1;
    if (ctx == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Task object is not initialized.");
    }
    else if (PyContext_Enter(ctx) == 0) {
        rc = hl_task_step_in(s->st, t, exc);
        if (PyContext_Exit(ctx) < 0) {
            rc = -1;
        }
    }
    Py_XDECREF(ctx);
    return rc == 0 ? 0 : report_step(s, t);
}

/* The fused step; exc is borrowed.  The caller holds the task. */
static int
run(hl_sched *s, TaskObject *t, PyObject *exc)
{
    PyObject *ctx = t->context, *loop = hl_sched_loop(s);
    if (HL_UNLIKELY(t->loop != loop || ctx == NULL)) {
        return run_displaced(s, t, exc);
    }
    if (HL_UNLIKELY(PyContext_Enter(ctx) < 0)) {
        return report_step(s, t);
    }
    Py_INCREF(ctx);
    int rc = hl_current_enter(s, loop, (PyObject *)t);
    if (HL_LIKELY(rc == 0)) {
        rc = hl_task_step(s->st, t, exc);
        bool done = t->state != HL_PENDING;
        if (HL_UNLIKELY(hl_current_leave(s, loop, (PyObject *)t, done) < 0)) {
            rc = -1;
        }
    }
    if (HL_UNLIKELY(PyContext_Exit(ctx) < 0)) {
        rc = -1;
    }
    Py_DECREF(ctx);
    return HL_LIKELY(rc == 0) ? 0 : report_step(s, t);
}

/* Called from the turn, which holds the task. */
int
hl_task_run_step(hl_sched *s, PyObject *task, PyObject *exc)
{
    int rc = run(s, AS_TASK(task), exc);
    Py_XDECREF(exc);
    return rc;
}

/* Owns fut, as the ring did. */
int
hl_task_run_wake(hl_sched *s, PyObject *task, PyObject *fut)
{
    PyObject *exc = wake_exception(s->st, AS_TASK(task), fut);
    int rc = run(s, AS_TASK(task), exc);
    Py_XDECREF(exc);
    Py_DECREF(fut);
    return rc;
}

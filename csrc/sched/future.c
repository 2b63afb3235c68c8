/* Future: the outcome, and who is told of it.
 *
 * All state lives in the fields of the _asyncio.Future underneath, so that whoever
 * calls asyncio.Future.result(fut) and the like finds the truth.  A pending future
 * whose first waiter is one of our tasks, on one of our loops, holds the task itself in
 * callback0: waking it is one entry on the ready ring.
 *
 * Futures belong to their loop's thread.  Without a GIL others may look at them: what
 * is replaced or taken out of a field is so under the future's lock, and so is what
 * reads it; an outcome stays in place once the state says that it is there. */
#include "sched/future.h"
#include "py/mem.h"

/* ---- life ---- */

/* A future whose __init__ has not run has no loop.  The texts are those of _asyncio,
 * which tell a future from a task; so does the size of its type. */
int
hl_future_alive(PyObject *op)
{
    if (HL_UNLIKELY(AS_FUTURE(op)->loop == NULL)) {
        PyErr_SetString(PyExc_RuntimeError,
                        Py_TYPE(op)->tp_basicsize >= (Py_ssize_t)sizeof(TaskObject)
                            ? "Task object is not initialized."
                            : "Future object is not initialized.");
        return -1;
    }
    return 0;
}

/* asyncio asks loop.get_debug().  Of a loop of exactly our type the flag is read; a
 * subclass is asked. */
static int
loop_debug(hl_state *st, PyObject *loop)
{
    hl_sched *s = hl_sched_of(loop);
    if (s != NULL && Py_IS_TYPE(loop, st->t_EventLoop)) {
        return s->debug;
    }
    PyObject *r = PyObject_CallMethodNoArgs(loop, st->s_get_debug);
    int debug = r == NULL ? -1 : PyObject_IsTrue(r);
    Py_XDECREF(r);
    return debug;
}

/* In debug mode a future remembers where it was made. asyncio's own function walks the
 * stack: Python code runs, in debug mode only. */
static int
note_source(hl_state *st, hl_base_future *f)
{
    int debug = loop_debug(st, f->loop);
    if (HL_LIKELY(debug == 0)) {
        return 0;
    }
    if (debug < 0) {
        return -1;
    }
    /* During finalisation the traceback module may be gone already. */
    if (Py_IsFinalizing()) {
        return 0;
    }
    PyObject *tb = PyObject_CallNoArgs(st->i_extract_stack);
    if (tb == NULL) {
        return -1;
    }
    Py_XSETREF(f->source_tb, tb);
    return 0;
}

/* For __init__, which up to 3.14 may be called again and then starts anew, and for
 * tasks.  Without a loop it is asyncio's get_event_loop() that decides, as for
 * asyncio's futures.  What clearing runs finds a future that is not alive; the loop,
 * which makes it so, is set last. */
int
hl_future_init(hl_state *st, PyObject *op, PyObject *loop)
{
    hl_base_future *f = AS_FUTURE(op);
    if (HL_INIT_ONCE && f->loop != NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s object is already initialized",
                     Py_TYPE(op)->tp_name);
        return -1;
    }
    hl_future_clear_base(op);
    f->state = HL_PENDING;
    f->log_tb = 0;
    f->blocking = 0;
    if (loop == NULL || loop == Py_None) {
        loop = PyObject_CallNoArgs(st->i_get_event_loop);
        if (loop == NULL) {
            return -1;
        }
    }
    else {
        Py_INCREF(loop);
    }
    Py_XSETREF(f->loop, loop);
    return note_source(st, f);
}

/* From the free list if there is one: Future_dealloc() has left every field there
 * empty, and the state pending. */
static PyObject *
alloc(hl_state *st)
{
    hl_freelist *list = &st->free_futures;
    if (HL_LIKELY(list->n > 0)) {
        PyObject *op = PyObject_Init(list->v[--list->n], st->t_Future);
        PyObject_GC_Track(op);
        return op;
    }
    return hl_type_alloc(st->t_Future);
}

/* loop.create_future(): no __init__, no arguments.  Without layouts that fit
 * (st->native) it is asyncio's own type, called the way asyncio calls it. */
PyObject *
hl_future_new(hl_state *st, PyObject *loop)
{
    if (HL_UNLIKELY(!st->native)) {
        PyObject *stack[] = {loop};
        PyObject *names = PyTuple_Pack(1, st->s_loop);
        PyObject *op = names == NULL
                           ? NULL
                           : PyObject_Vectorcall(st->i_BaseFuture, stack, 0, names);
        Py_XDECREF(names);
        return op;
    }
    PyObject *op = alloc(st);
    if (op == NULL) {
        return NULL;
    }
    AS_FUTURE(op)->loop = Py_NewRef(loop);
    if (HL_UNLIKELY(note_source(st, AS_FUTURE(op)) < 0)) {
        Py_DECREF(op);
        return NULL;
    }
    return op;
}

/* All the fields, the base's slots among them: the base's own tp_traverse is not
 * called. */
int
hl_future_traverse_base(PyObject *op, visitproc visit, void *arg)
{
    hl_base_future *f = AS_FUTURE(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(f->loop);
    Py_VISIT(f->callback0);
    Py_VISIT(f->context0);
    Py_VISIT(f->callbacks);
    Py_VISIT(f->exception);
    Py_VISIT(f->exception_tb);
    Py_VISIT(f->result);
    Py_VISIT(f->source_tb);
    Py_VISIT(f->cancel_msg);
    Py_VISIT(f->cancelled_exc);
    int rc = hl_awaited_by_visit(f, visit, arg);
    return rc != 0 ? rc : hl_future_visit_dict(op, visit, arg);
}

/* Everything but the instance's dictionary.  The loop goes first: from then on the
 * future is not alive, and finalisers that run below cannot give it callbacks again. */
void
hl_future_clear_base(PyObject *op)
{
    hl_base_future *f = AS_FUTURE(op);
    Py_CLEAR(f->loop);
    Py_CLEAR(f->callback0);
    Py_CLEAR(f->context0);
    Py_CLEAR(f->callbacks);
    Py_CLEAR(f->exception);
    Py_CLEAR(f->exception_tb);
    Py_CLEAR(f->result);
    Py_CLEAR(f->source_tb);
    Py_CLEAR(f->cancel_msg);
    Py_CLEAR(f->cancelled_exc);
    hl_awaited_by_clear(f);
}

/* From the collector, and as the middle of dealloc: runs foreign code by what it drops.
 */
static int
Future_clear(PyObject *op)
{
    hl_future_clear_base(op);
    hl_future_clear_dict(op);
    return 0;
}

static int
Future_traverse(PyObject *op, visitproc visit, void *arg)
{
    return hl_future_traverse_base(op, visit, arg);
}

/* ---- reports from finalisers ---- */

/* In a finaliser: whatever fails here is dropped or written to stderr, for nobody is
 * there to catch it.  The future may be brought back to life by a handler that keeps
 * the context. */
void
hl_future_complain(hl_state *st, PyObject *op, PyObject *message, PyObject *key,
                   PyObject *exc)
{
    PyObject *context = PyDict_New();
    PyObject *tb = AS_FUTURE(op)->source_tb;
    if (context == NULL || message == NULL ||
        PyDict_SetItem(context, st->s_message, message) < 0 ||
        (exc != NULL && PyDict_SetItem(context, st->s_exception, exc) < 0) ||
        PyDict_SetItem(context, key, op) < 0 ||
        (tb != NULL && PyDict_SetItem(context, st->s_source_traceback, tb) < 0)) {
        PyErr_Clear();
        Py_XDECREF(context);
        return;
    }
    PyObject *handler =
        PyObject_GetAttr(AS_FUTURE(op)->loop, st->s_call_exception_handler);
    if (handler != NULL) {
        PyObject *r = PyObject_CallOneArg(handler, context);
        if (r == NULL) {
            PyErr_WriteUnraisable(handler);
        }
        Py_XDECREF(r);
        Py_DECREF(handler);
    }
    else {
        PyErr_WriteUnraisable(op);
    }
    Py_DECREF(context);
}

/* asyncio's __del__: an exception that nobody has looked at is reported, once.  Keeps a
 * set exception, since it may run in the middle of one. */
void
hl_future_finalize(PyObject *op)
{
    hl_base_future *f = AS_FUTURE(op);
    if (!f->log_tb) {
        return;
    }
    f->log_tb = 0;
    hl_state *st = hl_future_state(op);
    if (st == NULL || st->s_message == NULL || f->loop == NULL) {
        return; /* the module is gone: nobody is left to tell */
    }
    PyObject *saved = PyErr_GetRaisedException();
    const char *name = strrchr(Py_TYPE(op)->tp_name, '.');
    PyObject *message = PyUnicode_FromFormat("%s exception was never retrieved",
                                             name ? name + 1 : Py_TYPE(op)->tp_name);
    hl_future_complain(st, op, message, st->s_future, f->exception);
    Py_XDECREF(message);
    PyErr_SetRaisedException(saved);
}

static void
Future_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    hl_state *st = hl_future_state(op);
    bool exact = st != NULL && type == st->t_Future;
    bool finalized = !exact || AS_FUTURE(op)->log_tb || PyObject_GC_IsFinalized(op);
    /* Only a future that has something to say is finalised: the mark that this leaves
     * in the collector's header must not be inherited by the next owner of the memory.
     */
    if (finalized && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    (void)Future_clear(op);
    if (!finalized && hl_freelist_takes(&st->free_futures) && st->t_Future == type) {
        AS_FUTURE(op)->state = HL_PENDING;
        AS_FUTURE(op)->blocking = 0;
        st->free_futures.v[st->free_futures.n++] = op;
    }
    else {
        type->tp_free(op);
    }
    Py_DECREF(type);
}

/* ---- outcome ---- */

/* Is this callback of op a task that waits, rather than something to be called?  Only
 * exact tasks wait like that, since a subclass may be callable, and only tasks of the
 * loop's module: it may have been imported twice. */
static inline bool
is_waiter(PyObject *op, PyObject *callback)
{
    hl_sched *s = hl_sched_of(AS_FUTURE(op)->loop);
    return s != NULL && Py_IS_TYPE(callback, s->st->t_Task);
}

/* Schedules one callback; steals both references. 0, or -1: MemoryError, or what a
 * call_soon() of the user's raised. */
static int
schedule_one(hl_state *st, PyObject *op, PyObject *callback, PyObject *ctx)
{
    PyObject *loop = AS_FUTURE(op)->loop;
    hl_sched *s = hl_sched_plain(loop);
    int rc;
    if (is_waiter(op, callback)) {
        if (HL_LIKELY(s != NULL)) {
            Py_DECREF(ctx); /* the task has its own; it is the same object */
            return hl_sched_push_steal(s, HL_KIND_WAKE, callback, Py_NewRef(op));
        }
        Py_SETREF(callback, hl_task_wakeup(st, callback));
        if (callback == NULL) {
            Py_DECREF(ctx);
            return -1;
        }
    }
    if (HL_LIKELY(s != NULL)) {
        rc = hl_handle_push(s, loop, callback, &op, 1, ctx);
    }
    else if (HL_UNLIKELY(hl_future_alive(op) < 0)) {
        rc = -1; /* an earlier callback's call_soon() took its loop away */
    }
    else {
        Py_INCREF(loop);
        rc = hl_call_soon(st, loop, callback, op, ctx);
        Py_DECREF(loop);
    }
    Py_DECREF(callback);
    Py_DECREF(ctx);
    return rc;
}

/* A call_soon() of the user's may do anything: everything is moved out first. asyncio's
 * C code does the same: the first callback, then the list in its order; when one cannot
 * be scheduled, the others are lost. */
int
hl_future_schedule(hl_state *st, PyObject *op)
{
    hl_base_future *f = AS_FUTURE(op);
    PyObject *callback0, *context0, *list;
    HL_LOCK(op);
    callback0 = f->callback0;
    context0 = f->context0;
    f->callback0 = f->context0 = NULL;
    HL_UNLOCK();
    if (callback0 != NULL && schedule_one(st, op, callback0, context0) < 0) {
        HL_SETREF(op, f->callbacks, NULL);
        return -1;
    }
    if (HL_LIKELY(HL_LOAD(f->callbacks) == NULL)) {
        return 0;
    }
    HL_LOCK(op);
    list = f->callbacks;
    f->callbacks = NULL;
    HL_UNLOCK();
    int rc = 0;
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list) && rc == 0; i++) {
        PyObject *pair = PyList_GET_ITEM(list, i);
        rc = schedule_one(st, op, Py_NewRef(PyTuple_GET_ITEM(pair, 0)),
                          Py_NewRef(PyTuple_GET_ITEM(pair, 1)));
    }
    Py_XDECREF(list);
    return rc;
}

/* Fills in the outcome (result stolen, exception stolen with its traceback) and says
 * so.  The caller has looked whether it is pending; without a GIL that may have changed
 * in between, and this look is the one that counts.  0, or -1 with
 * InvalidStateError. */
static int
settle(hl_state *st, hl_base_future *f, int state, PyObject *result, PyObject *exc,
       PyObject *tb)
{
    bool pending;
    HL_LOCK(f);
    pending = !HL_FREE_THREADED || f->state == HL_PENDING;
    if (HL_LIKELY(pending)) {
        f->result = result;
        f->exception = exc;
        f->exception_tb = tb;
#if HL_FREE_THREADED
        f->log_tb = exc != NULL; /* whoever sees the state may retrieve it at once */
#endif
        HL_RELEASE(f->state, state);
    }
    HL_UNLOCK();
    if (HL_UNLIKELY(!pending)) {
        Py_XDECREF(result);
        Py_XDECREF(exc);
        Py_XDECREF(tb);
        PyErr_SetString(st->i_InvalidStateError, "invalid state");
        return -1;
    }
    return 0;
}

/* The outcome is in place before anybody hears of it.  Steals nothing. */
int
hl_future_finish(hl_state *st, PyObject *op, PyObject *result)
{
    hl_base_future *f = AS_FUTURE(op);
    assert(HL_FREE_THREADED || (f->state == HL_PENDING && f->result == NULL));
    if (settle(st, f, HL_FINISHED, Py_NewRef(result), NULL, NULL) < 0) {
        return -1;
    }
    return hl_future_schedule(st, op);
}

/* An exception object from what set_exception() was given, or NULL.  A class is called,
 * which is foreign code: it may finish this very future, hence the second look at the
 * state. */
static PyObject *
exception_object(hl_base_future *f, hl_state *st, PyObject *exc)
{
    PyObject *value;
    if (PyExceptionClass_Check(exc)) {
        value = PyObject_CallNoArgs(exc);
        if (value != NULL && f->state != HL_PENDING) {
            PyErr_SetString(st->i_InvalidStateError, "invalid state");
            Py_CLEAR(value);
        }
        if (value == NULL) {
            return NULL;
        }
    }
    else {
        value = Py_NewRef(exc);
    }
    if (!PyExceptionInstance_Check(value)) {
        Py_DECREF(value);
        PyErr_SetString(PyExc_TypeError, "invalid exception object");
        return NULL;
    }
    return value;
}

#define STOP_ITERATION_TEXT                                                            \
    "StopIteration interacts badly with generators and cannot be raised into a Future"

/* StopIteration would end the awaiting generator: 3.12 refuses it, later ones wrap it.
 * Steals value. */
static PyObject *
guard_stop_iteration(PyObject *value)
{
#if HL_STOP_ITERATION_REFUSED
    if (HL_LIKELY(!Py_IS_TYPE(value, (PyTypeObject *)PyExc_StopIteration))) {
        return value;
    }
    Py_DECREF(value);
    PyErr_SetString(PyExc_TypeError, STOP_ITERATION_TEXT);
    return NULL;
#else
    if (HL_LIKELY(!PyErr_GivenExceptionMatches(value, PyExc_StopIteration))) {
        return value;
    }
    PyObject *err = PyObject_CallFunction(PyExc_RuntimeError, "s", STOP_ITERATION_TEXT);
    if (err != NULL) {
        PyException_SetCause(err, Py_NewRef(value));
        PyException_SetContext(err, Py_NewRef(value));
    }
    Py_DECREF(value);
    return err;
#endif
}

/* The traceback is kept apart, as in asyncio, and put back when the exception is
 * raised. log_tb is set last: what nobody retrieves is reported from the finaliser.
 * (Without a GIL settle() does it: another thread may retrieve it before we get here.)
 */
int
hl_future_fail(hl_state *st, PyObject *op, PyObject *exc)
{
    hl_base_future *f = AS_FUTURE(op);
    PyObject *value = exception_object(f, st, exc);
    if (value == NULL || (value = guard_stop_iteration(value)) == NULL) {
        return -1;
    }
    PyObject *tb = PyException_GetTraceback(value);
    if (settle(st, f, HL_FINISHED, NULL, value, tb) < 0) {
        return -1;
    }
    if (hl_future_schedule(st, op) < 0) {
        hl_future_retrieved(f);
        return -1;
    }
#if !HL_FREE_THREADED
    f->log_tb = 1;
#endif
    return 0;
}

/* InvalidStateError, with asyncio's text. */
static int
check_pending(hl_state *st, PyObject *op)
{
    if (HL_UNLIKELY(AS_FUTURE(op)->state != HL_PENDING)) {
        PyErr_SetString(st->i_InvalidStateError, "invalid state");
        return -1;
    }
    return 0;
}

/* The method's body; also for layers above, on exact futures. */
int
hl_future_set_result(hl_state *st, PyObject *op, PyObject *result)
{
    return check_pending(st, op) < 0 ? -1 : hl_future_finish(st, op, result);
}

int
hl_future_set_exception(hl_state *st, PyObject *op, PyObject *exc)
{
    return check_pending(st, op) < 0 ? -1 : hl_future_fail(st, op, exc);
}

/* The method of futures only: a task's cancel() is in task.c, and comes here when its
 * coroutine has ended by CancelledError. */
int
hl_future_cancel(hl_state *st, PyObject *op, PyObject *msg)
{
    hl_base_future *f = AS_FUTURE(op);
    f->log_tb = 0;
    if (f->state != HL_PENDING) {
        return 0;
    }
    if (settle(st, f, HL_CANCELLED, NULL, NULL, NULL) < 0) {
        PyErr_Clear(); /* another thread was faster */
        return 0;
    }
    HL_SETREF(op, f->cancel_msg, Py_XNewRef(msg));
    return hl_future_schedule(st, op) < 0 ? -1 : 1;
}

/* A new reference.  The exception that a task's coroutine raised is given out once,
 * with its traceback and context; after that a new one is made from the message, as in
 * asyncio. */
PyObject *
hl_cancelled_error(hl_state *st, PyObject *op)
{
    hl_base_future *f = AS_FUTURE(op);
    PyObject *exc, *msg;
    HL_LOCK(op);
    exc = f->cancelled_exc;
    f->cancelled_exc = NULL;
    msg = f->cancel_msg == Py_None ? NULL : Py_XNewRef(f->cancel_msg);
    HL_UNLOCK();
    if (exc == NULL) {
        exc = msg == NULL ? PyObject_CallNoArgs(st->i_CancelledError)
                          : PyObject_CallOneArg(st->i_CancelledError, msg);
    }
    Py_XDECREF(msg);
    return exc;
}

void
hl_future_set_cancelled_error(hl_state *st, PyObject *op)
{
    PyObject *exc = hl_cancelled_error(st, op);
    if (exc != NULL) {
        PyErr_SetObject(st->i_CancelledError, exc);
        Py_DECREF(exc);
    }
}

/* The first who asks gets the exception with the traceback that it had when it was set,
 * later ones with none: as in _asyncio, and it does not grow with each await. */
int
hl_future_outcome(hl_state *st, PyObject *op, PyObject **out)
{
    hl_base_future *f = AS_FUTURE(op);
    if (HL_UNLIKELY(f->state != HL_FINISHED)) {
        if (f->state == HL_CANCELLED) {
            hl_future_set_cancelled_error(st, op);
        }
        else {
            PyErr_SetString(st->i_InvalidStateError, "Result is not set.");
        }
        return -1;
    }
    if (HL_LIKELY(f->exception == NULL)) {
        *out = Py_NewRef(f->result);
        return 0;
    }
    PyObject *tb;
    HL_LOCK(op);
    f->log_tb = 0;
    tb = f->exception_tb;
    f->exception_tb = NULL;
    HL_UNLOCK();
    int rc = PyException_SetTraceback(f->exception, tb == NULL ? Py_None : tb);
    Py_XDECREF(tb);
    if (rc < 0) {
        return -1;
    }
    *out = Py_NewRef(f->exception);
    return 1;
}

bool
hl_future_done(PyObject *op)
{
    return HL_ACQUIRE(AS_FUTURE(op)->state) != HL_PENDING;
}

/* Anything with done(): asyncio's futures, or a program's own. 1, 0, or -1. */
static int
waiter_done(hl_state *st, PyObject *waiter)
{
    if (st->native && hl_future_exact(st, waiter)) {
        return AS_FUTURE(waiter)->state != HL_PENDING;
    }
    PyObject *r = PyObject_CallMethod(waiter, "done", NULL);
    int done = r == NULL ? -1 : PyObject_IsTrue(r);
    Py_XDECREF(r);
    return done;
}

/* A waiter that is done already was cancelled, most likely: setting it would raise. */
int
hl_waiter_set(hl_state *st, PyObject *waiter, PyObject *result, PyObject *exc)
{
    if (waiter == NULL || waiter == Py_None) {
        return 0;
    }
    int done = waiter_done(st, waiter);
    if (done != 0) {
        return done < 0 ? -1 : 0;
    }
    if (st->native && Py_IS_TYPE(waiter, st->t_Future)) {
        return exc != NULL ? hl_future_fail(st, waiter, exc)
                           : hl_future_finish(st, waiter, result);
    }
    PyObject *r = exc != NULL ? PyObject_CallMethod(waiter, "set_exception", "O", exc)
                              : PyObject_CallMethod(waiter, "set_result", "O", result);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* ---- callbacks ---- */

/* To a pending future that has callbacks.  Runs no foreign code. */
static int
append_callback(hl_state *st, PyObject *op, PyObject *callback, PyObject *ctx)
{
    hl_base_future *f = AS_FUTURE(op);
    if (is_waiter(op, callback)) {
        /* Only callback0 may hold a bare task; the list is read by asyncio too. */
        callback = hl_task_wakeup(st, callback);
        if (callback == NULL) {
            return -1;
        }
    }
    else {
        Py_INCREF(callback);
    }
    PyObject *pair = PyTuple_Pack(2, callback, ctx);
    Py_DECREF(callback);
    if (pair == NULL) {
        return -1;
    }
    if (f->callbacks == NULL) {
        f->callbacks = PyList_New(0);
    }
    int rc = f->callbacks == NULL ? -1 : PyList_Append(f->callbacks, pair);
    Py_DECREF(pair);
    return rc;
}

/* Borrows both.  Nothing is called here, not even on a future that is done: the
 * callback is scheduled, as asyncio promises. */
int
hl_future_add_callback(hl_state *st, PyObject *op, PyObject *callback, PyObject *ctx)
{
    hl_base_future *f = AS_FUTURE(op);
    bool done;
    int rc = 0;
    HL_LOCK(op);
    done = f->state != HL_PENDING;
    if (HL_LIKELY(!done && f->callback0 == NULL && f->callbacks == NULL)) {
        f->callback0 = Py_NewRef(callback);
        f->context0 = Py_NewRef(ctx);
    }
    else if (!done) {
        rc = append_callback(st, op, callback, ctx);
    }
    HL_UNLOCK();
    return done ? schedule_one(st, op, Py_NewRef(callback), Py_NewRef(ctx)) : rc;
}

/* The first callback as the outside sees it (a new reference). */
static PyObject *
callback0_shown(hl_state *st, PyObject *op)
{
    PyObject *callback = AS_FUTURE(op)->callback0;
    return is_waiter(op, callback) ? hl_task_wakeup(st, callback) : Py_NewRef(callback);
}

/* The signature is asyncio's; so are the checks, which do not ask whether the callback
 * can be called. */
static PyObject *
Future_add_done_callback(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames)
{
    PyObject *ctx = NULL;
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (nargs != 1 || nkw > 1 ||
        (nkw == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0),
                                                      "context") != 0)) {
        PyErr_SetString(PyExc_TypeError,
                        "add_done_callback() takes exactly one positional argument "
                        "and an optional keyword argument 'context'");
        return NULL;
    }
    if (AS_FUTURE(op)->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "uninitialized Future object");
        return NULL;
    }
    hl_state *st = hl_future_state(op);
    if (nkw == 1 && args[1] != Py_None) {
        ctx = Py_NewRef(args[1]);
    }
    else {
        ctx = st == NULL ? PyContext_CopyCurrent() : hl_context_copy(st);
        if (ctx == NULL) {
            return NULL;
        }
    }
    /* A bare task is no callable; it must not pass for the fused waiter. */
    int rc = -1;
    if (is_waiter(op, args[0])) {
        PyErr_Format(PyExc_TypeError, "%R is not callable", args[0]);
    }
    else {
        rc = hl_future_add_callback(st, op, args[0], ctx);
    }
    Py_DECREF(ctx);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* 1 and clears callback0 if it equals fn, 0 if not, -1 on error.  Comparing runs
 * foreign code that may change the future. */
static int
remove_callback0(hl_state *st, PyObject *op, PyObject *fn)
{
    hl_base_future *f = AS_FUTURE(op);
    if (f->callback0 == NULL) {
        return 0;
    }
    PyObject *shown = callback0_shown(st, op);
    if (shown == NULL) {
        return -1;
    }
    int same = PyObject_RichCompareBool(shown, fn, Py_EQ);
    Py_DECREF(shown);
    if (same > 0) {
        /* Both out before either is dropped: a finaliser may add the next callback. */
        PyObject *callback = f->callback0, *ctx = f->context0;
        f->callback0 = f->context0 = NULL;
        Py_XDECREF(callback);
        Py_XDECREF(ctx);
    }
    return same;
}

/* asyncio compares with ==, which may run anything: finish the future, add, remove.
 * The list is therefore looked at anew at each step, and the one that is kept is built
 * apart; what is added to the old one meanwhile is lost, as in asyncio's C code. */
static PyObject *
Future_remove_done_callback(PyObject *op, PyObject *fn)
{
    hl_base_future *f = AS_FUTURE(op);
    if (hl_future_alive(op) < 0) {
        return NULL;
    }
    Py_ssize_t removed = remove_callback0(hl_future_state(op), op, fn);
    if (removed < 0) {
        return NULL;
    }
    if (f->callbacks == NULL) {
        return PyLong_FromSsize_t(removed);
    }
    PyObject *kept = PyList_New(0);
    if (kept == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; f->callbacks != NULL && i < PyList_GET_SIZE(f->callbacks);
         i++) {
        PyObject *pair = Py_NewRef(PyList_GET_ITEM(f->callbacks, i));
        int same = PyObject_RichCompareBool(PyTuple_GET_ITEM(pair, 0), fn, Py_EQ);
        int rc = same == 0 ? PyList_Append(kept, pair) : same;
        Py_DECREF(pair);
        if (rc < 0) {
            Py_DECREF(kept);
            return NULL;
        }
        removed += same;
    }
    if (f->callbacks == NULL || PyList_GET_SIZE(kept) == 0) {
        Py_CLEAR(f->callbacks);
        Py_DECREF(kept);
    }
    else {
        Py_SETREF(f->callbacks, kept);
    }
    return PyLong_FromSsize_t(removed);
}
HL_LOCKED_METHOD(Future_remove_done_callback)

/* ---- the Python face ---- */

static PyObject *
Future_result(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    hl_base_future *f = AS_FUTURE(op);
    if (HL_LIKELY(HL_ACQUIRE(f->state) == HL_FINISHED && f->exception == NULL)) {
        return Py_NewRef(f->result);
    }
    hl_state *st = hl_future_state(op);
    if (f->loop == NULL) {
        PyErr_SetString(st->i_InvalidStateError, "Future object is not initialized.");
        return NULL;
    }
    PyObject *out;
    int rc = hl_future_outcome(st, op, &out);
    if (rc > 0) {
        PyErr_SetObject((PyObject *)Py_TYPE(out), out);
        Py_DECREF(out);
    }
    return rc == 0 ? out : NULL;
}

/* Looking is retrieving: nothing is reported from the finaliser any more. */
static PyObject *
Future_exception(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    hl_base_future *f = AS_FUTURE(op);
    hl_state *st = hl_future_state(op);
    if (f->loop == NULL) {
        PyErr_SetString(st->i_InvalidStateError, "Future object is not initialized.");
        return NULL;
    }
    int state = HL_ACQUIRE(f->state);
    if (state == HL_CANCELLED) {
        hl_future_set_cancelled_error(st, op);
        return NULL;
    }
    if (state != HL_FINISHED) {
        PyErr_SetString(st->i_InvalidStateError, "Exception is not set.");
        return NULL;
    }
    hl_future_retrieved(f);
    return Py_NewRef(f->exception == NULL ? Py_None : f->exception);
}

static PyObject *
Future_set_result(PyObject *op, PyObject *result)
{
    if (hl_future_alive(op) < 0 ||
        hl_future_set_result(hl_future_state(op), op, result) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Future_set_exception(PyObject *op, PyObject *exc)
{
    if (hl_future_alive(op) < 0 ||
        hl_future_set_exception(hl_future_state(op), op, exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Future_cancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"msg", NULL};
    PyObject *msg = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", names, &msg) ||
        hl_future_alive(op) < 0) {
        return NULL;
    }
    int rc = hl_future_cancel(hl_future_state(op), op, msg);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

/* False, not an error, for one that was never initialised: as in _asyncio. */
static PyObject *
Future_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(AS_FUTURE(op)->loop != NULL &&
                           HL_ACQUIRE(AS_FUTURE(op)->state) == HL_CANCELLED);
}

static PyObject *
Future_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(AS_FUTURE(op)->loop != NULL &&
                           HL_ACQUIRE(AS_FUTURE(op)->state) != HL_PENDING);
}

static PyObject *
Future_get_loop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return hl_future_alive(op) < 0 ? NULL : Py_NewRef(AS_FUTURE(op)->loop);
}

/* asyncio.tasks.gather() and the like call it, for futures that are not theirs. */
static PyObject *
Future_make_cancelled_error(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return hl_cancelled_error(hl_future_state(op), op);
}

/* What asyncio reads twice of a pending one, callbacks and coroutine, goes away when it
 * is done, the callbacks when they are removed; never the other way. */
static int
left_to_describe(PyObject *op)
{
    hl_base_future *f = AS_FUTURE(op);
    bool callbacks;
    HL_LOCK(f);
    callbacks = f->callback0 != NULL || f->callbacks != NULL;
    HL_UNLOCK();
    return (HL_LOAD(f->state) == HL_PENDING ? 2 : 0) + (callbacks ? 1 : 0);
}

/* When another thread takes it away between the two, None is not what asyncio takes:
 * the next look finds the end of it.  Errors of the callbacks' own repr() are not ours,
 * and one look at each is all that a chain of waiting tasks can afford. */
PyObject *
hl_future_describe(PyObject *func, PyObject *op)
{
    int before = left_to_describe(op);
    PyObject *r = PyObject_CallOneArg(func, op);
    if (r == NULL && left_to_describe(op) < before &&
        PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
        r = PyObject_CallOneArg(func, op);
    }
    return r;
}

/* asyncio's Python function, which reads the attributes below: futures of ours look
 * alike. */
static PyObject *
Future_repr(PyObject *op)
{
    if (hl_future_alive(op) < 0) {
        return NULL;
    }
    return hl_future_describe(hl_future_state(op)->i_future_repr, op);
}

/* By keyword only, as in asyncio. */
static int
Future_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"loop", NULL};
    PyObject *loop = Py_None;
    hl_state *st = hl_state_by_type(Py_TYPE(op));
    if (st == NULL ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:Future", names, &loop)) {
        return -1;
    }
    return hl_future_init(st, op, loop);
}

static int
refuse_delete(PyObject *value)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete attribute");
        return -1;
    }
    return 0;
}

static PyObject *
get_blocking(PyObject *op, void *closure)
{
    (void)closure;
    return PyBool_FromLong(AS_FUTURE(op)->loop != NULL && AS_FUTURE(op)->blocking);
}

/* The protocol's flag is public: other implementations of Task clear it. */
static int
set_blocking(PyObject *op, PyObject *value, void *closure)
{
    (void)closure;
    if (hl_future_alive(op) < 0 || refuse_delete(value) < 0) {
        return -1;
    }
    int truth = PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    AS_FUTURE(op)->blocking = truth ? 1 : 0;
    return 0;
}

static PyObject *
get_log_traceback(PyObject *op, void *closure)
{
    (void)closure;
    return hl_future_alive(op) < 0 ? NULL : PyBool_FromLong(AS_FUTURE(op)->log_tb);
}

/* asyncio's rule: it can be switched off, not on. */
static int
set_log_traceback(PyObject *op, PyObject *value, void *closure)
{
    (void)closure;
    if (refuse_delete(value) < 0) {
        return -1;
    }
    int truth = PyObject_IsTrue(value);
    if (truth != 0) {
        if (truth > 0) {
            PyErr_SetString(PyExc_ValueError,
                            "_log_traceback can only be set to False");
        }
        return -1;
    }
    hl_future_retrieved(AS_FUTURE(op));
    return 0;
}

/* asyncio's list of pairs, or None; a new list each time, in which a fused waiter is
 * shown as the wake-up that it stands for. */
static PyObject *
get_callbacks(PyObject *op, void *closure)
{
    (void)closure;
    hl_base_future *f = AS_FUTURE(op);
    if (hl_future_alive(op) < 0) {
        return NULL;
    }
    if (f->callback0 == NULL && f->callbacks == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    if (f->callback0 != NULL) {
        PyObject *shown = callback0_shown(hl_future_state(op), op);
        PyObject *pair = shown == NULL ? NULL : PyTuple_Pack(2, shown, f->context0);
        int rc = pair == NULL ? -1 : PyList_Append(list, pair);
        Py_XDECREF(shown);
        Py_XDECREF(pair);
        if (rc < 0) {
            goto fail;
        }
    }
    if (f->callbacks != NULL &&
        PyList_SetSlice(list, PY_SSIZE_T_MAX, PY_SSIZE_T_MAX, f->callbacks) < 0) {
        goto fail;
    }
    return list;
fail:
    Py_DECREF(list);
    return NULL;
}
HL_LOCKED_GETTER(get_callbacks)

/* closure: the field's offset; NULL reads as None. */
static PyObject *
get_alive_field(PyObject *op, void *closure)
{
    if (hl_future_alive(op) < 0) {
        return NULL;
    }
    return hl_get_object(op, closure);
}

static int
set_cancel_message(PyObject *op, PyObject *value, void *closure)
{
    (void)closure;
    if (refuse_delete(value) < 0) {
        return -1;
    }
    HL_SETREF(op, AS_FUTURE(op)->cancel_msg, Py_NewRef(value));
    return 0;
}

#if HL_KNOWS_WAITERS
/* A frozen set for whoever draws call graphs; None when nobody waits. */
static PyObject *
get_awaited_by(PyObject *op, void *closure)
{
    (void)closure;
    hl_base_future *f = AS_FUTURE(op);
    if (hl_future_alive(op) < 0) {
        return NULL;
    }
    if (f->awaited_by == NULL) {
        Py_RETURN_NONE;
    }
    if (f->awaited_by_is_set) {
        return PyFrozenSet_New(f->awaited_by);
    }
    PyObject *set = PyFrozenSet_New(NULL);
    if (set != NULL && PySet_Add(set, f->awaited_by) < 0) {
        Py_CLEAR(set);
    }
    return set;
}
#endif

/* The names of asyncio.base_futures. */
static PyObject *
get_state(PyObject *op, void *closure)
{
    (void)closure;
    static const char *const names[] = {"PENDING", "CANCELLED", "FINISHED"};
    if (hl_future_alive(op) < 0) {
        return NULL;
    }
    return PyUnicode_InternFromString(names[HL_ACQUIRE(AS_FUTURE(op)->state)]);
}

PyMethodDef hl_future_methods[] = {
    {"result", Future_result, METH_NOARGS,
     "The result, or raise the exception; InvalidStateError while pending."},
    {"exception", Future_exception, METH_NOARGS,
     "The exception that was set, or None; InvalidStateError while pending."},
    {"set_result", Future_set_result, METH_O, "Mark the future done with a result."},
    {"set_exception", Future_set_exception, METH_O,
     "Mark the future done with an exception."},
    {"add_done_callback", (PyCFunction)(void (*)(void))Future_add_done_callback,
     METH_FASTCALL | METH_KEYWORDS,
     "Have callback(future) called soon after the future is done."},
    {"remove_done_callback", HL_LOCKED(Future_remove_done_callback), METH_O,
     "Remove every instance of a callback; return how many there were."},
    {"cancel", (PyCFunction)(void (*)(void))Future_cancel, METH_VARARGS | METH_KEYWORDS,
     "Cancel the future; False if it was done already."},
    {"cancelled", Future_cancelled, METH_NOARGS, "Was the future cancelled?"},
    {"done", Future_done, METH_NOARGS, "Is the future no longer pending?"},
    {"get_loop", Future_get_loop, METH_NOARGS, "The event loop the future belongs to."},
    {"_make_cancelled_error", Future_make_cancelled_error, METH_NOARGS,
     "The CancelledError to raise; to be called once."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, "See PEP 585."},
    {NULL, NULL, 0, NULL},
};

#define FIELD(name, get, set, field)                                                   \
    {name, get, set, NULL, (void *)offsetof(hl_base_future, field)}

PyGetSetDef hl_future_getset[] = {
    {"_state", get_state, NULL, NULL, NULL},
    {"_asyncio_future_blocking", get_blocking, set_blocking, NULL, NULL},
    FIELD("_loop", hl_get_object, NULL, loop),
    {"_callbacks", HL_LOCKED(get_callbacks), NULL, NULL, NULL},
    FIELD("_result", get_alive_field, NULL, result),
    FIELD("_exception", get_alive_field, NULL, exception),
    {"_log_traceback", get_log_traceback, set_log_traceback, NULL, NULL},
    FIELD("_source_traceback", hl_get_object, NULL, source_tb),
    FIELD("_cancel_message", hl_get_object, set_cancel_message, cancel_msg),
#if HL_KNOWS_WAITERS
    {"_asyncio_awaited_by", get_awaited_by, NULL, NULL, NULL},
#endif
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot future_slots[] = {
    {Py_tp_dealloc, Future_dealloc},
    {Py_tp_finalize, hl_future_finalize},
    {Py_tp_traverse, Future_traverse},
    {Py_tp_clear, Future_clear},
    {Py_tp_repr, Future_repr},
    {Py_tp_init, Future_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_iter, hl_future_iter},
    {Py_am_await, hl_future_iter},
    {Py_tp_methods, hl_future_methods},
    {Py_tp_getset, hl_future_getset},
    {Py_tp_doc, "The future of a hotloop event loop; see asyncio.Future."},
    {0, NULL},
};

static PyType_Spec future_spec = {
    .name = "hotloop.Future",
    .basicsize = sizeof(hl_base_future),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = future_slots,
};

/* The type extends _asyncio.Future without a field of its own; see hl_future_state().
 */
int
hl_future_exec(PyObject *mod, hl_state *st)
{
    return hl_type_add(mod, &st->t_Future, &future_spec, st->i_BaseFuture);
}

/* The iterator behind `await future`: yields the future once, then gives its result. */
#include "sched/future.h"
#include "py/mem.h"

typedef struct {
    PyObject_HEAD
    PyObject *fut; /* owned; NULL once exhausted */
    hl_state *st;  /* valid while mod is held */
    PyObject *mod; /* owned; dropped last */
} IterObject;

#define AS_ITER(op) ((IterObject *)(op))

/* Iterators are made and freed once per await, so their memory is kept for reuse. */
PyObject *
hl_future_iter(PyObject *fut)
{
    if (hl_future_alive(fut) < 0) {
        return NULL;
    }
    hl_state *st = hl_future_state(fut);
    hl_freelist *list = &st->free_iters;
    PyObject *op;
    if (HL_LIKELY(list->n > 0)) {
        op = PyObject_Init(list->v[--list->n], st->t_FutureIter);
    }
    else {
        op = (PyObject *)hl_gc_new(IterObject, st->t_FutureIter);
        if (op == NULL) {
            return NULL;
        }
    }
    AS_ITER(op)->fut = Py_NewRef(fut);
    AS_ITER(op)->st = st;
    AS_ITER(op)->mod = Py_NewRef(st->mod);
    PyObject_GC_Track(op);
    return op;
}

/* The road of a task that awaits a future directly, without a StopIteration. A pending
 * future is yielded once with its flag set, which is how a task tells `await` from a
 * bare `yield`. */
static PySendResult
Iter_send_slot(PyObject *op, PyObject *Py_UNUSED(arg), PyObject **out)
{
    PyObject *fut = AS_ITER(op)->fut;
    if (fut == NULL) { /* exhausted, closed, or thrown into */
        *out = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    *out = NULL;
    hl_base_future *f = AS_FUTURE(fut);
    if (f->state == HL_PENDING) {
        if (HL_UNLIKELY(f->blocking)) {
            PyErr_SetString(PyExc_RuntimeError, "await wasn't used with future");
            return PYGEN_ERROR;
        }
        /* The other half of the protocol: the task clears it when it waits. */
        f->blocking = 1;
        *out = Py_NewRef(fut);
        return PYGEN_NEXT;
    }
    AS_ITER(op)->fut = NULL;
    int rc = hl_future_outcome(AS_ITER(op)->st, fut, out);
    Py_DECREF(fut);
    if (HL_LIKELY(rc == 0)) {
        return PYGEN_RETURN;
    }
    if (rc > 0) {
        PyErr_SetObject((PyObject *)Py_TYPE(*out), *out);
        Py_CLEAR(*out);
    }
    return PYGEN_ERROR;
}

/* By an instance: a value that is a tuple, or an exception, must not be taken for
 * arguments.  Older versions of asyncio's futures give None none, and chain the
 * exception that is being handled; newer ones do neither. */
static void
set_stop_iteration(const hl_state *st, PyObject *value)
{
    if (value == Py_None && !st->stops_with_none) {
        PyErr_SetNone(PyExc_StopIteration);
        return;
    }
    PyObject *exc = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (exc != NULL && st->stops_with_none) {
        PyErr_SetRaisedException(exc);
    }
    else if (exc != NULL) {
        PyErr_SetObject(PyExc_StopIteration, exc);
        Py_DECREF(exc);
    }
}

/* What `await` in a coroutine calls: the interpreter uses am_send of generators and
 * coroutines alone.  The result comes as StopIteration, whose making and unmaking cost
 * more than all the rest; for None, which most futures are about, the slot's protocol
 * has an end without an exception.  A tracer is told of each, so it gets one. */
static PyObject *
Iter_next(PyObject *op)
{
    PyObject *out;
    if (Iter_send_slot(op, Py_None, &out) == PYGEN_RETURN) {
        if (out != Py_None || HL_UNLIKELY(hl_being_traced())) {
            set_stop_iteration(AS_ITER(op)->st, out);
        }
        Py_CLEAR(out);
    }
    return out;
}

/* The protocol for whoever drives a coroutine by hand. */
static PyObject *
Iter_send(PyObject *op, PyObject *Py_UNUSED(value))
{
    PyObject *out = Iter_next(op); /* a future does not care what is sent to it */
    if (out == NULL && !PyErr_Occurred()) {
        set_stop_iteration(AS_ITER(op)->st, Py_None);
    }
    return out;
}

/* throw(exc), or the deprecated throw(type, value, traceback). asyncio's iterator of
 * futures raises at once: there is nothing to be caught in. */
static PyObject *
Iter_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_Format(PyExc_TypeError, "throw expected 1 to 3 arguments, got %zd",
                     nargs);
        return NULL;
    }
    if (nargs > 1 && PyErr_WarnEx(PyExc_DeprecationWarning,
                                  "the (type, exc, tb) signature of throw() is "
                                  "deprecated, use the single-arg signature instead.",
                                  1) < 0) {
        return NULL;
    }
    PyObject *type = args[0];
    PyObject *value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
    PyObject *tb = nargs > 2 && args[2] != Py_None ? args[2] : NULL;
    if (tb != NULL && !PyTraceBack_Check(tb)) {
        PyErr_SetString(PyExc_TypeError, "throw() third argument must be a traceback");
        return NULL;
    }
    if (PyExceptionInstance_Check(type)) {
        if (value != NULL) {
            PyErr_SetString(PyExc_TypeError,
                            "instance exception may not have a separate value");
            return NULL;
        }
        value = type;
        type = PyExceptionInstance_Class(value);
    }
    else if (!PyExceptionClass_Check(type)) {
        PyErr_SetString(PyExc_TypeError,
                        "exceptions must be classes deriving BaseException or "
                        "instances of such a class");
        return NULL;
    }
    Py_CLEAR(AS_ITER(op)->fut);
    PyErr_SetObject(type, value);
    if (tb != NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        (void)PyException_SetTraceback(exc, tb);
        PyErr_SetRaisedException(exc);
    }
    return NULL;
}

/* From here on the iterator is exhausted, and gives None. */
static PyObject *
Iter_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(AS_ITER(op)->fut);
    Py_RETURN_NONE;
}

static int
Iter_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(AS_ITER(op)->fut);
    Py_VISIT(AS_ITER(op)->mod);
    return 0;
}

/* mod stays: dealloc needs the state. */
static int
Iter_clear(PyObject *op)
{
    Py_CLEAR(AS_ITER(op)->fut);
    return 0;
}

/* No weak references and no finaliser: nothing can bring it back. */
static void
Iter_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    hl_state *st = AS_ITER(op)->st;
    PyObject *mod = AS_ITER(op)->mod;
    PyObject_GC_UnTrack(op);
    (void)Iter_clear(op);
    if (hl_freelist_takes(&st->free_iters) && st->t_FutureIter == type) {
        st->free_iters.v[st->free_iters.n++] = op;
    }
    else {
        PyObject_GC_Del(op);
    }
    Py_DECREF(type);
    Py_DECREF(mod);
}

static PyMethodDef iter_methods[] = {
    {"send", Iter_send, METH_O, "Resume; the value is ignored."},
    {"throw", (PyCFunction)(void (*)(void))Iter_throw, METH_FASTCALL,
     "Raise an exception at the await."},
    {"close", Iter_close, METH_NOARGS, "Let go of the future."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot iter_slots[] = {
    {Py_tp_dealloc, Iter_dealloc}, {Py_tp_traverse, Iter_traverse},
    {Py_tp_clear, Iter_clear},     {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, Iter_next},   {Py_am_send, Iter_send_slot},
    {Py_tp_methods, iter_methods}, {0, NULL},
};

static PyType_Spec iter_spec = {
    .name = "hotloop._core.FutureIter",
    .basicsize = sizeof(IterObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iter_slots,
};

int
hl_futiter_exec(PyObject *mod, hl_state *st)
{
    return hl_type_add(mod, &st->t_FutureIter, &iter_spec, NULL);
}

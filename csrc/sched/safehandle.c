/* The handle of call_soon_threadsafe() from 3.14 on: cancelling it in another thread
 * means that the callback has not run, will not run, or has ended.
 *
 * asyncio locks around the callback.  Under the GIL a lock is needed only by those who
 * come while the callback runs: the first of them makes the gate and shuts it on behalf
 * of the runner, who opens it when the callback is done.  All fields are touched with
 * the GIL held. */
#include "sched/handle.h"

#define AS_SAFE(op) ((SafeHandleObject *)(op))

/* Noted before the callback runs, with the GIL held: who waits sees it, or no callback.
 */
void
hl_safehandle_enter(PyObject *op)
{
    AS_SAFE(op)->runner = PyThread_get_thread_ident();
}

/* Opens the gate for all who wait: each passes it on to the next. */
void
hl_safehandle_leave(PyObject *op)
{
    SafeHandleObject *self = AS_SAFE(op);
    if (HL_UNLIKELY(self->gate_shut)) {
        self->gate_shut = false;
        PyThread_release_lock(self->gate);
    }
}

void
hl_safehandle_fini(PyObject *op)
{
    SafeHandleObject *self = AS_SAFE(op);
    if (HL_UNLIKELY(self->gate != NULL)) {
        PyThread_free_lock(self->gate); /* nobody waits: who does holds a reference */
        self->gate = NULL;
    }
}

/* 0, or -1 with MemoryError. */
static int
shut_gate(SafeHandleObject *self)
{
    if (self->gate_shut) {
        return 0;
    }
    if (self->gate == NULL && (self->gate = PyThread_allocate_lock()) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    /* Somebody who has been let through may hold it still; he looks again as well. */
    self->gate_shut = PyThread_acquire_lock(self->gate, NOWAIT_LOCK) != 0;
    return 0;
}

/* Waits while another thread runs the callback: 0, or -1 when a signal handler raised.
 */
static int
await_callback(SafeHandleObject *self)
{
    while (self->h.running && self->runner != PyThread_get_thread_ident()) {
        PyLockStatus status;
        if (shut_gate(self) < 0) {
            return -1;
        }
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(self->gate, -1, 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_ACQUIRED) {
            PyThread_release_lock(self->gate);
        }
        else if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
    return 0;
}

/* The method of the plain handle that `which` names, once the callback is not running.
 */
static PyObject *
when_idle(PyObject *op, Py_ssize_t which)
{
    Py_INCREF(op);
    PyObject *r = NULL;
    if (await_callback(AS_SAFE(op)) == 0) {
        r = hl_handle_methods[which].ml_meth(op, NULL);
    }
    Py_DECREF(op);
    return r;
}

/* From the callback itself it does not wait: the runner is this thread. */
static PyObject *
SafeHandle_cancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return when_idle(op, HL_HANDLE_CANCEL);
}

static PyObject *
SafeHandle_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return when_idle(op, HL_HANDLE_CANCELLED);
}

static PyObject *
SafeHandle_run(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return when_idle(op, HL_HANDLE_RUN);
}

static PyObject *
SafeHandle_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return hl_handle_methods[HL_HANDLE_GET_CONTEXT].ml_meth(op, NULL);
}

static PyMethodDef safe_methods[] = {
    {"cancel", SafeHandle_cancel, METH_NOARGS,
     "Never run the callback; waits while another thread runs it."},
    {"cancelled", SafeHandle_cancelled, METH_NOARGS,
     "Was the handle cancelled?  Waits while another thread runs the callback."},
    {"get_context", SafeHandle_get_context, METH_NOARGS,
     "The contextvars.Context that the callback runs in."},
    {"_run", SafeHandle_run, METH_NOARGS, "Run the callback now."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot safe_slots[] = {
    {Py_tp_new, hl_handle_tp_new},
    {Py_tp_init, hl_handle_tp_init},
    {Py_tp_dealloc, hl_handle_tp_dealloc},
    {Py_tp_traverse, hl_handle_tp_traverse},
    {Py_tp_clear, hl_handle_tp_clear},
    {Py_tp_methods, safe_methods},
    {Py_tp_getset, hl_handle_getset},
    {Py_tp_doc, "What call_soon_threadsafe() returns."},
    {0, NULL},
};

static PyType_Spec safe_spec = {
    .name = "hotloop._core._ThreadSafeHandle", /* asyncio's, for repr() */
    .basicsize = sizeof(SafeHandleObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = safe_slots,
};

/* asyncio's class for it is private and younger than 3.13: without one there is no
 * type, and a plain handle does. */
int
hl_safehandle_exec(PyObject *mod, hl_state *st)
{
    PyObject *events = PyImport_ImportModule("asyncio.events");
    PyObject *base =
        events == NULL ? NULL : PyObject_GetAttrString(events, "_ThreadSafeHandle");
    Py_XDECREF(events);
    if (base == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    int rc = 0;
    /* Its one further slot, the lock, must lie where we leave room. */
    if (PyType_Check(base) &&
        ((PyTypeObject *)base)->tp_basicsize <= (Py_ssize_t)sizeof(hl_base_handle)) {
        rc = hl_type_add(mod, &st->t_ThreadSafeHandle, &safe_spec, base);
    }
    Py_DECREF(base);
    return rc;
}

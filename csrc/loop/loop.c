/* The EventLoop type: its life, its settings, and run_forever().
 *
 * A C type whose base is the Python class LoopBase: calls to its methods then stay
 * specialised.  The base's own tp_traverse, tp_clear and tp_dealloc are never called;
 * the instance dictionary that it brings is visited and cleared here. */
#include "loop/loop.h"
#include "py/compat.h"
#include "py/mem.h"
#include "sched/inbox.h"

#include <string.h>
#include <unistd.h>

#define AS_LOOP(op) ((LoopObject *)(op))

/* ---- what is overridden ---- */

/* Is `name` found on the instance, or on its type, as anything but our own method? */
static bool
overridden(LoopObject *self, PyObject *dict, PyObject *name)
{
    PyTypeObject *ours = self->sched.st->t_EventLoop;
    if (dict != NULL && PyDict_GetItemWithError(dict, name) != NULL) {
        return true;
    }
    PyObject *found = PyObject_GetAttr((PyObject *)Py_TYPE(self), name);
    bool other = found == NULL || !Py_IS_TYPE(found, &PyMethodDescr_Type) ||
                 PyDescr_TYPE(found) != ours;
    Py_XDECREF(found);
    PyErr_Clear();
    return other;
}

/* Is `name`, a Python method of ours, found as anything but `function`? */
static bool
replaced(LoopObject *self, PyObject *dict, PyObject *name, PyObject *function)
{
    if (dict != NULL && PyDict_GetItemWithError(dict, name) != NULL) {
        return true;
    }
    return hl_type_lookup(Py_TYPE(self), name) != function;
}

/* May a connection be made without calling any of the methods that asyncio calls? */
static bool
connects(LoopObject *self, PyObject *dict)
{
    hl_state *st = self->sched.st;
    PyObject *names[] = {st->s__ensure_resolved, st->s_sock_connect,
                         st->s__create_connection_transport};
    for (Py_ssize_t i = 0; i < 3; i++) {
        PyObject *seen = PyTuple_GET_ITEM(st->i_connecting_seen, i);
        if (replaced(self, dict, names[i], seen)) {
            return false;
        }
    }
    PyObject *in_c[] = {st->s_create_future,  st->s__add_reader,
                        st->s__add_writer,    st->s__remove_reader,
                        st->s__remove_writer, st->s__ensure_fd_no_transport};
    for (size_t i = 0; i < sizeof(in_c) / sizeof(*in_c); i++) {
        if (overridden(self, dict, in_c[i])) {
            return false;
        }
    }
    return true;
}

/* Called whenever something may have been overridden: an attribute set on the instance,
 * a class-level assignment (seen by the type's version), debug mode.  Keeps a
 * set exception, since callers stand in the middle of one.  The version tag is read
 * last: what changes after it is found by the next look. */
void
hl_loop_refresh(LoopObject *self)
{
    hl_state *st = self->sched.st;
    PyObject *saved = PyErr_GetRaisedException();
    PyObject *dict = PyObject_GenericGetDict((PyObject *)self, NULL);
    PyErr_Clear();
    self->sched.plain =
        !self->closed && !self->sched.debug && !overridden(self, dict, st->s_call_soon);
    self->time_overridden = overridden(self, dict, st->s_time);
    self->call_at_overridden = overridden(self, dict, st->s_call_at);
    self->connects = connects(self, dict);
    Py_XDECREF(dict);
    (void)PyUnstable_Type_AssignVersionTag(Py_TYPE(self));
    self->type_version = Py_TYPE(self)->tp_version_tag;
    PyErr_SetRaisedException(saved);
}

bool
hl_loop_connects(LoopObject *self)
{
    unsigned int tag = Py_TYPE(self)->tp_version_tag;
    if (HL_UNLIKELY(tag != self->type_version || tag == 0)) {
        hl_loop_refresh(self);
    }
    return self->sched.plain && self->connects;
}

/* Programs and test suites set call_soon, time and the like on the instance.  Setting
 * is rare and calling is not, so it is the setting that pays. */
static int
Loop_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    int rc = PyObject_GenericSetAttr(op, name, value);
    if (rc == 0) {
        hl_loop_refresh(AS_LOOP(op));
    }
    return rc;
}

/* ---- life ---- */

static HL_COLD int
unknown_backend(const char *name)
{
    char known[64] = "";
    for (int i = 0; hl_poll_backends[i] != NULL; i++) {
        size_t len = strlen(known);
        (void)snprintf(known + len, sizeof(known) - len, "%s%s", i ? ", " : "",
                       hl_poll_backends[i]->name);
    }
    PyErr_Format(PyExc_ValueError, "unknown backend '%s': this system has %s",
                 name == NULL ? "" : name, known);
    return -1;
}

/* The poller and the wakeup descriptor that it watches are made together, and belong to
 * this process (`pid`).  On failure neither is left, and self->poll is NULL. */
static int
open_poller(LoopObject *self, const char *backend)
{
    const hl_poll_ops *ops = hl_poll_find(backend);
    if (ops == NULL) {
        return unknown_backend(backend);
    }
    self->backend = ops;
    int rc = ops->open(&self->poll);
    if (rc < 0) {
        return hl_raise_int(rc);
    }
    rc = hl_wake_open(&self->wake);
    if (rc < 0) {
        goto fail_wake;
    }
    /* Past the table of watches: take_wakeup() filters it out before anybody looks
     * there. */
    rc = ops->ctl(self->poll, self->wake.rfd, 0, 0, HL_READ);
    if (rc < 0) {
        goto fail_ctl;
    }
    self->pid = getpid();
    return 0;
fail_ctl:
    hl_wake_close(&self->wake);
fail_wake:
    ops->close(self->poll);
    self->poll = NULL;
    return hl_raise_int(rc);
}

/* Idempotent.  What the table says is watched is the caller's to forget. */
static void
close_poller(LoopObject *self)
{
    if (self->poll != NULL) {
        /* Without a GIL another thread may be about to wake us. */
        hl_inbox_lock(&self->sched);
        hl_wake_close(&self->wake);
        hl_inbox_unlock(&self->sched);
        self->poll->ops->close(self->poll);
        self->poll = NULL;
    }
}

/* In the child of a fork the kernel's set and the wakeup are the parent's too: what one
 * process does to them the other feels.  A loop that runs in the child gets its own. */
static HL_COLD int
reopen_poller(LoopObject *self)
{
    hl_poll *poll = self->poll;
    hl_wake wake = self->wake;
    if (open_poller(self, self->backend->name) < 0) {
        goto fail_open;
    }
    int rc = hl_fdtab_retell(&self->fds, self->poll, NULL);
    if (rc < 0) {
        (void)hl_raise_int(rc);
        goto fail_retell;
    }
    hl_wake_close(&wake);
    poll->ops->close(poll);
    return 0;
fail_retell:
    close_poller(self);
    /* The parent's pair is put back below: this process must not take it for its own.
     */
    self->pid = 0; /* to be tried again */
fail_open:
    self->poll = poll;
    self->wake = wake;
    return -1;
}

void
hl_loop_renew_poller(LoopObject *self)
{
    hl_poll *poll;
    if (self->backend->open(&poll) < 0) {
        return;
    }
    int rc = poll->ops->ctl(poll, self->wake.rfd, 0, 0, HL_READ);
    HL_LOCK(self);
    if (rc >= 0 && (rc = hl_fdtab_retell(&self->fds, poll, self->poll)) == 0) {
        hl_poll *old = self->poll;
        self->poll = poll;
        poll = old;
    }
    HL_UNLOCK();
    poll->ops->close(poll);
}

/* The object can be torn down from the first moment on, whether or not __init__ ever
 * runs: a subclass may forget to call it.  The brand comes last: it makes others
 * believe the scheduler. */
static PyObject *
Loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    hl_state *st = hl_state_by_type(type);
    if (st == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "hotloop has been unloaded");
        return NULL;
    }
    PyObject *op = hl_type_alloc(type);
    if (op == NULL) {
        return NULL;
    }
    LoopObject *self = AS_LOOP(op);
    self->mod = Py_NewRef(st->mod);
    self->wake.rfd = self->wake.wfd = -1;
    self->signal_rfd = -1;
    /* asyncio's default. */
    self->slow_callback_duration = 0.1;
    self->closed = true; /* until __init__ has opened it */
    hl_fdtab_init(&self->fds);
    if (hl_sched_init(&self->sched, st) < 0) {
        Py_DECREF(op);
        return NULL;
    }
    self->brand = &hl_loop_brand;
    return op;
}

/* PYTHONASYNCIODEBUG and -X dev, as asyncio reads them. */
static int
debug_by_default(hl_state *st)
{
    PyObject *r = PyObject_CallNoArgs(st->i_is_debug_mode);
    int debug = r == NULL ? -1 : PyObject_IsTrue(r);
    Py_XDECREF(r);
    return debug;
}

static int
Loop_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"backend", NULL};
    const char *backend = NULL;
    LoopObject *self = AS_LOOP(op);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|z:EventLoop", names, &backend)) {
        return -1;
    }
    if (self->poll != NULL) {
        /* asyncio's __init__ may be called again and leaks its selector; nothing relies
         * on that. */
        PyErr_SetString(PyExc_RuntimeError, "a loop cannot be initialised twice");
        return -1;
    }
    int debug = debug_by_default(self->sched.st);
    if (debug < 0 || open_poller(self, backend) < 0) {
        return -1;
    }
    self->sched.debug = debug != 0;
    HL_STORE(self->closed, false);
    hl_loop_refresh(self);
    return 0;
}

/* Everything that the loop owns, wherever it lies: the ready ring, the heap, the table
 * of watches.  Without the brand the scheduler was never made. */
static int
Loop_traverse(PyObject *op, visitproc visit, void *arg)
{
    LoopObject *self = AS_LOOP(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->mod);
    Py_VISIT(self->task_factory);
    Py_VISIT(self->current_handle);
    if (self->brand != NULL) {
        int rc = hl_sched_traverse(&self->sched, visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
    int rc = hl_watch_traverse(self, visit, arg);
    return rc != 0 ? rc : PyObject_VisitManagedDict(op, visit, arg);
}

/* Dropping entries runs finalisers that may call this very loop.  `plain` goes first,
 * so that none pushes past call_soon(), whose check for a closed loop then refuses. */
static int
Loop_clear(PyObject *op)
{
    LoopObject *self = AS_LOOP(op);
    self->sched.plain = false;
    Py_CLEAR(self->task_factory);
    Py_CLEAR(self->current_handle);
    hl_sched_clear(&self->sched);
    hl_watch_clear(self);
    PyObject_ClearManagedDict(op);
    return 0;
}

/* The base's __del__ warns of a loop that was not closed, and closes it. */
static void
Loop_dealloc(PyObject *op)
{
    LoopObject *self = AS_LOOP(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject *mod = self->mod;
    /* Foreign code with a whole object: LoopBase.__del__ may call anything, close()
     * included. */
    if (self->brand != NULL && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    /* What finalisers find from here on is a closed loop. */
    self->closed = true;
    /* Runs finalisers of all that was queued: the loop is closed, and takes nothing. */
    (void)Loop_clear(op);
    hl_signals_close(self);
    close_poller(self);
    hl_sched_fini(&self->sched);
    hl_fdtab_fini(&self->fds);
    /* No transport reads any more: a read takes the buffer anew, and the loop is
     * closed. */
    free(self->scratch);
    hl_loop_bytes_free(self);
    self->brand = NULL;
    type->tp_free(op);
    Py_DECREF(type);
    Py_XDECREF(mod);
}

/* ---- running ---- */

/* hotloop.allow_nested_runs() gives the loop a list of tasks set aside: 1, 0, or -1. */
static HL_COLD int
may_nest(LoopObject *self)
{
    PyObject *aside = PyObject_GetAttr((PyObject *)self, self->sched.st->s__set_aside);
    int rc = aside == NULL ? -1 : aside != Py_None;
    Py_XDECREF(aside);
    return rc;
}

/* 0 and whether the run would lie inside one of this loop, or -1. */
static int
check_running(LoopObject *self, bool *nested)
{
    PyObject *other = PyObject_CallNoArgs(self->sched.st->i_get_running_loop);
    if (other == NULL) {
        return -1;
    }
    bool none = other == Py_None, here = other == (PyObject *)self;
    Py_DECREF(other);
    *nested = HL_LOAD(self->thread_id) != 0;
    if (*nested) {
        int rc = here ? may_nest(self) : 0;
        if (rc == 0) {
            PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
        }
        return rc > 0 ? 0 : -1;
    }
    if (!none) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Cannot run the event loop while another loop is running");
        return -1;
    }
    return 0;
}

/* self.<name>() of LoopBase, the Python side of a run: the hooks for async generators,
 * the coroutine origin tracking of debug mode. */
static int
call_base(LoopObject *self, PyObject *name)
{
    PyObject *r = PyObject_CallMethodNoArgs((PyObject *)self, name);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* Undoes enter(), whatever happened between; keeps the first exception. asyncio does
 * the same in a `finally`: what fails here must not hide why the run ended. */
static int
leave(LoopObject *self, int rc)
{
    PyObject *saved = PyErr_GetRaisedException();
    HL_STORE(self->thread_id, 0);
    hl_sched_run_by(&self->sched, 0);
    HL_STORE(self->stopping, false);
    hl_signals_leave(self);
    if (call_base(self, self->sched.st->s__leave_run) < 0) {
        rc = -1;
    }
    if (saved != NULL) {
        PyErr_Clear();
        PyErr_SetRaisedException(saved);
    }
    return rc;
}

static int
run_outermost(LoopObject *self)
{
    HL_STORE(self->thread_id, PyThread_get_thread_ident());
    hl_sched_run_by(&self->sched, hl_sched_this_thread());
    self->unpolled = 0;
    self->last_poll = 0;
    int rc = call_base(self, self->sched.st->s__enter_run);
    if (rc == 0) {
        rc = hl_signals_enter(self);
    }
    if (rc == 0) {
        rc = hl_run(self);
    }
    return leave(self, rc);
}

/* The run itself, and what stays the outer run's. */
static int
run_inner(LoopObject *self)
{
    hl_state *st = self->sched.st;
    if (self->sched.current == Py_None) { /* a finished task's place */
        hl_current_clear(&self->sched, (PyObject *)self);
    }
    PyObject *shown = self->sched.current; /* the step on the stack owns it */
    bool stopping = HL_LOAD(self->stopping);
    if (call_base(self, st->s__enter_nested) < 0) {
        return -1;
    }
    self->sched.current = NULL; /* asyncio's record has been emptied */
    HL_STORE(self->stopping, false);
    PyObject *handle = self->current_handle; /* of debug mode */
    self->current_handle = NULL;
    int rc = hl_run(self);
    PyObject *saved = PyErr_GetRaisedException();
    Py_XSETREF(self->current_handle, handle);
    HL_STORE(self->stopping, stopping);
    if (call_base(self, st->s__leave_nested) < 0) {
        rc = -1;
    }
    self->sched.current = shown;
    if (saved != NULL) {
        PyErr_Clear();
        PyErr_SetRaisedException(saved);
    }
    return rc;
}

/* A run inside a callback or step of the one that is under way, whose hooks and signal
 * pipe serve it as well.  The task in the middle of its step is set aside, and so are
 * its context, which others may share, and a stop() that was meant for the outer run.
 */
static HL_COLD int
run_nested(LoopObject *self)
{
    PyObject *contexts = PyList_New(0);
    if (contexts == NULL) {
        return -1;
    }
    int rc = hl_contexts_leave(contexts);
    if (rc == 0) {
        rc = run_inner(self);
    }
    if (hl_contexts_enter(contexts) < 0) {
        rc = -1;
    }
    Py_DECREF(contexts);
    return rc;
}

/* A run owns the loop: the callback that drops the last reference to it does not free
 * it while it is on the stack. enter_run may fail half-way; leave() undoes whatever
 * part of it was done.  The reference goes last. */
static PyObject *
Loop_run_forever(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = AS_LOOP(op);
    bool nested;
    if (hl_loop_check_closed(self) < 0 || check_running(self, &nested) < 0) {
        return NULL;
    }
    if (HL_UNLIKELY(self->pid != getpid()) && reopen_poller(self) < 0) {
        return NULL;
    }
    Py_INCREF(op);
    int rc = HL_UNLIKELY(nested) ? run_nested(self) : run_outermost(self);
    Py_DECREF(op);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* No wake-up: as with asyncio, stop() from another thread takes effect when the loop
 * comes round for another reason. */
static PyObject *
Loop_stop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    HL_STORE(AS_LOOP(op)->stopping, true);
    Py_RETURN_NONE;
}

/* What asyncio's close() does, in its order: the ready queue and the timers go first,
 * then the executor (_close_base), then the selector.  Each step can run Python code
 * that calls this loop; `closed` is set before all of them, so none adds anything.  The
 * scheduler is cleared again after Python code ran: a finaliser may have pushed from C
 * just before. */
static PyObject *
Loop_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = AS_LOOP(op);
    if (HL_LOAD(self->thread_id) != 0) {
        PyErr_SetString(PyExc_RuntimeError, "Cannot close a running event loop");
        return NULL;
    }
    if (self->closed) {
        Py_RETURN_NONE;
    }
    if (self->sched.debug) {
        PyObject *r = PyObject_CallMethod(op, "_log_close", NULL);
        if (r == NULL) {
            return NULL;
        }
        Py_DECREF(r);
    }
    Py_INCREF(op);
    HL_STORE(self->closed, true);
    self->sched.plain = false;
    hl_sched_clear(&self->sched);
    int rc = call_base(self, self->sched.st->s__close_base);
    PyObject *saved = PyErr_GetRaisedException();
    hl_signals_close(self);
    hl_watch_clear(self);
    hl_sched_clear(&self->sched);
    close_poller(self);
    free(self->scratch);
    hl_loop_bytes_free(self);
    self->scratch = NULL;
    PyErr_SetRaisedException(saved);
    Py_DECREF(op);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- settings and questions ---- */

/* True in every thread while any thread runs it. */
static PyObject *
Loop_is_running(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(HL_LOAD(AS_LOOP(op)->thread_id) != 0);
}

static PyObject *
Loop_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(HL_LOAD(AS_LOOP(op)->closed));
}

static PyObject *
Loop_get_debug(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(AS_LOOP(op)->sched.debug);
}

/* While the loop runs its thread has hooks that depend on the mode: LoopBase changes
 * them, in that thread, by call_soon_threadsafe(). */
static PyObject *
change_debug(PyObject *op, bool debug)
{
    LoopObject *self = AS_LOOP(op);
    self->sched.debug = debug;
    hl_loop_refresh(self);
    if (HL_LOAD(self->thread_id) == 0) {
        Py_RETURN_NONE;
    }
    return PyObject_CallMethod(op, "_debug_changed", "O", debug ? Py_True : Py_False);
}

static PyObject *
Loop_set_debug(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"enabled", NULL};
    int debug;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "p:set_debug", names, &debug)) {
        return NULL;
    }
    return change_debug(op, debug != 0);
}

static PyObject *
Loop_check_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (hl_loop_check_closed(AS_LOOP(op)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Loop_check_running(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    bool nested;
    if (check_running(AS_LOOP(op), &nested) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Loop_check_thread(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (hl_loop_check_thread(AS_LOOP(op)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* None, not 0, when it does not run: as asyncio's attribute, which others look at. */
static PyObject *
get_thread_id(PyObject *op, void *closure)
{
    (void)closure;
    unsigned long id = HL_LOAD(AS_LOOP(op)->thread_id);
    return id == 0 ? Py_NewRef(Py_None) : PyLong_FromUnsignedLong(id);
}

static PyObject *
get_backend(PyObject *op, void *closure)
{
    (void)closure;
    const hl_poll_ops *ops = AS_LOOP(op)->backend;
    return PyUnicode_FromString(ops == NULL ? "" : ops->name);
}

/* For tests that count turns, and for the benchmarks. */
static PyObject *
get_turns(PyObject *op, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(AS_LOOP(op)->turns);
}

static PyObject *
get_task_factory(PyObject *op, void *closure)
{
    (void)closure;
    return hl_get_object(op, (void *)offsetof(LoopObject, task_factory));
}

static PyObject *
get_current_handle(PyObject *op, void *closure)
{
    (void)closure;
    PyObject *handle = AS_LOOP(op)->current_handle;
    return Py_NewRef(handle == NULL ? Py_None : handle);
}

static PyMethodDef loop_methods[] = {
    {"run_forever", Loop_run_forever, METH_NOARGS, "Run until stop() is called."},
    {"stop", Loop_stop, METH_NOARGS, "Leave run_forever() at the end of this turn."},
    {"close", Loop_close, METH_NOARGS, "Release everything; the loop must not run."},
    {"is_running", Loop_is_running, METH_NOARGS, "Is the loop running?"},
    {"is_closed", Loop_is_closed, METH_NOARGS, "Has the loop been closed?"},
    {"get_debug", Loop_get_debug, METH_NOARGS, "Is debug mode on?"},
    {"set_debug", (PyCFunction)(void (*)(void))Loop_set_debug,
     METH_VARARGS | METH_KEYWORDS, "Turn debug mode on or off."},
    {"_check_closed", Loop_check_closed, METH_NOARGS,
     "RuntimeError if the loop is closed."},
    {"_check_running", Loop_check_running, METH_NOARGS,
     "RuntimeError if this loop, or another one in this thread, runs."},
    {"_check_thread", Loop_check_thread, METH_NOARGS,
     "RuntimeError if the loop runs in another thread."},
    {NULL, NULL, 0, NULL},
};

/* loop._debug, the field of asyncio's: its get_debug() and set_debug() go by it, never
 * the other way round, and a subclass's own may do the same. */
static PyObject *
get_debug_field(PyObject *op, void *Py_UNUSED(closure))
{
    return Loop_get_debug(op, NULL);
}

static int
set_debug_field(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    int debug = value == NULL ? 0 : PyObject_IsTrue(value);
    PyObject *res = debug < 0 ? NULL : change_debug(op, debug != 0);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

static PyGetSetDef loop_getset[] = {
    /* Attributes of asyncio's that programs and debuggers read, and two of ours:
     * backend and _turns. */
    {"_thread_id", get_thread_id, NULL, "The running thread's ident, or None.", NULL},
    {"backend", get_backend, NULL, "The poller's name.", NULL},
    {"_turns", get_turns, NULL, "How many turns the loop has taken.", NULL},
    {"_task_factory", get_task_factory, NULL, NULL, NULL},
    {"_current_handle", get_current_handle, NULL, NULL, NULL},
    {"_debug", get_debug_field, set_debug_field, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef loop_members[] = {
    {"slow_callback_duration", Py_T_DOUBLE,
     offsetof(LoopObject, slow_callback_duration), 0,
     "Seconds after which debug mode reports a callback as slow."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_new, Loop_new},
    {Py_tp_init, Loop_init},
    {Py_tp_dealloc, Loop_dealloc},
    {Py_tp_traverse, Loop_traverse},
    {Py_tp_clear, Loop_clear},
    {Py_tp_setattro, Loop_setattro},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getset},
    {Py_tp_members, loop_members},
    {Py_tp_doc, "An asyncio event loop; see asyncio.AbstractEventLoop."},
#if HL_SHOWS_WHEN_ASKED
    {Py_tp_hash, hl_current_hash},
#endif
    {0, NULL},
};

static PyType_Spec loop_spec = {
    .name = "hotloop.EventLoop",
    .basicsize = sizeof(LoopObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = loop_slots,
};

int
hl_loop_add_methods(hl_state *st, PyMethodDef *methods)
{
    for (; methods->ml_name != NULL; methods++) {
        /* A descriptor whose type is EventLoop itself: the interpreter's specialised
         * calls, and overridden(), look for exactly that. */
        PyObject *descr = PyDescr_NewMethod(st->t_EventLoop, methods);
        if (descr == NULL) {
            return -1;
        }
        int rc = PyObject_SetAttrString((PyObject *)st->t_EventLoop, methods->ml_name,
                                        descr);
        Py_DECREF(descr);
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}

/* Python computed the set of abstract methods of LoopBase; ours are not among them.
 * Layers above add theirs by the same function from their own exec. */
int
hl_loop_exec(PyObject *mod, hl_state *st)
{
    if (hl_type_add(mod, &st->t_EventLoop, &loop_spec, st->i_LoopBase) < 0 ||
        hl_loop_add_methods(st, hl_calls_methods) < 0 ||
        hl_loop_add_methods(st, hl_watch_methods) < 0) {
        return -1;
    }
    return hl_loop_add_methods(st, hl_signals_methods);
}

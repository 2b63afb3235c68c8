/* Signals: the wakeup fd of the interpreter, and the C side of add_signal_handler().
 *
 * The interpreter's C signal handler writes each signal's number into the wakeup fd,
 * which wakes the poll of the running loop.  Ours is one pipe for the process
 * (core/sigpair.h), installed while a loop runs in the main thread, and beyond that
 * while a loop has signal handlers, so that what comes while none runs is not lost.  A
 * wakeup fd that was there before gets a copy of every byte and is put back in the end;
 * one that somebody else installs over ours is left alone.
 *
 * All of this runs in the main thread, except hl_signals_close() of a loop that is
 * collected elsewhere, and the look of a loop that begins to run elsewhere.  Functions
 * that call set_wakeup_fd() run no foreign code.  Without a GIL the record of the pipe
 * is under the module's lock. */
#include "loop/loop.h"

#include <string.h>
#include <unistd.h>

enum {
    HL_SIG_RUNNING = 1,   /* between enter and leave, counted in pair->running */
    HL_SIG_INSTALLED = 2, /* this run put the pipe in place; signal_old is valid */
    HL_SIG_HOLDS = 4,     /* has signal handlers, counted in pair->holders */
};

/* signal.set_wakeup_fd(fd): 0 and the one before, or -1 (ValueError in a thread that is
 * not the main thread; RuntimeError where the collector has emptied the module before
 * it came to a loop of the same garbage). */
static int
swap_wakeup_fd(hl_state *st, int fd, bool ours, int *before)
{
    if (st->i_set_wakeup_fd == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "hotloop has been unloaded");
        return -1;
    }
    int rc = -1;
    PyObject *res = NULL, *kwnames = NULL, *num = PyLong_FromLong(fd);
    if (num == NULL) {
        return -1;
    }
    if (ours) { /* who reads the bytes anyway does not miss those that do not fit */
        kwnames = PyTuple_Pack(1, st->s_warn_on_full_buffer);
        if (kwnames == NULL) {
            goto done;
        }
    }
    PyObject *args[] = {num, Py_False};
    res = PyObject_Vectorcall(st->i_set_wakeup_fd, args, 1, kwnames);
    if (res != NULL) {
        *before = (int)PyLong_AsLong(res);
        rc = 0;
    }
done:
    Py_XDECREF(res);
    Py_XDECREF(kwnames);
    Py_DECREF(num);
    return rc;
}

/* The process's pipe, or NULL when there is none.  In the child of a fork the pipe is
 * forgotten, not closed: a loop from before the fork may have its number on record. */
static hl_sigpair *
current_pair(LoopObject *self)
{
    hl_sigpair *p = &self->sched.st->sig;
    if (p->users > 0 && p->pid != getpid()) {
        memset(p, 0, sizeof(*p));
    }
    return p->users > 0 ? p : NULL;
}

/* By the number: after a fork the parent's pipe may still be on record. */
static bool
is_attached(LoopObject *self, const hl_sigpair *p)
{
    return p != NULL && self->signal_rfd == p->rfd;
}

/* Puts the old wakeup fd back if ours is still installed.  0, or -1 (not the main
 * thread). */
static int
uninstall(hl_state *st, hl_sigpair *p)
{
    int before, ignored;
    int old = hl_fdid_valid(p->old) ? p->old.fd : -1;
    int rc = swap_wakeup_fd(st, old, false, &before);
    if (rc < 0 && old >= 0) { /* it has become blocking, say */
        PyErr_Clear();
        rc = swap_wakeup_fd(st, -1, false, &before);
    }
    if (rc < 0) {
        return -1;
    }
    p->installed = false;
    p->old.fd = -1;
    if (before != p->wfd && before != old && hl_fdid_of(before).fd >= 0) {
        return swap_wakeup_fd(st, before, false, &ignored);
    }
    return 0;
}

/* Installs the pipe.  *was gets p->old as it was when another one had to be chained,
 * and *changed tells whether so.  0 or -1. */
static int
install(hl_state *st, hl_sigpair *p, hl_fdid *was, bool *changed)
{
    int before;
    if (swap_wakeup_fd(st, p->wfd, true, &before) < 0) {
        return -1;
    }
    *changed = !p->installed || before != p->wfd;
    *was = p->old;
    p->installed = true;
    if (before != p->wfd) {
        p->old = hl_fdid_of(before);
    }
    return 0;
}

/* ---- bytes ---- */

/* Forwards what is in the pipe to `old` and delivers it: 0 or -1.  Runs Python code. */
static int
drain(LoopObject *self, hl_fdid old)
{
    unsigned char buf[256];
    for (;;) {
        hl_sigpair *p = current_pair(self); /* anew: the loop may be closed meanwhile */
        if (!is_attached(self, p)) {
            return 0;
        }
        size_t n = hl_sigpair_read(p, buf, sizeof(buf));
        if (n == 0) {
            return 0;
        }
        hl_fdid_forward(old, buf, n);
        PyObject *data = PyBytes_FromStringAndSize((char *)buf, (Py_ssize_t)n);
        if (data == NULL) {
            return -1;
        }
        PyObject *res = PyObject_CallMethodOneArg(
            (PyObject *)self, self->sched.st->s__process_signals, data);
        Py_DECREF(data);
        if (res == NULL) {
            return -1;
        }
        Py_DECREF(res);
    }
}

/* The capsule holds the loop without a reference, or the loop would never go away.  It
 * is safe: only the loop's own tables hold the capsule. */
static int
on_bytes(PyObject *capsule)
{
    LoopObject *self = PyCapsule_GetPointer(capsule, NULL);
    if (self == NULL) {
        return -1;
    }
    hl_sigpair *p = current_pair(self);
    if (p == NULL) {
        return 0;
    }
    Py_INCREF(self);
    int rc = drain(self, p->old);
    Py_DECREF(self);
    return rc;
}

/* ---- a loop and the pipe ---- */

/* The capsule dies with the watch. obj NULL: ours is the only watch on that number. */
static void
unwatch_pipe(LoopObject *self)
{
    int rfd = self->signal_rfd;
    self->signal_rfd = -1;
    hl_loop_disown_fd(self, rfd, self);
    hl_loop_unwatch(self, rfd, HL_READ, NULL);
}

/* The loop owns the number like a transport does, so that add_reader() refuses it. */
static int
watch_pipe(LoopObject *self, int rfd)
{
    PyObject *capsule = PyCapsule_New(self, NULL, NULL);
    if (capsule == NULL) {
        return -1;
    }
    int rc = hl_loop_own_fd(self, rfd, self);
    if (rc == 0 && (rc = hl_loop_watch(self, rfd, HL_READ, capsule, on_bytes)) < 0) {
        hl_loop_disown_fd(self, rfd, self);
    }
    Py_DECREF(capsule);
    return rc;
}

/* Has the loop watch the process's pipe, making that if need be.  NULL on error. */
static hl_sigpair *
attach(LoopObject *self)
{
    hl_sigpair *p = current_pair(self);
    if (is_attached(self, p)) {
        return p;
    }
    if (self->signal_rfd >= 0) { /* that of the parent */
        unwatch_pipe(self);
        self->signals = 0;
    }
    if (p == NULL) {
        p = &self->sched.st->sig;
        int rc = hl_sigpair_open(p);
        if (rc < 0) {
            hl_raise(rc);
            return NULL;
        }
    }
    if (watch_pipe(self, p->rfd) < 0) {
        if (p->users == 0) {
            hl_sigpair_close(p);
        }
        return NULL;
    }
    self->signal_rfd = p->rfd;
    p->users++;
    return p;
}

/* Keeps a set exception. */
static void
detach(LoopObject *self)
{
    hl_sigpair *p = current_pair(self);
    bool attached = is_attached(self, p);
    if (self->signal_rfd >= 0) {
        unwatch_pipe(self);
    }
    if (!attached || --p->users > 0) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();
    if (p->installed && uninstall(self->sched.st, p) < 0) {
        /* In another thread than the main one.  Better two descriptors too many than
         * signal numbers written into whatever gets this one next. */
        memset(p, 0, sizeof(*p));
    }
    else {
        hl_sigpair_close(p);
    }
    PyErr_SetRaisedException(exc);
}

/* ---- for loop.c ---- */

static int
enter(LoopObject *self)
{
    hl_state *st = self->sched.st;
    hl_sigpair *p = current_pair(self);
    if (p != NULL && p->main_thread != 0 &&
        p->main_thread != PyThread_get_thread_ident()) {
        return 0; /* in short what set_wakeup_fd() would say at length */
    }
    bool attached = is_attached(self, p), changed;
    p = attach(self);
    if (p == NULL) {
        return -1;
    }
    hl_fdid was;
    if (install(st, p, &was, &changed) < 0) {
        if (!attached) {
            detach(self);
        }
        if (PyErr_ExceptionMatches(PyExc_ValueError)) { /* not the main thread */
            PyErr_Clear();
            return 0;
        }
        return -1;
    }
    p->main_thread = PyThread_get_thread_ident();
    p->running++;
    self->signals |= HL_SIG_RUNNING;
    if (changed) {
        self->signals |= HL_SIG_INSTALLED;
        self->signal_old = was;
    }
    return 0;
}

/* In any other thread this does nothing, and signals wait for the main thread's loop.
 */
int
hl_signals_enter(LoopObject *self)
{
    int rc = 0;
    if (!(self->signals & HL_SIG_RUNNING)) {
        HL_LOCK(self->sched.st->mod);
        rc = enter(self);
        HL_UNLOCK();
    }
    return rc;
}

/* Takes the pipe away at the end of the run that put it there, or of the last run. */
static int
leave(LoopObject *self, hl_sigpair *p)
{
    bool installed = self->signals & HL_SIG_INSTALLED;
    p->running--;
    if (!p->installed || p->holders > 0 || (p->running > 0 && !installed)) {
        return 0;
    }
    hl_fdid old = p->old;
    int rc = uninstall(self->sched.st, p);
    if (p->running > 0) { /* a run around this one has its own to put back */
        p->installed = true;
        p->old = self->signal_old;
    }
    return drain(self, old) < 0 ? -1 : rc; /* it is due its copy of the last ones */
}

/* Part of leave() in loop.c: it must not fail, so it reports. */
void
hl_signals_leave(LoopObject *self)
{
    if (self->signals & HL_SIG_RUNNING) {
        HL_LOCK(self->sched.st->mod);
        hl_sigpair *p = current_pair(self);
        if (is_attached(self, p)) {
            PyObject *exc = PyErr_GetRaisedException();
            if (leave(self, p) < 0) {
                PyErr_WriteUnraisable((PyObject *)self);
            }
            PyErr_SetRaisedException(exc);
        }
        HL_UNLOCK();
    }
    self->signals &= HL_SIG_HOLDS;
}

/* The loop has no signal handlers (any more). */
static int
let_go(LoopObject *self)
{
    hl_sigpair *p = current_pair(self);
    bool held = self->signals & HL_SIG_HOLDS;
    self->signals &= (uint8_t)~HL_SIG_HOLDS;
    if (!held || !is_attached(self, p)) {
        return 0;
    }
    if (--p->holders > 0 || p->running > 0 || !p->installed) {
        return 0;
    }
    return uninstall(self->sched.st, p);
}

/* Idempotent.  In a thread that is not the main one the wakeup fd cannot be taken away.
 */
void
hl_signals_close(LoopObject *self)
{
    if (self->signal_rfd < 0) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();
    HL_LOCK(self->sched.st->mod);
    if (let_go(self) < 0) {
        PyErr_Clear(); /* detach() deals with it */
    }
    detach(self);
    HL_UNLOCK();
    PyErr_SetRaisedException(exc);
}

/* ---- for _signals.py ---- */

/* For the first add_signal_handler().  ValueError in any other thread than the main
 * one. */
static int
hold_wakeup_fd(LoopObject *self)
{
    bool attached = is_attached(self, current_pair(self)), changed;
    hl_sigpair *p = attach(self);
    if (p == NULL) {
        return -1;
    }
    hl_fdid was;
    if (install(self->sched.st, p, &was, &changed) < 0) {
        if (!attached) {
            detach(self);
        }
        return -1;
    }
    p->main_thread = PyThread_get_thread_ident();
    if (!(self->signals & HL_SIG_HOLDS)) {
        self->signals |= HL_SIG_HOLDS;
        p->holders++;
    }
    return 0;
}

static PyObject *
Loop_hold_wakeup_fd(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopObject *self = (LoopObject *)op;
    int rc;
    if (hl_loop_check_closed(self) < 0) {
        return NULL;
    }
    HL_LOCK(self->sched.st->mod);
    rc = hold_wakeup_fd(self);
    HL_UNLOCK();
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* For the last remove_signal_handler(). */
static PyObject *
Loop_drop_wakeup_fd(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int rc;
    HL_LOCK(((LoopObject *)op)->sched.st->mod);
    rc = let_go((LoopObject *)op);
    HL_UNLOCK();
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* add_signal_handler() keeps a handle and queues it for each signal: not scheduled
 * here. */
static PyObject *
Loop_make_handle(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    LoopObject *self = (LoopObject *)op;
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "_make_handle() needs a callback");
        return NULL;
    }
    return hl_handle_new(&self->sched, op, args[0], args + 1, nargs - 1, NULL);
}

/* From the main thread only, but for any loop: one that another loop drains the pipe
 * for may sleep in its own thread. */
static PyObject *
Loop_add_callback_signalsafe(PyObject *op, PyObject *handle)
{
    LoopObject *self = (LoopObject *)op;
    if (!hl_handle_check(self->sched.st, handle)) {
        PyErr_Format(PyExc_TypeError, "a Handle is required, not '%.100s'",
                     Py_TYPE(handle)->tp_name);
        return NULL;
    }
    if (!HL_LOAD(self->closed) && !hl_handle_cancelled(handle)) {
        if (hl_sched_push(&self->sched, HL_KIND_HANDLE, handle, NULL) < 0) {
            return NULL;
        }
        hl_loop_wakeup(self);
    }
    Py_RETURN_NONE;
}

PyMethodDef hl_signals_methods[] = {
    {"_hold_wakeup_fd", Loop_hold_wakeup_fd, METH_NOARGS,
     "Install the wakeup fd until _drop_wakeup_fd(), whether the loop runs or not.\n"
     "ValueError outside the main thread."},
    {"_drop_wakeup_fd", Loop_drop_wakeup_fd, METH_NOARGS,
     "Undo _hold_wakeup_fd(): out of a run the old wakeup fd is put back."},
    {"_make_handle", (PyCFunction)(void (*)(void))Loop_make_handle, METH_FASTCALL,
     "A Handle for callback(*args) that is not scheduled."},
    {"_add_callback_signalsafe", Loop_add_callback_signalsafe, METH_O,
     "Append a Handle to the ready queue and wake the loop."},
    {NULL, NULL, 0, NULL},
};

/* Pipe transports: creation, attributes, the end of their life. */
#include "net/pipe.h"
#include "core/sys.h"
#include "py/mem.h"

#define SELF(op) ((PipeTransport *)(op))

/* ---- the end ---- */

/* asyncio's _close(): the end is scheduled once, `lost` says so.  Queued bytes are
 * dropped. */
int
hl_pipe_close(PipeTransport *t, PyObject *exc)
{
    if (t->lost) {
        return 0;
    }
    t->closing = true;
    hl_transport_stop_writing(HL_TRANSPORT(t));
    hl_wqueue_clear(&t->out);
    hl_transport_stop_reading(HL_TRANSPORT(t));
    if (hl_transport_soon(HL_TRANSPORT(t), t->st->s__call_connection_lost, exc) < 0) {
        return -1;
    }
    t->lost = true;
    return 0;
}

/* hl_pipe_close() for hl_transport_fatal(). */
static int
force_close(hl_transport *t, PyObject *exc)
{
    return hl_pipe_close(SELF(t), exc);
}

int
hl_pipe_fatal(PipeTransport *t, const char *message, int err)
{
    /* asyncio's two ends differ: for a reader only EIO is no news, which is what a
     * terminal gives when its other side is gone. */
    bool expected = t->writer ? err != 0 : err == EIO;
    return hl_transport_fatal(HL_TRANSPORT(t), message, expected, force_close);
}

/* Closes the file object: 0 or -1.  The field is emptied first: close() of a file
 * object is foreign code, and may come here. */
static int
close_pipe(PipeTransport *t)
{
    PyObject *pipe = t->pipe;
    t->pipe = NULL;
    PyObject *res = PyObject_CallMethodNoArgs(pipe, t->st->s_close);
    Py_DECREF(pipe);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* The last call that the protocol gets; then the pipe is closed, whatever it raised.  A
 * `_pipe` that was set to None meanwhile is somebody else's to close. */
int
hl_pipe_lost(PipeTransport *t, PyObject *exc)
{
    if (t->pipe == NULL) { /* called by hand */
        return 0;
    }
    PyObject *res = hl_transport_upcall(HL_TRANSPORT(t), t->st->s_connection_lost, exc);
    PyObject *raised = res == NULL ? PyErr_GetRaisedException() : NULL;
    Py_XDECREF(res);
    if (t->loop != NULL) {
        hl_transport_stop_reading(HL_TRANSPORT(t));
        hl_transport_stop_writing(HL_TRANSPORT(t));
    }
    /* For a call by hand, which hl_pipe_close() did not prepare. */
    t->closing = t->lost = true;
    hl_wqueue_clear(&t->out);
    Py_CLEAR(t->read_ctx);
    Py_CLEAR(t->write_ctx);
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->loop);
    int rc = t->pipe != NULL ? close_pipe(t) : 0;
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
        rc = -1;
    }
    return rc;
}

/* ---- creation ---- */

/* Second of the callbacks that a new transport schedules: connection_made() has run.
 * A descriptor that cannot be watched is reported, and stays open, as with asyncio. */
PyObject *
hl_pipe_start(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PipeTransport *t = SELF(self);
    PyObject *waiter = t->waiter;
    t->waiter = NULL;
    int rc = t->loop == NULL ? 0 : t->writer ? hl_wpipe_start(t) : hl_rpipe_start(t);
    if (rc < 0) {
        rc = hl_transport_callback_failed(HL_TRANSPORT(t), "_start()");
    }
    rc = hl_transport_started(HL_TRANSPORT(t), waiter, rc);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* Is this what a pipe transport can be of?  0, or -1 with ValueError or OSError. */
static int
check_kind(PipeTransport *t)
{
    struct stat sb;
    if (hl_sys_fstat(t->fd, &sb) < 0) {
        return hl_raise_errno(errno);
    }
    t->hangup = S_ISFIFO(sb.st_mode) || S_ISSOCK(sb.st_mode);
    if (!t->hangup && !S_ISCHR(sb.st_mode)) {
        PyErr_SetString(PyExc_ValueError,
                        t->writer ? "Pipe transport is only for pipes, sockets and "
                                    "character devices"
                                  : "Pipe transport is for pipes/sockets only.");
        return -1;
    }
    return 0;
}

/* As os.set_blocking(fd, False).  The flag belongs to the open file, which a terminal
 * shares with other processes; it is not put back at the end, nor is it by asyncio. */
static int
set_nonblocking(int fd)
{
    int flags = hl_sys_fcntl(fd, F_GETFL, 0);
    if (flags < 0 ||
        (!(flags & O_NONBLOCK) && hl_sys_fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)) {
        return hl_raise_errno(errno);
    }
    return 0;
}

/* pipe.fileno(): >= 0, or -1 with an exception. */
static int
descriptor(hl_state *st, PyObject *pipe)
{
    PyObject *num = PyObject_CallMethodNoArgs(pipe, st->s_fileno);
    long fd = num == NULL ? -1 : PyLong_AsLong(num);
    Py_XDECREF(num);
    if (fd == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (fd < 0 || fd > INT_MAX) {
        return hl_raise_int(-EBADF);
    }
    return (int)fd;
}

/* An object whose fields are all set, that does not own the file object yet. */
static PipeTransport *
make(LoopObject *loop, bool writer, PyObject *protocol, PyObject *extra)
{
    hl_state *st = loop->sched.st;
    PyTypeObject *type = writer ? st->t_WritePipeTransport : st->t_ReadPipeTransport;
    PipeTransport *t = (PipeTransport *)hl_type_alloc(type);
    if (t == NULL) {
        return NULL;
    }
    t->st = st;
    t->mod = Py_NewRef(st->mod);
    t->loop = (LoopObject *)Py_NewRef(loop);
    t->protocol = Py_NewRef(protocol);
    t->writer = writer;
    t->high = 64 * 1024;
    t->low = 16 * 1024;
    hl_wqueue_init(&t->out);
    t->extra = extra != Py_None ? Py_NewRef(extra) : PyDict_New();
    if (t->extra == NULL) {
        Py_DECREF(t);
        return NULL;
    }
    return t;
}

/* Everything that can fail before connection_made() is scheduled: 0 or -1. */
static int
adopt(PipeTransport *t, PyObject *pipe)
{
    hl_state *st = t->st;
    t->fd = descriptor(st, pipe);
    /* asyncio's order: the entry in `extra` is made even for a pipe that is refused
     * next. */
    if (t->fd < 0 || PyObject_SetItem(t->extra, st->s_pipe, pipe) < 0 ||
        check_kind(t) < 0 || hl_loop_check_closed(t->loop) < 0 ||
        set_nonblocking(t->fd) < 0) {
        return -1;
    }
    PyObject *made = PyObject_GetAttr(t->protocol, st->s_connection_made);
    int rc = made == NULL
                 ? -1
                 : hl_transport_call_soon(HL_TRANSPORT(t), made, (PyObject *)t);
    Py_XDECREF(made);
    return rc;
}

/* Up to the last step a failure leaves the file object open and the caller's, as
 * asyncio does. */
static PyObject *
make_pipe(PyObject *self, PyObject *args, PyObject *kwargs, bool writer)
{
    static char *names[] = {"pipe", "protocol", "waiter", "extra", NULL};
    PyObject *pipe, *protocol, *waiter = Py_None, *extra = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OO:_make_pipe_transport", names,
                                     &pipe, &protocol, &waiter, &extra)) {
        return NULL;
    }
    PipeTransport *t = make((LoopObject *)self, writer, protocol, extra);
    if (t == NULL || adopt(t, pipe) < 0) {
        Py_XDECREF(t);
        return NULL;
    }
    if (hl_transport_soon(HL_TRANSPORT(t), t->st->s__start, NULL) < 0) {
        t->closing = t->lost = true; /* connection_made() is still to come */
        Py_DECREF(t);
        return NULL;
    }
    t->waiter = waiter != Py_None ? Py_NewRef(waiter) : NULL;
    t->pipe = Py_NewRef(pipe); /* from here on it is closed by us */
    return (PyObject *)t;
}

PyObject *
hl_loop_read_pipe(PyObject *loop, PyObject *args, PyObject *kwargs)
{
    return make_pipe(loop, args, kwargs, false);
}

PyObject *
hl_loop_write_pipe(PyObject *loop, PyObject *args, PyObject *kwargs)
{
    return make_pipe(loop, args, kwargs, true);
}

/* ---- methods of both ---- */

/* Scheduled by name; a second time it does nothing. */
PyObject *
hl_pipe_call_connection_lost(PyObject *self, PyObject *exc)
{
    return hl_pipe_lost(SELF(self), exc) < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- attributes ---- */

/* asyncio's attribute is a plain one: None in it means that somebody else closes. */
static int
set_pipe(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    bool none = value == NULL || value == Py_None;
    Py_XSETREF(SELF(self)->pipe, none ? NULL : Py_NewRef(value));
    return 0;
}

/* asyncio's text, which differs from that of sockets, and between the two ends. */
static PyObject *
pipe_repr(PyObject *self)
{
    PipeTransport *t = SELF(self);
    const char *name = t->writer ? "WritePipeTransport" : "ReadPipeTransport";
    if (t->pipe == NULL) {
        return PyUnicode_FromFormat("<%s closed fd=%d closed>", name, t->fd);
    }
    const char *state = t->closing ? " closing" : "";
    if (t->loop == NULL || t->loop->closed) {
        return PyUnicode_FromFormat("<%s%s fd=%d open>", name, state, t->fd);
    }
    const char *polls = (t->writer ? t->writing : t->reading) ? "polling" : "idle";
    if (!t->writer) {
        return PyUnicode_FromFormat("<%s%s fd=%d %s>", name, state, t->fd, polls);
    }
    return PyUnicode_FromFormat("<%s%s fd=%d %s bufsize=%zu>", name, state, t->fd,
                                polls, t->out.bytes);
}

/* ---- the end of the object ---- */

/* asyncio's __del__: a warning, then the pipe is closed.  Keeps a set exception. */
static void
pipe_finalize(PyObject *self)
{
    PipeTransport *t = SELF(self);
    if (t->pipe == NULL) {
        return;
    }
    PyObject *saved = PyErr_GetRaisedException();
    hl_transport_warn_unclosed(self);
    t->closing = t->lost = true; /* the warning may have brought it back to life */
    if (t->loop != NULL) {
        hl_transport_stop_reading(HL_TRANSPORT(t));
        hl_transport_stop_writing(HL_TRANSPORT(t));
    }
    if (t->pipe != NULL && close_pipe(t) < 0) {
        PyErr_WriteUnraisable(self);
    }
    PyErr_SetRaisedException(saved);
}

#define OBJECTS(X)                                                                     \
    X(extra)                                                                           \
    X(loop)                                                                            \
    X(protocol)                                                                        \
    X(read_ctx)                                                                        \
    X(write_ctx)                                                                       \
    X(pipe)                                                                            \
    X(waiter)

/* The queue's chunks are exact bytes objects: nothing to visit. */
static int
pipe_traverse(PyObject *self, visitproc visit, void *arg)
{
    PipeTransport *t = SELF(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->mod);
#define X(f) Py_VISIT(t->f);
    OBJECTS(X)
#undef X
    return PyObject_VisitManagedDict(self, visit, arg);
}

/* The loop holds a reference while it watches: cleared by the collector, both are
 * garbage, and the loop's table is cleared by its own hand. */
static int
pipe_clear(PyObject *self)
{
    PipeTransport *t = SELF(self);
    t->closing = t->lost = true; /* nothing works without a loop */
    t->reading = t->writing = false;
#define X(f) Py_CLEAR(t->f);
    OBJECTS(X)
#undef X
    if (t->out.v != NULL) {
        hl_wqueue_clear(&t->out);
    }
    PyObject_ClearManagedDict(self);
    return 0;
}

/* The finaliser is called before anything is taken apart; it may bring the object back.
 */
static void
pipe_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject *mod = SELF(self)->mod;
    if (PyObject_CallFinalizerFromDealloc(self) < 0) {
        return; /* brought back to life */
    }
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    (void)pipe_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_XDECREF(mod);
}

/* ---- the types ---- */

#define FIELD(f) (void *)offsetof(PipeTransport, f)

static PyGetSetDef pipe_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    /* asyncio's attributes; _pipe can be set, as there: detaching is how programs keep
     * it open. */
    {"_pipe", hl_transport_get_object, set_pipe, NULL, FIELD(pipe)},
    {"_fileno", hl_transport_get_fd, NULL, NULL, NULL},
    {"_loop", hl_transport_get_object, NULL, NULL, FIELD(loop)},
    {"_protocol", hl_transport_get_object, NULL, NULL, FIELD(protocol)},
    {"_conn_lost", hl_transport_get_conn_lost, NULL, NULL, NULL},
    {"_closing", hl_transport_get_bool, NULL, NULL, FIELD(closing)},
    {"_paused", hl_transport_get_bool, NULL, NULL, FIELD(paused)},
    {"_protocol_paused", hl_transport_get_bool, NULL, NULL, FIELD(proto_paused)},
    {NULL, NULL, NULL, NULL, NULL},
};

#define PIPE_SLOTS(doc, methods)                                                       \
    {                                                                                  \
        {Py_tp_doc, doc},                                                              \
        {Py_tp_dealloc, pipe_dealloc},                                                 \
        {Py_tp_traverse, pipe_traverse},                                               \
        {Py_tp_clear, pipe_clear},                                                     \
        {Py_tp_finalize, pipe_finalize},                                               \
        {Py_tp_repr, pipe_repr},                                                       \
        {Py_tp_methods, methods},                                                      \
        {Py_tp_getset, pipe_getset},                                                   \
        {0, NULL},                                                                     \
    }

static PyType_Slot rpipe_slots[] =
    PIPE_SLOTS("The reading end of a pipe.", hl_rpipe_methods);
static PyType_Slot wpipe_slots[] =
    PIPE_SLOTS("The writing end of a pipe.", hl_wpipe_methods);

#define PIPE_FLAGS                                                                     \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |     \
     Py_TPFLAGS_MANAGED_DICT | Py_TPFLAGS_MANAGED_WEAKREF)

static PyType_Spec rpipe_spec = {
    .name = "hotloop._core.ReadPipeTransport",
    .basicsize = sizeof(PipeTransport),
    .flags = PIPE_FLAGS,
    .slots = rpipe_slots,
};

static PyType_Spec wpipe_spec = {
    .name = "hotloop._core.WritePipeTransport",
    .basicsize = sizeof(PipeTransport),
    .flags = PIPE_FLAGS,
    .slots = wpipe_slots,
};

static int
add_type(PyObject *mod, PyTypeObject **slot, PyType_Spec *spec, PyObject *base)
{
    if (((PyTypeObject *)base)->tp_basicsize != offsetof(PipeTransport, mod)) {
        PyErr_SetString(PyExc_ImportError, "unexpected layout of asyncio's transports");
        return -1;
    }
    if (hl_type_add(mod, slot, spec, base) < 0) {
        return -1;
    }
    PyObject *size = PyLong_FromLong(HL_READ_MAX);
    int rc =
        size == NULL ? -1 : PyObject_SetAttrString((PyObject *)*slot, "max_size", size);
    Py_XDECREF(size);
    return rc;
}

int
hl_pipe_exec(PyObject *mod, hl_state *st)
{
    if (add_type(mod, &st->t_ReadPipeTransport, &rpipe_spec, st->i_ReadTransport) < 0) {
        return -1;
    }
    /* asyncio's writing end is a Transport as well, for the sake of flow control. */
    return add_type(mod, &st->t_WritePipeTransport, &wpipe_spec, st->i_Transport);
}

/* The stream transport type: creation, attributes, the end of its life. */
#include "net/stream.h"
#include "core/sys.h"
#include "py/mem.h"

#include <netinet/tcp.h>

#define SELF(op) ((StreamTransport *)(op))

/* ---- creation ---- */

/* sock.<name> as the C base of socket.socket has it: its Python properties wrap the
 * number in an enum, which costs more than all the rest of a transport's creation. */
static PyObject *
sock_attr(hl_state *st, PyObject *sock, PyObject *name)
{
    if (!PyObject_TypeCheck(sock, (PyTypeObject *)st->i_RawSocket)) {
        return PyObject_GetAttr(sock, name);
    }
    PyObject *descr = PyObject_GetAttr(st->i_RawSocket, name);
    if (descr == NULL) {
        return NULL;
    }
    descrgetfunc get = Py_TYPE(descr)->tp_descr_get;
    PyObject *value =
        get == NULL ? Py_NewRef(descr) : get(descr, sock, (PyObject *)Py_TYPE(sock));
    Py_DECREF(descr);
    return value;
}

/* Any object with the three attributes will do, as it does for asyncio; those of a real
 * socket are read past Python. */
int
hl_sock_describe(hl_state *st, PyObject *sock, int *family, int *type, int *proto)
{
    PyObject *names[] = {st->s_family, st->s_type, st->s_proto};
    int *out[] = {family, type, proto};
    for (int i = 0; i < 3; i++) {
        PyObject *value = sock_attr(st, sock, names[i]);
        long n = value == NULL ? -1 : PyLong_AsLong(value);
        Py_XDECREF(value);
        if (n == -1 && PyErr_Occurred()) {
            return -1;
        }
        *out[i] = (int)n;
    }
    return 0;
}

/* Second of the callbacks that a new transport schedules: connection_made() has run.
 * The ring holds a reference. connection_made() may have closed, aborted or paused the
 * transport, and then nothing is read.  The waiter is told even so: it waits for the
 * connection, which has been made. */
static int
start(PyObject *self)
{
    StreamTransport *t = SELF(self);
    PyObject *waiter = t->waiter;
    t->waiter = NULL;
    int rc = 0;
    if (t->loop != NULL && hl_stream_start_reading(t) < 0) {
        rc = hl_stream_fatal(t, "Fatal read error on socket transport");
    }
    return hl_transport_started(HL_TRANSPORT(t), waiter, rc);
}

/* For loops that are not plain: the same by its Python name. */
static PyObject *
stream_start(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return start(self) < 0 ? NULL : Py_NewRef(Py_None);
}

/* Fills in the addresses: IP ones as they are, others in Python's form in `extra`.  A
 * family that is neither IP nor Unix is asked of the socket object, where there is one;
 * a peer that is gone already has no name, which is no error. */
static int
set_address(StreamTransport *t, hl_inaddr *keep, PyObject *name, const hl_sockaddr *a,
            socklen_t len)
{
    if (len == 0 || hl_inaddr_set(keep, &a->any, len)) {
        return 0;
    }
    PyObject *value = hl_addr_to_py(&a->any, len);
    if (value == NULL && !PyErr_Occurred() && t->sock != NULL) {
        PyObject *method =
            name == t->st->s_sockname ? t->st->s_getsockname : t->st->s_getpeername;
        value = PyObject_CallMethodNoArgs(t->sock, method);
        if (value == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
            PyErr_Clear();
            return 0;
        }
    }
    if (value == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int rc = PyDict_SetItem(t->extra, name, value);
    Py_DECREF(value);
    return rc;
}

/* asyncio asks for both names at once.  The kernel is asked here for the same reason: a
 * connection that ends early could not be asked later.  Their Python form waits until
 * somebody wants it. */
static int
set_addresses(StreamTransport *t, const hl_stream_args *args)
{
    hl_sockaddr a;
    socklen_t len = sizeof(a);
    if (hl_sys_getsockname(t->fd, &a.any, &len) < 0) {
        len = 0;
    }
    if (set_address(t, &t->sockname, t->st->s_sockname, &a, len) < 0) {
        return -1;
    }
    int known = PyDict_Contains(t->extra, t->st->s_peername);
    if (known != 0) {
        return known < 0 ? -1 : 0;
    }
    const hl_sockaddr *peer = args->peername;
    len = args->peername_len;
    if (peer == NULL) {
        peer = &a;
        len = sizeof(a);
        if (hl_sys_getpeername(t->fd, &a.any, &len) < 0) {
            len = 0;
        }
    }
    return set_address(t, &t->peername, t->st->s_peername, peer, len);
}

/* asyncio picks the way of reading by isinstance(), once per protocol.  The class's
 * __instancecheck__ is foreign code, so the field is replaced after it. */
static int
set_protocol(StreamTransport *t, PyObject *protocol)
{
    int buffered = PyObject_IsInstance(protocol, t->st->i_BufferedProtocol);
    if (buffered < 0) {
        return -1;
    }
    t->buffered = buffered;
    t->tls = Py_IS_TYPE(protocol, t->st->t_TLSProtocol);
    Py_XSETREF(t->protocol, Py_NewRef(protocol));
    return 0;
}

/* As asyncio: only where the socket says itself that it is TCP; one that does so and is
 * not is an error. */
static int
set_nodelay(StreamTransport *t)
{
    if ((t->family == AF_INET || t->family == AF_INET6) && t->type == SOCK_STREAM &&
        t->proto == IPPROTO_TCP) {
        int on = 1;
        if (hl_sys_setsockopt(t->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0) {
            return hl_raise_errno(errno);
        }
    }
    return 0;
}

/* An object whose fields are all set, that owns no descriptor yet.  The protocol's
 * class may run code (isinstance), so that the object must be whole by then.  Dropping
 * it on failure closes nothing: `open` is false. */
static StreamTransport *
make(LoopObject *loop, const hl_stream_args *args)
{
    hl_state *st = loop->sched.st;
    StreamTransport *t = (StreamTransport *)hl_type_alloc(st->t_StreamTransport);
    if (t == NULL) {
        return NULL;
    }
    t->st = st;
    t->mod = Py_NewRef(st->mod);
    t->loop = (LoopObject *)Py_NewRef(loop);
    t->waiter = Py_XNewRef(args->waiter);
    t->server = Py_XNewRef(args->server);
    t->sock = Py_XNewRef(args->sock);
    t->fd = args->fd;
    t->family = args->family;
    t->type = args->type;
    t->proto = args->proto;
    t->live_fd = t->sock == NULL ? NULL : hl_socket_fd(t->sock, t->fd, t->family);
    t->live_fd = t->live_fd == NULL ? &t->fd : t->live_fd;
    t->high = 64 * 1024;
    t->low = 16 * 1024;
    hl_wqueue_init(&t->out);
    t->extra = args->extra != NULL ? Py_NewRef(args->extra) : PyDict_New();
    /* From 3.15 on asyncio's transports run all their calls in one context. */
    t->own_ctx = HL_STREAM_HAS_CONTEXT;
    t->read_ctx =
        args->context != NULL ? Py_NewRef(args->context) : PyContext_CopyCurrent();
    /* Everything is in its place by now: what follows may run foreign code. */
    if (t->extra == NULL || t->read_ctx == NULL ||
        set_protocol(t, args->protocol) < 0 || set_addresses(t, args) < 0) {
        Py_DECREF(t);
        return NULL;
    }
    return t;
}

/* The server counts us: 0 or -1.  From here on Server.wait_closed() waits for this
 * connection; the failure of a later step takes it back. */
static int
attach(StreamTransport *t)
{
    if (t->server == NULL) {
        return 0;
    }
    PyObject *res =
        PyObject_CallMethodOneArg(t->server, t->st->s__attach, (PyObject *)t);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* The order of the steps is that of what can fail, and from hl_loop_own_fd() on each
 * has its undoing below.  The protocol's connection_made is looked up first, as
 * asyncio's call_soon(protocol.connection_made) would: a protocol without it fails
 * here. */
PyObject *
hl_stream_new(LoopObject *loop, const hl_stream_args *args)
{
    hl_state *st = loop->sched.st;
    PyObject *made = PyObject_GetAttr(args->protocol, st->s_connection_made);
    if (made == NULL) {
        return NULL;
    }
    StreamTransport *t = make(loop, args);
    if (t == NULL) {
        Py_DECREF(made);
        return NULL;
    }
    if (hl_loop_own_fd(loop, t->fd, t) < 0) {
        goto fail;
    }
    t->owned = true;
    if (attach(t) < 0) {
        /* It does not know us: detaching would count down what was never counted up. */
        Py_CLEAR(t->server);
        goto fail;
    }
    t->open = true;
    if (set_nodelay(t) < 0 ||
        hl_transport_schedule_start(HL_TRANSPORT(t), made, start) < 0) {
        PyObject *exc = PyErr_GetRaisedException();
        if (hl_stream_detach(t) < 0) {
            PyErr_WriteUnraisable((PyObject *)t);
        }
        PyErr_SetRaisedException(exc);
        goto fail;
    }
    Py_DECREF(made);
    return (PyObject *)t;

fail: /* the caller keeps the descriptor */
    t->open = false;
    t->closing = true;
    t->conn_lost = 1;
    if (t->owned) {
        t->owned = false;
        hl_loop_disown_fd(loop, t->fd, t);
    }
    Py_DECREF(made);
    Py_DECREF(t);
    return NULL;
}

/* ---- extra information ---- */

/* A socket object for a descriptor that has been closed already: one that is closed
 * too. */
static PyObject *
closed_sock(StreamTransport *t)
{
    PyObject *sock = PyObject_CallFunction(t->st->i_socket, "iii", t->family,
                                           t->type | HL_SOCK_CLOEXEC, t->proto);
    PyObject *res = sock == NULL ? NULL : PyObject_CallMethod(sock, "close", NULL);
    if (res == NULL) {
        Py_CLEAR(sock);
    }
    Py_XDECREF(res);
    return sock;
}

/* The sockets of accepted connections exist as a number only, until somebody asks.
 * Making the object calls socket.socket, a Python class; the descriptor is its own from
 * then on, and ours to close through it. */
PyObject *
hl_stream_sock(StreamTransport *t)
{
    assert(t->open);
    if (t->sock == NULL) {
        PyObject *args[] = {NULL, PyLong_FromLong(t->family),
                            PyLong_FromLong(t->type | HL_SOCK_NONBLOCK),
                            PyLong_FromLong(t->proto), PyLong_FromLong(t->fd)};
        PyObject *names = PyTuple_Pack(1, t->st->s_fileno);
        if (names != NULL && args[1] && args[2] && args[3] && args[4]) {
            t->sock = PyObject_Vectorcall(t->st->i_socket, args + 1,
                                          3 | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
        }
        Py_XDECREF(names);
        for (int i = 1; i < 5; i++) {
            Py_XDECREF(args[i]);
        }
        if (t->sock !=
            NULL) { /* from here on the socket object closes the descriptor */
            const int *fd = hl_socket_fd(t->sock, t->fd, t->family);
            t->live_fd = fd != NULL ? fd : &t->fd;
        }
    }
    return t->sock;
}

/* What `extra` has under name, made if it is one of the three that are made late: a new
 * reference, or NULL with or without an exception. */
static PyObject *
extra_get(StreamTransport *t, PyObject *name)
{
    PyObject *value = PyDict_GetItemWithError(t->extra, name);
    if (value != NULL || PyErr_Occurred()) {
        return Py_XNewRef(value);
    }
    hl_state *st = t->st;
    const hl_inaddr *addr = NULL;
    if (PyUnicode_Check(name)) {
        if (PyUnicode_Compare(name, st->s_peername) == 0) {
            addr = &t->peername;
        }
        else if (PyUnicode_Compare(name, st->s_sockname) == 0) {
            addr = &t->sockname;
        }
        else if (PyUnicode_Compare(name, st->s_socket) == 0) {
            PyObject *sock = t->open ? Py_XNewRef(hl_stream_sock(t)) : closed_sock(t);
            value =
                sock == NULL ? NULL : PyObject_CallOneArg(st->i_TransportSocket, sock);
            Py_XDECREF(sock);
        }
    }
    if (addr != NULL) {
        value = addr->len == 0 ? Py_NewRef(Py_None)
                               : hl_addr_to_py(&addr->u.any, addr->len);
    }
    if (value != NULL && PyDict_SetItem(t->extra, name, value) < 0) {
        Py_CLEAR(value);
    }
    return value;
}

static PyObject *
stream_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "default", NULL};
    StreamTransport *t = SELF(self);
    PyObject *name, *def = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", names, &name,
                                     &def)) {
        return NULL;
    }
    if (hl_stream_settle(t) < 0) { /* who asks for the socket may use it */
        return NULL;
    }
    PyObject *value = extra_get(t, name);
    return value != NULL || PyErr_Occurred() ? value : Py_NewRef(def);
}

/* The dictionary as asyncio's attribute `_extra`: complete, so what waits is made. */
static PyObject *
get_extra(PyObject *self, void *Py_UNUSED(closure))
{
    StreamTransport *t = SELF(self);
    PyObject *names[] = {t->st->s_socket, t->st->s_sockname, t->st->s_peername};
    for (int i = 0; i < 3; i++) {
        PyObject *value = extra_get(t, names[i]);
        if (value == NULL) {
            return NULL;
        }
        Py_DECREF(value);
    }
    return Py_NewRef(t->extra);
}

/* ---- methods ---- */

/* asyncio's rule: the next read goes to the new protocol, by the way that it wants. */
static PyObject *
stream_set_protocol(PyObject *self, PyObject *protocol)
{
    return set_protocol(SELF(self), protocol) < 0 ? NULL : Py_NewRef(Py_None);
}

/* A write that is being held may turn out to have failed; drain() asks for that.  The
 * first question in a callback or step sends what is held.  A program that goes on
 * writing and draining there would have a system call for every line, so from the
 * second on the connection is only looked at, and what it will take goes on waiting for
 * the rest of the lines. */
static PyObject *
stream_is_closing(PyObject *self, PyObject *Py_UNUSED(unused))
{
    StreamTransport *t = SELF(self);
    if (t->out.bytes > 0 && !(t->asked && hl_stream_would_send(t))) {
        if (hl_stream_settle(t) < 0) {
            return NULL;
        }
        t->asked = t->flush_queued; /* until flush_cont() has run */
    }
    return PyBool_FromLong(t->closing);
}

static PyObject *
stream_is_reading(PyObject *self, PyObject *unused)
{
    return hl_stream_settle(SELF(self)) < 0 ? NULL
                                            : hl_transport_is_reading(self, unused);
}

/* Idempotent, as every method here is after the end: asyncio's programs rely on it. */
static PyObject *
stream_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return hl_stream_close(SELF(self)) < 0 ? NULL : Py_NewRef(Py_None);
}

/* asyncio's sslproto calls it by this name. */
static PyObject *
stream_force_close(PyObject *self, PyObject *exc)
{
    StreamTransport *t = SELF(self);
    if (hl_stream_settle(t) < 0 || hl_stream_force_close(t, exc) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Held writes are sent before: asyncio would have sent them in write(). */
static PyObject *
stream_abort(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return stream_force_close(self, Py_None);
}

/* Scheduled by name; calling it by hand a second time does nothing. */
static PyObject *
stream_call_connection_lost(PyObject *self, PyObject *exc)
{
    return hl_stream_lost(SELF(self), exc) < 0 ? NULL : Py_NewRef(Py_None);
}

/* hl_stream_start_reading() as a continuation. */
static int
start_reading(PyObject *self)
{
    return hl_stream_start_reading(SELF(self));
}

/* Data that came meanwhile waits in the kernel: the next poll reports it. */
static PyObject *
stream_resume_reading(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return hl_transport_resume_reading(HL_TRANSPORT(self), start_reading);
}

static PyObject *
stream_can_write_eof(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    Py_RETURN_TRUE;
}

/* Sends what is held first: asyncio's figure counts what the socket did not take. */
static PyObject *
stream_get_write_buffer_size(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (hl_stream_settle(SELF(self)) < 0) {
        return NULL;
    }
    return PyLong_FromSize_t(SELF(self)->out.bytes);
}

/* A future that is done when everything written has left; for sendfile().  As
 * asyncio's: one at a time, done at once when there is nothing to wait for.  The future
 * is made by the loop's create_future(), which a program may override. */
static PyObject *
stream_make_empty_waiter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    StreamTransport *t = SELF(self);
    if (t->empty_waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Empty waiter is already set");
        return NULL;
    }
    /* A write that is held is the program's past: asyncio would have sent it. */
    if (hl_stream_settle(t) < 0) {
        return NULL;
    }
    if (t->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Transport is closing");
        return NULL;
    }
    PyObject *fut =
        PyObject_CallMethodNoArgs((PyObject *)t->loop, t->st->s_create_future);
    if (fut == NULL) {
        return NULL;
    }
    /* From here on write() refuses: sendfile() has the connection to itself. */
    t->empty_waiter = Py_NewRef(fut);
    if (t->out.bytes == 0 && hl_waiter_set(t->st, fut, Py_None, NULL) < 0) {
        Py_CLEAR(fut);
    }
    return fut;
}

/* write() is possible again from here on. */
static PyObject *
stream_reset_empty_waiter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    Py_CLEAR(SELF(self)->empty_waiter);
    Py_RETURN_NONE;
}

/* Lends the descriptor to loop.sock_sendfile(), which add_writer()s it, and takes it
 * back (None).  The future that is given ends when the descriptor is closed meanwhile:
 * nothing that watches it would ever hear of that. */
static PyObject *
stream_lend(PyObject *self, PyObject *future)
{
    StreamTransport *t = SELF(self);
    bool lend = future != Py_None;
    Py_XSETREF(t->lent, lend ? Py_NewRef(future) : NULL);
    /* Lent out it is nobody's: add_writer() must not refuse the number meanwhile. */
    if (lend && t->owned) {
        t->owned = false;
        hl_loop_disown_fd(t->loop, t->fd, t);
    }
    else if (!lend && !t->owned && t->open && !t->closing) {
        if (hl_loop_own_fd(t->loop, t->fd, t) < 0) {
            return NULL;
        }
        t->owned = true;
    }
    Py_RETURN_NONE;
}

/* ---- attributes ---- */

/* asyncio's `_sock` is None after the end.  Whoever takes the socket may write to it
 * past us, so what is held leaves before. */
static PyObject *
get_sock(PyObject *self, void *Py_UNUSED(closure))
{
    StreamTransport *t = SELF(self);
    if (!t->open) {
        Py_RETURN_NONE;
    }
    if (hl_stream_settle(t) < 0) {
        return NULL;
    }
    return t->open ? Py_XNewRef(hl_stream_sock(t)) : Py_NewRef(Py_None);
}

/* A bit-field has no address that hl_transport_get_bool() could read. */
static PyObject *
get_eof(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(SELF(self)->eof);
}

static PyObject *
stream_repr(PyObject *self)
{
    StreamTransport *t = SELF(self);
    /* Held bytes are as good as sent: asyncio would have sent them. */
    return hl_transport_repr(HL_TRANSPORT(t), "StreamTransport", t->open,
                             t->writing ? t->out.bytes : 0);
}

/* ---- the end ---- */

/* asyncio's __del__: a warning, then the socket is closed.  The server has to forget
 * the connection too, or its wait_closed() would wait for ever.  Keeps a set exception.
 */
static void
stream_finalize(PyObject *self)
{
    StreamTransport *t = SELF(self);
    if (!t->open) {
        return;
    }
    PyObject *saved = PyErr_GetRaisedException();
    hl_transport_warn_unclosed(self);
    hl_stream_release(t);
    if (hl_stream_detach(t) < 0) {
        PyErr_WriteUnraisable(self);
    }
    PyErr_SetRaisedException(saved);
}

#define OBJECTS(X)                                                                     \
    X(extra)                                                                           \
    X(loop)                                                                            \
    X(sock)                                                                            \
    X(protocol)                                                                        \
    X(server)                                                                          \
    X(waiter)                                                                          \
    X(empty_waiter)                                                                    \
    X(lent)                                                                            \
    X(read_ctx)                                                                        \
    X(write_ctx)

/* The queue's chunks are exact bytes objects: nothing to visit. */
static int
stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    StreamTransport *t = SELF(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->mod);
#define X(f) Py_VISIT(t->f);
    OBJECTS(X)
#undef X
    return PyObject_VisitManagedDict(self, visit, arg);
}

/* Foreign code may call methods between any two of these lines: the flags that are set
 * first have every method do nothing. */
static int
stream_clear(PyObject *self)
{
    StreamTransport *t = SELF(self);
    t->live_fd = &t->fd; /* it may have pointed into the socket */
    t->closing = true;   /* nothing works without a loop */
    t->conn_lost += t->conn_lost == 0;
#define X(f) Py_CLEAR(t->f);
    OBJECTS(X)
#undef X
    /* NULL in an object that failed before its queue was made. */
    if (t->out.v != NULL) {
        hl_wqueue_clear(&t->out);
    }
    PyObject_ClearManagedDict(self);
    return 0;
}

/* The finaliser is called before anything is taken apart, and may bring the object
 * back: then it simply lives on. */
static void
stream_dealloc(PyObject *self)
{
    StreamTransport *t = SELF(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject *mod = t->mod;
    if (t->st != NULL && PyObject_CallFinalizerFromDealloc(self) < 0) {
        return; /* brought back to life */
    }
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    (void)stream_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_XDECREF(mod);
}

/* ---- the type ---- */

static PyMethodDef stream_methods[] = {
    {"get_extra_info", (PyCFunction)(void (*)(void))stream_get_extra_info,
     METH_VARARGS | METH_KEYWORDS, "Get optional transport information."},
    {"set_protocol", stream_set_protocol, METH_O, "Set a new protocol."},
    {"get_protocol", hl_transport_get_protocol, METH_NOARGS,
     "Return the current protocol."},
    {"is_closing", stream_is_closing, METH_NOARGS, "Is it closing or closed?"},
    {"close", stream_close, METH_NOARGS,
     "Close the transport once everything written has left."},
    {"abort", stream_abort, METH_NOARGS, "Close the transport at once."},
    {"is_reading", stream_is_reading, METH_NOARGS, "Is it receiving?"},
    {"pause_reading", hl_transport_pause_reading, METH_NOARGS, "Stop receiving."},
    {"resume_reading", stream_resume_reading, METH_NOARGS, "Receive again."},
    {"set_write_buffer_limits", (PyCFunction)(void (*)(void))hl_stream_set_limits,
     METH_VARARGS | METH_KEYWORDS, "Set the high- and low-water marks of writing."},
    {"get_write_buffer_size", stream_get_write_buffer_size, METH_NOARGS,
     "Number of bytes that wait to be sent."},
    {"get_write_buffer_limits", hl_transport_get_write_buffer_limits, METH_NOARGS,
     "The low- and the high-water mark."},
    {"write", hl_stream_write, METH_O, "Write bytes; never blocks."},
    {"writelines", hl_stream_writelines, METH_O, "Write an iterable of bytes."},
    {"write_eof", hl_stream_write_eof, METH_NOARGS,
     "Close the writing end once everything written has left."},
    {"can_write_eof", stream_can_write_eof, METH_NOARGS, "True."},
    /* By asyncio's names, for its own modules and for the entries that we queue by
     * name; _start and _lend are ours. */
    {"_force_close", stream_force_close, METH_O, NULL},
    {"_call_connection_lost", stream_call_connection_lost, METH_O, NULL},
    {"_start", stream_start, METH_NOARGS, NULL},
    {"_make_empty_waiter", stream_make_empty_waiter, METH_NOARGS, NULL},
    {"_reset_empty_waiter", stream_reset_empty_waiter, METH_NOARGS, NULL},
    {"_lend", stream_lend, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#define FIELD(f) (void *)offsetof(StreamTransport, f)

static PyGetSetDef stream_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    /* asyncio's attributes, which libraries read: they show our fields, and cannot be
     * set. */
    {"_extra", get_extra, NULL, NULL, NULL},
    {"_sock", get_sock, NULL, NULL, NULL},
    {"_sock_fd", hl_transport_get_fd, NULL, NULL, NULL},
    {"_loop", hl_transport_get_object, NULL, NULL, FIELD(loop)},
    {"_protocol", hl_transport_get_object, NULL, NULL, FIELD(protocol)},
    {"_server", hl_transport_get_object, NULL, NULL, FIELD(server)},
    {"_empty_waiter", hl_transport_get_object, NULL, NULL, FIELD(empty_waiter)},
    {"_conn_lost", hl_transport_get_conn_lost, NULL, NULL, NULL},
    {"_closing", hl_transport_get_bool, NULL, NULL, FIELD(closing)},
    {"_paused", hl_transport_get_bool, NULL, NULL, FIELD(paused)},
    {"_eof", get_eof, NULL, NULL, NULL},
    {"_protocol_paused", hl_transport_get_bool, NULL, NULL, FIELD(proto_paused)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "A connection over a stream socket."},
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_finalize, stream_finalize},
    {Py_tp_repr, stream_repr},
    {Py_tp_methods, stream_methods},
    {Py_tp_getset, stream_getset},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "hotloop._core.StreamTransport",
    .basicsize = sizeof(StreamTransport),
    /* Programs set attributes on transports and hold weak references to them, as
     * asyncio's allow.  Only the loop makes one. */
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_MANAGED_DICT |
             Py_TPFLAGS_MANAGED_WEAKREF,
    .slots = stream_slots,
};

/* What loop.start_tls() and loop.sendfile() look for on the type. max_size is asyncio's
 * attribute, too: how much one read takes. */
static int
set_marks(hl_state *st)
{
    PyObject *type = (PyObject *)st->t_StreamTransport;
    PyObject *mode = PyObject_GetAttrString(st->i_SendfileMode, "TRY_NATIVE");
    PyObject *size = PyLong_FromLong(HL_SCRATCH_SIZE);
    int rc = -1;
    if (mode != NULL && size != NULL &&
        PyObject_SetAttrString(type, "_sendfile_compatible", mode) == 0 &&
        PyObject_SetAttrString(type, "_start_tls_compatible", Py_True) == 0 &&
        PyObject_SetAttrString(type, "max_size", size) == 0) {
        rc = 0;
    }
    Py_XDECREF(mode);
    Py_XDECREF(size);
    return rc;
}

/* Our fields start right behind asyncio.Transport's one slot, `_extra`, which is
 * shadowed by HL_TRANSPORT_HEAD's first field: the sizes must agree. */
int
hl_stream_exec(PyObject *mod, hl_state *st)
{
    PyTypeObject *base = (PyTypeObject *)st->i_Transport;
    if (base->tp_basicsize != offsetof(StreamTransport, mod)) {
        PyErr_SetString(PyExc_ImportError, "unexpected layout of asyncio.Transport");
        return -1;
    }
    if (hl_type_add(mod, &st->t_StreamTransport, &stream_spec, st->i_Transport) < 0) {
        return -1;
    }
    return set_marks(st);
}

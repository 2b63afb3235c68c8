/* The datagram transport type: creation, attributes, the end of its life. */
#include "net/dgram.h"
#include "net/stream.h"
#include "py/mem.h"

#define SELF(op) ((DatagramTransport *)(op))

/* ---- creation ---- */

/* Second of the callbacks that a new transport schedules: connection_made() has run.
 * It may have closed or paused the endpoint, and then nothing is read; the waiter is
 * told even so. */
static int
start(PyObject *self)
{
    DatagramTransport *t = SELF(self);
    PyObject *waiter = t->waiter;
    t->waiter = NULL;
    int rc = 0;
    if (t->loop != NULL && hl_dgram_start_reading(t) < 0) {
        rc = hl_dgram_fatal(t, "Fatal read error on datagram transport");
    }
    return hl_transport_started(HL_TRANSPORT(t), waiter, rc);
}

/* For loops that are not plain: the same by its Python name. */
static PyObject *
dgram_start(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return start(self) < 0 ? NULL : Py_NewRef(Py_None);
}

/* extra[name] = sock.<method>(), None where that is an OSError; *known: it is not. 0 or
 * -1.  A socket that is not connected has no peer: for asyncio that is no error, but
 * None. */
static int
set_name(DatagramTransport *t, PyObject *sock, PyObject *name, PyObject *method,
         bool *known)
{
    PyObject *value = PyObject_CallMethodNoArgs(sock, method);
    *known = value != NULL;
    if (value == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OSError)) {
            return -1;
        }
        PyErr_Clear();
        value = Py_NewRef(Py_None);
    }
    int rc = PyDict_SetItem(t->extra, name, value);
    Py_DECREF(value);
    return rc;
}

/* Fills in socket, sockname and peername: 0 or -1.  An entry `peername` that the caller
 * gave is left alone, as asyncio leaves it: it is remote_addr, which then need not be
 * asked for. */
static int
set_extra(DatagramTransport *t, PyObject *sock)
{
    hl_state *st = t->st;
    bool known;
    PyObject *view = PyObject_CallOneArg(st->i_TransportSocket, sock);
    int rc = view == NULL ? -1 : PyDict_SetItem(t->extra, st->s_socket, view);
    Py_XDECREF(view);
    if (rc < 0 || set_name(t, sock, st->s_sockname, st->s_getsockname, &known) < 0) {
        return -1;
    }
    PyObject *peer = PyDict_GetItemWithError(t->extra, st->s_peername);
    if (peer == NULL) {
        if (PyErr_Occurred() ||
            set_name(t, sock, st->s_peername, st->s_getpeername, &t->has_peer) < 0) {
            return -1;
        }
        peer = PyDict_GetItemWithError(t->extra, st->s_peername);
    }
    int named = peer == NULL ? -1 : PyObject_IsTrue(peer);
    t->connected = named > 0;
    return named < 0 ? -1 : 0;
}

/* What an object owns that has not got the socket yet.  A socket object that may be
 * overridden is used by its methods alone: no live_fd.  On failure the object is
 * dropped half filled, and closes nothing. */
static int
init(DatagramTransport *t, LoopObject *loop, PyObject *sock, PyObject *extra)
{
    int type, proto;
    t->st = loop->sched.st;
    t->mod = Py_NewRef(t->st->mod);
    t->loop = (LoopObject *)Py_NewRef(loop);
    t->high = 64 * 1024;
    t->low = 16 * 1024;
    /* Runs fileno(), if the socket is of a class of the user's. */
    t->fd = hl_fd_of(sock);
    t->extra = extra != Py_None ? Py_NewRef(extra) : PyDict_New();
    t->read_ctx = PyContext_CopyCurrent();
    if (t->fd < 0 || t->extra == NULL || t->read_ctx == NULL ||
        hl_sock_describe(t->st, sock, &t->family, &type, &proto) < 0) {
        return -1;
    }
    if (Py_IS_TYPE(sock, (PyTypeObject *)t->st->i_socket) &&
        (t->family == AF_INET || t->family == AF_INET6 || t->family == AF_UNIX)) {
        t->live_fd = hl_socket_fd(sock, t->fd, t->family);
    }
    return set_extra(t, sock);
}

/* Gives the socket to a transport whose fields are set: 0, or -1 and it is the
 * caller's.  From hl_loop_own_fd() on the descriptor has an owner; what fails after it
 * is undone here, and the finaliser finds no socket to close. */
static int
adopt(DatagramTransport *t, PyObject *sock)
{
    PyObject *made = PyObject_GetAttr(t->protocol, t->st->s_connection_made);
    if (made == NULL || hl_loop_own_fd(t->loop, t->fd, t) < 0) {
        Py_XDECREF(made);
        return -1;
    }
    t->owned = true;
    t->sock = Py_NewRef(sock);
    int rc = hl_transport_schedule_start(HL_TRANSPORT(t), made, start);
    Py_DECREF(made);
    if (rc < 0) {
        t->owned = false;
        t->closing = true;
        t->conn_lost = 1;
        t->live_fd = NULL;
        hl_loop_disown_fd(t->loop, t->fd, t);
        Py_CLEAR(t->sock);
    }
    return rc;
}

/* On failure the socket is the caller's, open and without an owner. */
PyObject *
hl_loop_datagram(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"sock", "protocol", "address", "waiter", "extra", NULL};
    LoopObject *loop = (LoopObject *)self;
    PyTypeObject *type = loop->sched.st->t_DatagramTransport;
    PyObject *sock, *protocol, *address = Py_None, *waiter = Py_None, *extra = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OOO:_make_datagram_transport",
                                     names, &sock, &protocol, &address, &waiter,
                                     &extra)) {
        return NULL;
    }
    int given = PyObject_IsTrue(address);
    int fd = given < 0 ? -1 : hl_fd_of(sock);
    if (fd < 0 || hl_loop_check_closed(loop) < 0 ||
        hl_loop_check_fd_free(loop, fd) < 0) {
        return NULL;
    }
    DatagramTransport *t = (DatagramTransport *)hl_type_alloc(type);
    if (t == NULL || init(t, loop, sock, extra) < 0) {
        Py_XDECREF(t);
        return NULL;
    }
    t->protocol = Py_NewRef(protocol);
    t->address = given ? Py_NewRef(address) : NULL;
    t->waiter = waiter != Py_None ? Py_NewRef(waiter) : NULL;
    if (adopt(t, sock) < 0) {
        Py_DECREF(t);
        return NULL;
    }
    return (PyObject *)t;
}

/* ---- closing ---- */

/* Marks the transport as closing; its descriptor may be given to add_reader() again. */
static void
begin_closing(DatagramTransport *t)
{
    t->closing = true;
    if (t->loop == NULL) {
        return;
    }
    /* Drops the loop's reference; the caller holds one. */
    hl_transport_stop_reading(HL_TRANSPORT(t));
    if (t->owned) {
        t->owned = false;
        hl_loop_disown_fd(t->loop, t->fd, t);
    }
}

/* Nothing is sent any more from here on; the queue is the caller's to drop. */
static int
schedule_lost(DatagramTransport *t, PyObject *exc)
{
    t->conn_lost++;
    hl_transport_stop_writing(HL_TRANSPORT(t));
    return hl_transport_soon(HL_TRANSPORT(t), t->st->s__call_connection_lost, exc);
}

/* asyncio's _force_close(): idempotent by conn_lost.  The queue goes last, since an
 * address is anybody's object, whose finaliser may call us. */
static int
force_close(hl_transport *base, PyObject *exc)
{
    DatagramTransport *t = SELF(base);
    if (t->conn_lost) {
        return 0;
    }
    begin_closing(t);
    int rc = schedule_lost(t, exc);
    hl_dgram_drop(t);
    return rc;
}

/* For errors of the socket that are not the protocol's to know; see on_error(). */
int
hl_dgram_fatal(DatagramTransport *t, const char *message)
{
    return hl_transport_fatal(HL_TRANSPORT(t), message,
                              PyErr_ExceptionMatches(PyExc_OSError), force_close);
}

/* Closes the socket if that is still ours to do; keeps a set exception. */
static void
release(DatagramTransport *t)
{
    PyObject *sock = t->sock;
    if (sock == NULL) {
        return;
    }
    PyObject *saved = PyErr_GetRaisedException();
    if (t->loop != NULL) {
        begin_closing(t);
        hl_transport_stop_writing(HL_TRANSPORT(t));
    }
    t->sock = NULL;
    t->live_fd = NULL;
    PyObject *res = PyObject_CallMethod(sock, "close", NULL);
    if (res == NULL) {
        PyErr_WriteUnraisable(sock);
    }
    Py_XDECREF(res);
    Py_DECREF(sock);
    PyErr_SetRaisedException(saved);
}

/* The last call that the protocol gets.  The socket is closed even when it raised, as
 * in asyncio, and all references that could form a cycle are dropped. */
int
hl_dgram_lost(DatagramTransport *t, PyObject *exc)
{
    if (t->sock == NULL) { /* called twice, by hand */
        return 0;
    }
    PyObject *res = hl_transport_upcall(HL_TRANSPORT(t), t->st->s_connection_lost, exc);
    PyObject *raised = res == NULL ? PyErr_GetRaisedException() : NULL;
    Py_XDECREF(res);
    release(t);
    /* A call by hand skips schedule_lost(): the methods must find the mark even so. */
    t->conn_lost += t->conn_lost == 0;
    hl_dgram_drop(t);
    Py_CLEAR(t->read_ctx);
    Py_CLEAR(t->write_ctx);
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->loop);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
        return -1;
    }
    return 0;
}

/* ---- methods ---- */

/* What waits is sent first. */
static PyObject *
dgram_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    DatagramTransport *t = SELF(self);
    if (t->closing) {
        Py_RETURN_NONE;
    }
    begin_closing(t);
    if (hl_ring_len(&t->out) == 0 && schedule_lost(t, Py_None) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* By asyncio's name. */
static PyObject *
dgram_force_close(PyObject *self, PyObject *exc)
{
    return force_close(HL_TRANSPORT(self), exc) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
dgram_abort(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return dgram_force_close(self, Py_None);
}

/* Scheduled by name; a second time it does nothing. */
static PyObject *
dgram_call_connection_lost(PyObject *self, PyObject *exc)
{
    return hl_dgram_lost(SELF(self), exc) < 0 ? NULL : Py_NewRef(Py_None);
}

/* hl_dgram_start_reading() as a continuation. */
static int
start_reading(PyObject *self)
{
    return hl_dgram_start_reading(SELF(self));
}

static PyObject *
dgram_resume_reading(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return hl_transport_resume_reading(HL_TRANSPORT(self), start_reading);
}

/* asyncio looks at the new marks at once, and so may pause_writing() be called here. */
static PyObject *
dgram_set_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    DatagramTransport *t = SELF(self);
    Py_ssize_t high, low;
    if (hl_flow_parse(args, kwargs, &high, &low) < 0) {
        return NULL;
    }
    t->high = high;
    t->low = low;
    if (hl_flow_pause(HL_TRANSPORT(t), t->out_bytes) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
dgram_get_write_buffer_size(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t(SELF(self)->out_bytes);
}

/* ---- attributes ---- */

static PyObject *
dgram_repr(PyObject *self)
{
    DatagramTransport *t = SELF(self);
    return hl_transport_repr(HL_TRANSPORT(t), "DatagramTransport", t->sock != NULL,
                             t->out_bytes);
}

/* ---- the end ---- */

/* asyncio's __del__.  The warning may run code that closes the transport: release()
 * looks anew.  Keeps a set exception. */
static void
dgram_finalize(PyObject *self)
{
    DatagramTransport *t = SELF(self);
    if (t->sock == NULL) {
        return;
    }
    PyObject *saved = PyErr_GetRaisedException();
    hl_transport_warn_unclosed(self);
    release(t);
    PyErr_SetRaisedException(saved);
}

#define OBJECTS(X)                                                                     \
    X(extra)                                                                           \
    X(loop)                                                                            \
    X(sock)                                                                            \
    X(protocol)                                                                        \
    X(address)                                                                         \
    X(waiter)                                                                          \
    X(seen)                                                                            \
    X(read_ctx)                                                                        \
    X(write_ctx)

/* What waits is not only bytes: the addresses can be any objects. */
static int
dgram_traverse(PyObject *self, visitproc visit, void *arg)
{
    DatagramTransport *t = SELF(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->mod);
#define X(f) Py_VISIT(t->f);
    OBJECTS(X)
#undef X
    for (size_t i = 0; i < hl_ring_len(&t->out); i++) {
        hl_entry *e = hl_ring_at(&t->out, i);
        Py_VISIT((PyObject *)e->tagged);
        Py_VISIT((PyObject *)e->arg);
    }
    return PyObject_VisitManagedDict(self, visit, arg);
}

/* The flags first: foreign code that runs between these lines finds every method idle.
 */
static int
dgram_clear(PyObject *self)
{
    DatagramTransport *t = SELF(self);
    t->live_fd = NULL; /* it may have pointed into the socket */
    t->closing = true; /* nothing works without a loop */
    t->conn_lost += t->conn_lost == 0;
#define X(f) Py_CLEAR(t->f);
    OBJECTS(X)
#undef X
    hl_dgram_drop(t);
    PyObject_ClearManagedDict(self);
    return 0;
}

/* The finaliser is called before anything is taken apart; it may bring the object back.
 */
static void
dgram_dealloc(PyObject *self)
{
    DatagramTransport *t = SELF(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject *mod = t->mod;
    if (t->st != NULL && PyObject_CallFinalizerFromDealloc(self) < 0) {
        return; /* brought back to life */
    }
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    (void)dgram_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_XDECREF(mod);
}

/* ---- the type ---- */

static PyMethodDef dgram_methods[] = {
    {"sendto", (PyCFunction)(void (*)(void))hl_dgram_sendto,
     METH_FASTCALL | METH_KEYWORDS, "Send a datagram; never blocks."},
    {"set_protocol", hl_transport_set_protocol, METH_O, "Set a new protocol."},
    {"get_protocol", hl_transport_get_protocol, METH_NOARGS,
     "Return the current protocol."},
    {"is_closing", hl_transport_is_closing, METH_NOARGS, "Is it closing or closed?"},
    {"close", dgram_close, METH_NOARGS,
     "Close the transport once everything that waits has been sent."},
    {"abort", dgram_abort, METH_NOARGS, "Close the transport at once."},
    {"is_reading", hl_transport_is_reading, METH_NOARGS, "Is it receiving?"},
    {"pause_reading", hl_transport_pause_reading, METH_NOARGS, "Stop receiving."},
    {"resume_reading", dgram_resume_reading, METH_NOARGS, "Receive again."},
    {"set_write_buffer_limits", (PyCFunction)(void (*)(void))dgram_set_limits,
     METH_VARARGS | METH_KEYWORDS, "Set the high- and low-water marks of sending."},
    {"get_write_buffer_size", dgram_get_write_buffer_size, METH_NOARGS,
     "Number of bytes that wait to be sent."},
    {"get_write_buffer_limits", hl_transport_get_write_buffer_limits, METH_NOARGS,
     "The low- and the high-water mark."},
    /* By asyncio's names; _start is ours, for loops that are not plain. */
    {"_force_close", dgram_force_close, METH_O, NULL},
    {"_call_connection_lost", dgram_call_connection_lost, METH_O, NULL},
    {"_start", dgram_start, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

#define FIELD(f) (void *)offsetof(DatagramTransport, f)

static PyGetSetDef dgram_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_sock", hl_transport_get_object, NULL, NULL, FIELD(sock)},
    {"_sock_fd", hl_transport_get_fd, NULL, NULL, NULL},
    {"_loop", hl_transport_get_object, NULL, NULL, FIELD(loop)},
    {"_protocol", hl_transport_get_object, NULL, NULL, FIELD(protocol)},
    {"_address", hl_transport_get_object, NULL, NULL, FIELD(address)},
    {"_conn_lost", hl_transport_get_conn_lost, NULL, NULL, NULL},
    {"_closing", hl_transport_get_bool, NULL, NULL, FIELD(closing)},
    {"_paused", hl_transport_get_bool, NULL, NULL, FIELD(paused)},
    {"_protocol_paused", hl_transport_get_bool, NULL, NULL, FIELD(proto_paused)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot dgram_slots[] = {
    {Py_tp_doc, "An endpoint of datagrams."},
    {Py_tp_dealloc, dgram_dealloc},
    {Py_tp_traverse, dgram_traverse},
    {Py_tp_clear, dgram_clear},
    {Py_tp_finalize, dgram_finalize},
    {Py_tp_repr, dgram_repr},
    {Py_tp_methods, dgram_methods},
    {Py_tp_getset, dgram_getset},
    {0, NULL},
};

static PyType_Spec dgram_spec = {
    .name = "hotloop._core.DatagramTransport",
    .basicsize = sizeof(DatagramTransport),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_MANAGED_DICT |
             Py_TPFLAGS_MANAGED_WEAKREF,
    .slots = dgram_slots,
};

int
hl_dgram_exec(PyObject *mod, hl_state *st)
{
    /* As with asyncio, it is an instance of either; Transport's own methods, write()
     * and the like, are those that are not implemented. */
    PyObject *bases = PyTuple_Pack(2, st->i_Transport, st->i_BaseDatagramTransport);
    PyObject *size = PyLong_FromLong(HL_READ_MAX);
    int rc = -1;
    if (bases != NULL && size != NULL &&
        hl_type_add(mod, &st->t_DatagramTransport, &dgram_spec, bases) == 0) {
        rc = PyObject_SetAttrString((PyObject *)st->t_DatagramTransport, "max_size",
                                    size);
    }
    Py_XDECREF(bases);
    Py_XDECREF(size);
    return rc;
}

/* A connection being made: from socket() to the transport that adopts the descriptor.
 *
 * It stands in for socket.socket, sock_connect() and what they call.  All of it is
 * looked at before the first system call: whatever is patched, overridden, audited or
 * not a numeric address goes the long way, in Python. */
#include "net/connect.h"
#include "core/sys.h"
#include "net/stream.h"
#include "py/mem.h"

#include <arpa/inet.h>
#include <string.h>

typedef struct {
    PyObject_HEAD
    PyObject *mod; /* owned: keeps st alive; dropped last */
    hl_state *st;
    LoopObject *loop; /* owned; NULL once it is over */
    PyObject *future; /* owned or NULL: done when connected; NULL: it is already */
    hl_inaddr to;
    int fd;        /* ours to close; -1: a transport has it, or it is closed */
    bool watching; /* the loop watches for the connection */
} Connecting;

#define SELF(op) ((Connecting *)(op))

/* ---- may it be done here? ---- */

/* The argument of an audit event that is asked for only where somebody listens. */
static PyObject *
refuse(void *Py_UNUSED(unused))
{
    PyErr_SetNone(PyExc_RuntimeError);
    return NULL;
}

/* Is there an audit hook?  It would be told of the socket object.  No event is raised
 * here: its arguments cannot be made. */
static bool
audited(void)
{
    if (HL_LIKELY(PySys_Audit("socket.connect", "O&", refuse, NULL) == 0)) {
        return false;
    }
    PyErr_Clear();
    return true;
}

/* The names of socket.socket that the long way would use, in the order of
 * hotloop._net.SOCKET_SEEN. */
static HL_COLD bool
look_at_sockets(hl_state *st, PyTypeObject *cls)
{
    /* As in look_at_classes(): no yes that is older than the version. */
    HL_RELEASE(st->socket_ok, false);
    (void)PyUnstable_Type_AssignVersionTag(cls);
    HL_STORE(st->socket_version, HL_LOAD(cls->tp_version_tag));
    PyObject *names[] = {st->s___init__,   st->s_close,      st->s_setblocking,
                         st->s_connect,    st->s_getsockopt, st->s_recv,
                         st->s_gettimeout, st->s_fileno};
    Py_ssize_t n = sizeof(names) / sizeof(*names);
    bool ok = PyTuple_GET_SIZE(st->i_socket_seen) == n;
    for (Py_ssize_t i = 0; ok && i < n; i++) {
        ok = hl_type_lookup(cls, names[i]) == PyTuple_GET_ITEM(st->i_socket_seen, i);
    }
    HL_RELEASE(st->socket_ok, ok);
    return ok;
}

bool
hl_socket_untouched(hl_state *st)
{
    PyTypeObject *cls = (PyTypeObject *)st->i_socket;
    if (PyDict_GetItemWithError(st->i_socket_names, st->s_socket) != st->i_socket) {
        PyErr_Clear();
        return false;
    }
    unsigned version = HL_LOAD(cls->tp_version_tag);
    return version == HL_LOAD(st->socket_version) && version != 0
               ? HL_ACQUIRE(st->socket_ok)
               : look_at_sockets(st, cls);
}

/* ---- the address ---- */

/* A numeric host of one family, spelt as it would be shown: 1, or 0 for anything else.
 * An error tells the host as it was given. */
static int
literal(hl_inaddr *to, int family, const char *host, uint16_t port)
{
    char shown[INET6_ADDRSTRLEN];
    memset(to, 0, sizeof(*to));
    if (family == AF_INET && inet_pton(AF_INET, host, &to->u.in4.sin_addr) == 1) {
        to->u.in4.sin_family = AF_INET;
        to->u.in4.sin_port = htons(port);
        to->len = sizeof(to->u.in4);
    }
    else if (family == AF_INET6 &&
             inet_pton(AF_INET6, host, &to->u.in6.sin6_addr) == 1 &&
             inet_ntop(AF_INET6, &to->u.in6.sin6_addr, shown, sizeof(shown)) != NULL &&
             strcmp(shown, host) == 0) {
        to->u.in6.sin6_family = AF_INET6;
        to->u.in6.sin6_port = htons(port);
        to->len = sizeof(to->u.in6);
    }
    return to->len > 0;
}

/* An exact int from 0 up to `most`, or -1. */
static long
number(PyObject *op, long most)
{
    long n = PyLong_CheckExact(op) ? PyLong_AsLong(op) : -1;
    if (n < 0 || n > most) {
        PyErr_Clear();
        return -1;
    }
    return n;
}

/* 1 and *to, or 0: names, services and odd types are asyncio's business. */
static int
address(PyObject *const *args, hl_inaddr *to)
{
    long port = number(args[1], 65535), family, proto = number(args[3], IPPROTO_TCP);
    Py_ssize_t len;
    const char *host =
        PyUnicode_CheckExact(args[0]) ? PyUnicode_AsUTF8AndSize(args[0], &len) : NULL;
    if (host == NULL || (size_t)len != strlen(host) || port < 1 ||
        (proto != 0 && proto != IPPROTO_TCP)) {
        PyErr_Clear();
        return 0;
    }
    /* socket.AF_INET and the like are IntEnums. */
    family = PyLong_Check(args[2]) ? PyLong_AsLong(args[2]) : -1;
    if (family == -1) {
        PyErr_Clear();
    }
    if (family == AF_UNSPEC) {
        return literal(to, AF_INET, host, (uint16_t)port) ||
               literal(to, AF_INET6, host, (uint16_t)port);
    }
    return literal(to, (int)family, host, (uint16_t)port);
}

/* ---- connecting ---- */

/* Idempotent. */
static void
unwatch(Connecting *c)
{
    if (c->watching) {
        c->watching = false;
        hl_loop_unwatch(c->loop, c->fd, HL_WRITE, (PyObject *)c);
    }
}

/* asyncio's OSError for a connection that was refused later on. */
static PyObject *
refusal(Connecting *c, int err)
{
    PyObject *to = hl_addr_to_py(&c->to.u.any, c->to.len);
    PyObject *text =
        to == NULL ? NULL : PyUnicode_FromFormat("Connect call failed %S", to);
    PyObject *exc =
        text == NULL ? NULL : PyObject_CallFunction(PyExc_OSError, "iO", err, text);
    Py_XDECREF(text);
    Py_XDECREF(to);
    return exc;
}

/* The kernel has made up its mind.  Whoever waits may have been cancelled meanwhile:
 * then the future is done, and close() comes next.  The watch stays until the waiting
 * coroutine goes on, as under asyncio. */
static int
on_writable(PyObject *self)
{
    Connecting *c = SELF(self);
    int err = 0;
    socklen_t len = sizeof(err);
    if (!c->watching || hl_future_done(c->future)) {
        return 0;
    }
    if (hl_sys_getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0) {
        err = errno;
    }
    if (err == 0) {
        return hl_future_set_result(c->st, c->future, Py_None);
    }
    PyObject *exc = refusal(c, err);
    int rc = exc == NULL ? -1 : hl_future_set_exception(c->st, c->future, exc);
    Py_XDECREF(exc);
    return rc;
}

/* 0, or -1 with the OSError of a call that failed at once.  Being interrupted does not
 * stop the connection from being made. */
static int
begin(Connecting *c)
{
    c->fd =
        hl_sys_socket(c->to.u.any.sa_family,
                      SOCK_STREAM | HL_SOCK_NONBLOCK | HL_SOCK_CLOEXEC, IPPROTO_TCP);
    if (c->fd < 0) {
        return hl_raise_errno(errno);
    }
    if (hl_loop_check_fd_free(c->loop, c->fd) < 0) {
        return -1;
    }
    if (hl_sys_connect(c->fd, &c->to.u.any, c->to.len) == 0) {
        return 0;
    }
    if (errno != EINPROGRESS && errno != EINTR) {
        return hl_raise_errno(errno);
    }
    c->future = hl_future_new(c->st, (PyObject *)c->loop);
    if (c->future == NULL ||
        hl_loop_watch(c->loop, c->fd, HL_WRITE, (PyObject *)c, on_writable) < 0) {
        return -1;
    }
    c->watching = true;
    return 0;
}

/* Gives up what is ours, the descriptor last.  Idempotent. */
static void
end(Connecting *c)
{
    int fd = c->fd;
    unwatch(c);
    c->fd = -1;
    if (fd >= 0) {
        (void)hl_sys_close(fd);
    }
    Py_CLEAR(c->future);
    Py_CLEAR(c->loop);
}

PyObject *
hl_loop_connect(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    LoopObject *loop = (LoopObject *)self;
    hl_state *st = loop->sched.st;
    hl_inaddr to;
    if (nargs != 4) {
        PyErr_SetString(PyExc_TypeError, "_connect() takes four arguments");
        return NULL;
    }
    if (!hl_loop_connects(loop) || !address(args, &to) || !hl_socket_untouched(st) ||
        audited()) {
        Py_RETURN_NONE;
    }
    Connecting *c = (Connecting *)hl_type_alloc(st->t_Connecting);
    if (c == NULL) {
        return NULL;
    }
    c->mod = Py_NewRef(st->mod);
    c->st = st;
    c->loop = (LoopObject *)Py_NewRef(self);
    c->to = to;
    c->fd = -1;
    if (begin(c) < 0) {
        PyObject *exc = PyErr_GetRaisedException();
        end(c);
        Py_DECREF(c);
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    return (PyObject *)c;
}

/* ---- the type ---- */

/* adopt(protocol, waiter, context): a transport on the connection, which owns the
 * descriptor from now on; on failure it is still ours. */
static PyObject *
connecting_adopt(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    Connecting *c = SELF(self);
    if (nargs != 3 || (args[2] != Py_None && !PyContext_CheckExact(args[2]))) {
        PyErr_SetString(PyExc_TypeError, "adopt(protocol, waiter, context)");
        return NULL;
    }
    if (c->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the connection is over");
        return NULL;
    }
    unwatch(c);
    if (hl_loop_check_closed(c->loop) < 0) {
        return NULL;
    }
    hl_stream_args a = {
        .fd = c->fd,
        .family = c->to.u.any.sa_family,
        .type = SOCK_STREAM,
        .proto = IPPROTO_TCP,
        .protocol = args[0],
        .waiter = args[1],
        .context = args[2] == Py_None ? NULL : args[2],
    };
    LoopObject *loop = (LoopObject *)Py_NewRef(c->loop);
    PyObject *t = hl_stream_new(loop, &a);
    Py_DECREF(loop);
    if (t != NULL) {
        c->fd = -1;
        end(c);
    }
    return t;
}

static PyObject *
connecting_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    end(SELF(self));
    Py_RETURN_NONE;
}

static int
connecting_traverse(PyObject *self, visitproc visit, void *arg)
{
    Connecting *c = SELF(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(c->mod);
    Py_VISIT(c->loop);
    Py_VISIT(c->future);
    return 0;
}

/* While the loop watches, its table holds a reference: who comes here is watched by
 * nobody, or dies together with the loop. */
static int
connecting_clear(PyObject *self)
{
    SELF(self)->watching = false;
    end(SELF(self));
    return 0;
}

static void
connecting_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject *mod = SELF(self)->mod;
    PyObject_GC_UnTrack(self);
    (void)connecting_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_XDECREF(mod);
}

static PyMethodDef connecting_methods[] = {
    {"adopt", (PyCFunction)(void (*)(void))connecting_adopt, METH_FASTCALL,
     "adopt($self, protocol, waiter, context, /)\n--\n\nA transport on the "
     "connection."},
    {"close", connecting_close, METH_NOARGS, "Give up; nothing after adopt()."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef connecting_getset[] = {
    {"future", hl_get_object, NULL, "Done when connected; None: there is no need.",
     (void *)offsetof(Connecting, future)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot connecting_slots[] = {
    {Py_tp_doc, "A connection that is being made."},
    {Py_tp_dealloc, connecting_dealloc},
    {Py_tp_traverse, connecting_traverse},
    {Py_tp_clear, connecting_clear},
    {Py_tp_methods, connecting_methods},
    {Py_tp_getset, connecting_getset},
    {0, NULL},
};

static PyType_Spec connecting_spec = {
    .name = "hotloop._core.Connecting",
    .basicsize = sizeof(Connecting),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = connecting_slots,
};

int
hl_connect_exec(PyObject *mod, hl_state *st)
{
    return hl_type_add(mod, &st->t_Connecting, &connecting_spec, NULL);
}

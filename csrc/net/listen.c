/* The listener: accept4() until nothing is left, a transport for each connection. */
#include "net/listen.h"
#include "core/sys.h"
#include "net/stream.h"
#include "py/mem.h"

typedef struct {
    PyObject_HEAD
    PyObject *mod; /* owned: keeps st alive; dropped last */
    hl_state *st;
    LoopObject *loop;    /* owned; NULL once closed */
    PyObject *sock;      /* owned: the listening socket; its owner is the server */
    const int *live_fd;  /* see StreamTransport; or &fd */
    PyObject *factory;   /* owned */
    PyObject *server;    /* owned or NULL */
    PyObject *on_accept; /* owned or NULL */
    PyObject *ctx;       /* owned: each connection starts in a copy of it */
    PyObject *retry;     /* owned or NULL: the timer after running out of descriptors */
    int fd, family, type, proto;
    long backlog; /* connections accepted per readiness */
    bool watching;
} Listener;

#define SELF(op) ((Listener *)(op))

static int on_ready(PyObject *self);

/* Idempotent.  The loop's reference keeps the listener alive while it watches, whether
 * or not the server still does. */
static int
watch(Listener *l)
{
    if (l->watching || l->loop == NULL) {
        return 0;
    }
    if (hl_loop_watch(l->loop, l->fd, HL_READ, (PyObject *)l, on_ready) < 0) {
        return -1;
    }
    l->watching = true;
    return 0;
}

/* May drop the loop's reference, perhaps the last but the caller's. */
static void
unwatch(Listener *l)
{
    if (l->watching) {
        l->watching = false;
        hl_loop_unwatch(l->loop, l->fd, HL_READ, (PyObject *)l);
    }
}

/* ---- one connection ---- */

/* A socket object for an accepted descriptor, which it owns if this returns one.  What
 * kind of socket it is the listener knows: the kernel is not asked. */
static PyObject *
wrap_socket(Listener *l, int fd)
{
    PyObject *args =
        Py_BuildValue("(iii)", l->family, l->type | HL_SOCK_NONBLOCK, l->proto);
    PyObject *kwargs = Py_BuildValue("{s:i}", "fileno", fd);
    PyObject *sock = args == NULL || kwargs == NULL
                         ? NULL
                         : PyObject_Call(l->st->i_socket, args, kwargs);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return sock;
}

/* on_accept(sock, peername): from here on the socket object owns the descriptor, so *fd
 * becomes -1.  For listeners whose connections are set up in Python: the hook owns the
 * socket, whatever it raises. */
static int
hand_over(Listener *l, int *fd, const hl_sockaddr *a, socklen_t len)
{
    PyObject *sock = wrap_socket(l, *fd);
    if (sock == NULL) {
        return -1;
    }
    *fd = -1;
    PyObject *peer = hl_addr_to_py(&a->any, len);
    /* A family that addr.c does not know: asyncio's accept() would show whatever the
     * socket module makes of it. */
    if (peer == NULL && !PyErr_Occurred()) {
        peer = Py_NewRef(Py_None);
    }
    /* The hook may close the listener, which clears its fields. */
    PyObject *hook = Py_NewRef(l->on_accept);
    PyObject *res =
        peer == NULL ? NULL : PyObject_CallFunctionObjArgs(hook, sock, peer, NULL);
    Py_DECREF(hook);
    Py_XDECREF(peer);
    Py_DECREF(sock);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* logger.debug("%r got a new connection from %r: %r", server, address, socket) In debug
 * mode only: the text wants a socket object, which is made for it. */
static int
log_connection(Listener *l, StreamTransport *t)
{
    PyObject *sock = hl_stream_sock(t);
    PyObject *peer =
        PyObject_CallMethod((PyObject *)t, "get_extra_info", "s", "peername");
    PyObject *res = NULL;
    if (sock != NULL && peer != NULL) {
        res = PyObject_CallMethod(l->st->i_logger, "debug", "sOOO",
                                  "%r got a new connection from %r: %r",
                                  l->server != NULL ? l->server : Py_None, peer, sock);
    }
    Py_XDECREF(peer);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* A protocol, and a transport that adopts *fd (-1 afterwards).  *protocol is owned. */
static int
set_up(Listener *l, int *fd, const hl_sockaddr *a, socklen_t len, PyObject **protocol)
{
    /* Own references to all three: the factory is foreign code, and may close the
     * server. */
    PyObject *factory = Py_NewRef(l->factory);
    LoopObject *loop = (LoopObject *)Py_NewRef(l->loop);
    PyObject *server = Py_XNewRef(l->server);
    PyObject *t = NULL;
    int rc = -1;
    *protocol = PyObject_CallNoArgs(factory);
    if (*protocol != NULL && l->loop == NULL) {
        rc = 0; /* the factory closed the server: this connection came too late */
    }
    else if (*protocol != NULL) {
        hl_stream_args args = {
            .fd = *fd,
            .family = l->family,
            .type = l->type,
            .proto = l->proto,
            .protocol = *protocol,
            .server = server,
            /* this one itself: what the factory has set in it is seen */
            .context = HL_STREAM_HAS_CONTEXT ? hl_context_borrow() : NULL,
            .peername = a,
            .peername_len = len,
        };
        t = hl_stream_new(loop, &args);
    }
    if (t != NULL) {
        *fd = -1;
        rc = loop->sched.debug ? log_connection(l, (StreamTransport *)t) : 0;
        Py_DECREF(t);
    }
    Py_XDECREF(server);
    Py_DECREF(loop);
    Py_DECREF(factory);
    return rc;
}

/* Everything for one accepted descriptor, which is closed if that fails.  0, or -1 for
 * what must propagate. */
static int
connection(Listener *l, int fd, const hl_sockaddr *a, socklen_t len)
{
    PyObject *protocol = NULL;
    PyObject *loop = Py_NewRef(l->loop);
    /* asyncio makes a task for each connection, which runs in a copy of the listener's
     * context; here is the copy without the task, so that no connection sees what
     * another has set. */
    PyObject *ctx = PyContext_Copy(l->ctx);
    int rc = -1;
    if (ctx != NULL && PyContext_Enter(ctx) == 0) {
        rc = l->on_accept != NULL ? hand_over(l, &fd, a, len)
                                  : set_up(l, &fd, a, len, &protocol);
        if (PyContext_Exit(ctx) < 0) {
            rc = -1;
        }
    }
    /* Nobody has adopted it: the factory raised, or closed the server. */
    if (fd >= 0) {
        (void)hl_sys_close(fd);
    }
    if (rc < 0 && !hl_err_propagates()) {
        rc = hl_report(
            l->st, loop, "Error on transport creation for incoming connection",
            protocol != NULL ? l->st->s_protocol : NULL, protocol, NULL, NULL);
    }
    Py_XDECREF(ctx);
    Py_XDECREF(protocol);
    Py_DECREF(loop);
    return rc;
}

/* ---- errors of accept4() ---- */

/* Cancels the timer of back_off(), if there is one: 0 or -1. */
static int
drop_retry(Listener *l)
{
    PyObject *retry = l->retry;
    if (retry == NULL) {
        return 0;
    }
    l->retry = NULL;
    PyObject *res = PyObject_CallMethodNoArgs(retry, l->st->s_cancel);
    Py_DECREF(retry);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* Out of descriptors or memory: the kernel would report the socket as ready for ever,
 * so it is left alone for a while.  The exception is set. asyncio's ACCEPT_RETRY_DELAY
 * is read anew each time: test suites set it.  The timer is made by the name
 * call_later(), which may be overridden and do anything. */
static int
back_off(Listener *l)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *loop = Py_NewRef(l->loop);
    unwatch(l);
    PyObject *constants = PyImport_ImportModule("asyncio.constants");
    PyObject *delay = constants == NULL
                          ? NULL
                          : PyObject_GetAttrString(constants, "ACCEPT_RETRY_DELAY");
    PyObject *resume =
        delay == NULL ? NULL : PyObject_GetAttrString((PyObject *)l, "_resume");
    PyObject *timer = NULL;
    if (resume != NULL) {
        PyObject *args[] = {loop, delay, resume};
        timer = PyObject_VectorcallMethod(l->st->s_call_later, args, 3, NULL);
    }
    int rc = timer != NULL ? 0 : -1;
    Py_XSETREF(l->retry, timer);
    if (rc == 0 && l->loop == NULL) { /* call_later() was overridden, and closed us */
        rc = drop_retry(l);
    }
    Py_XDECREF(resume);
    Py_XDECREF(delay);
    Py_XDECREF(constants);
    PyObject *sock =
        rc < 0 ? NULL : PyObject_CallOneArg(l->st->i_TransportSocket, l->sock);
    if (sock == NULL) {
        Py_DECREF(exc);
        Py_DECREF(loop);
        return -1;
    }
    PyErr_SetRaisedException(exc);
    rc = hl_report(l->st, loop, "socket.accept() out of system resource",
                   l->st->s_socket, sock, NULL, NULL);
    Py_DECREF(loop);
    Py_DECREF(sock);
    return rc;
}

/* 0, or -1 for what must propagate.  The first three say that there is nothing to
 * accept after all: the next readiness brings what there is. */
static int
accept_failed(Listener *l, int err)
{
    switch (err) {
    case EAGAIN:
    case EINTR:
    case ECONNABORTED:
        return 0;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        (void)hl_raise_errno(err);
        return back_off(l);
    default:
        break;
    }
    PyObject *loop = Py_NewRef(l->loop);
    if (err == EBADF || err == EINVAL || err == ENOTSOCK || err == EOPNOTSUPP) {
        unwatch(l); /* no socket that listens any more: it would fail for ever */
    }
    (void)hl_raise_errno(err);
    int rc = hl_report(l->st, loop, "socket.accept() failed", NULL, NULL, NULL, NULL);
    Py_DECREF(loop);
    return rc;
}

/* As many as asyncio accepts in one go.  Each connection runs the factory, which may
 * close the server: `watching` is the sign of that, looked at before each call. */
static int
on_ready(PyObject *self)
{
    Listener *l = SELF(self);
    for (long i = 0; l->watching && (i == 0 || i < l->backlog); i++) {
        hl_sockaddr a;
        socklen_t len = sizeof(a);
        int fd = hl_sys_accept4(*l->live_fd, &a.any, &len,
                                HL_SOCK_NONBLOCK | HL_SOCK_CLOEXEC);
        if (fd < 0) {
            return accept_failed(l, errno);
        }
        if (connection(l, fd, &a, len) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- the type ---- */

/* The timer of back_off().  The loop may be gone by then; watch() sees to that. */
static PyObject *
listener_resume(PyObject *self, PyObject *Py_UNUSED(unused))
{
    Py_CLEAR(SELF(self)->retry);
    return watch(SELF(self)) < 0 ? NULL : Py_NewRef(Py_None);
}

/* The socket is the server's, and stays open.  Idempotent. */
static PyObject *
listener_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    Listener *l = SELF(self);
    unwatch(l);
    Py_CLEAR(l->loop);
    return drop_retry(l) < 0 ? NULL : Py_NewRef(Py_None);
}

#define OBJECTS(X)                                                                     \
    X(loop)                                                                            \
    X(sock)                                                                            \
    X(factory)                                                                         \
    X(server)                                                                          \
    X(on_accept)                                                                       \
    X(ctx)                                                                             \
    X(retry)

/* The socket is visited too: it is held, though not closed, by us. */
static int
listener_traverse(PyObject *self, visitproc visit, void *arg)
{
    Listener *l = SELF(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(l->mod);
#define X(f) Py_VISIT(l->f);
    OBJECTS(X)
#undef X
    return 0;
}

/* Without a loop nothing watches; the socket that live_fd may point into goes as well.
 */
static int
listener_clear(PyObject *self)
{
    Listener *l = SELF(self);
    l->live_fd = &l->fd;
    l->watching = false; /* the loop holds a reference while it watches */
#define X(f) Py_CLEAR(l->f);
    OBJECTS(X)
#undef X
    return 0;
}

static void
listener_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject *mod = SELF(self)->mod;
    PyObject_GC_UnTrack(self);
    (void)listener_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_XDECREF(mod);
}

static PyMethodDef listener_methods[] = {
    {"close", listener_close, METH_NOARGS, "Accept no more; the socket stays open."},
    {"_resume", listener_resume, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot listener_slots[] = {
    {Py_tp_doc, "Accepts connections on one listening socket."},
    {Py_tp_dealloc, listener_dealloc},
    {Py_tp_traverse, listener_traverse},
    {Py_tp_clear, listener_clear},
    {Py_tp_methods, listener_methods},
    {0, NULL},
};

static PyType_Spec listener_spec = {
    .name = "hotloop._core.Listener",
    .basicsize = sizeof(Listener),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = listener_slots,
};

/* loop._listen(sock, protocol_factory, server, backlog, on_accept=None): a Listener
 * that accepts from now on.  The caller keeps owning the socket, and closes it after
 * the listener. */
PyObject *
hl_loop_listen(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"sock",    "protocol_factory", "server",
                            "backlog", "on_accept",        NULL};
    LoopObject *loop = (LoopObject *)self;
    hl_state *st = loop->sched.st;
    PyObject *sock, *factory, *server, *hook = Py_None;
    long backlog;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOl|O:_listen", names, &sock,
                                     &factory, &server, &backlog, &hook)) {
        return NULL;
    }
    int fd = hl_fd_of(sock), family, type, proto;
    if (fd < 0 || hl_loop_check_closed(loop) < 0 ||
        hl_sock_describe(st, sock, &family, &type, &proto) < 0) {
        return NULL;
    }
    Listener *l = (Listener *)hl_type_alloc(st->t_Listener);
    if (l == NULL) {
        return NULL;
    }
    const int *live = hl_socket_fd(sock, fd, family);
    l->mod = Py_NewRef(st->mod);
    l->st = st;
    l->loop = (LoopObject *)Py_NewRef(self);
    l->sock = Py_NewRef(sock);
    l->fd = fd;
    /* Of a socket that is closed behind our back the object reads -1, and accept4()
     * then fails with EBADF instead of taking a stranger's connections. */
    l->live_fd = live != NULL ? live : &l->fd;
    l->family = family;
    l->type = type;
    l->proto = proto;
    l->factory = Py_NewRef(factory);
    l->server = server == Py_None ? NULL : Py_NewRef(server);
    l->on_accept = hook == Py_None ? NULL : Py_NewRef(hook);
    l->backlog = backlog;
    l->ctx = PyContext_CopyCurrent();
    if (l->ctx == NULL || watch(l) < 0) {
        Py_DECREF(l);
        return NULL;
    }
    return (PyObject *)l;
}

int
hl_listen_exec(PyObject *mod, hl_state *st)
{
    return hl_type_add(mod, &st->t_Listener, &listener_spec, NULL);
}

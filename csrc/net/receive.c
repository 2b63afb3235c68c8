/* sock_recv() while nothing of it is patched: an exact socket.socket with a timeout of
 * zero, on a loop whose methods are its own. */
#include "net/receive.h"
#include "core/sys.h"
#include "net/connect.h"
#include "net/stream.h"
#include "py/mem.h"

typedef struct {
    PyObject_HEAD
    PyObject *mod; /* owned: keeps st alive; dropped last */
    hl_state *st;
    LoopObject *loop;   /* owned; NULL once it is over */
    PyObject *sock;     /* owned: keeps live_fd valid */
    PyObject *future;   /* owned: the bytes */
    const int *live_fd; /* in the socket object: -1 once that is closed */
    int fd;             /* what is watched */
    size_t size;
    bool watching;
} Receiving;

#define SELF(op) ((Receiving *)(op))

/* One recv() of at most `size` bytes: bytes, or NULL without an exception when there is
 * nothing yet.  Through the shared buffer: what comes is mostly shorter than what was
 * asked for. */
static PyObject *
receive(LoopObject *loop, int fd, size_t size)
{
    unsigned char *buf = hl_loop_scratch(loop);
    if (buf == NULL) {
        return NULL;
    }
    ssize_t n = hl_sys_recv(fd, buf, size, 0);
    if (n >= 0) {
        return PyBytes_FromStringAndSize((char *)buf, n);
    }
    if (!hl_would_block(errno)) {
        (void)hl_raise_errno(errno);
    }
    return NULL;
}

/* The watch stays until the waiting coroutine goes on, as under asyncio: until then
 * the future says that nothing more is wanted. */
static int
on_readable(PyObject *self)
{
    Receiving *r = SELF(self);
    if (!r->watching || hl_future_done(r->future)) {
        return 0;
    }
    PyObject *data = receive(r->loop, *r->live_fd, r->size);
    if (data != NULL) {
        int rc = hl_future_set_result(r->st, r->future, data);
        Py_DECREF(data);
        return rc;
    }
    PyObject *exc = PyErr_GetRaisedException();
    if (exc == NULL) {
        return 0;
    }
    int rc = hl_future_set_exception(r->st, r->future, exc);
    Py_DECREF(exc);
    return rc;
}

/* Idempotent.  The table may have held the last reference but the caller's. */
static void
end(Receiving *r)
{
    if (r->watching) {
        r->watching = false;
        hl_loop_unwatch(r->loop, r->fd, HL_READ, (PyObject *)r);
    }
    r->live_fd = &r->fd;
    Py_CLEAR(r->future);
    Py_CLEAR(r->sock);
    Py_CLEAR(r->loop);
}

/* A watch for the first byte; the descriptor must be no transport's. */
static PyObject *
wait_for(LoopObject *loop, PyObject *sock, int fd, size_t size)
{
    hl_state *st = loop->sched.st;
    int family, type, proto;
    if (hl_loop_check_fd_free(loop, fd) < 0 ||
        hl_sock_describe(st, sock, &family, &type, &proto) < 0) {
        return NULL;
    }
    Receiving *r = (Receiving *)hl_type_alloc(st->t_Receiving);
    if (r == NULL) {
        return NULL;
    }
    r->mod = Py_NewRef(st->mod);
    r->st = st;
    r->loop = (LoopObject *)Py_NewRef((PyObject *)loop);
    r->sock = Py_NewRef(sock);
    r->fd = fd;
    r->live_fd = hl_socket_fd(sock, fd, family);
    r->live_fd = r->live_fd == NULL ? &r->fd : r->live_fd;
    r->size = size;
    r->future = hl_future_new(st, (PyObject *)loop);
    if (r->future == NULL ||
        hl_loop_watch(loop, r->fd, HL_READ, (PyObject *)r, on_readable) < 0) {
        Py_DECREF(r);
        return NULL;
    }
    r->watching = true;
    return (PyObject *)r;
}

/* The timeout of an exact socket: 1 when it is zero, 0 or -1. */
static int
is_nonblocking(hl_state *st, PyObject *sock)
{
    PyObject *timeout = PyObject_CallMethodNoArgs(sock, st->s_gettimeout);
    int rc = timeout == NULL               ? -1
             : PyFloat_CheckExact(timeout) ? PyFloat_AS_DOUBLE(timeout) == 0.0
                                           : 0;
    Py_XDECREF(timeout);
    return rc;
}

/* sock.fileno(), or -1; it runs no foreign code. */
static int
fd_of(hl_state *st, PyObject *sock)
{
    PyObject *num = PyObject_CallMethodNoArgs(sock, st->s_fileno);
    long fd = num == NULL ? -1 : PyLong_AsLong(num);
    Py_XDECREF(num);
    return (int)fd;
}

PyObject *
hl_loop_recv(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    LoopObject *loop = (LoopObject *)self;
    hl_state *st = loop->sched.st;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "_recv() takes two arguments");
        return NULL;
    }
    PyObject *sock = args[0];
    long size = PyLong_CheckExact(args[1]) ? PyLong_AsLong(args[1]) : -1;
    if (size <= 0 || size > HL_SCRATCH_SIZE ||
        !Py_IS_TYPE(sock, (PyTypeObject *)st->i_socket) || !hl_loop_connects(loop) ||
        !hl_socket_untouched(st)) {
        PyErr_Clear(); /* of a number that is too large */
        Py_RETURN_NONE;
    }
    int fd, rc = is_nonblocking(st, sock);
    if (rc == 0 || (rc > 0 && (fd = fd_of(st, sock)) == -1)) {
        rc = 0; /* it may block, or is closed: that is for its own recv() to say */
    }
    if (rc <= 0 || PyErr_Occurred()) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    PyObject *data = receive(loop, fd, (size_t)size);
    if (data != NULL || PyErr_Occurred()) {
        return data;
    }
    return wait_for(loop, sock, fd, (size_t)size);
}

/* ---- the type ---- */

static PyObject *
receiving_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    end(SELF(self));
    Py_RETURN_NONE;
}

static int
receiving_traverse(PyObject *self, visitproc visit, void *arg)
{
    Receiving *r = SELF(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(r->mod);
    Py_VISIT(r->loop);
    Py_VISIT(r->sock);
    Py_VISIT(r->future);
    return 0;
}

/* While the loop watches, its table holds a reference: who comes here is watched by
 * nobody, or dies together with the loop. */
static int
receiving_clear(PyObject *self)
{
    SELF(self)->watching = false;
    end(SELF(self));
    return 0;
}

static void
receiving_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject *mod = SELF(self)->mod;
    PyObject_GC_UnTrack(self);
    (void)receiving_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_XDECREF(mod);
}

static PyMethodDef receiving_methods[] = {
    {"close", receiving_close, METH_NOARGS, "Wait no more."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef receiving_getset[] = {
    {"future", hl_get_object, NULL, "The bytes.", (void *)offsetof(Receiving, future)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot receiving_slots[] = {
    {Py_tp_doc, "A sock_recv() that waits."},
    {Py_tp_dealloc, receiving_dealloc},
    {Py_tp_traverse, receiving_traverse},
    {Py_tp_clear, receiving_clear},
    {Py_tp_methods, receiving_methods},
    {Py_tp_getset, receiving_getset},
    {0, NULL},
};

static PyType_Spec receiving_spec = {
    .name = "hotloop._core.Receiving",
    .basicsize = sizeof(Receiving),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = receiving_slots,
};

int
hl_receive_exec(PyObject *mod, hl_state *st)
{
    return hl_type_add(mod, &st->t_Receiving, &receiving_spec, NULL);
}

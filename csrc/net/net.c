/* What the transport layer brings to the module and to the loop. */
#include "net/net.h"
#include "net/addr.h"
#include "net/connect.h"
#include "net/dgram.h"
#include "net/listen.h"
#include "net/pipe.h"
#include "net/receive.h"
#include "net/stream.h"
#include "net/tls.h"

/* loop._make_stream_transport(sock, protocol, waiter=None, extra=None, server=None,
 * context=None): on failure the socket is still the caller's.  Everything is checked
 * before hl_stream_new(), which adopts the descriptor. */
static PyObject *
make_stream_transport(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"sock",   "protocol", "waiter", "extra",
                            "server", "context",  NULL};
    LoopObject *loop = (LoopObject *)self;
    hl_state *st = loop->sched.st;
    PyObject *waiter = Py_None, *extra = Py_None, *server = Py_None, *ctx = Py_None;
    hl_stream_args a = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OOOO:_make_stream_transport",
                                     names, &a.sock, &a.protocol, &waiter, &extra,
                                     &server, &ctx)) {
        return NULL;
    }
    if (ctx != Py_None && !PyContext_CheckExact(ctx)) {
        PyErr_SetString(PyExc_TypeError, "context must be a Context or None");
        return NULL;
    }
    if (extra != Py_None && !PyDict_Check(extra)) {
        PyErr_SetString(PyExc_TypeError, "extra must be a dict or None");
        return NULL;
    }
    a.fd = hl_fd_of(a.sock);
    if (a.fd < 0 || hl_loop_check_closed(loop) < 0 ||
        hl_loop_check_fd_free(loop, a.fd) < 0 ||
        hl_sock_describe(st, a.sock, &a.family, &a.type, &a.proto) < 0) {
        return NULL;
    }
    a.waiter = waiter == Py_None ? NULL : waiter;
    a.extra = extra == Py_None ? NULL : extra;
    a.server = server == Py_None ? NULL : server;
    a.context = ctx == Py_None ? NULL : ctx;
    return hl_stream_new(loop, &a);
}

/* loop._flush_writes(): sends what the running callback has written so far; before a
 * fork, lest both processes send it. */
static PyObject *
flush_writes(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (hl_sched_flush_now(&((LoopObject *)self)->sched) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* loop._literal_address(host, port, family, type, proto, flags): what
 * socket.getaddrinfo() would give, or None where it has to be asked. */
static PyObject *
literal_address(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    LoopObject *loop = (LoopObject *)self;
    if (nargs != 6) {
        PyErr_SetString(PyExc_TypeError, "_literal_address() takes six arguments");
        return NULL;
    }
    if (hl_loop_check_closed(loop) < 0) {
        return NULL;
    }
    PyObject *found = loop->sched.debug ? NULL : hl_addr_literal(loop->sched.st, args);
    return found != NULL || PyErr_Occurred() ? found : Py_NewRef(Py_None);
}

static PyMethodDef net_methods[] = {
    {"_make_read_pipe_transport", (PyCFunction)(void (*)(void))hl_loop_read_pipe,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"_make_write_pipe_transport", (PyCFunction)(void (*)(void))hl_loop_write_pipe,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"_flush_writes", flush_writes, METH_NOARGS, NULL},
    {"_make_stream_transport", (PyCFunction)(void (*)(void))make_stream_transport,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"_make_datagram_transport", (PyCFunction)(void (*)(void))hl_loop_datagram,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"_make_tls", (PyCFunction)(void (*)(void))hl_loop_tls,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {"_connect", (PyCFunction)(void (*)(void))hl_loop_connect, METH_FASTCALL, NULL},
    {"_literal_address", (PyCFunction)(void (*)(void))literal_address, METH_FASTCALL,
     NULL},
    {"_recv", (PyCFunction)(void (*)(void))hl_loop_recv, METH_FASTCALL, NULL},
    {"_listen", (PyCFunction)(void (*)(void))hl_loop_listen,
     METH_VARARGS | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

/* Called from module.c after the loop's type is there, which gets this layer's methods.
 */
int
hl_net_exec(PyObject *mod, hl_state *st)
{
    if (hl_stream_exec(mod, st) < 0 || hl_listen_exec(mod, st) < 0 ||
        hl_connect_exec(mod, st) < 0 || hl_receive_exec(mod, st) < 0 ||
        hl_dgram_exec(mod, st) < 0 || hl_pipe_exec(mod, st) < 0 ||
        hl_tls_exec(mod, st) < 0) {
        return -1;
    }
    return hl_loop_add_methods(st, net_methods);
}

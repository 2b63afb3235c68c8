/* The end of a connection: close(), abort(), errors, and connection_lost(). */
#include "net/stream.h"
#include "core/sys.h"

/* Without a loop, or without a descriptor, nothing works any more: every method sees
 * that by these two. */
static void
mark_dead(StreamTransport *t)
{
    t->closing = true;
    t->conn_lost += t->conn_lost == 0;
}

/* Marks the transport as closing; its descriptor may be given to add_reader() again. */
static void
begin_closing(StreamTransport *t)
{
    if (t->closing) {
        return;
    }
    t->closing = true;
    hl_stream_stop_reading(t);
    if (t->owned) {
        t->owned = false;
        hl_loop_disown_fd(t->loop, t->fd, t);
    }
}

/* Counts in conn_lost, which keeps a second end from being scheduled.  Its method runs
 * in a later turn, by its name: the caller is free to go on with its own work. */
static int
schedule_lost(StreamTransport *t, PyObject *exc)
{
    t->conn_lost++;
    return hl_transport_soon(HL_TRANSPORT(t), t->st->s__call_connection_lost, exc);
}

/* abort(), and the end after an error.  Idempotent: from the first end on there is
 * nothing left to be forced. */
int
hl_stream_force_close(StreamTransport *t, PyObject *exc)
{
    if (t->conn_lost) {
        return 0;
    }
    hl_wqueue_clear(&t->out);
    hl_stream_stop_writing(t);
    begin_closing(t);
    return schedule_lost(t, exc != NULL ? exc : Py_None);
}

/* What is written leaves first, held writes included: hl_stream_settle() sends them,
 * can fail, and can run pause_writing(). */
int
hl_stream_close(StreamTransport *t)
{
    if (t->closing) {
        return 0;
    }
    if (hl_stream_settle(t) < 0) {
        return -1;
    }
    if (t->closing) { /* the last write failed, or an upcall of it closed us */
        return 0;
    }
    begin_closing(t);
    if (t->out.bytes > 0) {
        return 0; /* the writer goes on, and calls connection_lost() at its end */
    }
    return schedule_lost(t, Py_None);
}

static int
force_close(hl_transport *t, PyObject *exc)
{
    return hl_stream_force_close((StreamTransport *)t, exc);
}

/* An OSError is the peer's doing: asyncio logs it in debug mode only. */
int
hl_stream_fatal(StreamTransport *t, const char *message)
{
    return hl_transport_fatal(HL_TRANSPORT(t), message,
                              PyErr_ExceptionMatches(PyExc_OSError), force_close);
}

/* The one place that closes the descriptor.  The flags say so before it happens:
 * closing a socket object runs Python code when it is a subclass, and that must find
 * the transport closed. */
void
hl_stream_release(StreamTransport *t)
{
    if (!t->open) {
        return;
    }
    t->open = false;
    mark_dead(t);
    PyObject *saved = PyErr_GetRaisedException();
    if (t->loop != NULL) {
        hl_stream_stop_reading(t);
        hl_stream_stop_writing(t);
        if (t->owned) {
            t->owned = false;
            hl_loop_disown_fd(t->loop, t->fd, t);
        }
    }
    if (t->sock == NULL) {
        (void)hl_sys_close(t->fd);
    }
    else {
        PyObject *sock = t->sock;
        t->sock = NULL;
        /* It pointed into the socket object, which may be freed here. */
        t->live_fd = &t->fd;
        PyObject *res = PyObject_CallMethod(sock, "close", NULL);
        if (res == NULL) {
            PyErr_WriteUnraisable(sock);
        }
        Py_XDECREF(res);
        Py_DECREF(sock);
    }
    PyErr_SetRaisedException(saved);
}

/* The server's count goes down once; wait_closed() waits for it.  Runs Python code. */
int
hl_stream_detach(StreamTransport *t)
{
    PyObject *server = t->server;
    if (server == NULL) {
        return 0;
    }
    t->server = NULL;
    PyObject *res = PyObject_CallMethodOneArg(server, t->st->s__detach, (PyObject *)t);
    int rc = res == NULL ? -1 : 0;
    Py_XDECREF(res);
    Py_DECREF(server);
    return rc;
}

/* Fails a future of sendfile() (borrowed, may be NULL): 0 or -1. */
static int
fail_waiter(StreamTransport *t, PyObject *waiter)
{
    if (waiter == NULL) {
        return 0;
    }
    Py_INCREF(waiter);
    PyObject *exc = PyObject_CallFunction(PyExc_ConnectionError, "s",
                                          "Connection is closed by peer");
    int rc = exc == NULL ? -1 : hl_waiter_set(t->st, waiter, NULL, exc);
    Py_XDECREF(exc);
    Py_DECREF(waiter);
    return rc;
}

/* Tells the server and sendfile() that this connection is over: 0 or -1. */
static int
tell_others(StreamTransport *t)
{
    if (hl_stream_detach(t) < 0 || fail_waiter(t, t->empty_waiter) < 0) {
        return -1;
    }
    return fail_waiter(t, t->lent);
}

/* connection_lost() is the last call that the protocol gets, and all references that
 * could form a cycle with it are dropped here: transport, protocol and loop go without
 * the collector. */
int
hl_stream_lost(StreamTransport *t, PyObject *exc)
{
    if (!t->open) { /* called twice, by hand */
        return 0;
    }
    PyObject *res = hl_transport_upcall(HL_TRANSPORT(t), t->st->s_connection_lost, exc);
    PyObject *raised = res == NULL ? PyErr_GetRaisedException() : NULL;
    Py_XDECREF(res);
    /* Even when connection_lost() raised: asyncio closes the socket in a `finally`. */
    hl_stream_release(t);
    hl_wqueue_clear(&t->out);
    Py_CLEAR(t->read_ctx);
    Py_CLEAR(t->write_ctx);
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->loop);
    int rc = tell_others(t);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised); /* replaces what came later */
        rc = -1;
    }
    return rc;
}

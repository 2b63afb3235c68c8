/* The end of a connection: close(), abort(), errors, and connection_lost(). */
#include "net/stream.h"

#include <unistd.h>

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
        hl_loop_disown_fd(t->loop, t->fd);
    }
}

static int
schedule_lost(StreamTransport *t, PyObject *exc)
{
    t->conn_lost++;
    return hl_stream_soon(t, t->st->s__call_connection_lost, exc);
}

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

/* logger.debug("%r: <message>", transport, exc_info=exc) for errors that are no news.
 */
static void
debug_error(StreamTransport *t, const char *message, PyObject *exc)
{
    PyObject *debug = PyObject_GetAttr(t->st->i_logger, t->st->s_debug);
    PyObject *args = Py_BuildValue("(sOs)", "%r: %s", (PyObject *)t, message);
    PyObject *kwargs = Py_BuildValue("{s:O}", "exc_info", exc);
    if (debug != NULL && args != NULL && kwargs != NULL) {
        Py_XDECREF(PyObject_Call(debug, args, kwargs));
    }
    Py_XDECREF(debug);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    PyErr_Clear();
}

int
hl_stream_fatal(StreamTransport *t, const char *message)
{
    if (hl_err_propagates()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    int rc = 0;
    if (t->loop != NULL && PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_OSError)) {
        if (t->loop->sched.debug) {
            debug_error(t, message, exc);
        }
    }
    else if (t->loop != NULL) {
        PyObject *loop = Py_NewRef(t->loop);
        PyObject *protocol = Py_NewRef(t->protocol != NULL ? t->protocol : Py_None);
        PyErr_SetRaisedException(Py_NewRef(exc));
        rc = hl_report(t->st, loop, message, t->st->s_transport, (PyObject *)t,
                       t->st->s_protocol, protocol);
        Py_DECREF(protocol);
        Py_DECREF(loop);
    }
    /* Closed even when the report itself raised: what it raised goes out afterwards. */
    PyObject *raised = rc < 0 ? PyErr_GetRaisedException() : NULL;
    if (hl_stream_force_close(t, exc) < 0) {
        rc = -1;
    }
    Py_DECREF(exc);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return rc;
}

void
hl_stream_release(StreamTransport *t)
{
    if (!t->open) {
        return;
    }
    t->open = false;
    PyObject *saved = PyErr_GetRaisedException();
    if (t->loop != NULL) {
        hl_stream_stop_reading(t);
        hl_stream_stop_writing(t);
        if (t->owned) {
            t->owned = false;
            hl_loop_disown_fd(t->loop, t->fd);
        }
    }
    if (t->sock == NULL) {
        (void)close(t->fd);
    }
    else {
        PyObject *sock = t->sock;
        t->sock = NULL;
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

/* Tells the server and sendfile() that this connection is over: 0 or -1. */
static int
tell_others(StreamTransport *t)
{
    int rc = 0;
    PyObject *server = t->server, *empty = t->empty_waiter;
    t->server = NULL;
    if (server != NULL) {
        PyObject *r =
            PyObject_CallMethodOneArg(server, t->st->s__detach, (PyObject *)t);
        rc = r == NULL ? -1 : 0;
        Py_XDECREF(r);
        Py_DECREF(server);
    }
    if (rc == 0 && empty != NULL) {
        PyObject *exc = PyObject_CallFunction(PyExc_ConnectionError, "s",
                                              "Connection is closed by peer");
        Py_INCREF(empty);
        rc = exc == NULL ? -1 : hl_waiter_set(t->st, empty, NULL, exc);
        Py_DECREF(empty);
        Py_XDECREF(exc);
    }
    return rc;
}

int
hl_stream_lost(StreamTransport *t, PyObject *exc)
{
    if (!t->open) { /* called twice, by hand */
        return 0;
    }
    PyObject *res = hl_stream_upcall(t, t->st->s_connection_lost, exc);
    PyObject *raised = res == NULL ? PyErr_GetRaisedException() : NULL;
    Py_XDECREF(res);
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

/* From the socket to the protocol. */
#include "net/feed.h"
#include "core/sys.h"
#include "net/stream.h"
#include "net/tls.h"

static int on_readable(PyObject *self);

/* Idempotent, and silent about a transport that is paused or closing: callers need not
 * know. */
int
hl_stream_start_reading(StreamTransport *t)
{
    if (t->reading || t->closing || t->paused) {
        return 0;
    }
    if (hl_loop_watch(t->loop, t->fd, HL_READ, (PyObject *)t, on_readable) < 0) {
        return -1;
    }
    t->reading = true;
    return 0;
}

void
hl_stream_stop_reading(StreamTransport *t)
{
    hl_transport_stop_reading(HL_TRANSPORT(t));
}

/* asyncio's rule: eof_received() returns true to keep the writing end, anything else
 * closes.  It may close or abort by itself, and then closing again does nothing. */
static int
on_eof(StreamTransport *t)
{
    hl_transport_log(HL_TRANSPORT(t), t->st->s_debug, "received EOF");
    PyObject *keep = hl_transport_upcall(HL_TRANSPORT(t), t->st->s_eof_received, NULL);
    if (keep == NULL) {
        return hl_stream_fatal(t, "Fatal error: protocol.eof_received() call failed.");
    }
    int open = PyObject_IsTrue(keep);
    Py_DECREF(keep);
    if (open < 0) { /* asyncio lets this one out of the reader's callback */
        return -1;
    }
    if (open) {
        hl_stream_stop_reading(t); /* nothing more will come, but it may still write */
        return 0;
    }
    return hl_stream_close(t);
}

/* What recv() said, when it was not a number of bytes. */
static int
on_recv_error(StreamTransport *t, int err)
{
    if (hl_would_block(err)) {
        return 0;
    }
    (void)hl_raise_errno(err);
    return hl_stream_fatal(t, "Fatal read error on socket transport");
}

/* Reads once per readiness, as asyncio: a peer that never stops sending must not keep
 * the others waiting.  What is left in the socket is reported again. */
static int
read_data(PyObject *self)
{
    StreamTransport *t = (StreamTransport *)self;
    ssize_t n;
    int rc = hl_feed_read(HL_TRANSPORT(t), *t->live_fd, true, &n);
    if (HL_LIKELY(rc > 0)) {
        return 0;
    }
    if (rc < 0) {
        return hl_stream_fatal(t, "Fatal error: protocol.data_received() call failed.");
    }
    if (n == 0) {
        return on_eof(t);
    }
    if (n == -ENOMEM && PyErr_Occurred()) {
        return hl_stream_fatal(t, "Fatal read error on socket transport");
    }
    return on_recv_error(t, (int)-n);
}

/* protocol.get_buffer(-1), which must not be empty: a new reference or NULL. */
static PyObject *
get_buffer(StreamTransport *t)
{
    PyObject *hint = PyLong_FromLong(-1);
    PyObject *buf = hl_transport_upcall(HL_TRANSPORT(t), t->st->s_get_buffer, hint);
    Py_DECREF(hint); /* a small integer: there is always one */
    if (buf == NULL) {
        return NULL;
    }
    Py_ssize_t len = PyObject_Size(buf);
    if (len == 0) {
        /* A read of no bytes would look like the end of the stream. */
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
    }
    if (len <= 0) {
        Py_CLEAR(buf);
    }
    return buf;
}

/* Three upcalls may come between: get_buffer(), the buffer's own __buffer__, and
 * buffer_updated().  The buffer is held by its view while the kernel writes. */
static int
read_buffered(PyObject *self)
{
    StreamTransport *t = (StreamTransport *)self;
    PyObject *buf = get_buffer(t);
    if (buf == NULL) {
        return hl_stream_fatal(t, "Fatal error: protocol.get_buffer() call failed.");
    }
    Py_buffer view;
    int rc = PyObject_GetBuffer(buf, &view, PyBUF_WRITABLE);
    if (rc < 0) { /* whatever its reason: the error of socket.recv_into() */
        PyErr_Format(PyExc_TypeError,
                     "get_buffer() must give a read-write bytes-like object, not %s",
                     Py_TYPE(buf)->tp_name);
    }
    Py_DECREF(buf);
    if (rc < 0) {
        return hl_stream_fatal(t, "Fatal read error on socket transport");
    }
    if (t->conn_lost) { /* get_buffer() aborted */
        PyBuffer_Release(&view);
        return 0;
    }
    ssize_t n = hl_sys_recv(*t->live_fd, view.buf, (size_t)view.len, 0);
    int err = n < 0 ? errno : 0;
    PyBuffer_Release(&view);
    if (n <= 0) {
        return n == 0 ? on_eof(t) : on_recv_error(t, err);
    }
    PyObject *count = PyLong_FromSsize_t(n);
    PyObject *res = count == NULL ? NULL
                                  : hl_transport_upcall(HL_TRANSPORT(t),
                                                        t->st->s_buffer_updated, count);
    Py_XDECREF(count);
    if (res == NULL) {
        return hl_stream_fatal(t,
                               "Fatal error: protocol.buffer_updated() call failed.");
    }
    Py_DECREF(res);
    return 0;
}

/* A BufferedProtocol of ours: no buffer object, no Python call. */
static int
read_tls(PyObject *self)
{
    StreamTransport *t = (StreamTransport *)self;
    unsigned char *buf = hl_loop_scratch(t->loop);
    if (buf == NULL) {
        return hl_stream_fatal(t, "Fatal error: protocol.get_buffer() call failed.");
    }
    ssize_t n = hl_sys_recv(*t->live_fd, buf, HL_READ_MAX, 0);
    if (HL_UNLIKELY(n <= 0)) {
        return n == 0 ? on_eof(t) : on_recv_error(t, errno);
    }
    PyObject *protocol = Py_NewRef(t->protocol);
    int rc = hl_tls_received(protocol, buf, (size_t)n);
    Py_DECREF(protocol);
    return HL_LIKELY(rc == 0)
               ? 0
               : hl_stream_fatal(t,
                                 "Fatal error: protocol.buffer_updated() call failed.");
}

/* The ring's entry holds the transport.  The watch may have ended between the poll and
 * here: then the bytes are not ours to take. */
static int
on_readable(PyObject *self)
{
    StreamTransport *t = (StreamTransport *)self;
    if (!t->reading) { /* queued before the watch ended */
        return 0;
    }
    return hl_transport_in_ctx(HL_TRANSPORT(t), t->read_ctx,
                               t->tls        ? read_tls
                               : t->buffered ? read_buffered
                                             : read_data);
}

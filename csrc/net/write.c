/* From the protocol to the socket, with flow control.
 *
 * The queue is in one of three states.
 *
 *   empty    nothing to do.
 *
 *   held     not `writing`: bytes written inside the callback or step that is running;
 *            nobody has tried to send them yet.  hl_stream_flush() does, at the latest
 *            when that callback returns.  Never more than HOLD_MAX bytes and never
 *            above the high-water mark, so that holding does not look like
 *            back-pressure.
 *
 *   waiting  `writing`: the socket is full and the loop watches for room. */
#include "net/stream.h"
#include "core/sys.h"

/* More than this is sent at once: one system call is nothing beside the copy it makes.
 */
#define HOLD_MAX (64 * 1024)

static int on_writable(PyObject *self);

/* The watch alone: what the queue holds is not touched. */
void
hl_stream_stop_writing(StreamTransport *t)
{
    hl_transport_stop_writing(HL_TRANSPORT(t));
}

/* ---- flow control ---- */

/* 0, or -1 for what must propagate from pause_writing(). */
static int
maybe_pause(StreamTransport *t)
{
    return hl_flow_pause(HL_TRANSPORT(t), t->out.bytes);
}

/* New marks may make what is held look like back-pressure, so it is sent first. */
PyObject *
hl_stream_set_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    StreamTransport *t = (StreamTransport *)self;
    Py_ssize_t high, low;
    if (hl_flow_parse(args, kwargs, &high, &low) < 0) {
        return NULL;
    }
    if (hl_stream_settle(t) < 0) {
        return NULL;
    }
    t->high = high;
    t->low = low;
    if (maybe_pause(t) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- sending ---- */

/* The socket took what it could: wait until it takes more.  The context is kept for the
 * upcalls that follow: resume_writing() runs in it, as it does in asyncio, where
 * add_writer() copies it here.  May call pause_writing(). */
static int
begin_waiting(StreamTransport *t)
{
    if (hl_loop_watch(t->loop, t->fd, HL_WRITE, (PyObject *)t, on_writable) < 0) {
        return hl_stream_fatal(t, "Fatal write error on socket transport");
    }
    t->writing = true;
    PyObject *ctx = hl_transport_context(HL_TRANSPORT(t));
    if (ctx == NULL) {
        return -1;
    }
    Py_XSETREF(t->write_ctx, ctx);
    return maybe_pause(t);
}

/* What follows a send of held bytes that did not take all of them. rc is a -errno.  The
 * transport may be closed when this returns. */
static int
after_flush(StreamTransport *t, int rc)
{
    if (rc == -EAGAIN) {
        return begin_waiting(t);
    }
    (void)hl_raise_errno(-rc);
    return hl_stream_fatal(t, "Fatal write error on socket transport");
}

/* No upcall unless something goes wrong or the socket is full; callers that go on look
 * at `closing` and conn_lost. */
int
hl_stream_flush(StreamTransport *t)
{
    if (t->out.bytes == 0 || t->writing || t->conn_lost) {
        return 0;
    }
    int rc = hl_wqueue_send(&t->out, *t->live_fd);
    return HL_LIKELY(rc == 0) ? 0 : after_flush(t, rc);
}

/* Runs when the callback that wrote is over.  Its context is not current any more, so
 * it is entered for whatever a failure or a full socket has called. */
static int
flush_cont(PyObject *self)
{
    StreamTransport *t = (StreamTransport *)self;
    PyObject *ctx = t->write_ctx;
    t->flush_queued = t->asked = false;
    if (t->out.bytes == 0 || t->writing || t->conn_lost) {
        return 0;
    }
    int rc = hl_wqueue_send(&t->out, *t->live_fd);
    if (HL_LIKELY(rc == 0)) {
        t->write_ctx = NULL;
        Py_XDECREF(ctx);
        return 0;
    }
    PyObject *copy = ctx == NULL ? PyContext_CopyCurrent() : PyContext_Copy(ctx);
    if (copy == NULL || PyContext_Enter(copy) < 0) {
        Py_XDECREF(copy);
        return -1;
    }
    rc = after_flush(t, rc);
    if (PyContext_Exit(copy) < 0) {
        rc = -1;
    }
    Py_DECREF(copy);
    return rc;
}

/* A TCP connection on which send() would fail has an error or has ended, and the kernel
 * shows both to whoever looks.  It shows neither for other sockets, whose peer may have
 * shut just its reading down, nor where the program has shut our writing down, for
 * which it needs the socket object. */
bool
hl_stream_would_send(StreamTransport *t)
{
    struct pollfd p = {*t->live_fd, 0, 0};
    return (t->family == AF_INET || t->family == AF_INET6) && t->sock == NULL &&
           !t->writing && hl_sys_poll(&p, 1, 0) == 0;
}

/* May these bytes be held?  Only while a callback of our loop runs in this thread: then
 * flush_cont() is sure to come. */
static bool
may_hold(StreamTransport *t, size_t n)
{
    size_t total = t->out.bytes + n;
    return total < HOLD_MAX && total <= (size_t)t->high && t->out.len < HL_WQUEUE_IOV &&
           t->loop->sched.in_callback &&
           HL_LOAD(t->loop->thread_id) == PyThread_get_thread_ident();
}

/* Puts bytes into the queue; owner NULL: they can change, so they are copied.  The
 * owner is borrowed. */
static int
enqueue(StreamTransport *t, PyObject *owner, const char *p, size_t n)
{
    if (owner == NULL) {
        owner = PyBytes_FromStringAndSize(p, (Py_ssize_t)n);
        if (owner == NULL) {
            return -1;
        }
        return hl_wqueue_push(&t->out, owner, PyBytes_AS_STRING(owner), n);
    }
    return hl_wqueue_push(&t->out, Py_NewRef(owner), p, n);
}

/* Makes sure that the queue is flushed when the running callback returns. */
static int
queue_flush(StreamTransport *t)
{
    if (t->flush_queued) {
        return 0;
    }
    if (hl_sched_flush_later(hl_stream_sched(t), (PyObject *)t, flush_cont) < 0) {
        return -1;
    }
    t->flush_queued = true;
    Py_XSETREF(t->write_ctx, Py_XNewRef(hl_context_borrow()));
    return 0;
}

/* Sends at once, what is held first; bytes that can change are copied only if they do
 * not all leave. */
static int
send_now(StreamTransport *t, PyObject *owner, const char *p, size_t n)
{
    if (t->out.bytes > 0 && owner != NULL) { /* one system call for both */
        if (enqueue(t, owner, p, n) < 0) {
            return -1;
        }
        return hl_stream_flush(t);
    }
    if (hl_stream_settle(t) < 0) {
        return -1;
    }
    if (t->conn_lost) {
        return 0;
    }
    if (!t->writing) {
        ssize_t sent = hl_sys_send(*t->live_fd, p, n, HL_MSG_NOSIGNAL);
        if (sent == (ssize_t)n) {
            return 0;
        }
        if (sent < 0 && !hl_would_block(errno)) {
            return after_flush(t, -errno);
        }
        p += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
        return enqueue(t, owner, p, n) < 0 ? -1 : begin_waiting(t);
    }
    return enqueue(t, owner, p, n) < 0 ? -1 : maybe_pause(t);
}

/* Takes n > 0 bytes from the protocol, in whatever state the queue is. */
static int
put(StreamTransport *t, PyObject *owner, const char *p, size_t n)
{
    if (t->writing) {
        return enqueue(t, owner, p, n) < 0 ? -1 : maybe_pause(t);
    }
    if (!may_hold(t, n)) {
        return send_now(t, owner, p, n);
    }
    return queue_flush(t) < 0 ? -1 : enqueue(t, owner, p, n);
}

/* ---- write(), writelines(), write_eof() ---- */

/* Writes what a buffer shows.  The immutable bytes behind a view need no copy. */
static int
put_view(StreamTransport *t, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return hl_stream_fatal(t, "Fatal write error on socket transport");
    }
    int rc = 0;
    if (view.len > 0) {
        PyObject *base = PyMemoryView_Check(data) ? PyMemoryView_GET_BASE(data) : NULL;
        bool fixed = base != NULL && PyBytes_CheckExact(base);
        rc = put(t, fixed ? base : NULL, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    return rc;
}

/* What write() and writelines() refuse: 0 or -1. */
static int
check_writable(StreamTransport *t, const char *eof, const char *busy)
{
    if (HL_UNLIKELY(t->eof || t->empty_waiter != NULL)) {
        PyErr_SetString(PyExc_RuntimeError, t->eof ? eof : busy);
        return -1;
    }
    return 0;
}

/* Bytes that are exact need no copy, wherever they have to wait: nobody can change
 * them.  Anything else is looked at through its buffer, which may be foreign code. */
PyObject *
hl_stream_write(PyObject *self, PyObject *data)
{
    StreamTransport *t = (StreamTransport *)self;
    bool exact = PyBytes_CheckExact(data);
    if (!exact && !PyByteArray_Check(data) && !PyMemoryView_Check(data) &&
        !PyBytes_Check(data)) {
        return hl_transport_bad_data(data, HL_STREAM_DATA);
    }
    if (check_writable(t, "Cannot call write() after write_eof()",
                       "unable to write; sendfile is in progress") < 0) {
        return NULL;
    }
    Py_ssize_t len = exact ? PyBytes_GET_SIZE(data) : PyObject_Size(data);
    if (len <= 0) {
        return len < 0 ? NULL : Py_NewRef(Py_None);
    }
    int rc;
    /* Looked at after PyObject_Size(), which a subclass may override. */
    if (HL_UNLIKELY(t->conn_lost)) {
        rc =
            hl_transport_lost_write(HL_TRANSPORT(t), "socket.send() raised exception.");
    }
    else if (exact) {
        rc = put(t, data, PyBytes_AS_STRING(data), (size_t)len);
    }
    else {
        rc = put_view(t, data);
    }
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* write() of memory that is only lent: what does not leave at once is copied. */
int
hl_stream_write_memory(PyObject *self, const char *p, size_t n)
{
    StreamTransport *t = (StreamTransport *)self;
    if (check_writable(t, "Cannot call write() after write_eof()",
                       "unable to write; sendfile is in progress") < 0) {
        return -1;
    }
    return HL_LIKELY(!t->conn_lost)
               ? put(t, NULL, p, n)
               : hl_transport_lost_write(HL_TRANSPORT(t),
                                         "socket.send() raised exception.");
}

/* A view of an element of writelines(), or empty bytes for one that is passed over. */
static PyObject *
as_line(PyObject *item)
{
    int skip = HL_WRITELINES_SKIPS_FALSE ? PyObject_Not(item) : 0;
    if (skip == 0) {
        return PyMemoryView_FromObject(item);
    }
    return skip < 0 ? NULL : PyBytes_FromStringAndSize(NULL, 0);
}

/* Every element must be bytes-like before the first one is taken; views keep the memory
 * of mutable elements in place meanwhile.  Views, or bytes as they are. asyncio makes
 * its views of all of them before it writes any. */
static PyObject *
collect(PyObject *list)
{
    PyObject *items = PySequence_List(list);
    for (Py_ssize_t i = 0; items != NULL && i < PyList_GET_SIZE(items); i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        if (!PyBytes_CheckExact(item)) {
            PyObject *view = as_line(item);
            if (view == NULL) {
                Py_CLEAR(items);
            }
            else {
                PyList_SetItem(items, i, view);
            }
        }
    }
    return items;
}

/* Bytes, or a view; one that is not contiguous is laid out anew.  Steals nothing; item
 * is held by the list of collect(). */
static int
enqueue_line(StreamTransport *t, PyObject *item)
{
    PyObject *bytes =
        PyBytes_CheckExact(item) ? Py_NewRef(item) : PyBytes_FromObject(item);
    if (bytes == NULL) {
        return -1;
    }
    if (PyBytes_GET_SIZE(bytes) == 0) {
        Py_DECREF(bytes);
        return 0;
    }
    return hl_wqueue_push(&t->out, bytes, PyBytes_AS_STRING(bytes),
                          (size_t)PyBytes_GET_SIZE(bytes));
}

/* All lines are in the queue: decides what put() decides for one write. */
static int
after_lines(StreamTransport *t)
{
    if (t->conn_lost) {
        return 0;
    }
    if (t->writing) {
        return maybe_pause(t);
    }
    return may_hold(t, 0) ? queue_flush(t) : hl_stream_flush(t);
}

/* asyncio's order of checks.  Iterating runs foreign code that may write, abort or
 * close: after_lines() sees what is left to be done. */
PyObject *
hl_stream_writelines(PyObject *self, PyObject *list)
{
    StreamTransport *t = (StreamTransport *)self;
    if (check_writable(t, "Cannot call writelines() after write_eof()",
                       "unable to writelines; sendfile is in progress") < 0) {
        return NULL;
    }
    int any = PyObject_IsTrue(list);
    if (any <= 0) {
        return any < 0 ? NULL : Py_NewRef(Py_None);
    }
    if (t->conn_lost) {
        return hl_transport_lost_write(HL_TRANSPORT(t),
                                       "socket.send() raised exception.") < 0
                   ? NULL
                   : Py_NewRef(Py_None);
    }
    PyObject *items = collect(list);
    if (items == NULL) {
        return NULL;
    }
    int rc = 0;
    for (Py_ssize_t i = 0; rc == 0 && !t->conn_lost && i < PyList_GET_SIZE(items);
         i++) {
        rc = enqueue_line(t, PyList_GET_ITEM(items, i));
    }
    Py_DECREF(items);
    if (rc < 0 || after_lines(t) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Everything has left: half-close.  0, or -1 with the OSError of shutdown(). */
static int
shut_down(StreamTransport *t)
{
    return hl_sys_shutdown(*t->live_fd, SHUT_WR) < 0 ? hl_raise_errno(errno) : 0;
}

/* Held bytes go first; those that wait for room put the half-close off, and
 * on_drained() does it. */
PyObject *
hl_stream_write_eof(PyObject *self, PyObject *Py_UNUSED(unused))
{
    StreamTransport *t = (StreamTransport *)self;
    if (t->closing || t->eof) {
        Py_RETURN_NONE;
    }
    if (hl_stream_settle(t) < 0) {
        return NULL;
    }
    if (t->closing) { /* the last write failed */
        Py_RETURN_NONE;
    }
    /* Set before shutdown(): a failure leaves no way to write either, as in asyncio. */
    t->eof = true;
    if (t->out.bytes == 0 && shut_down(t) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- room to write again ---- */

/* A wait for room ended with an error.  The exception goes two ways: to
 * connection_lost(), and to sendfile() which waits for an empty queue. */
static int
on_send_error(StreamTransport *t, int err)
{
    PyObject *empty = Py_XNewRef(t->empty_waiter);
    hl_stream_stop_writing(t);
    hl_wqueue_clear(&t->out);
    (void)hl_raise_errno(-err);
    PyObject *exc = PyErr_GetRaisedException();
    PyErr_SetRaisedException(Py_NewRef(exc));
    int rc = hl_stream_fatal(t, "Fatal write error on socket transport");
    if (rc == 0 && empty != NULL) {
        rc = hl_waiter_set(t->st, empty, NULL, exc);
    }
    Py_DECREF(exc);
    Py_XDECREF(empty);
    return rc;
}

/* The queue has run empty, and resume_writing() has not filled it again. */
static int
on_drained(StreamTransport *t)
{
    if (t->empty_waiter != NULL) {
        PyObject *empty = Py_NewRef(t->empty_waiter);
        int rc = hl_waiter_set(t->st, empty, Py_None, NULL);
        Py_DECREF(empty);
        if (rc < 0) {
            return -1;
        }
    }
    if (t->closing) {
        t->conn_lost++;
        return hl_stream_lost(t, Py_None);
    }
    return t->eof ? shut_down(t) : 0;
}

/* One call for as much as the socket takes. resume_writing() may fill the queue again,
 * close, or abort: each is looked at after it. */
static int
write_more(PyObject *self)
{
    StreamTransport *t = (StreamTransport *)self;
    int rc = hl_wqueue_send(&t->out, *t->live_fd);
    if (rc < 0 && rc != -EAGAIN) {
        return on_send_error(t, rc);
    }
    if (t->out.bytes ==
        0) { /* before the upcall: what it writes is sent by the flush */
        hl_stream_stop_writing(t);
    }
    if (hl_flow_resume(HL_TRANSPORT(t), t->out.bytes) < 0 || hl_stream_flush(t) < 0) {
        return -1;
    }
    return t->out.bytes > 0 || t->conn_lost ? 0 : on_drained(t);
}

/* The ring's entry holds the transport. */
static int
on_writable(PyObject *self)
{
    StreamTransport *t = (StreamTransport *)self;
    if (!t->writing) { /* queued before the watch ended */
        return 0;
    }
    return hl_transport_in_ctx(HL_TRANSPORT(t), t->write_ctx, write_more);
}

/* TLS data in both directions, with flow control. */
#include "net/stream.h"
#include "net/tls.h"

#define LOG_AFTER 5        /* asyncio's LOG_THRESHOLD_FOR_CONNLOST_WRITES */
#define RECORD (17 * 1024) /* no record's plaintext is longer */
#define HOLD_MAX (64 * 1024)

static const char failed[] = "Fatal error on SSL protocol";

/* ---- flow control ---- */

Py_ssize_t
hl_tls_waiting(TLSProtocol *t)
{
    Py_ssize_t n = t->engine->ops->outgoing(t->engine);
    return n < 0 ? -1 : n + t->backlog_bytes;
}

/* pause_writing() or resume_writing() of the application, which hears nothing more once
 * it was told that its connection is lost. */
static int
tell_app(TLSProtocol *t, PyObject *name, const char *message)
{
    if (t->app == NULL) {
        return 0;
    }
    PyObject *res = hl_tls_upcall(t, name, NULL);
    if (res != NULL) {
        Py_DECREF(res);
        return 0;
    }
    if (hl_err_propagates()) {
        return -1;
    }
    PyObject *transport =
        Py_NewRef(t->app_transport != NULL ? t->app_transport : Py_None);
    int rc = hl_report(t->st, (PyObject *)t->loop, message, t->st->s_transport,
                       transport, t->st->s_protocol, (PyObject *)t);
    Py_DECREF(transport);
    return rc;
}

int
hl_tls_control_writing(TLSProtocol *t)
{
    Py_ssize_t size = hl_tls_waiting(t);
    if (size < 0) {
        return -1;
    }
    if (size >= t->out_high && !t->app_writing_paused) {
        t->app_writing_paused = true;
        return tell_app(t, t->st->s_pause_writing, "protocol.pause_writing() failed");
    }
    if (size <= t->out_low && t->app_writing_paused) {
        t->app_writing_paused = false;
        return tell_app(t, t->st->s_resume_writing, "protocol.resume_writing() failed");
    }
    return 0;
}

int
hl_tls_control_reading(TLSProtocol *t)
{
    Py_ssize_t size = t->engine->ops->incoming(t->engine);
    if (size < 0) {
        return -1;
    }
    if (size >= t->in_high && !t->ssl_reading_paused) {
        t->ssl_reading_paused = true;
        return hl_tls_below(t, t->st->s_pause_reading, NULL);
    }
    if (size <= t->in_low && t->ssl_reading_paused) {
        t->ssl_reading_paused = false;
        return hl_tls_below(t, t->st->s_resume_reading, NULL);
    }
    return 0;
}

/* ---- writing ---- */

void
hl_tls_drop_backlog(TLSProtocol *t)
{
    PyObject *old = t->backlog;
    t->backlog = NULL;
    t->backlog_at = t->backlog_bytes = 0;
    Py_XDECREF(old);
}

static bool
has_backlog(TLSProtocol *t)
{
    return t->backlog != NULL && t->backlog_at < PyList_GET_SIZE(t->backlog);
}

/* Takes the first out of the backlog, which has one: a new reference, or NULL.  While
 * it is being encrypted a finaliser or a signal's handler may write, or close: they
 * must not find it there and send it twice. */
static PyObject *
take(TLSProtocol *t)
{
    PyObject *data = Py_NewRef(PyList_GET_ITEM(t->backlog, t->backlog_at));
    (void)PyList_SetItem(t->backlog, t->backlog_at++, Py_NewRef(Py_None));
    if (t->backlog_at == PyList_GET_SIZE(t->backlog)) { /* only None is left */
        t->backlog_at = 0;
        if (PyList_SetSlice(t->backlog, 0, PY_SSIZE_T_MAX, NULL) < 0) {
            Py_CLEAR(data);
        }
    }
    return data;
}

/* What the engine did not take of data is the first again: 0 or -1.  An exception that
 * is set stays. */
static int
put_back(TLSProtocol *t, PyObject *data, Py_ssize_t from, Py_ssize_t len)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *rest = from == 0 ? Py_NewRef(data) : PySequence_GetSlice(data, from, len);
    int rc = rest == NULL ? -1 : 0;
    if (rest != NULL && t->backlog != NULL) { /* connection_lost() may have come */
        rc = PyList_Insert(t->backlog, t->backlog_at, rest);
        t->backlog_bytes += len - from;
    }
    Py_XDECREF(rest);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return rc;
}

/* Encrypts the first of the backlog, as much as the engine takes: as its write(). */
static Py_ssize_t
write_first(TLSProtocol *t)
{
    PyObject *data = take(t);
    Py_ssize_t len = data == NULL ? -1 : PyObject_Size(data);
    if (len < 0) {
        Py_XDECREF(data);
        return HL_TLS_FAIL;
    }
    t->backlog_bytes -= t->backlog != NULL ? len : 0;
    Py_ssize_t count = t->engine->ops->write(t->engine, data);
    if (count < len && put_back(t, data, count < 0 ? 0 : count, len) < 0) {
        count = HL_TLS_FAIL;
    }
    Py_DECREF(data);
    return count;
}

/* Several short writes become one, so that they share a record: the exact bytes that
 * stand first in the backlog, HOLD_MAX at most.  0 or -1. */
static int
join_backlog(TLSProtocol *t)
{
    Py_ssize_t at = t->backlog_at, end = at, size = 0;
    for (; end < PyList_GET_SIZE(t->backlog); end++) {
        PyObject *item = PyList_GET_ITEM(t->backlog, end);
        if (!PyBytes_CheckExact(item) || size + PyBytes_GET_SIZE(item) > HOLD_MAX) {
            break;
        }
        size += PyBytes_GET_SIZE(item);
    }
    if (end - at < 2) {
        return 0;
    }
    PyObject *all = PyBytes_FromStringAndSize(NULL, size);
    if (all == NULL) {
        return -1;
    }
    char *p = PyBytes_AS_STRING(all);
    for (Py_ssize_t i = at; i < end; i++) {
        PyObject *item = PyList_GET_ITEM(t->backlog, i);
        memcpy(p, PyBytes_AS_STRING(item), (size_t)PyBytes_GET_SIZE(item));
        p += PyBytes_GET_SIZE(item);
    }
    if (PyList_SetSlice(t->backlog, at + 1, end, NULL) < 0) {
        Py_DECREF(all);
        return -1;
    }
    return PyList_SetItem(t->backlog, at, all);
}

/* The transport below is one of ours, and nobody put another write() in the way. */
static bool
writes_memory(TLSProtocol *t)
{
    PyTypeObject *type = t->st->t_StreamTransport;
    if (t->transport == NULL || !Py_IS_TYPE(t->transport, type)) {
        return false;
    }
    PyObject *write = hl_type_lookup(type, t->st->s_write);
    return write != NULL && Py_IS_TYPE(write, &PyMethodDescr_Type) &&
           ((PyMethodDescrObject *)write)->d_method->ml_meth == hl_stream_write &&
           hl_method_is(t->transport, t->st->s_write, write);
}

/* What is written is one message of exact bytes, nothing waits before it, and the
 * transport below calls C. */
static bool
may_pass(TLSProtocol *t)
{
    hl_tls_engine *e = t->engine;
    if (!e->direct || t->ssl_writing_paused ||
        t->backlog_at + 1 != PyList_GET_SIZE(t->backlog) || !writes_memory(t)) {
        return false;
    }
    PyObject *data = PyList_GET_ITEM(t->backlog, t->backlog_at);
    return PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) > 0 &&
           (size_t)PyBytes_GET_SIZE(data) <= HL_TLS_SEND_MAX &&
           e->ops->outgoing(e) == 0;
}

/* Encrypts the first of the backlog and sends it from where it lies: 1; 0 if the rest
 * is for write_first(), -1. */
static int
pass_first(TLSProtocol *t)
{
    hl_tls_engine *e = t->engine;
    PyObject *data = take(t);
    if (data == NULL) {
        return -1;
    }
    Py_ssize_t len = PyBytes_GET_SIZE(data);
    t->backlog_bytes -= len;
    const char *cipher = NULL;
    size_t size = 0;
    size_t done =
        e->ops->encrypt(e, PyBytes_AS_STRING(data), (size_t)len, &cipher, &size);
    /* Put back first: sending may call pause_writing(), which may write. */
    int rc = done < (size_t)len ? put_back(t, data, (Py_ssize_t)done, len) : 1;
    if (cipher != NULL) {
        PyObject *transport = Py_NewRef(t->transport);
        if (rc >= 0 && hl_stream_write_memory(transport, cipher, size) < 0) {
            rc = -1;
        }
        Py_DECREF(transport);
        e->ops->sent(e);
    }
    Py_DECREF(data);
    return rc;
}

int
hl_tls_do_write(TLSProtocol *t)
{
    while (has_backlog(t)) {
        if (!t->engine->by_object && join_backlog(t) < 0) {
            return -1;
        }
        int passed = may_pass(t) ? pass_first(t) : 0;
        if (passed != 0) {
            if (passed < 0) {
                return -1;
            }
            continue;
        }
        Py_ssize_t count = write_first(t);
        if (count == HL_TLS_FAIL) {
            return -1;
        }
        if (count == HL_TLS_AGAIN) {
            break;
        }
    }
    return hl_tls_process_outgoing(t);
}

int
hl_tls_process_outgoing(TLSProtocol *t)
{
    if (!t->ssl_writing_paused) {
        Py_ssize_t n = t->engine->ops->outgoing(t->engine);
        if (n < 0) {
            return -1;
        }
        if (n > 0) {
            PyObject *data = t->engine->ops->drain(t->engine);
            int rc = data == NULL ? -1 : hl_tls_below(t, t->st->s_write, data);
            Py_XDECREF(data);
            if (rc < 0) {
                return -1;
            }
        }
    }
    return hl_tls_control_writing(t);
}

/* Is the transport below one of ours?  A foreign one sees each write when it is made.
 */
static bool
above_ours(TLSProtocol *t)
{
    return t->transport != NULL &&
           (Py_IS_TYPE(t->transport, t->st->t_StreamTransport) ||
            Py_IS_TYPE(t->transport, t->st->t_TLSTransport));
}

/* May what is in the backlog stay there until the running callback returns?  Only while
 * it could not be told from what was sent. */
static bool
may_hold(TLSProtocol *t)
{
    return t->backlog_bytes < HOLD_MAX && t->backlog_bytes < t->out_high &&
           !t->engine->by_object && !t->ssl_writing_paused && above_ours(t) &&
           t->loop->sched.in_callback &&
           HL_LOAD(t->loop->thread_id) == PyThread_get_thread_ident();
}

/* In the state WRAPPED asyncio encrypts at once. */
static int
write_now(TLSProtocol *t)
{
    if (t->state != TLS_WRAPPED) {
        return 0;
    }
    return hl_tls_do_write(t) == 0 ? 0 : hl_tls_fatal_exception(t, failed);
}

int
hl_tls_settle(TLSProtocol *t)
{
    return t->flush_queued && has_backlog(t) ? write_now(t) : 0;
}

/* Enters the context of those who wrote, and what asyncio's write() would have called
 * is called in it; *ctx (owned) becomes a copy where somebody is in it already, another
 * thread perhaps, or where there is none.  0 or -1. */
static int
enter_writers(PyObject **ctx)
{
    if (*ctx != NULL) {
        if (HL_LIKELY(PyContext_Enter(*ctx) == 0)) {
            return 0;
        }
        PyErr_Clear();
    }
    PyObject *copy = *ctx == NULL ? PyContext_CopyCurrent() : PyContext_Copy(*ctx);
    Py_XSETREF(*ctx, copy);
    return copy == NULL ? -1 : PyContext_Enter(copy);
}

/* Runs when the callback that wrote is over.  Its context is not current any more, so
 * it is entered: the transport below keeps it for what a full socket calls later.  What
 * is written from now on has to queue a flush of its own. */
static int
flush_cont(PyObject *self)
{
    TLSProtocol *t = (TLSProtocol *)self;
    PyObject *ctx = t->write_ctx;
    t->write_ctx = NULL;
    t->flush_queued = false;
    int rc = 0;
    if (has_backlog(t) && t->state == TLS_WRAPPED) {
        rc = enter_writers(&ctx);
        if (rc == 0) {
            rc = write_now(t);
            rc = PyContext_Exit(ctx) < 0 ? -1 : rc;
        }
    }
    Py_XDECREF(ctx);
    return rc;
}

/* Has what was just written encrypted: now, or after this callback. */
static int
write_soon(TLSProtocol *t, PyObject *data)
{
    if (t->state != TLS_WRAPPED || !PyBytes_CheckExact(data) || !may_hold(t)) {
        return write_now(t);
    }
    if (!t->flush_queued) {
        if (hl_sched_flush_later(&t->loop->sched, (PyObject *)t, flush_cont) < 0) {
            return -1;
        }
        t->flush_queued = true;
        Py_XSETREF(t->write_ctx, Py_XNewRef(hl_context_borrow()));
    }
    return 0;
}

/* True: there is no connection any more, and the write has been counted. */
static int
too_late(TLSProtocol *t)
{
    if (t->state == TLS_DO_HANDSHAKE || t->state == TLS_WRAPPED) {
        return 0;
    }
    if (t->conn_lost >= LOG_AFTER) {
        PyObject *res = PyObject_CallMethod(t->st->i_logger, "warning", "s",
                                            "SSL connection is closed");
        if (res == NULL) {
            return -1;
        }
        Py_DECREF(res);
    }
    t->conn_lost++;
    return 1;
}

int
hl_tls_append(TLSProtocol *t, PyObject *data)
{
    if (t->backlog == NULL && (t->backlog = PyList_New(0)) == NULL) {
        return -1;
    }
    if (PyList_Append(t->backlog, data) < 0) {
        return -1;
    }
    Py_ssize_t len = PyObject_Size(data);
    if (len < 0) {
        return -1;
    }
    t->backlog_bytes += len;
    return 0;
}

int
hl_tls_write(TLSProtocol *t, PyObject *data)
{
    int late = too_late(t);
    if (late != 0) {
        return late < 0 ? -1 : 0;
    }
    return hl_tls_append(t, data) < 0 ? -1 : write_soon(t, data);
}

int
hl_tls_writelines(TLSProtocol *t, PyObject *list)
{
    int late = too_late(t);
    if (late != 0) {
        return late < 0 ? -1 : 0;
    }
    PyObject *it = PyObject_GetIter(list);
    PyObject *item;
    if (it == NULL) {
        return -1;
    }
    while ((item = PyIter_Next(it)) != NULL) {
        int rc = hl_tls_append(t, item);
        Py_DECREF(item);
        if (rc < 0) {
            break;
        }
    }
    Py_DECREF(it);
    return PyErr_Occurred() ? -1 : write_now(t);
}

/* ---- reading ---- */

/* What one look at the engine has brought so far. */
typedef struct {
    PyObject *chunks; /* owned list of bytes, or NULL */
    Py_ssize_t size;  /* of all of them */
} inbox;

/* Adds bytes (stolen; NULL: an exception is set): 0 or -1. */
static int
inbox_add(inbox *in, PyObject *chunk)
{
    if (chunk == NULL || (in->chunks == NULL && !(in->chunks = PyList_New(0)))) {
        Py_XDECREF(chunk);
        return -1;
    }
    int rc = PyList_Append(in->chunks, chunk);
    in->size += PyBytes_GET_SIZE(chunk);
    Py_DECREF(chunk);
    return rc;
}

/* All of it as one bytes object, or NULL. */
static PyObject *
inbox_join(inbox *in)
{
    Py_ssize_t n = PyList_GET_SIZE(in->chunks);
    if (n == 1) {
        return Py_NewRef(PyList_GET_ITEM(in->chunks, 0));
    }
    PyObject *all = PyBytes_FromStringAndSize(NULL, in->size);
    char *p = all == NULL ? NULL : PyBytes_AS_STRING(all);
    for (Py_ssize_t i = 0; p != NULL && i < n; i++) {
        PyObject *chunk = PyList_GET_ITEM(in->chunks, i);
        memcpy(p, PyBytes_AS_STRING(chunk), (size_t)PyBytes_GET_SIZE(chunk));
        p += PyBytes_GET_SIZE(chunk);
    }
    return all;
}

/* Reads by way of buf until there is no more: *data is bytes, or NULL for none.  0 for
 * close_notify, AGAIN, or FAIL. */
static Py_ssize_t
read_by_way(TLSProtocol *t, char *buf, PyObject **data)
{
    hl_tls_engine *e = t->engine;
    inbox in = {NULL, 0};
    size_t used = 0;
    Py_ssize_t n = 1;
    while (n > 0) {
        if (HL_SCRATCH_SIZE - used < RECORD) {
            if (inbox_add(&in, PyBytes_FromStringAndSize(buf, (Py_ssize_t)used)) < 0) {
                n = HL_TLS_FAIL;
                break;
            }
            used = 0;
        }
        n = e->ops->read(e, buf + used, HL_SCRATCH_SIZE - used);
        used += n > 0 ? (size_t)n : 0;
    }
    if (n != HL_TLS_FAIL && in.chunks == NULL && used > 0) {
        *data = PyBytes_FromStringAndSize(buf, (Py_ssize_t)used);
        return *data == NULL ? HL_TLS_FAIL : n;
    }
    if (n != HL_TLS_FAIL && in.chunks != NULL) {
        bool full =
            used == 0 ||
            inbox_add(&in, PyBytes_FromStringAndSize(buf, (Py_ssize_t)used)) == 0;
        *data = full ? inbox_join(&in) : NULL;
        n = *data == NULL ? HL_TLS_FAIL : n;
    }
    Py_XDECREF(in.chunks);
    return n;
}

/* OpenSSL lets signals, the collector and its own callbacks run: what they call may
 * read another connection, or this one.  So the buffer is ours alone meanwhile. */
static Py_ssize_t
read_all(TLSProtocol *t, PyObject **data)
{
    unsigned char *buf = hl_loop_scratch_take(t->loop);
    if (buf == NULL) {
        return HL_TLS_FAIL;
    }
    Py_ssize_t n = read_by_way(t, (char *)buf, data);
    hl_loop_scratch_give(t->loop, buf);
    return n;
}

/* The same by methods of Python. */
static Py_ssize_t
read_all_objects(TLSProtocol *t, PyObject **data)
{
    hl_tls_engine *e = t->engine;
    PyObject *chunks = PyList_New(0);
    int rc = chunks == NULL ? HL_TLS_FAIL : 1;
    while (rc > 0) {
        PyObject *chunk = e->ops->read_object(e, HL_SCRATCH_SIZE, &rc);
        int some = chunk == NULL ? 0 : PyObject_IsTrue(chunk);
        if (some > 0) {
            rc = PyList_Append(chunks, chunk) == 0 ? 1 : HL_TLS_FAIL;
        }
        else if (some < 0) {
            rc = HL_TLS_FAIL;
        }
        Py_XDECREF(chunk);
    }
    if (rc != HL_TLS_FAIL && PyList_GET_SIZE(chunks) == 1) {
        *data = Py_NewRef(PyList_GET_ITEM(chunks, 0));
    }
    else if (rc != HL_TLS_FAIL && PyList_GET_SIZE(chunks) > 1) {
        PyObject *none = PyBytes_FromStringAndSize(NULL, 0);
        *data = none == NULL ? NULL : PyObject_CallMethod(none, "join", "O", chunks);
        Py_XDECREF(none);
        rc = *data == NULL ? HL_TLS_FAIL : rc;
    }
    Py_XDECREF(chunks);
    return rc;
}

/* close_notify has come. */
static int
on_close_notify(TLSProtocol *t)
{
    return hl_tls_call_eof(t) < 0 ? -1 : hl_tls_start_shutdown(t);
}

/* p: n bytes of ciphertext for a direct engine.  If they lie in the loop's buffer it is
 * theirs until they are read: a callback of OpenSSL's can run Python code, which may
 * read as well. */
static Py_ssize_t
receive(TLSProtocol *t, const void *p, size_t n, PyObject **data)
{
    hl_tls_engine *e = t->engine;
    unsigned char *lent = NULL;
    if (n > 0 && p == t->loop->scratch) {
        lent = hl_loop_scratch_take(t->loop);
    }
    Py_ssize_t end = e->ops->receive(e, p, n, data);
    if (lent != NULL) {
        hl_loop_scratch_give(t->loop, lent);
    }
    return end;
}

/* p: n bytes of ciphertext that the engine has not been fed, if it is a direct one. */
static int
read_copied(TLSProtocol *t, const void *p, size_t n)
{
    hl_tls_engine *e = t->engine;
    PyObject *data = NULL;
    Py_ssize_t end = e->direct      ? receive(t, p, n, &data)
                     : e->by_object ? read_all_objects(t, &data)
                                    : read_all(t, &data);
    if (end == HL_TLS_FAIL) {
        return -1;
    }
    if (data != NULL) {
        PyObject *res = hl_tls_upcall(t, t->st->s_data_received, data);
        Py_DECREF(data);
        if (res == NULL) {
            return -1;
        }
        Py_DECREF(res);
    }
    return end == 0 ? on_close_notify(t) : 0;
}

/* Fills a protocol's buffer: what was read last, as read() says it; *offset: all. */
static Py_ssize_t
fill(TLSProtocol *t, Py_buffer *view, Py_ssize_t *offset)
{
    hl_tls_engine *e = t->engine;
    Py_ssize_t n = 1;
    do {
        n = e->ops->read(e, (char *)view->buf + *offset, (size_t)(view->len - *offset));
        *offset += n > 0 ? n : 0;
    } while (n > 0 && *offset < view->len);
    return n;
}

static Py_ssize_t
fill_by_object(TLSProtocol *t, PyObject *buf, Py_ssize_t len, Py_ssize_t *offset)
{
    hl_tls_engine *e = t->engine;
    Py_ssize_t n = e->ops->read_buffer(e, buf, len);
    PyObject *whole = n > 0 ? PyMemoryView_FromObject(buf) : NULL;
    while (n > 0) {
        *offset += n;
        if (whole == NULL || *offset >= len) {
            break;
        }
        PyObject *rest = PySequence_GetSlice(whole, *offset, len);
        n = rest == NULL ? HL_TLS_FAIL : e->ops->read_buffer(e, rest, len - *offset);
        Py_XDECREF(rest);
    }
    if (n > 0 && whole == NULL) {
        n = HL_TLS_FAIL;
    }
    Py_XDECREF(whole);
    return n;
}

/* protocol.get_buffer(n): a writable view, or -1.  *buf is owned. */
static int
get_buffer(TLSProtocol *t, PyObject **buf, Py_buffer *view)
{
    Py_ssize_t n = t->engine->ops->incoming(t->engine);
    PyObject *hint = n < 0 ? NULL : PyLong_FromSsize_t(n);
    PyObject *method = Py_NewRef(t->get_buffer);
    *buf = hint == NULL ? NULL : PyObject_CallOneArg(method, hint);
    Py_DECREF(method);
    Py_XDECREF(hint);
    if (*buf == NULL) {
        return -1;
    }
    if (PyObject_Size(*buf) < 0 || PyObject_GetBuffer(*buf, view, PyBUF_WRITABLE) < 0) {
        if (PyErr_ExceptionMatches(PyExc_BufferError)) {
            PyErr_Format(PyExc_TypeError,
                         "read() argument 2 must be read-write bytes-like object, "
                         "not %s",
                         Py_TYPE(*buf)->tp_name);
        }
        Py_CLEAR(*buf);
        return -1;
    }
    return 0;
}

static int
buffer_updated(TLSProtocol *t, Py_ssize_t n)
{
    PyObject *count = PyLong_FromSsize_t(n);
    PyObject *method = Py_NewRef(t->buffer_updated);
    PyObject *res = count == NULL ? NULL : PyObject_CallOneArg(method, count);
    Py_DECREF(method);
    Py_XDECREF(count);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

static int
read_buffered(TLSProtocol *t)
{
    PyObject *buf;
    Py_buffer view;
    if (get_buffer(t, &buf, &view) < 0) {
        return -1;
    }
    Py_ssize_t offset = 0;
    Py_ssize_t n = t->engine->by_object ? fill_by_object(t, buf, view.len, &offset)
                                        : fill(t, &view, &offset);
    PyBuffer_Release(&view);
    Py_DECREF(buf);
    if (n == HL_TLS_FAIL) {
        return -1;
    }
    if (n > 0 && hl_tls_soon(t, (PyObject *)t, t->st->s__do_read, NULL) < 0) {
        return -1;
    }
    if (offset > 0 && t->buffer_updated != NULL && buffer_updated(t, offset) < 0) {
        return -1;
    }
    return n == 0 ? on_close_notify(t) : 0;
}

static int
read_and_answer(TLSProtocol *t, const void *p, size_t n)
{
    if (!t->app_reading_paused) {
        int rc = t->buffered ? read_buffered(t) : read_copied(t, p, n);
        if (rc < 0) {
            return -1;
        }
        /* Writes that are held were made by the callback that is still running. */
        if (t->flush_queued && has_backlog(t) && t->state == TLS_WRAPPED) {
            rc = 0;
        }
        else {
            rc = has_backlog(t) ? hl_tls_do_write(t) : hl_tls_process_outgoing(t);
        }
        if (rc < 0) {
            return -1;
        }
    }
    return hl_tls_control_reading(t);
}

int
hl_tls_do_read(TLSProtocol *t)
{
    if (t->state != TLS_WRAPPED && t->state != TLS_FLUSHING) {
        return 0;
    }
    return read_and_answer(t, NULL, 0) == 0 ? 0 : hl_tls_fatal_exception(t, failed);
}

int
hl_tls_received(PyObject *self, const void *p, size_t n)
{
    TLSProtocol *t = (TLSProtocol *)self;
    hl_tls_engine *e = t->engine;
    if (e->direct && t->state == TLS_WRAPPED && !t->buffered &&
        !t->app_reading_paused) {
        return read_and_answer(t, p, n) == 0 ? 0 : hl_tls_fatal_exception(t, failed);
    }
    return e->ops->feed(e, p, n) < 0 ? -1 : hl_tls_look(t);
}

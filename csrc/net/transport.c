/* What all transports do alike. */
#include "net/transport.h"
#include "core/sys.h"

#include <limits.h>

/* asyncio's LOG_THRESHOLD_FOR_CONNLOST_WRITES. */
#define LOG_AFTER 5

/* Bytes objects up to this size cost Python's allocator next to nothing. */
#define CHEAP_READ 480

/* A protocol that has kept none of so many reads in a row does not keep them. */
#define SURELY_DROPPED 8

/* ---- calls ---- */

/* The protocol is held here: it may replace itself by set_protocol(), and so drop the
 * reference that the transport has.  After connection_lost() there is none: None then
 * raises the AttributeError that asyncio raises. */
PyObject *
hl_transport_upcall(hl_transport *t, PyObject *name, PyObject *arg)
{
    PyObject *protocol = Py_NewRef(t->protocol != NULL ? t->protocol : Py_None);
    PyObject *args[3] = {NULL, protocol, arg};
    size_t n = (arg != NULL ? 2 : 1) | PY_VECTORCALL_ARGUMENTS_OFFSET;
    PyObject *res = PyObject_VectorcallMethod(name, args + 1, n, NULL);
    Py_DECREF(protocol);
    return res;
}

/* On a plain loop this is call_soon() without the call.  The handle is the ring's. */
int
hl_transport_call_soon(hl_transport *t, PyObject *func, PyObject *arg)
{
    PyObject *loop = (PyObject *)t->loop;
    hl_sched *s = hl_sched_plain(loop);
    PyObject *ctx = t->own_ctx ? t->read_ctx : NULL;
    if (s == NULL) {
        Py_XINCREF(ctx); /* a call_soon() of the user's may end the transport */
        int done = hl_call_soon(t->st, loop, func, arg, ctx);
        Py_XDECREF(ctx);
        return done;
    }
    PyObject *handle = hl_handle_new(s, loop, func, &arg, arg != NULL ? 1 : 0, ctx);
    if (handle == NULL) {
        return -1;
    }
    int rc = hl_sched_push(s, HL_KIND_HANDLE, handle, NULL);
    Py_DECREF(handle);
    return rc;
}

/* By its name, so that a method which a program put in its place is the one that runs,
 * as when asyncio passes self.<name>.  The closed loop is looked at first: the ring
 * takes everything. */
int
hl_transport_soon(hl_transport *t, PyObject *name, PyObject *arg)
{
    if (hl_loop_check_closed(t->loop) < 0) {
        return -1;
    }
    PyObject *func = PyObject_GetAttr((PyObject *)t, name);
    int rc = func == NULL ? -1 : hl_transport_call_soon(t, func, arg);
    Py_XDECREF(func);
    return rc;
}

/* New references either way: the field may be replaced while the caller uses it. */
PyObject *
hl_transport_context(hl_transport *t)
{
    return t->own_ctx && t->read_ctx != NULL ? Py_NewRef(t->read_ctx)
                                             : PyContext_CopyCurrent();
}

/* asyncio runs readers and writers as handles, each in the context that was current
 * when it was added.  Here the entry is the transport itself, so the context is entered
 * by hand. fn may end the transport; the context is held until it is left. */
int
hl_transport_in_ctx(hl_transport *t, PyObject *ctx, hl_cont_fn fn)
{
    if (ctx == NULL) {
        return fn((PyObject *)t);
    }
    Py_INCREF(ctx); /* pausing and resuming in fn() would replace it */
    int rc = PyContext_Enter(ctx);
    if (rc == 0) {
        rc = fn((PyObject *)t);
        if (PyContext_Exit(ctx) < 0) {
            rc = -1;
        }
    }
    Py_DECREF(ctx);
    return rc;
}

/* The ring keeps the transport alive until both have run.  Nobody can see that the
 * second is no handle of its own: it has no name, no arguments to look at, and debug
 * mode does not come this way. */
int
hl_transport_schedule_start(hl_transport *t, PyObject *connection_made,
                            hl_cont_fn start)
{
    if (hl_transport_call_soon(t, connection_made, (PyObject *)t) < 0) {
        return -1;
    }
    if (hl_sched_plain((PyObject *)t->loop) != NULL) {
        return hl_loop_soon(t->loop, (PyObject *)t, start);
    }
    return hl_transport_soon(t, t->st->s__start, NULL);
}

/* A waiter that was cancelled meanwhile is done, and left alone: create_connection()
 * closes the transport by itself then. */
int
hl_transport_started(hl_transport *t, PyObject *waiter, int rc)
{
    if (waiter != NULL) {
        if (rc == 0) {
            rc = hl_waiter_set(t->st, waiter, Py_None, NULL);
        }
        Py_DECREF(waiter);
    }
    return rc;
}

/* ---- log and reports ---- */

/* A handler of the logging module is foreign code: it may close the transport, so
 * callers look at their state afterwards.  What it raises is dropped, for the logging
 * module reports it by itself. */
void
hl_transport_log(hl_transport *t, PyObject *level, const char *text)
{
    if (HL_LIKELY(t->loop == NULL || !t->loop->sched.debug)) {
        return;
    }
    PyObject *format = PyUnicode_FromFormat("%%r %s", text);
    if (format != NULL) {
        PyObject *args[] = {t->st->i_logger, format, (PyObject *)t};
        Py_XDECREF(PyObject_VectorcallMethod(level, args, 3, NULL));
        Py_DECREF(format);
    }
    PyErr_Clear();
}

/* logger.debug("%r: <message>", transport, exc_info=exc) for errors that are no news.
 */
static void
debug_error(hl_transport *t, const char *message, PyObject *exc)
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

/* The context has what asyncio's _fatal_error() puts in it: message, exception,
 * transport, protocol.  Loop and protocol are held, since the handler may end the
 * transport. */
int
hl_transport_error(hl_transport *t, const char *message, PyObject *exc, bool expected)
{
    if (t->loop == NULL) {
        return 0;
    }
    if (expected) {
        if (t->loop->sched.debug) {
            debug_error(t, message, exc);
        }
        return 0;
    }
    PyObject *loop = Py_NewRef(t->loop);
    PyObject *protocol = Py_NewRef(t->protocol != NULL ? t->protocol : Py_None);
    PyErr_SetRaisedException(Py_NewRef(exc));
    int rc = hl_report(t->st, loop, message, t->st->s_transport, (PyObject *)t,
                       t->st->s_protocol, protocol);
    Py_DECREF(protocol);
    Py_DECREF(loop);
    return rc;
}

/* SystemExit and KeyboardInterrupt are not reasons of an end: they go out, and the
 * transport stays as it is, as with asyncio. */
int
hl_transport_fatal(hl_transport *t, const char *message, bool expected,
                   int (*end)(hl_transport *t, PyObject *exc))
{
    if (hl_err_propagates()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    int rc = hl_transport_error(t, message, exc, expected);
    /* Closed even when the report itself raised: what it raised goes out afterwards. */
    PyObject *raised = rc < 0 ? PyErr_GetRaisedException() : NULL;
    if (end(t, exc) < 0) {
        rc = -1;
    }
    Py_DECREF(exc);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return rc;
}

/* asyncio's __del__ does the same, and closes the socket afterwards. */
void
hl_transport_warn_unclosed(PyObject *self)
{
    if (PyErr_ResourceWarning(self, 1, "unclosed transport %R", self) < 0) {
        if (PyErr_ExceptionMatches(PyExc_Warning)) { /* made an error: say so */
            PyErr_WriteUnraisable(self);
        }
        PyErr_Clear();
    }
}

/* For what asyncio would let out of a reader or writer callback: there the handle
 * reports it.  SystemExit and KeyboardInterrupt leave the loop. */
int
hl_transport_callback_failed(hl_transport *t, const char *where)
{
    if (t->loop == NULL || hl_err_propagates()) {
        return -1;
    }
    char message[80];
    (void)PyOS_snprintf(message, sizeof(message), "Exception in callback %s", where);
    PyObject *exc = PyErr_GetRaisedException();
    int rc = hl_transport_error(t, message, exc, false);
    Py_DECREF(exc);
    return rc;
}

/* A protocol that does not look at is_closing() may go on writing for ever: asyncio
 * counts the first writes in silence, then warns at each. */
int
hl_transport_lost_write(hl_transport *t, const char *text)
{
    if (t->conn_lost < LOG_AFTER) {
        t->conn_lost++;
        return 0;
    }
    t->conn_lost +=
        t->conn_lost < UINT_MAX; /* never 0 again, however long it goes on */
    PyObject *line = PyUnicode_FromString(text);
    PyObject *res = line == NULL ? NULL
                                 : PyObject_CallMethodOneArg(t->st->i_logger,
                                                             t->st->s_warning, line);
    Py_XDECREF(line);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

HL_COLD PyObject *
hl_transport_bad_data(PyObject *data, const char *wanted)
{
    PyObject *name = PyType_GetName(Py_TYPE(data));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError, "data argument must be a %s object, not %R",
                     wanted, name);
        Py_DECREF(name);
    }
    return NULL;
}

/* ---- flow control ---- */

/* A protocol's pause_writing() or resume_writing(): 0, or -1 for what must propagate.
 */
static int
tell_protocol(hl_transport *t, PyObject *name, const char *message)
{
    PyObject *loop = Py_NewRef(t->loop);
    PyObject *protocol = Py_NewRef(t->protocol);
    PyObject *res = hl_transport_upcall(t, name, NULL);
    int rc = 0;
    if (res == NULL) {
        rc = hl_err_propagates()
                 ? -1
                 : hl_report(t->st, loop, message, t->st->s_transport, (PyObject *)t,
                             t->st->s_protocol, protocol);
    }
    Py_XDECREF(res);
    Py_DECREF(protocol);
    Py_DECREF(loop);
    return rc;
}

/* The flag is set before the call: pause_writing() may write, and shall not be called
 * from within itself. */
int
hl_flow_pause(hl_transport *t, size_t size)
{
    if (t->proto_paused || t->loop == NULL || (Py_ssize_t)size <= t->high) {
        return 0;
    }
    t->proto_paused = true;
    return tell_protocol(t, t->st->s_pause_writing, "protocol.pause_writing() failed");
}

/* Likewise cleared before the call: resume_writing() may write so much that it has to
 * be paused again. */
int
hl_flow_resume(hl_transport *t, size_t size)
{
    if (!t->proto_paused || (Py_ssize_t)size > t->low) {
        return 0;
    }
    t->proto_paused = false;
    return tell_protocol(t, t->st->s_resume_writing,
                         "protocol.resume_writing() failed");
}

/* A water mark given as a number; None leaves *out alone and gives 0, else 1 or -1.
 * Numbers too large to matter are cut. asyncio compares what it is given; only its
 * order counts here, so that infinity and huge numbers keep their meaning. */
static int
limit_arg(PyObject *arg, Py_ssize_t *out)
{
    if (arg == Py_None) {
        return 0;
    }
    if (PyFloat_Check(arg)) {
        double d = PyFloat_AS_DOUBLE(arg);
        *out = d >= (double)PY_SSIZE_T_MAX ? PY_SSIZE_T_MAX
               : d >= 0.0                  ? (Py_ssize_t)d
                                           : -1;
        return 1;
    }
    *out = PyNumber_AsSsize_t(arg, NULL); /* NULL: clip */
    return *out == -1 && PyErr_Occurred() ? -1 : 1;
}

/* asyncio's defaults depend on which of the two is given, and its check is on both. */
int
hl_flow_parse(PyObject *args, PyObject *kwargs, Py_ssize_t *high, Py_ssize_t *low)
{
    return hl_flow_parse_from(args, kwargs, 64 * 1024, high, low);
}

int
hl_flow_parse_from(PyObject *args, PyObject *kwargs, Py_ssize_t usual, Py_ssize_t *high,
                   Py_ssize_t *low)
{
    static char *names[] = {"high", "low", NULL};
    PyObject *high_arg = Py_None, *low_arg = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:set_write_buffer_limits", names,
                                     &high_arg, &low_arg)) {
        return -1;
    }
    *high = usual;
    *low = 0;
    int has_high = limit_arg(high_arg, high);
    int has_low = has_high < 0 ? -1 : limit_arg(low_arg, low);
    if (has_low < 0) {
        return -1;
    }
    if (!has_high && has_low) {
        *high = *low > PY_SSIZE_T_MAX / 4 ? PY_SSIZE_T_MAX : 4 * *low;
    }
    if (!has_low) {
        *low = *high / 4 - (*high % 4 < 0); /* rounded down, as by // */
    }
    if (!(*high >= *low && *low >= 0)) {
        PyErr_Format(PyExc_ValueError, "high (%zd) must be >= low (%zd) must be >= 0",
                     *high, *low);
        return -1;
    }
    return 0;
}

/* ---- reading ---- */

/* No wait in either: the descriptor is non-blocking. */
static inline ssize_t
read_raw(int fd, bool sock, void *buf)
{
    return sock ? hl_sys_recv(fd, buf, HL_READ_MAX, 0)
                : hl_sys_read(fd, buf, HL_READ_MAX);
}

/* Bytes of exactly what was read. */
static PyObject *
copy(hl_transport *t, const unsigned char *buf, size_t n, size_t *room)
{
    if (n <= CHEAP_READ) {
        *room = 0;
        return PyBytes_FromStringAndSize((const char *)buf, (Py_ssize_t)n);
    }
    size_t most = t->dropped >= SURELY_DROPPED ? 4 * n : n;
    PyObject *data = hl_loop_bytes(t->loop, n, most, room);
    if (data != NULL) {
        if (n < *room) {
            hl_bytes_reshape(data, (Py_ssize_t)n);
        }
        memcpy(PyBytes_AS_STRING(data), buf, n);
    }
    return data;
}

/* A read into the loop's scratch buffer, then bytes of exactly that size: as long as
 * the buffer is not filled, the copy is cheaper than allocating for the worst case. */
static PyObject *
read_small(hl_transport *t, int fd, bool sock, ssize_t *n, size_t *room)
{
    unsigned char *buf = hl_loop_scratch(t->loop);
    if (buf == NULL) {
        *n = -ENOMEM;
        return NULL;
    }
    *n = read_raw(fd, sock, buf);
    if (*n <= 0) {
        *n = *n < 0 ? -errno : 0;
        return NULL;
    }
    PyObject *data = copy(t, buf, (size_t)*n, room);
    if (data == NULL) {
        *n = -ENOMEM;
    }
    return data;
}

/* `got` bytes are in data, which has room for more.  Those of a protocol that does not
 * keep what it gets stay in that memory, a part of it unused: all of it is used again
 * when the call has returned.  A small part is copied out of it. */
static PyObject *
cut(hl_transport *t, PyObject *data, size_t got, size_t *room)
{
    if (got < *room / 4) {
        PyObject *part =
            PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), (Py_ssize_t)got);
        hl_loop_bytes_give(t->loop, data, *room);
        *room = 0;
        return part;
    }
    if (t->dropped >= SURELY_DROPPED) {
        hl_bytes_reshape(data, (Py_ssize_t)got);
        return data;
    }
    *room = got;
    (void)_PyBytes_Resize(&data, (Py_ssize_t)got);
    return data;
}

/* More came than data has room for: the rest of it is in another place. */
static PyObject *
extend(PyObject *data, const unsigned char *rest, size_t got, size_t *room)
{
    if (_PyBytes_Resize(&data, (Py_ssize_t)got) == 0) {
        memcpy(PyBytes_AS_STRING(data) + *room, rest, got - *room);
        *room = got;
    }
    return data;
}

/* A read that may be as large as the last one: into an object of that size, and what
 * comes beyond it into the shared buffer.  No copy is made where messages are alike. */
static PyObject *
read_large(hl_transport *t, int fd, bool sock, ssize_t *n, size_t *room)
{
    unsigned char *rest = hl_loop_scratch(t->loop);
    size_t least = t->last_read;
    PyObject *data =
        rest == NULL ? NULL : hl_loop_bytes(t->loop, least, 4 * least, room);
    if (data == NULL) {
        *n = -ENOMEM;
        return NULL;
    }
    if (*room >= HL_READ_MAX) {
        *n = read_raw(fd, sock, PyBytes_AS_STRING(data));
    }
    else {
        struct iovec v[] = {{PyBytes_AS_STRING(data), *room},
                            {rest, HL_READ_MAX - *room}};
        *n = hl_sys_readv(fd, v, 2);
    }
    if (*n <= 0) {
        *n = *n < 0 ? -errno : 0;
        hl_loop_bytes_give(t->loop, data, *room);
        return NULL;
    }
    if ((size_t)*n != *room) {
        data = (size_t)*n < *room ? cut(t, data, (size_t)*n, room)
                                  : extend(data, rest, (size_t)*n, room);
    }
    if (data == NULL) {
        *n = -ENOMEM;
    }
    return data;
}

/* By what the last read was like: a large one foretells another. */
PyObject *
hl_transport_read(hl_transport *t, int fd, bool sock, ssize_t *n, size_t *room)
{
    *room = 0;
    PyObject *data = t->last_read ? read_large(t, fd, sock, n, room)
                                  : read_small(t, fd, sock, n, room);
    if (HL_LIKELY(data != NULL)) {
        t->last_read = *n >= HL_LARGE_READ ? (unsigned)*n : 0;
    }
    return data;
}

/* Bytes that only we have can be written over. */
void
hl_transport_had(hl_transport *t, PyObject *data, size_t room)
{
    if (t->loop == NULL || !hl_only_ours(data)) {
        t->dropped = 0;
        Py_DECREF(data);
        return;
    }
    t->dropped += t->dropped < SURELY_DROPPED;
    hl_loop_bytes_give(t->loop, data, room);
}

/* ---- methods that are the same for all ---- */

/* asyncio's transports do not look at what they are given either. */
PyObject *
hl_transport_set_protocol(PyObject *self, PyObject *protocol)
{
    Py_XSETREF(HL_TRANSPORT(self)->protocol, Py_NewRef(protocol));
    Py_RETURN_NONE;
}

PyObject *
hl_transport_get_protocol(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *protocol = HL_TRANSPORT(self)->protocol;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

PyObject *
hl_transport_is_closing(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(HL_TRANSPORT(self)->closing);
}

PyObject *
hl_transport_is_reading(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(!HL_TRANSPORT(self)->closing && !HL_TRANSPORT(self)->paused);
}

/* Pausing twice, or when the end has begun, is no error: asyncio's rule for protocols
 * that do not keep count. */
PyObject *
hl_transport_pause_reading(PyObject *self, PyObject *Py_UNUSED(unused))
{
    hl_transport *t = HL_TRANSPORT(self);
    if (!t->closing && !t->paused) {
        t->paused = true;
        hl_transport_stop_reading(t);
        hl_transport_log(t, t->st->s_debug, "pauses reading");
    }
    Py_RETURN_NONE;
}

PyObject *
hl_transport_resume_reading(hl_transport *t, hl_cont_fn start)
{
    if (t->closing || !t->paused) {
        Py_RETURN_NONE;
    }
    /* Reads now belong to whoever resumed them: asyncio's add_reader() would copy the
     * context that is current here. */
    PyObject *ctx = hl_transport_context(t);
    if (ctx == NULL) {
        return NULL;
    }
    t->paused = false;
    Py_XSETREF(t->read_ctx, ctx);
    if (start((PyObject *)t) < 0) {
        return NULL;
    }
    hl_transport_log(t, t->st->s_debug, "resumes reading");
    Py_RETURN_NONE;
}

PyObject *
hl_transport_get_write_buffer_limits(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return Py_BuildValue("(nn)", HL_TRANSPORT(self)->low, HL_TRANSPORT(self)->high);
}

/* ---- getters ---- */

/* What asyncio's __repr__ shows, but for what its selector knows: we know ourselves
 * what we watch.  Callable at any time, from the finaliser too. */
PyObject *
hl_transport_repr(hl_transport *t, const char *name, bool open, size_t waiting)
{
    const char *state = !open ? " closed" : t->closing ? " closing" : "";
    if (t->loop == NULL || t->loop->closed) {
        return PyUnicode_FromFormat("<%s%s fd=%d>", name, state, t->fd);
    }
    return PyUnicode_FromFormat("<%s%s fd=%d read=%s write=<%s, bufsize=%zu>>", name,
                                state, t->fd, t->reading ? "polling" : "idle",
                                t->writing ? "polling" : "idle", waiting);
}

PyObject *
hl_transport_get_object(PyObject *self, void *closure)
{
    PyObject *value = *(PyObject **)((char *)self + (size_t)closure);
    return Py_NewRef(value != NULL ? value : Py_None);
}

PyObject *
hl_transport_get_bool(PyObject *self, void *closure)
{
    return PyBool_FromLong(*(bool *)((char *)self + (size_t)closure));
}

PyObject *
hl_transport_get_fd(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(HL_TRANSPORT(self)->fd);
}

PyObject *
hl_transport_get_conn_lost(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(HL_TRANSPORT(self)->conn_lost);
}

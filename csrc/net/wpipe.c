/* The writing end of a pipe.
 *
 * A write goes out at once; what the pipe does not take is queued, and then the loop
 * watches for room.  The read side of the descriptor is watched as well: it becomes
 * ready when the reader is gone. */
#include "net/pipe.h"
#include "core/sys.h"

#define SELF(op) ((PipeTransport *)(op))

/* ---- the reader is gone ---- */

/* Bytes that wait have nobody to read them: asyncio gives connection_lost() a
 * BrokenPipeError, otherwise None. */
static int
hung_up(PyObject *self)
{
    PipeTransport *t = SELF(self);
    hl_transport_log(HL_TRANSPORT(t), t->st->s_info, "was closed by peer");
    if (t->out.bytes == 0) {
        return hl_pipe_close(t, Py_None);
    }
    PyObject *exc = PyObject_CallNoArgs(PyExc_BrokenPipeError);
    int rc = exc == NULL ? -1 : hl_pipe_close(t, exc);
    Py_XDECREF(exc);
    return rc;
}

/* The ring's entry holds the transport. */
static int
on_hangup(PyObject *self)
{
    PipeTransport *t = SELF(self);
    if (!t->reading) { /* queued before the watch ended */
        return 0;
    }
    return hl_transport_in_ctx(HL_TRANSPORT(t), t->read_ctx, hung_up);
}

/* Idempotent.  Character devices have no read side that would tell: `hangup` is false.
 */
int
hl_wpipe_start(PipeTransport *t)
{
    if (!t->hangup || t->lost || t->reading) {
        return 0;
    }
    PyObject *ctx = PyContext_CopyCurrent();
    if (ctx == NULL) {
        return -1;
    }
    Py_XSETREF(t->read_ctx, ctx);
    if (hl_loop_watch(t->loop, t->fd, HL_READ, (PyObject *)t, on_hangup) < 0) {
        return -1;
    }
    t->reading = true;
    return 0;
}

/* ---- room to write again ---- */

/* err is an errno: whatever it is, only the log tells of it, in debug mode. */
static int
on_write_error(PipeTransport *t, int err)
{
    hl_wqueue_clear(&t->out);
    t->conn_lost++;
    hl_transport_stop_writing(HL_TRANSPORT(t));
    (void)hl_raise_errno(err);
    return hl_pipe_fatal(t, "Fatal write error on pipe transport", err);
}

/* asyncio's _write_ready(): as long as something is left, nothing changes; the watch
 * ends and resume_writing() comes when the queue is empty. */
static int
write_ready(PyObject *self)
{
    PipeTransport *t = SELF(self);
    int rc = hl_wqueue_write(&t->out, t->fd);
    if (rc < 0) {
        return rc == -EAGAIN ? 0 : on_write_error(t, -rc);
    }
    hl_transport_stop_writing(
        HL_TRANSPORT(t)); /* before the upcall, which may fill the queue again */
    if (hl_flow_resume(HL_TRANSPORT(t), t->out.bytes) < 0) {
        return -1;
    }
    if (!t->closing || t->lost || t->out.bytes > 0) {
        return 0;
    }
    t->lost = true; /* close() waited for the last byte, which has left now */
    hl_transport_stop_reading(HL_TRANSPORT(t));
    return hl_pipe_lost(t, Py_None);
}

/* The ring's entry holds the transport. */
static int
on_writable(PyObject *self)
{
    PipeTransport *t = SELF(self);
    if (!t->writing) { /* queued before the watch ended */
        return 0;
    }
    return hl_transport_in_ctx(HL_TRANSPORT(t), t->write_ctx, write_ready);
}

/* ---- write() ---- */

/* Queues bytes; those that can change are copied. */
static int
enqueue(PipeTransport *t, PyObject *data, const char *p, size_t n)
{
    PyObject *owner = PyMemoryView_Check(data) ? PyMemoryView_GET_BASE(data) : data;
    if (owner == NULL || !PyBytes_CheckExact(owner)) {
        owner = PyBytes_FromStringAndSize(p, (Py_ssize_t)n);
        if (owner == NULL) {
            return -1;
        }
        p = PyBytes_AS_STRING(owner);
    }
    else {
        Py_INCREF(owner);
    }
    if (hl_wqueue_push(&t->out, owner, p, n) < 0) {
        return -1;
    }
    return hl_flow_pause(HL_TRANSPORT(t), t->out.bytes);
}

/* The pipe took what it could: wait until it takes more. */
static int
begin_waiting(PipeTransport *t)
{
    PyObject *ctx = PyContext_CopyCurrent();
    if (ctx == NULL) {
        return -1;
    }
    Py_XSETREF(t->write_ctx, ctx);
    if (hl_loop_watch(t->loop, t->fd, HL_WRITE, (PyObject *)t, on_writable) < 0) {
        return -1;
    }
    t->writing = true;
    return 0;
}

/* Takes len > 0 bytes from the protocol.  The pipe takes a part, or nothing: the rest
 * is queued behind the watch for room.  A write that failed closes the transport, and
 * the call returns as if all was well, as in asyncio. */
static int
put(PipeTransport *t, PyObject *data, const char *p, size_t len)
{
    if (t->out.bytes > 0) {
        return enqueue(t, data, p, len);
    }
    ssize_t n = hl_sys_write(t->fd, p, len);
    if (n == (ssize_t)len) {
        return 0;
    }
    if (n < 0) {
        if (!hl_would_block(errno)) {
            return on_write_error(t, errno);
        }
        n = 0;
    }
    return begin_waiting(t) < 0 ? -1 : enqueue(t, data, p + n, len - (size_t)n);
}

/* asyncio asserts the type, so the exception is an AssertionError; it is raised here
 * with assertions off as well. */
static PyObject *
wpipe_write(PyObject *self, PyObject *data)
{
    PipeTransport *t = SELF(self);
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        PyErr_Format(PyExc_AssertionError, "%R", data);
        return NULL;
    }
    Py_ssize_t size = PyObject_Size(data);
    if (size <= 0) {
        return size < 0 ? NULL : Py_NewRef(Py_None);
    }
    int rc;
    Py_buffer view;
    if (t->conn_lost || t->closing) {
        rc = hl_transport_lost_write(
            HL_TRANSPORT(t),
            "pipe closed by peer or os.write(pipe, data) raised exception.");
    }
    else if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        t->conn_lost++;
        rc = hl_pipe_fatal(t, "Fatal write error on pipe transport", 0);
    }
    else {
        rc = view.len > 0 ? put(t, data, view.buf, (size_t)view.len) : 0;
        PyBuffer_Release(&view);
    }
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- the end ---- */

/* close() and write_eof() are one for a pipe; what is queued leaves first. */
static PyObject *
wpipe_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PipeTransport *t = SELF(self);
    if (t->closing) {
        Py_RETURN_NONE;
    }
    t->closing = true;
    if (t->out.bytes == 0 && hl_pipe_close(t, Py_None) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Not only once: a close() that waits for the queue to leave is overtaken. */
static PyObject *
wpipe_abort(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return hl_pipe_close(SELF(self), Py_None) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
wpipe_can_write_eof(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    Py_RETURN_TRUE;
}

/* ---- flow control ---- */

static PyObject *
wpipe_get_write_buffer_size(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t(SELF(self)->out.bytes);
}

/* asyncio looks at the new marks at once: pause_writing() may be called here. */
static PyObject *
wpipe_set_write_buffer_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    PipeTransport *t = SELF(self);
    Py_ssize_t high, low;
    if (hl_flow_parse(args, kwargs, &high, &low) < 0) {
        return NULL;
    }
    t->high = high;
    t->low = low;
    if (hl_flow_pause(HL_TRANSPORT(t), t->out.bytes) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyMethodDef hl_wpipe_methods[] = {
    HL_PIPE_METHODS,
    {"write", wpipe_write, METH_O, "Write bytes; never blocks."},
    {"write_eof", wpipe_close, METH_NOARGS,
     "Close the pipe once everything written has left."},
    {"can_write_eof", wpipe_can_write_eof, METH_NOARGS, "True."},
    {"close", wpipe_close, METH_NOARGS,
     "Close the pipe once everything written has left."},
    {"abort", wpipe_abort, METH_NOARGS, "Close the pipe at once."},
    {"get_write_buffer_size", wpipe_get_write_buffer_size, METH_NOARGS,
     "Number of bytes that wait to be written."},
    {"get_write_buffer_limits", hl_transport_get_write_buffer_limits, METH_NOARGS,
     "The low- and the high-water mark."},
    {"set_write_buffer_limits",
     (PyCFunction)(void (*)(void))wpipe_set_write_buffer_limits,
     METH_VARARGS | METH_KEYWORDS, "Set the high- and low-water marks of writing."},
    {NULL, NULL, 0, NULL},
};

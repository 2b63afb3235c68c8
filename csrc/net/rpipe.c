/* The reading end of a pipe. */
#include "net/feed.h"
#include "net/pipe.h"

#define SELF(op) ((PipeTransport *)(op))

/* Every writer is gone.  Both calls are made even if the first cannot be. asyncio's
 * order: eof_received() and connection_lost() both run in the next turn, the first one
 * first.  The transport is closing before either. */
static int
on_eof(PipeTransport *t)
{
    hl_transport_log(HL_TRANSPORT(t), t->st->s_info, "was closed by peer");
    if (t->lost) { /* a log handler closed us */
        return 0;
    }
    t->closing = true;
    hl_transport_stop_reading(HL_TRANSPORT(t));
    PyObject *eof = PyObject_GetAttr(t->protocol, t->st->s_eof_received);
    int rc = eof == NULL ? -1 : hl_transport_call_soon(HL_TRANSPORT(t), eof, NULL);
    Py_XDECREF(eof);
    PyObject *raised = rc < 0 ? PyErr_GetRaisedException() : NULL;
    if (hl_pipe_close(t, Py_None) < 0) {
        rc = -1;
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return rc;
}

/* err is an errno.  For ENOMEM the exception may be set already: Python's memory, not
 * the kernel's. */
static int
on_read_error(PipeTransport *t, int err)
{
    if (hl_would_block(err)) {
        return 0;
    }
    if (!PyErr_Occurred()) {
        (void)hl_raise_errno(err);
    }
    return hl_pipe_fatal(t, "Fatal read error on pipe transport", err);
}

/* One read per readiness, as asyncio; the protocol may have closed us by the time it
 * returns, so nothing of the transport is used after a read that was delivered. */
static int
read_ready(PyObject *self)
{
    PipeTransport *t = SELF(self);
    ssize_t n;
    int rc = hl_feed_read(HL_TRANSPORT(t), t->fd, false, &n);
    if (HL_LIKELY(rc > 0)) {
        return 0;
    }
    if (rc < 0) {
        return hl_transport_callback_failed(HL_TRANSPORT(t),
                                            "ReadPipeTransport._read_ready()");
    }
    return n == 0 ? on_eof(t) : on_read_error(t, (int)-n);
}

/* The ring's entry holds the transport. */
static int
on_readable(PyObject *self)
{
    PipeTransport *t = SELF(self);
    if (!t->reading) { /* queued before the watch ended */
        return 0;
    }
    return hl_transport_in_ctx(HL_TRANSPORT(t), t->read_ctx, read_ready);
}

/* Idempotent. asyncio's add_reader() copies the context here; on failure the pipe stays
 * open and unread, and the caller reports it. */
int
hl_rpipe_start(PipeTransport *t)
{
    if (t->reading || t->closing || t->paused) {
        return 0;
    }
    PyObject *ctx = PyContext_CopyCurrent(); /* reads belong to whoever started them */
    if (ctx == NULL) {
        return -1;
    }
    Py_XSETREF(t->read_ctx, ctx);
    if (hl_loop_watch(t->loop, t->fd, HL_READ, (PyObject *)t, on_readable) < 0) {
        return -1;
    }
    t->reading = true;
    return 0;
}

/* Idempotent.  What the kernel still holds is dropped: a reader that closes wants no
 * more. */
static PyObject *
rpipe_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PipeTransport *t = SELF(self);
    if (!t->closing && hl_pipe_close(t, Py_None) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The context of whoever resumes is that of the reads which follow. */
static PyObject *
rpipe_resume_reading(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PipeTransport *t = SELF(self);
    if (t->closing || !t->paused) {
        Py_RETURN_NONE;
    }
    t->paused = false;
    if (hl_rpipe_start(t) < 0) {
        return NULL;
    }
    hl_transport_log(HL_TRANSPORT(t), t->st->s_debug, "resumes reading");
    Py_RETURN_NONE;
}

PyMethodDef hl_rpipe_methods[] = {
    HL_PIPE_METHODS,
    {"close", rpipe_close, METH_NOARGS, "Close the pipe."},
    {"is_reading", hl_transport_is_reading, METH_NOARGS, "Is it receiving?"},
    {"pause_reading", hl_transport_pause_reading, METH_NOARGS, "Stop receiving."},
    {"resume_reading", rpipe_resume_reading, METH_NOARGS, "Receive again."},
    {NULL, NULL, 0, NULL},
};

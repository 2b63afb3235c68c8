/* What all transports are made of: the fields they begin with, calls into the protocol
 * and the loop, flow control, reading.
 *
 * Functions here run on the loop's thread, with a reference to the transport held by
 * the caller.  Those that call a protocol or the loop's Python methods may find the
 * transport closed, or with another protocol, when they return. */
#ifndef HL_NET_TRANSPORT_H
#define HL_NET_TRANSPORT_H

#include "loop/loop.h"

/* What one read gets at most: asyncio's max_size too. */
#define HL_READ_MAX HL_SCRATCH_SIZE

#define HL_TRANSPORT_HEAD                                                              \
    PyObject_HEAD                                                                      \
    PyObject *extra; /* asyncio.BaseTransport's slot `_extra`; or NULL */              \
    PyObject *mod;   /* owned: keeps st alive; dropped last */                         \
    hl_state *st;                                                                      \
    LoopObject *loop;     /* owned; NULL after connection_lost() */                    \
    PyObject *protocol;   /* owned; NULL after connection_lost() */                    \
    PyObject *read_ctx;   /* the context that reads run in; or NULL */                 \
    PyObject *write_ctx;  /* that of the write that is held or waits; or NULL */       \
    Py_ssize_t high, low; /* water marks */                                            \
    unsigned last_read;   /* bytes of the last read if they were many, else 0 */       \
    int fd;                                                                            \
    unsigned conn_lost;    /* > 0: connection_lost() is on its way; counts writes */   \
    bool own_ctx;          /* read_ctx is for all calls, and stays the same */         \
    bool closing;          /* no more of it: closed, aborted, or failed */             \
    bool paused;           /* pause_reading() */                                       \
    bool proto_paused;     /* pause_writing() was called */                            \
    bool reading;          /* the loop watches for input */                            \
    bool writing;          /* the loop watches for room to write */                    \
    unsigned char dropped; /* reads in a row that the protocol did not keep */

typedef struct {
    HL_TRANSPORT_HEAD
} hl_transport;

#define HL_TRANSPORT(t) ((hl_transport *)(t))

/* ---- calls ---- */
/* Calls protocol.<name>(arg) (arg NULL: no argument). */
PyObject *hl_transport_upcall(hl_transport *t, PyObject *name, PyObject *arg);
/* loop.call_soon(func, arg) in the transport's own context, or in a copy of the current
 * one: 0 or -1. */
int hl_transport_call_soon(hl_transport *t, PyObject *func, PyObject *arg);
/* loop.call_soon(transport.<name>, arg): 0, or -1, also when the loop is closed. */
int hl_transport_soon(hl_transport *t, PyObject *name, PyObject *arg);
/* The context for what waits now: its own, or a copy of the current one; a new
 * reference or NULL with an exception. */
PyObject *hl_transport_context(hl_transport *t);
/* Calls fn(t) in a context (NULL: the one that is current): what fn returns, or -1. */
int hl_transport_in_ctx(hl_transport *t, PyObject *ctx, hl_cont_fn fn);

/* Has connection_made(transport) called in the next turn and, right after it,
 * start(transport): by its Python name `_start` where somebody could see the
 * difference.  0 or -1. */
int hl_transport_schedule_start(hl_transport *t, PyObject *connection_made,
                                hl_cont_fn start);
/* The end of a start(), whose outcome is rc: tells the waiter (stolen; may be NULL)
 * when all went well.  0 or -1. */
int hl_transport_started(hl_transport *t, PyObject *waiter, int rc);

/* ---- log and reports ---- */
/* logger.<level>("%r <text>", transport), in debug mode only; never fails. */
void hl_transport_log(hl_transport *t, PyObject *level, const char *text);
/* Tells of an error: the log, in debug mode, when it is `expected`, else the exception
 * handler.  0, or -1 for what must propagate. */
int hl_transport_error(hl_transport *t, const char *message, PyObject *exc,
                       bool expected);
/* Takes the exception that is set for the reason of the end: tells of it as
 * hl_transport_error() does, and has `close` end the transport with it.  0, or -1 for
 * what must propagate. */
int hl_transport_fatal(hl_transport *t, const char *message, bool expected,
                       int (*end)(hl_transport *t, PyObject *exc));
/* ResourceWarning "unclosed transport", from a finaliser.  It may run any code, that
 * brings the transport back to life or closes it; no exception is left. */
void hl_transport_warn_unclosed(PyObject *self);
/* What left a callback of a transport is the exception that is set: "Exception in
 * callback <where>" to the exception handler.  0, or -1 for what must propagate. */
int hl_transport_callback_failed(hl_transport *t, const char *where);
/* A write to a connection that is gone is dropped; after some of them asyncio says so:
 * 0 or -1. */
int hl_transport_lost_write(hl_transport *t, const char *text);
/* asyncio's TypeError for data that is none: NULL. */
PyObject *hl_transport_bad_data(PyObject *data, const char *wanted);

/* ---- flow control; `size`: bytes that wait ---- */
/* Calls pause_writing() and resume_writing() when it is time: 0, or -1 for what must
 * propagate. */
int hl_flow_pause(hl_transport *t, size_t size);
int hl_flow_resume(hl_transport *t, size_t size);
/* The arguments of set_write_buffer_limits(): 0 or -1. */
int hl_flow_parse(PyObject *args, PyObject *kwargs, Py_ssize_t *high, Py_ssize_t *low);
/* The same where the high-water mark is `usual` when neither is given. */
int hl_flow_parse_from(PyObject *args, PyObject *kwargs, Py_ssize_t usual,
                       Py_ssize_t *high, Py_ssize_t *low);

/* ---- watching ---- */
static inline void
hl_transport_stop_reading(hl_transport *t)
{
    if (t->reading) {
        t->reading = false;
        hl_loop_unwatch(t->loop, t->fd, HL_READ, (PyObject *)t);
    }
}

static inline void
hl_transport_stop_writing(hl_transport *t)
{
    if (t->writing) {
        t->writing = false;
        hl_loop_unwatch(t->loop, t->fd, HL_WRITE, (PyObject *)t);
    }
}

/* ---- reading ---- */
/* One read from a socket (recv) or anything else (read): bytes; or NULL and *n is 0 for
 * the end, or a -errno.  -ENOMEM has an exception set.  *room: what the object has
 * memory for, if it is worth being used again; else 0. */
PyObject *hl_transport_read(hl_transport *t, int fd, bool sock, ssize_t *n,
                            size_t *room);
/* The protocol has had data, which came with `room` > 0: takes the reference. */
void hl_transport_had(hl_transport *t, PyObject *data, size_t room);

/* ---- methods that are the same for all ---- */
PyObject *hl_transport_set_protocol(PyObject *self, PyObject *protocol);
PyObject *hl_transport_get_protocol(PyObject *self, PyObject *unused);
PyObject *hl_transport_is_closing(PyObject *self, PyObject *unused);
PyObject *hl_transport_is_reading(PyObject *self, PyObject *unused);
PyObject *hl_transport_pause_reading(PyObject *self, PyObject *unused);
/* resume_reading(), which starts the watch by start(transport). */
PyObject *hl_transport_resume_reading(hl_transport *t, hl_cont_fn start);
PyObject *hl_transport_get_write_buffer_limits(PyObject *self, PyObject *unused);

/* ---- getters ---- */
/* What asyncio's socket transports show of themselves; waiting: bytes to be sent. */
PyObject *hl_transport_repr(hl_transport *t, const char *name, bool open,
                            size_t waiting);
/* An attribute that is an object field, or a bool: the closure is its offset. */
PyObject *hl_transport_get_object(PyObject *self, void *closure);
PyObject *hl_transport_get_bool(PyObject *self, void *closure);
PyObject *hl_transport_get_fd(PyObject *self, void *closure);
PyObject *hl_transport_get_conn_lost(PyObject *self, void *closure);

#endif

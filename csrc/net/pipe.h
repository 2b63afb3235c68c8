/* The ends of pipes as transports: FIFOs, terminals and other character devices, and
 * sockets used as pipes.
 *
 *   pipe.c    the types: creation, attributes, the end of their life
 *   rpipe.c   the reading end
 *   wpipe.c   the writing end
 *
 * The descriptor belongs to the file object that the transport was made of: closing
 * that, once, after connection_lost() or in the finaliser, is all that closes it. */
#ifndef HL_NET_PIPE_H
#define HL_NET_PIPE_H

#include "net/transport.h"
#include "net/wqueue.h"

typedef struct {
    HL_TRANSPORT_HEAD
    PyObject *pipe;   /* owned; NULL once closed */
    PyObject *waiter; /* owned or NULL: told once connection_made() has been called */
    hl_wqueue out;    /* the writing end's */
    bool writer;      /* which end it is */
    bool hangup;      /* a writing end whose read side tells that the reader is gone */
    bool lost;        /* connection_lost() is on its way, or has been called */
} PipeTransport;

/* ---- pipe.c ---- */
/* Takes the exception that is set, errno err (0: none), for the reason of the end; 0,
 * or -1 for what must propagate. */
int hl_pipe_fatal(PipeTransport *t, const char *message, int err);
/* Drops what is unsent and has connection_lost(exc) called in a later turn. */
int hl_pipe_close(PipeTransport *t, PyObject *exc);
/* Calls connection_lost(exc) and lets go of everything: 0, or -1 with what it raised.
 */
int hl_pipe_lost(PipeTransport *t, PyObject *exc);
PyObject *hl_loop_read_pipe(PyObject *loop, PyObject *args, PyObject *kwargs);
PyObject *hl_loop_write_pipe(PyObject *loop, PyObject *args, PyObject *kwargs);
int hl_pipe_exec(PyObject *mod, hl_state *st);

/* ---- rpipe.c, wpipe.c ---- */
/* Watches for input, or for the hang-up of the reader: 0 or -1. */
int hl_rpipe_start(PipeTransport *t);
int hl_wpipe_start(PipeTransport *t);
extern PyMethodDef hl_rpipe_methods[], hl_wpipe_methods[];

/* ---- methods of both ---- */
PyObject *hl_pipe_start(PyObject *self, PyObject *unused);
PyObject *hl_pipe_call_connection_lost(PyObject *self, PyObject *exc);

#define HL_PIPE_METHODS                                                                \
    {"set_protocol", hl_transport_set_protocol, METH_O, "Set a new protocol."},        \
        {"get_protocol", hl_transport_get_protocol, METH_NOARGS,                       \
         "Return the current protocol."},                                              \
        {"is_closing", hl_transport_is_closing, METH_NOARGS,                           \
         "Is it closing or closed?"},                                                  \
        {"_start", hl_pipe_start, METH_NOARGS, NULL},                                  \
    {                                                                                  \
        "_call_connection_lost", hl_pipe_call_connection_lost, METH_O, NULL            \
    }

#endif

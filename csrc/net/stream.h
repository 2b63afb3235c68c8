/* The stream transport: what its parts share.
 *
 *   stream.c   the type: creation, attributes, the end of its life
 *   close.c    from the first sign of the end to connection_lost()
 *   read.c     from the socket to the protocol
 *   write.c    from the protocol to the socket, with flow control
 *
 * What is common to all transports is in transport.h.
 *
 * Life of the descriptor: hl_stream_new() adopts it, and from then on only this object
 * closes it, once, in hl_stream_release(): after connection_lost(), or in the
 * finaliser.
 *
 * Any upcall (a protocol's or the loop's Python method) may close or abort the
 * transport, change its protocol or pause it: everything is looked at anew afterwards.
 * Functions here run on the loop's thread, with a reference to the transport held by
 * the caller. */
#ifndef HL_NET_STREAM_H
#define HL_NET_STREAM_H

#include "net/addr.h"
#include "net/transport.h"
#include "net/wqueue.h"

typedef struct {
    HL_TRANSPORT_HEAD
    PyObject *sock;     /* owned; NULL: nobody has asked for a socket object yet */
    const int *live_fd; /* the socket object's descriptor, so that one closed behind our
                           back reads as -1 and no stranger's is used; or &fd */
    PyObject *server;   /* owned or NULL */
    PyObject *waiter;   /* owned or NULL: told once reading has started */
    PyObject *empty_waiter; /* owned or NULL: told when the write queue is empty */
    PyObject *lent; /* owned or NULL: told when the descriptor that is lent is closed */
    hl_wqueue out;
    hl_inaddr sockname, peername;
    int family, type, proto;
    bool open : 1;         /* the descriptor is ours to close */
    bool eof : 1;          /* write_eof() */
    bool buffered : 1;     /* the protocol is a BufferedProtocol */
    bool flush_queued : 1; /* flush_cont() will run after this callback */
    bool asked : 1;        /* is_closing() has sent since flush_cont() was queued */
    bool tls : 1;          /* it is a TLSProtocol: it gets its bytes by C */
    bool owned : 1;        /* the loop knows the descriptor as a transport's */
} StreamTransport;

/* What a transport is made of; all references are borrowed. */
typedef struct {
    PyObject *sock; /* a socket object, or NULL: then family, type and proto count */
    int fd, family, type, proto;
    PyObject *protocol;
    PyObject *waiter, *extra, *server; /* NULL: none */
    PyObject *context;                 /* NULL: a copy of the current one */
    const hl_sockaddr *peername;       /* NULL: ask the kernel */
    socklen_t peername_len;
} hl_stream_args;

static inline hl_sched *
hl_stream_sched(StreamTransport *t)
{
    return &t->loop->sched;
}

/* ---- stream.c ---- */
/* A transport that has adopted the descriptor; or NULL, and then the caller still owns
 * it.  Runs Python code. */
PyObject *hl_stream_new(LoopObject *loop, const hl_stream_args *args);
/* Reads sock.family, .type and .proto: 0 or -1. */
int hl_sock_describe(hl_state *st, PyObject *sock, int *family, int *type, int *proto);
/* The socket object, made if need be: borrowed, or NULL with an exception. */
PyObject *hl_stream_sock(StreamTransport *t);
int hl_stream_exec(PyObject *mod, hl_state *st);

/* ---- close.c ---- */
/* Takes the exception that is set for the reason of the end: reports it, unless it is
 * an OSError, and has connection_lost(exc) called.  0, or -1 for what must propagate.
 */
int hl_stream_fatal(StreamTransport *t, const char *message);
/* Drops what is unsent and has connection_lost(exc) called (exc NULL: None). */
int hl_stream_force_close(StreamTransport *t, PyObject *exc);
int hl_stream_close(StreamTransport *t);
/* Calls connection_lost(exc) and lets go of everything: 0, or -1 with what it raised.
 */
int hl_stream_lost(StreamTransport *t, PyObject *exc);
/* Has the server forget this connection: 0 or -1. */
int hl_stream_detach(StreamTransport *t);
/* Closes the descriptor if it is still ours; keeps a set exception. */
void hl_stream_release(StreamTransport *t);

/* ---- read.c ---- */
/* Starts and stops watching for input. */
int hl_stream_start_reading(StreamTransport *t);
void hl_stream_stop_reading(StreamTransport *t);

/* ---- write.c ---- */
/* Sends what a callback left to be sent.  0, or -1 for what must propagate. */
int hl_stream_flush(StreamTransport *t);
/* Would a send succeed, or find the socket full at worst?  True only where that can be
 * told without sending. */
bool hl_stream_would_send(StreamTransport *t);
void hl_stream_stop_writing(StreamTransport *t);
PyObject *hl_stream_write(PyObject *self, PyObject *data);
int hl_stream_write_memory(PyObject *self, const char *p, size_t n);
PyObject *hl_stream_writelines(PyObject *self, PyObject *list);
PyObject *hl_stream_write_eof(PyObject *self, PyObject *unused);
PyObject *hl_stream_set_limits(PyObject *self, PyObject *args, PyObject *kwargs);

/* Everything that could tell that a write was held calls this first. */
static inline int
hl_stream_settle(StreamTransport *t)
{
    return HL_LIKELY(t->out.bytes == 0 || t->writing) ? 0 : hl_stream_flush(t);
}

#endif

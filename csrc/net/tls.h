/* TLS: what its parts share.
 *
 *   tls.c            the protocol's type: creation, what the transport below calls
 *   tls_life.c       handshake, shutdown, errors
 *   tls_io.c         data in both directions, with flow control
 *   tls_transport.c  the transport that the application has
 *   tls_engine.h     the cryptography; tls_membio.c does it by ssl.MemoryBIO
 *   tls_openssl.h    OpenSSL itself, for what tls_membio.c need not go through Python
 *
 * A connection has two objects.  A TLSProtocol is the protocol of the transport below,
 * which can be any; a TLSTransport is all that the application sees.  They refer to
 * each other until connection_lost(), which cuts every such cycle.
 *
 * A TLSProtocol's type is final and its instances have no dictionary: where our own
 * StreamTransport has one for its protocol, no Python call is needed (hl_tls_received).
 *
 * Any upcall may close or abort the connection or change its protocol: everything is
 * looked at anew afterwards.  Functions here run on the loop's thread, with a reference
 * to the TLSProtocol held by the caller.  They return 0, or -1 with the exception that
 * asyncio's method of that purpose would raise. */
#ifndef HL_NET_TLS_H
#define HL_NET_TLS_H

#include "net/tls_engine.h"
#include "net/transport.h"

/* In this order, each can only be followed by the next one, or by UNWRAPPED. */
enum {
    TLS_UNWRAPPED,
    TLS_DO_HANDSHAKE,
    TLS_WRAPPED,
    TLS_FLUSHING, /* close() or the peer's end: what is there is still delivered */
    TLS_SHUTDOWN, /* close_notify has been sent */
};

/* What the application's protocol has been told. */
enum { TLS_APP_INIT, TLS_APP_MADE, TLS_APP_EOF, TLS_APP_LOST };

/* How this version of asyncio does it. */
enum {
    TLS_ABORTS = 1,        /* by transport.abort(), not _force_close() */
    TLS_ASKS_BELOW = 2,    /* is_closing() asks the transport below too */
    TLS_TIMES_CLOSING = 4, /* the shutdown's timer runs until connection_lost() */
    TLS_BY_OBJECT = 8,     /* methods of ssl.SSLObject have been replaced */
};

typedef struct {
    PyObject_HEAD
    PyObject *mod; /* owned: keeps st alive; dropped last */
    hl_state *st;
    LoopObject *loop;         /* owned */
    hl_tls_engine *engine;    /* owned */
    PyObject *sslcontext;     /* owned */
    PyObject *extra;          /* owned: a dict */
    PyObject *transport;      /* owned: the one below; NULL before and after */
    PyObject *app_transport;  /* owned: a TLSTransport; NULL after connection_lost() */
    PyObject *app;            /* owned: the application's protocol; NULL then too */
    PyObject *get_buffer;     /* owned: methods of the last protocol that was */
    PyObject *buffer_updated; /* owned; a BufferedProtocol; or NULL */
    PyObject *waiter;         /* owned or NULL: told of the handshake's end */
    PyObject *handshake_timeout, *shutdown_timeout; /* owned: seconds */
    PyObject *handshake_timer, *shutdown_timer;     /* owned or NULL: TimerHandles */
    PyObject *buffer; /* owned bytearray, or NULL: for transports that do not call C */
    PyObject *write_ctx;          /* owned or NULL: that of the writes that are held */
    PyObject *backlog;            /* owned list: what is not encrypted yet */
    Py_ssize_t backlog_at;        /* those before it are gone */
    Py_ssize_t backlog_bytes;     /* sum of the lengths of the others */
    Py_ssize_t in_high, in_low;   /* water marks: ciphertext that waits to be read */
    Py_ssize_t out_high, out_low; /* and data that waits to be sent */
    double handshake_start;       /* loop.time(), in debug mode */
    unsigned conn_lost;           /* counts writes after the end */
    unsigned char state, app_state, how;
    bool buffered;           /* the application's protocol is a BufferedProtocol */
    bool eof_received;       /* of the transport below */
    bool ssl_writing_paused; /* by the transport below */
    bool ssl_reading_paused; /* we paused it */
    bool app_writing_paused; /* we paused the application */
    bool app_reading_paused; /* it paused us */
    bool flush_queued;       /* hl_tls_flush_cont() will run after this callback */
} TLSProtocol;

/* asyncio.BaseTransport's layout, then ours. */
typedef struct {
    PyObject_HEAD
    PyObject *extra; /* asyncio.BaseTransport's slot `_extra`: stays NULL */
    PyObject *mod;   /* owned: keeps st alive; dropped last */
    hl_state *st;
    LoopObject *loop; /* owned */
    TLSProtocol *tls; /* owned; NULL after a second close(), as in asyncio */
    bool closed;
} TLSTransport;

/* ---- tls.c ---- */
/* loop._make_tls(...): a TLSProtocol that has a TLSTransport. */
PyObject *hl_loop_tls(PyObject *loop, PyObject *args, PyObject *kwargs);
int hl_tls_set_app(TLSProtocol *t, PyObject *app);
/* There is new ciphertext in the engine. */
int hl_tls_look(TLSProtocol *t);
int hl_tls_exec(PyObject *mod, hl_state *st);

/* ---- tls_life.c ---- */
int hl_tls_set_state(TLSProtocol *t, int to);
/* Calls transport.<name>(arg) (arg NULL: no argument). */
int hl_tls_below(TLSProtocol *t, PyObject *name, PyObject *arg);
/* Calls protocol.<name>(arg) of the application: its result or NULL. */
PyObject *hl_tls_upcall(TLSProtocol *t, PyObject *name, PyObject *arg);
/* loop.call_soon(self.<name>), or of another object with an argument. */
int hl_tls_soon(TLSProtocol *t, PyObject *obj, PyObject *name, PyObject *arg);
/* The exception that is set ends the connection: it is reported, unless it is an
 * OSError, and the transport below aborted. */
int hl_tls_fatal(TLSProtocol *t, const char *message);
/* The same for what asyncio catches as Exception; others stay set. */
int hl_tls_fatal_exception(TLSProtocol *t, const char *message);
int hl_tls_start_handshake(TLSProtocol *t);
int hl_tls_do_handshake(TLSProtocol *t);
/* failed: with the exception that is set. */
int hl_tls_handshake_done(TLSProtocol *t, bool failed);
int hl_tls_handshake_late(TLSProtocol *t);
int hl_tls_wake(TLSProtocol *t, PyObject *exc);
int hl_tls_start_shutdown(TLSProtocol *t);
int hl_tls_do_flush(TLSProtocol *t);
int hl_tls_do_shutdown(TLSProtocol *t);
int hl_tls_shutdown_late(TLSProtocol *t);
int hl_tls_call_eof(TLSProtocol *t);
/* exc NULL: None. */
int hl_tls_abort(TLSProtocol *t, PyObject *exc);
int hl_tls_cancel(TLSProtocol *t, PyObject **timer);

/* ---- tls_io.c ---- */
/* Ciphertext from a transport that calls C: what get_buffer() and buffer_updated() do
 * together.  The bytes may lie in the loop's scratch buffer. */
int hl_tls_received(PyObject *self, const void *p, size_t n);
int hl_tls_do_read(TLSProtocol *t);
int hl_tls_do_write(TLSProtocol *t);
int hl_tls_process_outgoing(TLSProtocol *t);
int hl_tls_control_writing(TLSProtocol *t);
int hl_tls_control_reading(TLSProtocol *t);
/* Puts one bytes-like object at the end of the backlog. */
int hl_tls_append(TLSProtocol *t, PyObject *data);
/* Takes what the application writes. */
int hl_tls_write(TLSProtocol *t, PyObject *data);
int hl_tls_writelines(TLSProtocol *t, PyObject *list);
/* Bytes that wait, encrypted or not; or -1. */
Py_ssize_t hl_tls_waiting(TLSProtocol *t);
/* Encrypts what a callback left to be written: everything that could tell that writes
 * were held calls this first. */
int hl_tls_settle(TLSProtocol *t);
void hl_tls_drop_backlog(TLSProtocol *t);

/* ---- tls_transport.c ---- */
PyObject *hl_tls_transport_new(TLSProtocol *t);
int hl_tls_transport_exec(PyObject *mod, hl_state *st);

#endif

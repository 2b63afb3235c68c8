/* What does the cryptography, behind a table of functions: bytes of the peer go in,
 * bytes for the peer come out, and in between is a TLS connection.
 *
 * The transport (tls.h) knows only this table; another engine is another file.  An
 * engine belongs to one TLSProtocol, which frees it.  Every operation but the
 * counting ones may run Python code and let go of the GIL: the caller holds a reference
 * to its TLSProtocol. */
#ifndef HL_NET_TLS_ENGINE_H
#define HL_NET_TLS_ENGINE_H

#include "py/state.h"

/* Besides lengths >= 0, what operations answer. */
enum {
    HL_TLS_FAIL = -1,  /* an exception is set */
    HL_TLS_AGAIN = -2, /* needs more bytes of the peer first; no exception */
};

typedef struct hl_tls_engine hl_tls_engine;

typedef struct {
    void (*free)(hl_tls_engine *e);
    int (*traverse)(hl_tls_engine *e, visitproc visit, void *arg);
    /* The ssl.SSLObject that applications see: borrowed. */
    PyObject *(*object)(hl_tls_engine *e);
    /* Takes ciphertext of the peer, copied: 0 or FAIL. */
    int (*feed)(hl_tls_engine *e, const void *p, size_t n);
    /* Ciphertext that waits to be looked at, or FAIL. */
    Py_ssize_t (*incoming)(hl_tls_engine *e);
    /* Ciphertext for the peer that waits to be drained, or FAIL. */
    Py_ssize_t (*outgoing)(hl_tls_engine *e);
    /* All of that: bytes, or NULL. */
    PyObject *(*drain)(hl_tls_engine *e);
    /* 0 when it is done, AGAIN or FAIL. */
    int (*handshake)(hl_tls_engine *e);
    /* Plaintext into memory: its length, 0 for close_notify, AGAIN or FAIL. */
    Py_ssize_t (*read)(hl_tls_engine *e, char *p, size_t n);
    /* For engines with `by_object` set: plaintext as an object (NULL: FAIL or AGAIN in
     * *rc), or into a buffer as read(). */
    PyObject *(*read_object)(hl_tls_engine *e, Py_ssize_t max, int *rc);
    Py_ssize_t (*read_buffer)(hl_tls_engine *e, PyObject *buf, Py_ssize_t n);
    /* Encrypts bytes-like data: how much of it was taken, AGAIN or FAIL. */
    Py_ssize_t (*write)(hl_tls_engine *e, PyObject *data);
    /* For engines with `direct` set: takes n bytes of ciphertext (0: none), which are
     * not kept, and decrypts all there is: *data is bytes, or NULL for none.  0 for
     * close_notify, AGAIN, or FAIL. */
    Py_ssize_t (*receive)(hl_tls_engine *e, const void *p, size_t n, PyObject **data);
    /* The same: encrypts up to HL_TLS_SEND_MAX bytes, while outgoing() is 0: how many
     * were taken; the rest is for write().  If that left *cipher set, it is what to
     * send first, until sent() is called. */
    size_t (*encrypt)(hl_tls_engine *e, const char *p, size_t n, const char **cipher,
                      size_t *size);
    void (*sent)(hl_tls_engine *e);
    /* Sends close_notify and waits for the peer's: 0, AGAIN or FAIL. */
    int (*shutdown)(hl_tls_engine *e);
} hl_tls_ops;

struct hl_tls_engine {
    const hl_tls_ops *ops;
    hl_state *st;
    bool by_object; /* methods of SSLObject are overridden: Python sees every read and
                       every write, one by one */
    bool direct;    /* receive() and encrypt() can be used */
};

#define HL_TLS_SEND_MAX ((size_t)192 * 1024)

/* An engine over ssl.MemoryBIO and whatever context.wrap_bio() gives; or NULL.
 * by_object: even an exact SSLObject is called by its methods. */
hl_tls_engine *hl_tls_membio_new(hl_state *st, PyObject *context, bool server,
                                 PyObject *hostname, bool by_object);

#endif

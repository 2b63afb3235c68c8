/* OpenSSL itself: the functions of the libssl that the running `_ssl` is linked to, for
 * what a connection does with every record.
 *
 * The SSLObject and its two MemoryBIO stay what they are, and everything that can be
 * seen of them; handshake, shutdown and errors are always theirs.  Only the memory
 * changes places for the length of one call: OpenSSL decrypts from where the socket was
 * read to, and encrypts into memory that the socket can be written from.
 *
 * All of this runs with the GIL, which is not let go of, and calls no Python.  OpenSSL
 * might, from a callback of its own: so nothing shared is taken for free without a look
 * at its flag. */
#ifndef HL_NET_TLS_OPENSSL_H
#define HL_NET_TLS_OPENSSL_H

#include "py/state.h"

typedef struct hl_openssl hl_openssl;

/* A connection that OpenSSL is called for directly. */
typedef struct {
    hl_openssl *lib; /* NULL: it is not.  Lives as long as `keep` */
    PyObject *keep;  /* owned: a capsule */
    void *ssl;       /* the SSL of an ssl.SSLObject, which owns it */
    void *in, *out;  /* the BIOs of its MemoryBIOs, which own them */
    bool lent; /* it reads from memory that is ours: end_lending() has to follow */
} hl_direct;

/* What attempts answer besides a count > 0. */
enum {
    HL_DIRECT_END = 0,    /* close_notify */
    HL_DIRECT_AGAIN = -2, /* needs more bytes of the peer */
    HL_DIRECT_ERROR = -3, /* the method of Python, called now, will say what it is: the
                             error waits in OpenSSL's queue of this thread */
};

/* Fills in *d for an object of _ssl whose handshake is over, if this interpreter and
 * its libssl are as they are known to be: else lib stays NULL, without an exception.
 * May run Python code. */
void hl_direct_attach(hl_state *st, hl_direct *d, PyObject *sslobj, PyObject *in,
                      PyObject *out);
void hl_direct_detach(hl_direct *d);

/* Bytes in a BIO. */
size_t hl_direct_pending(hl_direct *d, void *bio);
/* Adds to `in`: false for lack of memory. */
bool hl_direct_feed(hl_direct *d, const void *p, size_t n);
/* All of `out`: bytes, or NULL. */
PyObject *hl_direct_drain(hl_direct *d);
/* Part of a record may have been read, and waits for the rest. */
bool hl_direct_in_record(hl_direct *d);

/* Until hl_direct_end_lending(), ciphertext comes from p, not from `in`, which is
 * empty.  False: not now. */
bool hl_direct_lend(hl_direct *d, const void *p, size_t n);
/* What is left of it goes to `in`: false for lack of memory. */
bool hl_direct_end_lending(hl_direct *d);
/* Ciphertext that has not been read, lent or not. */
size_t hl_direct_incoming(hl_direct *d);

Py_ssize_t hl_direct_read(hl_direct *d, char *p, size_t n);
/* Encrypts into `out`, a record at most. */
Py_ssize_t hl_direct_write(hl_direct *d, const char *p, size_t n);

/* Encrypts p, with nothing in `out`: how much of it (0: also if this cannot be done
 * now), and the rest is for write().  Where there is anything to send, *cipher is set:
 * good until hl_direct_sent(), which has to follow. */
size_t hl_direct_encrypt(hl_direct *d, const char *p, size_t n, const char **cipher,
                         size_t *size);
void hl_direct_sent(hl_direct *d);

#endif

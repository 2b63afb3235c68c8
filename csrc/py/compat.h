/* Proof, at import, that the structures of pycompat.h are those of this interpreter. */
#ifndef HL_PY_COMPAT_H
#define HL_PY_COMPAT_H

#include "py/state.h"

/* 1: the layouts agree; 0: they do not, and a RuntimeWarning was issued (our Future and
 * Task are then left out); -1 with an exception. */
int hl_compat_check(hl_state *st);

/* Leaves every context that this thread has entered, the innermost first, and appends
 * them to the list.  0 or -1. */
int hl_contexts_leave(PyObject *left);
/* Enters them again; an exception that is set stays.  0 or -1. */
int hl_contexts_enter(PyObject *left);

/* The SSL of an object of _ssl that has no socket and this context; the BIO of an
 * ssl.MemoryBIO: both borrowed, of OpenSSL's types.  NULL for anything that does not
 * look like it. */
void *hl_ssl_pointer(PyObject *sslobj, PyObject *context);
void *hl_ssl_bio(PyObject *memory);

#endif

/* Proof, at import, that the structures of pycompat.h are those of this interpreter. */
#ifndef HL_PY_COMPAT_H
#define HL_PY_COMPAT_H

#include "py/state.h"

/* 1: the layouts agree; 0: they do not, and a RuntimeWarning was issued (our Future and
 * Task are then left out); -1 with an exception. */
int hl_compat_check(hl_state *st);

/* Finds out whether Context is as mirrored: 0, or -1 with an exception. */
int hl_contexts_check(hl_state *st);
/* What the current context maps, to be given to hl_context_take() later: a new
 * reference.  NULL, without an exception: it has to be copied the ordinary way. */
static inline PyObject *
hl_context_snapshot(hl_state *st)
{
    PyObject *ctx = st->no_vars == NULL ? NULL : hl_context_borrow();
    return ctx == NULL ? NULL : Py_NewRef(((hl_base_context *)ctx)->vars);
}
/* A Context of such a snapshot (stolen, but not on failure) that nobody else has: a new
 * reference, or NULL with an exception. */
PyObject *hl_context_take(hl_state *st, PyObject *vars);
/* Steals a context, of whatever type; a Context that nobody else has is kept for the
 * next hl_context_take(). */
void hl_context_give(hl_state *st, PyObject *ctx);
void hl_contexts_drop(hl_state *st); /* those that were kept */
/* A copy of the current context, as PyContext_CopyCurrent() makes: a new reference. */
static inline PyObject *
hl_context_copy(hl_state *st)
{
    PyObject *vars = hl_context_snapshot(st);
    if (HL_UNLIKELY(vars == NULL)) {
        return PyContext_CopyCurrent();
    }
    PyObject *ctx = hl_context_take(st, vars);
    if (HL_UNLIKELY(ctx == NULL)) {
        Py_DECREF(vars);
    }
    return ctx;
}

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

/* Proof, at import, that the structures of pycompat.h are those of this interpreter. */
#ifndef HL_PY_COMPAT_H
#define HL_PY_COMPAT_H

#include "py/state.h"

/* 1: the layouts agree; 0: they do not, and a RuntimeWarning was issued (our Future and
 * Task are then left out); -1 with an exception. */
int hl_compat_check(hl_state *st);

/* The part of a Future's GC slots that differs by version: its instance dictionary. */
static inline int
hl_future_visit_dict(PyObject *op, visitproc visit, void *arg)
{
#if PY_VERSION_HEX < 0x030D0000
    Py_VISIT(((hl_base_future *)op)->dict);
    return 0;
#else
    return PyObject_VisitManagedDict(op, visit, arg);
#endif
}

static inline void
hl_future_clear_dict(PyObject *op)
{
#if PY_VERSION_HEX < 0x030D0000
    Py_CLEAR(((hl_base_future *)op)->dict);
#else
    PyObject_ClearManagedDict(op);
#endif
}

#endif

/* From -errno to exceptions, and reports to the loop's exception handler. */
#ifndef HL_PY_ERR_H
#define HL_PY_ERR_H

#include "py/state.h"

/* Sets the OSError (or its subclass) for a core function's -errno, MemoryError for
 * -ENOMEM.  Two forms, so that callers can write `return hl_raise(rc);`. */
PyObject *hl_raise(int rc);
int hl_raise_int(int rc);
/* Sets the OSError for what a system call left in errno, ENOMEM included: the kernel
 * has no memory then, and asyncio's calls say so.  Always -1. */
int hl_raise_errno(int err);

/* Is the exception that is set one that must leave run_forever()? */
static inline bool
hl_err_propagates(void)
{
    return PyErr_ExceptionMatches(PyExc_SystemExit) ||
           PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
}

/* Hands the exception that is set to loop.call_exception_handler() (by its Python name,
 * so that an override is honoured) with the message and up to two more entries (key
 * NULL: none).  SystemExit and KeyboardInterrupt are left set and give -1, and so does
 * a handler that raises one of them; otherwise 0 with no exception set.  Runs Python
 * code. */
int hl_report(hl_state *st, PyObject *loop, const char *message, PyObject *key1,
              PyObject *value1, PyObject *key2, PyObject *value2);

#endif

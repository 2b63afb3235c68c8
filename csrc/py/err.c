/* Exceptions from -errno, and reports to the loop's exception handler. */
#include "py/err.h"

/* OSError's constructor picks the subclass by errno (BlockingIOError and the rest), as
 * it does for asyncio's own system calls. */
PyObject *
hl_raise(int rc)
{
    assert(rc < 0);
    if (rc == -ENOMEM) {
        return PyErr_NoMemory();
    }
    errno = -rc;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* For functions that answer by a number. */
int
hl_raise_int(int rc)
{
    (void)hl_raise(rc);
    return -1;
}

int
hl_raise_errno(int err)
{
    errno = err;
    (void)PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* One more entry of a context, if there is one: a NULL value is left out, as asyncio
 * leaves out what it does not know. */
static int
put(PyObject *dict, PyObject *key, PyObject *value)
{
    return key == NULL || value == NULL ? 0 : PyDict_SetItem(dict, key, value);
}

/* The dictionary that call_exception_handler() gets: asyncio's two keys for every
 * report, `message` and `exception`.  A new reference, or NULL with an exception. */
static PyObject *
make_context(hl_state *st, const char *message, PyObject *exc)
{
    PyObject *context = PyDict_New();
    if (context == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromString(message);
    if (text == NULL || PyDict_SetItem(context, st->s_message, text) < 0 ||
        PyDict_SetItem(context, st->s_exception, exc) < 0) {
        Py_CLEAR(context);
    }
    Py_XDECREF(text);
    return context;
}

/* The exception is taken off the thread state before anything is called, so that the
 * handler starts clean; from then on only the context refers to it.  The loop is the
 * caller's to keep alive: the handler may close it. */
int
hl_report(hl_state *st, PyObject *loop, const char *message, PyObject *key1,
          PyObject *value1, PyObject *key2, PyObject *value2)
{
    assert(PyErr_Occurred());
    if (hl_err_propagates()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *context = make_context(st, message, exc);
    Py_DECREF(exc);
    PyObject *r = NULL;
    if (context != NULL && put(context, key1, value1) == 0 &&
        put(context, key2, value2) == 0) {
        r = PyObject_CallMethodOneArg(loop, st->s_call_exception_handler, context);
    }
    Py_XDECREF(context);
    /* call_exception_handler() itself deals with a handler that raises; what gets here
     * is SystemExit, KeyboardInterrupt, or the doing of an override. */
    if (r == NULL) {
        if (hl_err_propagates()) {
            return -1;
        }
        PyErr_WriteUnraisable(loop);
        return 0;
    }
    Py_DECREF(r);
    return 0;
}

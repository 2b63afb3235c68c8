/* Exceptions from -errno, and reports to the loop's exception handler. */
#include "py/err.h"

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

int
hl_raise_int(int rc)
{
    (void)hl_raise(rc);
    return -1;
}

static int
put(PyObject *dict, PyObject *key, PyObject *value)
{
    return key == NULL || value == NULL ? 0 : PyDict_SetItem(dict, key, value);
}

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

/* A TLS connection's handshake, its shutdown, and how it fails. */
#include "net/tls.h"

/* ---- calls ---- */

int
hl_tls_below(TLSProtocol *t, PyObject *name, PyObject *arg)
{
    PyObject *transport = Py_NewRef(t->transport != NULL ? t->transport : Py_None);
    PyObject *args[] = {transport, arg};
    PyObject *res = PyObject_VectorcallMethod(name, args, arg != NULL ? 2 : 1, NULL);
    Py_DECREF(transport);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

PyObject *
hl_tls_upcall(TLSProtocol *t, PyObject *name, PyObject *arg)
{
    PyObject *app = Py_NewRef(t->app != NULL ? t->app : Py_None);
    PyObject *args[] = {app, arg};
    PyObject *res = PyObject_VectorcallMethod(name, args, arg != NULL ? 2 : 1, NULL);
    Py_DECREF(app);
    return res;
}

int
hl_tls_soon(TLSProtocol *t, PyObject *obj, PyObject *name, PyObject *arg)
{
    PyObject *loop = (PyObject *)t->loop;
    PyObject *func = PyObject_GetAttr(obj, name);
    if (func == NULL) {
        return -1;
    }
    int rc = -1;
    hl_sched *s = hl_sched_plain(loop);
    if (s == NULL) {
        rc = hl_call_soon(t->st, loop, func, arg, NULL);
    }
    else {
        PyObject *handle =
            hl_handle_new(s, loop, func, &arg, arg != NULL ? 1 : 0, NULL);
        rc = handle == NULL ? -1 : hl_sched_push(s, HL_KIND_HANDLE, handle, NULL);
        Py_XDECREF(handle);
    }
    Py_DECREF(func);
    return rc;
}

/* loop.call_later(seconds, self.<name>): the TimerHandle or NULL. */
static PyObject *
later(TLSProtocol *t, PyObject *seconds, PyObject *name)
{
    PyObject *func = PyObject_GetAttr((PyObject *)t, name);
    if (func == NULL) {
        return NULL;
    }
    PyObject *args[] = {(PyObject *)t->loop, seconds, func};
    PyObject *timer = PyObject_VectorcallMethod(t->st->s_call_later, args, 3, NULL);
    Py_DECREF(func);
    return timer;
}

int
hl_tls_cancel(TLSProtocol *t, PyObject **timer)
{
    PyObject *handle = *timer;
    if (handle == NULL) {
        return 0;
    }
    *timer = NULL;
    PyObject *res = PyObject_CallMethodNoArgs(handle, t->st->s_cancel);
    Py_DECREF(handle);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

int
hl_tls_wake(TLSProtocol *t, PyObject *exc)
{
    PyObject *waiter = t->waiter;
    if (waiter == NULL) {
        return 0;
    }
    t->waiter = NULL;
    int rc = hl_waiter_set(t->st, waiter, Py_None, exc);
    Py_DECREF(waiter);
    return rc;
}

/* ---- states and errors ---- */

int
hl_tls_set_state(TLSProtocol *t, int to)
{
    static const char *const names[] = {"UNWRAPPED", "DO_HANDSHAKE", "WRAPPED",
                                        "FLUSHING", "SHUTDOWN"};
    if (to != TLS_UNWRAPPED && to != t->state + 1) {
        PyErr_Format(
            PyExc_RuntimeError,
            "cannot switch state from SSLProtocolState.%s to SSLProtocolState.%s",
            names[t->state], names[to]);
        return -1;
    }
    t->state = (unsigned char)to;
    return 0;
}

/* logger.debug("%r: %s", self, message, exc_info=exc) */
static int
debug_error(TLSProtocol *t, const char *message, PyObject *exc)
{
    PyObject *debug = PyObject_GetAttr(t->st->i_logger, t->st->s_debug);
    PyObject *args = Py_BuildValue("(sOs)", "%r: %s", (PyObject *)t, message);
    PyObject *kwargs = Py_BuildValue("{s:O}", "exc_info", exc);
    PyObject *res = NULL;
    if (debug != NULL && args != NULL && kwargs != NULL) {
        res = PyObject_Call(debug, args, kwargs);
    }
    Py_XDECREF(debug);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

int
hl_tls_fatal(TLSProtocol *t, const char *message)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *transport = Py_NewRef(t->transport != NULL ? t->transport : Py_None);
    int rc = t->transport == NULL ? 0 : hl_tls_below(t, t->st->s__force_close, exc);
    if (rc < 0) {
        /* what it raised takes the place of the reason */
    }
    else if (PyObject_TypeCheck(exc, (PyTypeObject *)PyExc_OSError)) {
        rc = t->loop->sched.debug ? debug_error(t, message, exc) : 0;
    }
    else if (!PyObject_TypeCheck(exc, (PyTypeObject *)t->st->i_CancelledError)) {
        PyErr_SetRaisedException(Py_NewRef(exc));
        rc = hl_report(t->st, (PyObject *)t->loop, message, t->st->s_transport,
                       transport, t->st->s_protocol, (PyObject *)t);
    }
    Py_DECREF(transport);
    Py_DECREF(exc);
    return rc;
}

int
hl_tls_fatal_exception(TLSProtocol *t, const char *message)
{
    return PyErr_ExceptionMatches(PyExc_Exception) ? hl_tls_fatal(t, message) : -1;
}

int
hl_tls_abort(TLSProtocol *t, PyObject *exc)
{
    if (hl_tls_settle(t) < 0) {
        return -1;
    }
    t->state = TLS_UNWRAPPED;
    if (t->transport == NULL) {
        return 0;
    }
    if (exc == NULL && t->how & TLS_ABORTS) {
        return hl_tls_below(t, t->st->s_abort, NULL);
    }
    return hl_tls_below(t, t->st->s__force_close, exc != NULL ? exc : Py_None);
}

/* ---- handshake ---- */

int
hl_tls_start_handshake(TLSProtocol *t)
{
    t->handshake_start = -1.0;
    if (t->loop->sched.debug) {
        PyObject *res = PyObject_CallMethod(t->st->i_logger, "debug", "sO",
                                            "%r starts SSL handshake", (PyObject *)t);
        Py_XDECREF(res);
        if (res == NULL || hl_loop_time(t->loop, &t->handshake_start) < 0) {
            return -1;
        }
    }
    if (hl_tls_set_state(t, TLS_DO_HANDSHAKE) < 0) {
        return -1;
    }
    PyObject *timer = later(t, t->handshake_timeout, t->st->s__check_handshake_timeout);
    if (timer == NULL) {
        return -1;
    }
    Py_XSETREF(t->handshake_timer, timer);
    return hl_tls_do_handshake(t);
}

int
hl_tls_handshake_late(TLSProtocol *t)
{
    if (t->state != TLS_DO_HANDSHAKE) {
        return 0;
    }
    PyErr_Format(PyExc_ConnectionAbortedError,
                 "SSL handshake is taking longer than %S seconds: aborting the "
                 "connection",
                 t->handshake_timeout);
    return hl_tls_fatal_exception(t, "Fatal error on transport");
}

int
hl_tls_do_handshake(TLSProtocol *t)
{
    int rc = t->engine->ops->handshake(t->engine);
    if (rc == HL_TLS_AGAIN) {
        return hl_tls_process_outgoing(t);
    }
    if (rc == HL_TLS_FAIL && !PyErr_ExceptionMatches(t->st->i_SSLError)) {
        return -1;
    }
    return hl_tls_handshake_done(t, rc == HL_TLS_FAIL);
}

/* The exception that is set is why there will be no connection. */
static int
handshake_failed(TLSProtocol *t)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    bool cert = PyErr_ExceptionMatches(t->st->i_CertificateError);
    PyObject *exc = PyErr_GetRaisedException();
    t->state = TLS_UNWRAPPED;
    PyErr_SetRaisedException(Py_NewRef(exc));
    int rc = hl_tls_fatal(t, cert ? "SSL handshake failed on verifying the certificate"
                                  : "SSL handshake failed");
    if (rc == 0) {
        rc = hl_tls_wake(t, exc);
    }
    Py_DECREF(exc);
    return rc;
}

static int
log_duration(TLSProtocol *t)
{
    double now;
    if (!t->loop->sched.debug || t->handshake_start < 0.0) {
        return 0;
    }
    if (hl_loop_time(t->loop, &now) < 0) {
        return -1;
    }
    PyObject *res = PyObject_CallMethod(t->st->i_logger, "debug", "sOd",
                                        "%r: SSL handshake took %.1f ms", (PyObject *)t,
                                        (now - t->handshake_start) * 1e3);
    Py_XDECREF(res);
    return res == NULL ? -1 : 0;
}

/* extra[key] = value, or what obj.<method>() gives if value is NULL: 0 or -1. */
static int
note(TLSProtocol *t, PyObject *key, PyObject *obj, PyObject *method)
{
    PyObject *value =
        method == NULL ? Py_NewRef(obj) : PyObject_CallMethodNoArgs(obj, method);
    int rc = value == NULL ? -1 : PyDict_SetItem(t->extra, key, value);
    Py_XDECREF(value);
    return rc;
}

/* The engine has a connection: tell everyone. */
static int
established(TLSProtocol *t, PyObject *obj, PyObject *peercert)
{
    hl_state *st = t->st;
    if (log_duration(t) < 0 || note(t, st->s_peercert, peercert, NULL) < 0 ||
        note(t, st->s_cipher, obj, st->s_cipher) < 0 ||
        note(t, st->s_compression, obj, st->s_compression) < 0 ||
        note(t, st->s_ssl_object, obj, NULL) < 0) {
        return -1;
    }
    if (t->app_state == TLS_APP_INIT) {
        t->app_state = TLS_APP_MADE;
        PyObject *transport =
            Py_NewRef(t->app_transport != NULL ? t->app_transport : Py_None);
        PyObject *res = hl_tls_upcall(t, st->s_connection_made, transport);
        Py_DECREF(transport);
        Py_XDECREF(res);
        if (res == NULL) {
            return -1;
        }
    }
    return hl_tls_wake(t, NULL) < 0 ? -1 : hl_tls_do_read(t);
}

int
hl_tls_handshake_done(TLSProtocol *t, bool failed)
{
    PyObject *exc = failed ? PyErr_GetRaisedException() : NULL;
    if (hl_tls_cancel(t, &t->handshake_timer) < 0) {
        Py_XDECREF(exc);
        return -1;
    }
    PyObject *obj = Py_NewRef(t->engine->ops->object(t->engine));
    PyObject *peercert = NULL;
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    else if (hl_tls_set_state(t, TLS_WRAPPED) == 0) {
        peercert = PyObject_CallMethodNoArgs(obj, t->st->s_getpeercert);
    }
    int rc = peercert == NULL ? handshake_failed(t) : established(t, obj, peercert);
    Py_XDECREF(peercert);
    Py_DECREF(obj);
    return rc;
}

/* ---- shutdown ---- */

int
hl_tls_start_shutdown(TLSProtocol *t)
{
    if (t->state != TLS_DO_HANDSHAKE && t->state != TLS_WRAPPED) {
        return 0;
    }
    if (hl_tls_settle(t) < 0) {
        return -1;
    }
    if (t->state != TLS_DO_HANDSHAKE && t->state != TLS_WRAPPED) {
        return 0; /* an upcall of that ended it */
    }
    if (t->app_transport != NULL) {
        ((TLSTransport *)t->app_transport)->closed = true;
    }
    if (t->state == TLS_DO_HANDSHAKE) {
        return hl_tls_abort(t, NULL);
    }
    t->state = TLS_FLUSHING;
    PyObject *timer = later(t, t->shutdown_timeout, t->st->s__check_shutdown_timeout);
    if (timer == NULL) {
        return -1;
    }
    Py_XSETREF(t->shutdown_timer, timer);
    return hl_tls_do_flush(t);
}

/* With TLS_TIMES_CLOSING the transport below may be closing by now, in any state. */
int
hl_tls_shutdown_late(TLSProtocol *t)
{
    if (t->state != TLS_FLUSHING && t->state != TLS_SHUTDOWN) {
        return 0;
    }
    PyObject *exc =
        PyObject_CallFunction(PyExc_TimeoutError, "s", "SSL shutdown timed out");
    int rc = exc == NULL ? -1 : hl_tls_below(t, t->st->s__force_close, exc);
    Py_XDECREF(exc);
    return rc;
}

int
hl_tls_do_flush(TLSProtocol *t)
{
    if (hl_tls_do_read(t) < 0 || hl_tls_set_state(t, TLS_SHUTDOWN) < 0) {
        return -1;
    }
    return hl_tls_do_shutdown(t);
}

/* Both have said close_notify: all that was written leaves, then the transport below
 * closes. */
static int
shutdown_succeeded(TLSProtocol *t)
{
    if (!(t->how & TLS_TIMES_CLOSING)) {
        if (hl_tls_cancel(t, &t->shutdown_timer) < 0) {
            return -1;
        }
    }
    else if (t->shutdown_timer == NULL) {
        t->shutdown_timer =
            later(t, t->shutdown_timeout, t->st->s__check_shutdown_timeout);
        if (t->shutdown_timer == NULL) {
            return -1;
        }
    }
    PyObject *transport = Py_NewRef(t->transport != NULL ? t->transport : Py_None);
    int rc = hl_tls_soon(t, transport, t->st->s_close, NULL);
    Py_DECREF(transport);
    return rc;
}

static int
shutdown_failed(TLSProtocol *t)
{
    PyObject *exc = PyErr_GetRaisedException();
    if (hl_tls_cancel(t, &t->shutdown_timer) < 0) {
        Py_DECREF(exc);
        return -1;
    }
    PyErr_SetRaisedException(exc);
    return hl_tls_fatal(t, "Fatal error on transport");
}

int
hl_tls_do_shutdown(TLSProtocol *t)
{
    int rc = t->eof_received ? 0 : t->engine->ops->shutdown(t->engine);
    if (rc == HL_TLS_AGAIN) {
        return hl_tls_process_outgoing(t);
    }
    if (rc == HL_TLS_FAIL) {
        return PyErr_ExceptionMatches(t->st->i_SSLError) ? shutdown_failed(t) : -1;
    }
    if (hl_tls_process_outgoing(t) < 0 || hl_tls_call_eof(t) < 0) {
        return -1;
    }
    return shutdown_succeeded(t);
}

/* eof_received() of the application, once. */
int
hl_tls_call_eof(TLSProtocol *t)
{
    if (t->app_state != TLS_APP_MADE) {
        return 0;
    }
    t->app_state = TLS_APP_EOF;
    PyObject *keep = hl_tls_upcall(t, t->st->s_eof_received, NULL);
    int open = keep == NULL ? -1 : PyObject_IsTrue(keep);
    Py_XDECREF(keep);
    if (open > 0) {
        PyObject *res = PyObject_CallMethod(
            t->st->i_logger, "warning", "s",
            "returning true from eof_received() has no effect when using ssl");
        open = res == NULL ? -1 : 0;
        Py_XDECREF(res);
    }
    if (open < 0) {
        return hl_err_propagates() ? -1
                                   : hl_tls_fatal(t, "Error calling eof_received()");
    }
    return 0;
}

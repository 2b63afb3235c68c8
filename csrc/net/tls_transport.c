/* The transport of a TLS connection that the application has. */
#include "net/tls.h"
#include "py/mem.h"

#define SELF(op) ((TLSTransport *)(op))

PyObject *
hl_tls_transport_new(TLSProtocol *t)
{
    hl_state *st = t->st;
    TLSTransport *self = (TLSTransport *)hl_type_alloc(st->t_TLSTransport);
    if (self != NULL) {
        self->st = st;
        self->mod = Py_NewRef(st->mod);
        self->loop = (LoopObject *)Py_NewRef(t->loop);
        self->tls = (TLSProtocol *)Py_NewRef(t);
    }
    return (PyObject *)self;
}

/* The TLSProtocol: a new reference, as what is called may cut the tie; or NULL with
 * what asyncio raises once close() has been called twice. */
static TLSProtocol *
hold(PyObject *self, const char *attribute)
{
    TLSProtocol *t = SELF(self)->tls;
    if (t == NULL) {
        PyErr_Format(PyExc_AttributeError, "'NoneType' object has no attribute '%s'",
                     attribute);
    }
    return (TLSProtocol *)Py_XNewRef(t);
}

/* Ends a method that held t. */
static PyObject *
finish(TLSProtocol *t, int rc)
{
    Py_DECREF(t);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- information ---- */

/* What asyncio's _get_extra_info() does. */
static PyObject *
extra_info(TLSProtocol *t, PyObject *name, PyObject *def)
{
    PyObject *value = PyDict_GetItemWithError(t->extra, name);
    if (value != NULL || PyErr_Occurred()) {
        return Py_XNewRef(value);
    }
    if (t->transport == NULL) {
        return Py_NewRef(def);
    }
    if (hl_tls_settle(t) < 0) { /* who asks for the socket may use it */
        return NULL;
    }
    PyObject *transport = Py_NewRef(t->transport != NULL ? t->transport : Py_None);
    PyObject *args[] = {transport, name, def};
    value = PyObject_VectorcallMethod(t->st->s_get_extra_info, args, 3, NULL);
    Py_DECREF(transport);
    return value;
}

static PyObject *
tt_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", "default", NULL};
    PyObject *name, *def = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", names, &name,
                                     &def)) {
        return NULL;
    }
    TLSProtocol *t = hold(self, "_get_extra_info");
    if (t == NULL) {
        return NULL;
    }
    PyObject *value = extra_info(t, name, def);
    Py_DECREF(t);
    return value;
}

static PyObject *
tt_set_protocol(PyObject *self, PyObject *protocol)
{
    TLSProtocol *t = hold(self, "_set_app_protocol");
    return t == NULL ? NULL : finish(t, hl_tls_set_app(t, protocol));
}

static PyObject *
tt_get_protocol(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = hold(self, "_app_protocol");
    if (t == NULL) {
        return NULL;
    }
    PyObject *app = Py_NewRef(t->app != NULL ? t->app : Py_None);
    Py_DECREF(t);
    return app;
}

/* ---- the end ---- */

/* A write that is being held may turn out to have failed. */
static PyObject *
tt_is_closing(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSTransport *tt = SELF(self);
    TLSProtocol *t = (TLSProtocol *)Py_XNewRef(tt->tls);
    PyObject *res = NULL;
    if (tt->closed || t == NULL) {
        res = PyBool_FromLong(tt->closed);
    }
    else if (hl_tls_settle(t) == 0) {
        res = PyBool_FromLong(tt->closed);
        if (!tt->closed && t->how & TLS_ASKS_BELOW && t->transport != NULL) {
            PyObject *below = Py_NewRef(t->transport);
            Py_SETREF(res, PyObject_CallMethodNoArgs(below, t->st->s_is_closing));
            Py_DECREF(below);
        }
    }
    Py_XDECREF(t);
    return res;
}

static PyObject *
tt_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSTransport *tt = SELF(self);
    if (tt->closed) {
        Py_CLEAR(tt->tls);
        Py_RETURN_NONE;
    }
    TLSProtocol *t = hold(self, "_start_shutdown");
    if (t == NULL) {
        return NULL;
    }
    int rc = hl_tls_settle(t);
    if (tt->closed) { /* by an upcall of that, which asyncio would have had before */
        Py_CLEAR(tt->tls);
        return finish(t, rc);
    }
    tt->closed = true;
    return finish(t, rc < 0 ? -1 : hl_tls_start_shutdown(t));
}

static PyObject *
force_close(PyObject *self, PyObject *exc)
{
    TLSTransport *tt = SELF(self);
    tt->closed = true;
    if (tt->tls == NULL) {
        Py_RETURN_NONE;
    }
    TLSProtocol *t = hold(self, "_abort");
    return finish(t, hl_tls_abort(t, exc));
}

static PyObject *
tt_force_close(PyObject *self, PyObject *exc)
{
    return force_close(self, exc == Py_None ? NULL : exc);
}

static PyObject *
tt_abort(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return force_close(self, NULL);
}

/* ---- reading ---- */

static PyObject *
tt_is_reading(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = hold(self, "_app_reading_paused");
    if (t == NULL) {
        return NULL;
    }
    bool reading = !t->app_reading_paused;
    Py_DECREF(t);
    return PyBool_FromLong(reading);
}

static PyObject *
tt_pause_reading(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = hold(self, "_pause_reading");
    if (t == NULL) {
        return NULL;
    }
    t->app_reading_paused = true;
    return finish(t, 0);
}

static PyObject *
tt_resume_reading(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = hold(self, "_resume_reading");
    if (t == NULL) {
        return NULL;
    }
    int rc = 0;
    if (t->app_reading_paused) {
        t->app_reading_paused = false;
        rc = hl_tls_soon(t, (PyObject *)t, t->st->s__resumed, NULL);
    }
    return finish(t, rc);
}

static PyObject *
tt_set_read_buffer_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    TLSProtocol *t = hold(self, "_set_read_buffer_limits");
    Py_ssize_t high, low;
    if (t == NULL) {
        return NULL;
    }
    int rc = hl_flow_parse_from(args, kwargs, 256 * 1024, &high, &low);
    if (rc == 0) {
        t->in_high = high;
        t->in_low = low;
        rc = hl_tls_control_reading(t);
    }
    return finish(t, rc);
}

static PyObject *
tt_get_read_buffer_limits(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = hold(self, "_incoming_low_water");
    if (t == NULL) {
        return NULL;
    }
    PyObject *res = Py_BuildValue("(nn)", t->in_low, t->in_high);
    Py_DECREF(t);
    return res;
}

static PyObject *
tt_get_read_buffer_size(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = hold(self, "_get_read_buffer_size");
    if (t == NULL) {
        return NULL;
    }
    Py_ssize_t n = t->engine->ops->incoming(t->engine);
    Py_DECREF(t);
    return n < 0 ? NULL : PyLong_FromSsize_t(n);
}

/* ---- writing ---- */

static PyObject *
tt_set_write_buffer_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    TLSProtocol *t = hold(self, "_set_write_buffer_limits");
    Py_ssize_t high, low;
    if (t == NULL) {
        return NULL;
    }
    int rc = hl_flow_parse_from(args, kwargs, 512 * 1024, &high, &low);
    if (rc == 0) {
        rc = hl_tls_settle(t);
    }
    if (rc == 0) {
        t->out_high = high;
        t->out_low = low;
        rc = hl_tls_control_writing(t);
    }
    return finish(t, rc);
}

static PyObject *
tt_get_write_buffer_limits(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = hold(self, "_outgoing_low_water");
    if (t == NULL) {
        return NULL;
    }
    PyObject *res = Py_BuildValue("(nn)", t->out_low, t->out_high);
    Py_DECREF(t);
    return res;
}

static PyObject *
tt_get_write_buffer_size(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = hold(self, "_get_write_buffer_size");
    if (t == NULL) {
        return NULL;
    }
    Py_ssize_t n = hl_tls_settle(t) < 0 ? -1 : hl_tls_waiting(t);
    Py_DECREF(t);
    return n < 0 ? NULL : PyLong_FromSsize_t(n);
}

static PyObject *
bad_data(PyObject *data)
{
    PyObject *name = PyType_GetName(Py_TYPE(data));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError, "data: expecting a bytes-like instance, got %U",
                     name);
        Py_DECREF(name);
    }
    return NULL;
}

static PyObject *
tt_write(PyObject *self, PyObject *data)
{
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        return bad_data(data);
    }
    int some =
        PyBytes_CheckExact(data) ? PyBytes_GET_SIZE(data) > 0 : PyObject_IsTrue(data);
    if (some <= 0) {
        return some < 0 ? NULL : Py_NewRef(Py_None);
    }
    TLSProtocol *t = hold(self, "_write_appdata");
    return t == NULL ? NULL : finish(t, hl_tls_write(t, data));
}

static PyObject *
tt_writelines(PyObject *self, PyObject *list)
{
    TLSProtocol *t = hold(self, "_write_appdata");
    return t == NULL ? NULL : finish(t, hl_tls_writelines(t, list));
}

static PyObject *
tt_write_eof(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    /* asyncio's answer for good: TLS has no half-close. */
    PyErr_SetNone(PyExc_NotImplementedError);
    return NULL;
}

static PyObject *
tt_can_write_eof(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    Py_RETURN_FALSE;
}

/* Data that waits as if the handshake were not over: for tests, which asyncio's own
 * suite does too. */
static PyObject *
tt_append_backlog(PyObject *self, PyObject *data)
{
    TLSProtocol *t = hold(self, "_write_backlog");
    return t == NULL ? NULL : finish(t, hl_tls_append(t, data));
}

/* ---- attributes ---- */

static PyObject *
get_protocol_paused(PyObject *self, void *Py_UNUSED(closure))
{
    TLSProtocol *t = hold(self, "_app_writing_paused");
    if (t == NULL) {
        return NULL;
    }
    bool paused = t->app_writing_paused;
    Py_DECREF(t);
    return PyBool_FromLong(paused);
}

static PyObject *
get_sslcontext(PyObject *self, void *Py_UNUSED(closure))
{
    TLSProtocol *t = hold(self, "_sslcontext");
    if (t == NULL) {
        return NULL;
    }
    PyObject *context = Py_NewRef(t->sslcontext);
    Py_DECREF(t);
    return context;
}

static int
set_closed(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    int closed = value == NULL ? 0 : PyObject_IsTrue(value);
    if (closed < 0) {
        return -1;
    }
    SELF(self)->closed = closed;
    return 0;
}

/* ---- the type ---- */

static void
tt_finalize(PyObject *self)
{
    TLSTransport *tt = SELF(self);
    if (tt->closed || tt->st == NULL) {
        return;
    }
    tt->closed = true;
    PyObject *saved = PyErr_GetRaisedException();
    if (PyErr_WarnEx(PyExc_ResourceWarning,
                     "unclosed transport <asyncio._SSLProtocolTransport object>",
                     1) < 0) {
        PyErr_WriteUnraisable(self);
    }
    PyErr_SetRaisedException(saved);
}

static int
tt_traverse(PyObject *self, visitproc visit, void *arg)
{
    TLSTransport *tt = SELF(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(tt->mod);
    Py_VISIT(tt->extra);
    Py_VISIT(tt->loop);
    Py_VISIT(tt->tls);
    return PyObject_VisitManagedDict(self, visit, arg);
}

static int
tt_clear(PyObject *self)
{
    TLSTransport *tt = SELF(self);
    Py_CLEAR(tt->extra);
    Py_CLEAR(tt->loop);
    Py_CLEAR(tt->tls);
    PyObject_ClearManagedDict(self);
    return 0;
}

static void
tt_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject *mod = SELF(self)->mod;
    if (PyObject_CallFinalizerFromDealloc(self) < 0) {
        return; /* brought back to life */
    }
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
    (void)tt_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_XDECREF(mod);
}

#define KEYWORDS(f) (PyCFunction)(void (*)(void))(f), METH_VARARGS | METH_KEYWORDS

static PyMethodDef tt_methods[] = {
    {"get_extra_info", KEYWORDS(tt_get_extra_info),
     "Get optional transport information."},
    {"set_protocol", tt_set_protocol, METH_O, "Set a new protocol."},
    {"get_protocol", tt_get_protocol, METH_NOARGS, "Return the current protocol."},
    {"is_closing", tt_is_closing, METH_NOARGS, "Is it closing or closed?"},
    {"close", tt_close, METH_NOARGS,
     "Close the transport once everything written has left."},
    {"abort", tt_abort, METH_NOARGS, "Close the transport at once."},
    {"is_reading", tt_is_reading, METH_NOARGS, "Is it receiving?"},
    {"pause_reading", tt_pause_reading, METH_NOARGS, "Stop receiving."},
    {"resume_reading", tt_resume_reading, METH_NOARGS, "Receive again."},
    {"set_write_buffer_limits", KEYWORDS(tt_set_write_buffer_limits),
     "Set the high- and low-water marks of writing."},
    {"get_write_buffer_limits", tt_get_write_buffer_limits, METH_NOARGS,
     "The low- and the high-water mark."},
    {"get_write_buffer_size", tt_get_write_buffer_size, METH_NOARGS,
     "Number of bytes that wait to be sent."},
    {"set_read_buffer_limits", KEYWORDS(tt_set_read_buffer_limits),
     "Set the high- and low-water marks of reading."},
    {"get_read_buffer_limits", tt_get_read_buffer_limits, METH_NOARGS,
     "The low- and the high-water mark."},
    {"get_read_buffer_size", tt_get_read_buffer_size, METH_NOARGS,
     "Number of received bytes that wait to be decrypted."},
    {"write", tt_write, METH_O, "Write bytes; never blocks."},
    {"writelines", tt_writelines, METH_O, "Write an iterable of bytes."},
    {"write_eof", tt_write_eof, METH_NOARGS, "TLS cannot do that."},
    {"can_write_eof", tt_can_write_eof, METH_NOARGS, "False."},
    {"_force_close", tt_force_close, METH_O, NULL},
    {"_test__append_write_backlog", tt_append_backlog, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#define FIELD(f) (void *)offsetof(TLSTransport, f)

static PyGetSetDef tt_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_loop", hl_transport_get_object, NULL, NULL, FIELD(loop)},
    {"_ssl_protocol", hl_transport_get_object, NULL, NULL, FIELD(tls)},
    {"_sslcontext", get_sslcontext, NULL, NULL, NULL},
    {"_closed", hl_transport_get_bool, set_closed, NULL, FIELD(closed)},
    {"_protocol_paused", get_protocol_paused, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot tt_slots[] = {
    {Py_tp_doc, "A TLS connection."}, {Py_tp_dealloc, tt_dealloc},
    {Py_tp_traverse, tt_traverse},    {Py_tp_clear, tt_clear},
    {Py_tp_finalize, tt_finalize},    {Py_tp_methods, tt_methods},
    {Py_tp_getset, tt_getset},        {0, NULL},
};

static PyType_Spec tt_spec = {
    /* Programs, and CPython's tests, look for "ssl" in the name of the class. */
    .name = "hotloop._core.SSLTransport",
    .basicsize = sizeof(TLSTransport),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_MANAGED_DICT |
             Py_TPFLAGS_MANAGED_WEAKREF,
    .slots = tt_slots,
};

int
hl_tls_transport_exec(PyObject *mod, hl_state *st)
{
    if (hl_type_add(mod, &st->t_TLSTransport, &tt_spec, st->i_Transport) < 0) {
        return -1;
    }
    PyObject *type = (PyObject *)st->t_TLSTransport;
    PyObject *mode = PyObject_GetAttrString(st->i_SendfileMode, "FALLBACK");
    int rc =
        mode == NULL ? -1 : PyObject_SetAttrString(type, "_sendfile_compatible", mode);
    Py_XDECREF(mode);
    return rc < 0 ? -1 : PyObject_SetAttrString(type, "_start_tls_compatible", Py_True);
}

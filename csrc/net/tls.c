/* The TLSProtocol's type: creation, what the transport below calls, the end. */
#include "net/tls.h"
#include "py/mem.h"

#define SELF(op) ((TLSProtocol *)(op))

int
hl_tls_set_app(TLSProtocol *t, PyObject *app)
{
    PyObject *get = NULL, *updated = NULL;
    int buffered = PyObject_HasAttr(app, t->st->s_get_buffer)
                       ? PyObject_IsInstance(app, t->st->i_BufferedProtocol)
                       : 0;
    if (buffered > 0) {
        get = PyObject_GetAttr(app, t->st->s_get_buffer);
        updated = get == NULL ? NULL : PyObject_GetAttr(app, t->st->s_buffer_updated);
        buffered = updated == NULL ? -1 : 1;
    }
    if (buffered < 0) {
        Py_XDECREF(get);
        return -1;
    }
    t->buffered = buffered;
    if (buffered) { /* asyncio keeps the old ones: a buffer may be being filled */
        Py_XSETREF(t->get_buffer, get);
        Py_XSETREF(t->buffer_updated, updated);
    }
    Py_XSETREF(t->app, Py_NewRef(app));
    return 0;
}

/* ---- what the transport below calls ---- */

int
hl_tls_look(TLSProtocol *t)
{
    switch (t->state) {
    case TLS_DO_HANDSHAKE:
        return hl_tls_do_handshake(t);
    case TLS_WRAPPED:
        return hl_tls_do_read(t);
    case TLS_FLUSHING:
        return hl_tls_do_flush(t);
    case TLS_SHUTDOWN:
        return hl_tls_do_shutdown(t);
    default:
        return 0;
    }
}

static PyObject *
none_or_null(int rc)
{
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

/* A foreign transport may keep the buffer as long as it likes, over many turns and
 * after our end: it is this connection's own, and lives as long as any view of it. */
static PyObject *
tls_get_buffer(PyObject *self, PyObject *hint)
{
    TLSProtocol *t = SELF(self);
    if (PyLong_AsLong(hint) == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (t->buffer == NULL) {
        t->buffer = PyByteArray_FromStringAndSize(NULL, HL_SCRATCH_SIZE);
    }
    return t->buffer == NULL ? NULL : PyMemoryView_FromObject(t->buffer);
}

static PyObject *
tls_buffer_updated(PyObject *self, PyObject *count)
{
    Py_ssize_t n = PyLong_AsSsize_t(count);
    if (n == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *buf = SELF(self)->buffer;
    Py_ssize_t len = buf == NULL ? 0 : PyByteArray_GET_SIZE(buf);
    n = n < 0 ? 0 : n > len ? len : n;
    const char *p = buf == NULL ? "" : PyByteArray_AS_STRING(buf);
    return none_or_null(hl_tls_received(self, p, (size_t)n));
}

static PyObject *
tls_connection_made(PyObject *self, PyObject *transport)
{
    Py_XSETREF(SELF(self)->transport, Py_NewRef(transport));
    return none_or_null(hl_tls_start_handshake(SELF(self)));
}

/* Tells the application, unless it never heard of a connection. */
static int
tell_lost(TLSProtocol *t, PyObject *exc)
{
    bool told = t->app_state == TLS_APP_MADE || t->app_state == TLS_APP_EOF;
    if (t->state == TLS_DO_HANDSHAKE || !told) {
        return 0;
    }
    t->app_state = TLS_APP_LOST;
    PyObject *app = Py_NewRef(t->app != NULL ? t->app : Py_None);
    int rc = hl_tls_soon(t, app, t->st->s_connection_lost, exc);
    Py_DECREF(app);
    return rc;
}

static PyObject *
tls_connection_lost(PyObject *self, PyObject *exc)
{
    TLSProtocol *t = SELF(self);
    hl_tls_drop_backlog(t);
    PyObject *rest = t->engine->ops->drain(t->engine);
    t->conn_lost++;
    if (t->app_transport != NULL) {
        ((TLSTransport *)t->app_transport)->closed = true;
    }
    if (rest == NULL || tell_lost(t, exc) < 0) {
        Py_XDECREF(rest);
        return NULL;
    }
    Py_DECREF(rest);
    t->state = TLS_UNWRAPPED;
    t->buffered = false;
    Py_CLEAR(t->transport);
    Py_CLEAR(t->app_transport);
    Py_CLEAR(t->get_buffer);
    Py_CLEAR(t->buffer_updated);
    Py_CLEAR(t->app);
    if (hl_tls_wake(t, exc == Py_None ? NULL : exc) < 0 ||
        hl_tls_cancel(t, &t->shutdown_timer) < 0 ||
        hl_tls_cancel(t, &t->handshake_timer) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The peer's end without close_notify, or after it. */
static int
end(TLSProtocol *t, bool *keep)
{
    if (t->loop->sched.debug) {
        PyObject *res = PyObject_CallMethod(t->st->i_logger, "debug", "sO",
                                            "%r received EOF", (PyObject *)t);
        if (res == NULL) {
            return -1;
        }
        Py_DECREF(res);
    }
    switch (t->state) {
    case TLS_DO_HANDSHAKE:
        PyErr_SetNone(PyExc_ConnectionResetError);
        return hl_tls_handshake_done(t, true);
    case TLS_WRAPPED:
        t->state = TLS_FLUSHING;
        *keep = t->app_reading_paused;
        return *keep ? 0 : hl_tls_do_flush(t);
    case TLS_FLUSHING:
        if (hl_tls_do_write(t) < 0 || hl_tls_set_state(t, TLS_SHUTDOWN) < 0) {
            return -1;
        }
        return hl_tls_do_shutdown(t);
    case TLS_SHUTDOWN:
        return hl_tls_do_shutdown(t);
    default:
        return 0;
    }
}

static PyObject *
tls_eof_received(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = SELF(self);
    bool keep = false;
    t->eof_received = true;
    if (end(t, &keep) == 0) {
        return keep ? Py_NewRef(Py_True) : Py_NewRef(Py_None);
    }
    if (PyErr_ExceptionMatches(PyExc_Exception)) {
        PyObject *exc = PyErr_GetRaisedException();
        if (hl_tls_below(t, t->st->s_close, NULL) < 0) {
            Py_DECREF(exc);
            return NULL;
        }
        PyErr_SetRaisedException(exc);
    }
    return NULL;
}

static PyObject *
tls_pause_writing(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (SELF(self)->ssl_writing_paused) {
        PyErr_SetNone(PyExc_AssertionError);
        return NULL;
    }
    SELF(self)->ssl_writing_paused = true;
    Py_RETURN_NONE;
}

static PyObject *
tls_resume_writing(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (!SELF(self)->ssl_writing_paused) {
        PyErr_SetNone(PyExc_AssertionError);
        return NULL;
    }
    SELF(self)->ssl_writing_paused = false;
    return none_or_null(hl_tls_process_outgoing(SELF(self)));
}

/* ---- what the loop calls ---- */

static PyObject *
tls_handshake_late(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return none_or_null(hl_tls_handshake_late(SELF(self)));
}

static PyObject *
tls_shutdown_late(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return none_or_null(hl_tls_shutdown_late(SELF(self)));
}

static PyObject *
tls_do_read(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return none_or_null(hl_tls_do_read(SELF(self)));
}

/* After resume_reading(): goes on with what came in meanwhile. */
static PyObject *
tls_resumed(PyObject *self, PyObject *Py_UNUSED(unused))
{
    TLSProtocol *t = SELF(self);
    return none_or_null(t->state == TLS_DO_HANDSHAKE ? 0 : hl_tls_look(t));
}

/* Ciphertext that somebody else has read already; start_tls() hands it over before the
 * handshake begins. */
static PyObject *
tls_feed(PyObject *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    hl_tls_engine *e = SELF(self)->engine;
    int rc = view.len == 0 ? 0 : e->ops->feed(e, view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return none_or_null(rc);
}

/* ---- attributes ---- */

static PyObject *
get_sslobj(PyObject *self, void *Py_UNUSED(closure))
{
    hl_tls_engine *e = SELF(self)->engine;
    return Py_NewRef(e->ops->object(e));
}

/* Is OpenSSL called directly by now?  For tests. */
static PyObject *
get_direct(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(SELF(self)->engine->direct);
}

/* ---- the end ---- */

#define OBJECTS(X)                                                                     \
    X(loop)                                                                            \
    X(sslcontext)                                                                      \
    X(extra)                                                                           \
    X(transport)                                                                       \
    X(app_transport)                                                                   \
    X(app)                                                                             \
    X(get_buffer)                                                                      \
    X(buffer_updated)                                                                  \
    X(waiter)                                                                          \
    X(handshake_timeout)                                                               \
    X(shutdown_timeout)                                                                \
    X(handshake_timer)                                                                 \
    X(shutdown_timer)                                                                  \
    X(buffer)                                                                          \
    X(write_ctx)                                                                       \
    X(backlog)

static int
tls_traverse(PyObject *self, visitproc visit, void *arg)
{
    TLSProtocol *t = SELF(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->mod);
#define X(f) Py_VISIT(t->f);
    OBJECTS(X)
#undef X
    return t->engine == NULL ? 0 : t->engine->ops->traverse(t->engine, visit, arg);
}

/* The loop and the engine stay: methods that a finaliser calls rely on them, and no
 * cycle is left without the others. */
static int
tls_clear(PyObject *self)
{
    TLSProtocol *t = SELF(self);
    t->state = TLS_UNWRAPPED;
    t->backlog_at = t->backlog_bytes = 0;
    t->buffered = false;
    Py_CLEAR(t->transport);
    Py_CLEAR(t->app_transport);
    Py_CLEAR(t->app);
    Py_CLEAR(t->get_buffer);
    Py_CLEAR(t->buffer_updated);
    Py_CLEAR(t->waiter);
    Py_CLEAR(t->handshake_timer);
    Py_CLEAR(t->shutdown_timer);
    Py_CLEAR(t->write_ctx);
    Py_CLEAR(t->backlog);
    return 0;
}

static void
tls_dealloc(PyObject *self)
{
    TLSProtocol *t = SELF(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject *mod = t->mod;
    PyObject_GC_UnTrack(self);
    PyObject_ClearWeakRefs(self);
#define X(f) Py_CLEAR(t->f);
    OBJECTS(X)
#undef X
    if (t->engine != NULL) {
        t->engine->ops->free(t->engine);
    }
    type->tp_free(self);
    Py_DECREF(type);
    Py_XDECREF(mod);
}

/* ---- the type ---- */

static PyMethodDef tls_methods[] = {
    {"connection_made", tls_connection_made, METH_O, NULL},
    {"connection_lost", tls_connection_lost, METH_O, NULL},
    {"get_buffer", tls_get_buffer, METH_O, NULL},
    {"buffer_updated", tls_buffer_updated, METH_O, NULL},
    {"eof_received", tls_eof_received, METH_NOARGS, NULL},
    {"pause_writing", tls_pause_writing, METH_NOARGS, NULL},
    {"resume_writing", tls_resume_writing, METH_NOARGS, NULL},
    {"_check_handshake_timeout", tls_handshake_late, METH_NOARGS, NULL},
    {"_check_shutdown_timeout", tls_shutdown_late, METH_NOARGS, NULL},
    {"_do_read", tls_do_read, METH_NOARGS, NULL},
    {"_resumed", tls_resumed, METH_NOARGS, NULL},
    {"_feed", tls_feed, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#define FIELD(f) (void *)offsetof(TLSProtocol, f)

static PyGetSetDef tls_getset[] = {
    {"_loop", hl_transport_get_object, NULL, NULL, FIELD(loop)},
    {"_sslcontext", hl_transport_get_object, NULL, NULL, FIELD(sslcontext)},
    {"_extra", hl_transport_get_object, NULL, NULL, FIELD(extra)},
    {"_transport", hl_transport_get_object, NULL, NULL, FIELD(transport)},
    {"_app_transport", hl_transport_get_object, NULL, NULL, FIELD(app_transport)},
    {"_app_protocol", hl_transport_get_object, NULL, NULL, FIELD(app)},
    {"_waiter", hl_transport_get_object, NULL, NULL, FIELD(waiter)},
    {"_sslobj", get_sslobj, NULL, NULL, NULL},
    {"_direct", get_direct, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* What CPython's own tests and a few programs look at. */
static PyMemberDef tls_members[] = {
    {"_app_reading_paused", Py_T_BOOL, offsetof(TLSProtocol, app_reading_paused),
     Py_READONLY, NULL},
    {"_app_writing_paused", Py_T_BOOL, offsetof(TLSProtocol, app_writing_paused),
     Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot tls_slots[] = {
    {Py_tp_doc, "TLS over any transport."}, {Py_tp_dealloc, tls_dealloc},
    {Py_tp_traverse, tls_traverse},         {Py_tp_clear, tls_clear},
    {Py_tp_methods, tls_methods},           {Py_tp_getset, tls_getset},
    {Py_tp_members, tls_members},           {0, NULL},
};

static PyType_Spec tls_spec = {
    .name = "hotloop._core.TLSProtocol",
    .basicsize = sizeof(TLSProtocol),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_MANAGED_WEAKREF,
    .slots = tls_slots,
};

/* ---- creation ---- */

typedef struct {
    PyObject *protocol, *context, *waiter, *hostname, *handshake, *shutdown;
    int server_side, call_made, how;
} tls_args;

static int
fill_in(TLSProtocol *t, const tls_args *a)
{
    hl_state *st = t->st;
    bool named = !a->server_side && a->hostname != Py_None;
    int truth = named ? PyObject_IsTrue(a->hostname) : 0;
    t->extra = PyDict_New();
    if (truth < 0 || t->extra == NULL ||
        PyDict_SetItem(t->extra, st->s_sslcontext, a->context) < 0 ||
        hl_tls_set_app(t, a->protocol) < 0) {
        return -1;
    }
    t->engine = hl_tls_membio_new(st, a->context, a->server_side,
                                  truth > 0 ? a->hostname : NULL,
                                  (a->how & TLS_BY_OBJECT) != 0);
    if (t->engine == NULL) {
        return -1;
    }
    t->app_transport = hl_tls_transport_new(t);
    return t->app_transport == NULL ? -1 : 0;
}

PyObject *
hl_loop_tls(PyObject *loop, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"protocol",
                            "sslcontext",
                            "waiter",
                            "server_side",
                            "server_hostname",
                            "call_connection_made",
                            "handshake_timeout",
                            "shutdown_timeout",
                            "how",
                            NULL};
    hl_state *st = ((LoopObject *)loop)->sched.st;
    tls_args a;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOpOpOOi:_make_tls", names,
                                     &a.protocol, &a.context, &a.waiter, &a.server_side,
                                     &a.hostname, &a.call_made, &a.handshake,
                                     &a.shutdown, &a.how)) {
        return NULL;
    }
    TLSProtocol *t = (TLSProtocol *)hl_type_alloc(st->t_TLSProtocol);
    if (t == NULL) {
        return NULL;
    }
    t->st = st;
    t->mod = Py_NewRef(st->mod);
    t->loop = (LoopObject *)Py_NewRef(loop);
    t->sslcontext = Py_NewRef(a.context);
    t->waiter = a.waiter == Py_None ? NULL : Py_NewRef(a.waiter);
    t->handshake_timeout = Py_NewRef(a.handshake);
    t->shutdown_timeout = Py_NewRef(a.shutdown);
    t->app_state = a.call_made ? TLS_APP_INIT : TLS_APP_MADE;
    t->how = (unsigned char)a.how;
    t->in_high = 256 * 1024;
    t->in_low = t->in_high / 4;
    t->out_high = 512 * 1024;
    t->out_low = t->out_high / 4;
    if (fill_in(t, &a) < 0) {
        Py_DECREF(t);
        return NULL;
    }
    return (PyObject *)t;
}

int
hl_tls_exec(PyObject *mod, hl_state *st)
{
    if (hl_type_add(mod, &st->t_TLSProtocol, &tls_spec, st->i_BufferedProtocol) < 0) {
        return -1;
    }
    return hl_tls_transport_exec(mod, st);
}

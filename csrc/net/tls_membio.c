/* The engine over ssl.MemoryBIO: works with any context.
 *
 * An exact ssl.SSLObject only passes its calls on to the C object inside it, which is
 * called directly here, and OpenSSL itself once the handshake is over (tls_openssl.h).
 * Anything else gets the calls that asyncio would make. */
#include "net/tls_engine.h"
#include "net/tls_openssl.h"
#include "py/mem.h"

#define RECORD (17 * 1024)     /* no record's plaintext is longer */
#define WRITE_MAX (256 * 1024) /* encrypted at once, while no other thread runs */

typedef struct {
    hl_tls_engine base;
    PyObject *in, *out; /* owned: ssl.MemoryBIO */
    PyObject *obj;      /* owned: what wrap_bio() gave */
    PyObject *target;   /* owned: its inner object, or obj again */
    hl_direct direct;   /* after the handshake, where that is possible */
    bool more; /* OpenSSL may hold plaintext, or an end, that no byte in `in` shows */
} membio;

#define SELF(e) ((membio *)(e))

/* The exception that is set: is it only a lack of bytes? */
static int
again_or_fail(hl_state *st)
{
    if (PyErr_ExceptionMatches(st->i_SSLWantReadError) ||
        PyErr_ExceptionMatches(st->i_SSLSyscallError)) {
        PyErr_Clear();
        return HL_TLS_AGAIN;
    }
    return HL_TLS_FAIL;
}

/* target.<name>(): 0, AGAIN or FAIL. */
static int
step(membio *m, PyObject *name)
{
    m->more = true;
    PyObject *res = PyObject_CallMethodNoArgs(m->target, name);
    if (res == NULL) {
        return again_or_fail(m->base.st);
    }
    Py_DECREF(res);
    return 0;
}

/* Nobody else has the MemoryBIOs: what a wrap_bio() of somebody keeps, it may look at.
 */
static void
go_direct(membio *m)
{
    hl_tls_engine *e = &m->base;
    if (e->by_object || e->direct || Py_REFCNT(m->in) != 1 || Py_REFCNT(m->out) != 1) {
        return;
    }
    hl_direct_attach(e->st, &m->direct, m->target, m->in, m->out);
    e->direct = m->direct.lib != NULL;
}

static int
membio_handshake(hl_tls_engine *e)
{
    int rc = step(SELF(e), e->st->s_do_handshake);
    if (rc == 0) {
        go_direct(SELF(e));
    }
    return rc;
}

static int
membio_shutdown(hl_tls_engine *e)
{
    return step(SELF(e), e->by_object ? e->st->s_unwrap : e->st->s_shutdown);
}

static Py_ssize_t
as_count(membio *m, PyObject *res)
{
    if (res == NULL) {
        return again_or_fail(m->base.st);
    }
    Py_ssize_t n = PyLong_AsSsize_t(res);
    Py_DECREF(res);
    return n < 0 && !PyErr_Occurred() ? 0 : n;
}

static Py_ssize_t
pending(membio *m, PyObject *bio)
{
    PyObject *value = PyObject_GetAttr(bio, m->base.st->s_pending);
    if (value == NULL) {
        return HL_TLS_FAIL;
    }
    Py_ssize_t n = PyLong_AsSsize_t(value);
    Py_DECREF(value);
    return n;
}

static Py_ssize_t
membio_incoming(hl_tls_engine *e)
{
    membio *m = SELF(e);
    return e->direct ? (Py_ssize_t)hl_direct_pending(&m->direct, m->direct.in)
                     : pending(m, m->in);
}

static Py_ssize_t
membio_outgoing(hl_tls_engine *e)
{
    membio *m = SELF(e);
    return e->direct ? (Py_ssize_t)hl_direct_pending(&m->direct, m->direct.out)
                     : pending(m, m->out);
}

static int
no_memory(void)
{
    PyErr_NoMemory();
    return HL_TLS_FAIL;
}

static int
membio_feed(hl_tls_engine *e, const void *p, size_t n)
{
    if (e->direct) {
        return hl_direct_feed(&SELF(e)->direct, p, n) ? 0 : no_memory();
    }
    PyObject *view = PyMemoryView_FromMemory((char *)p, (Py_ssize_t)n, PyBUF_READ);
    if (view == NULL) {
        return HL_TLS_FAIL;
    }
    PyObject *res = PyObject_CallMethodOneArg(SELF(e)->in, e->st->s_write, view);
    Py_DECREF(view);
    Py_XDECREF(res);
    return res == NULL ? HL_TLS_FAIL : 0;
}

static PyObject *
membio_drain(hl_tls_engine *e)
{
    if (e->direct) {
        return hl_direct_drain(&SELF(e)->direct);
    }
    return PyObject_CallMethodNoArgs(SELF(e)->out, e->st->s_read);
}

static Py_ssize_t
read_buffer(membio *m, PyObject *buf, Py_ssize_t n)
{
    PyObject *size = PyLong_FromSsize_t(n);
    if (size == NULL) {
        return HL_TLS_FAIL;
    }
    PyObject *args[] = {m->target, size, buf};
    PyObject *res = PyObject_VectorcallMethod(m->base.st->s_read, args, 3, NULL);
    Py_DECREF(size);
    return as_count(m, res);
}

static Py_ssize_t
membio_read_buffer(hl_tls_engine *e, PyObject *buf, Py_ssize_t n)
{
    return read_buffer(SELF(e), buf, n);
}

/* By the method of Python. */
static Py_ssize_t
read_memory(membio *m, char *p, size_t n)
{
    PyObject *view = PyMemoryView_FromMemory(p, (Py_ssize_t)n, PyBUF_WRITE);
    if (view == NULL) {
        return HL_TLS_FAIL;
    }
    Py_ssize_t got = read_buffer(m, view, (Py_ssize_t)n);
    Py_DECREF(view);
    return got;
}

/* What OpenSSL would not do is done again by the method, which finds the error in the
 * queue and makes the exception of it. */
static Py_ssize_t
read_direct(membio *m, char *p, size_t n)
{
    Py_ssize_t got = hl_direct_read(&m->direct, p, n);
    if (got == HL_DIRECT_ERROR) {
        got = hl_direct_end_lending(&m->direct) ? read_memory(m, p, n) : no_memory();
    }
    return got;
}

/* OpenSSL takes whole records out of `in`.  When that is empty and the last read left
 * room, the next one could only fail; and an exception costs more than a small record.
 */
static Py_ssize_t
membio_read(hl_tls_engine *e, char *p, size_t n)
{
    membio *m = SELF(e);
    if (n == 0) { /* to _ssl that is the end, whatever there is; to OpenSSL it is not */
        return 0;
    }
    if (!m->more) {
        Py_ssize_t left = membio_incoming(e);
        if (left <= 0) {
            return left == 0 ? HL_TLS_AGAIN : HL_TLS_FAIL;
        }
    }
    Py_ssize_t got = e->direct ? read_direct(m, p, n) : read_memory(m, p, n);
    m->more = got == 0 || got == HL_TLS_FAIL || got == (Py_ssize_t)n;
    return got;
}

/* Reads until there is no more, into *all, which grows if need be, and *used: what the
 * last read answered. */
static Py_ssize_t
read_into(membio *m, PyObject **all, Py_ssize_t *used)
{
    for (;;) {
        Py_ssize_t room = PyBytes_GET_SIZE(*all) - *used;
        if (room == 0) {
            room = RECORD;
            if (_PyBytes_Resize(all, *used + room) < 0) {
                return HL_TLS_FAIL;
            }
        }
        Py_ssize_t got = read_direct(m, PyBytes_AS_STRING(*all) + *used, (size_t)room);
        m->more = got == 0 || got == HL_TLS_FAIL || got == room;
        if (got <= 0) {
            return got;
        }
        *used += got;
        if (!m->more && hl_direct_incoming(&m->direct) == 0) {
            return HL_TLS_AGAIN;
        }
    }
}

/* No record has more plaintext than ciphertext: so much memory is taken at first, and
 * for a record that had begun before as much as it can have. */
static Py_ssize_t
read_whole(membio *m, PyObject **data)
{
    hl_direct *d = &m->direct;
    size_t size = hl_direct_incoming(d);
    if (size == 0 && !m->more) {
        return HL_TLS_AGAIN;
    }
    size += size == 0 || hl_direct_in_record(d) ? RECORD : 0;
    PyObject *all = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    Py_ssize_t used = 0;
    Py_ssize_t rc = all == NULL ? HL_TLS_FAIL : read_into(m, &all, &used);
    if (rc == HL_TLS_FAIL || used == 0) {
        Py_XDECREF(all);
        return rc;
    }
    if (_PyBytes_Resize(&all, used) < 0) {
        return HL_TLS_FAIL;
    }
    *data = all;
    return rc;
}

static Py_ssize_t
membio_receive(hl_tls_engine *e, const void *p, size_t n, PyObject **data)
{
    membio *m = SELF(e);
    hl_direct *d = &m->direct;
    bool lent = n > 0 && hl_direct_incoming(d) == 0 && hl_direct_lend(d, p, n);
    if (n > 0 && !lent && !hl_direct_feed(d, p, n)) {
        return no_memory();
    }
    Py_ssize_t rc = read_whole(m, data);
    if (!hl_direct_end_lending(d) && rc != HL_TLS_FAIL) {
        Py_CLEAR(*data);
        return no_memory();
    }
    return rc;
}

static PyObject *
membio_read_object(hl_tls_engine *e, Py_ssize_t max, int *rc)
{
    PyObject *size = PyLong_FromSsize_t(max);
    PyObject *res =
        size == NULL ? NULL
                     : PyObject_CallMethodOneArg(SELF(e)->target, e->st->s_read, size);
    Py_XDECREF(size);
    *rc = res == NULL ? again_or_fail(e->st) : 0;
    return res;
}

/* By OpenSSL, as far as it goes: how much. */
static Py_ssize_t
write_direct(membio *m, PyObject *data)
{
    const char *p = PyBytes_AS_STRING(data);
    Py_ssize_t size = PyBytes_GET_SIZE(data), used = 0, done = 1;
    while (done > 0 && used < size && used < WRITE_MAX) {
        done = hl_direct_write(&m->direct, p + used, (size_t)(size - used));
        used += done > 0 ? done : 0;
    }
    return used > 0 ? used : done;
}

static Py_ssize_t
membio_write(hl_tls_engine *e, PyObject *data)
{
    membio *m = SELF(e);
    if (e->direct && PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) > 0) {
        Py_ssize_t done = write_direct(m, data);
        if (done != HL_DIRECT_ERROR) {
            return done;
        }
    }
    return as_count(m, PyObject_CallMethodOneArg(m->target, e->st->s_write, data));
}

static size_t
membio_encrypt(hl_tls_engine *e, const char *p, size_t n, const char **cipher,
               size_t *size)
{
    return hl_direct_encrypt(&SELF(e)->direct, p, n, cipher, size);
}

static void
membio_sent(hl_tls_engine *e)
{
    hl_direct_sent(&SELF(e)->direct);
}

static PyObject *
membio_object(hl_tls_engine *e)
{
    return SELF(e)->obj;
}

static int
membio_traverse(hl_tls_engine *e, visitproc visit, void *arg)
{
    Py_VISIT(SELF(e)->obj);
    Py_VISIT(SELF(e)->target);
    return 0;
}

static void
membio_free(hl_tls_engine *e)
{
    membio *m = SELF(e);
    hl_direct_detach(&m->direct);
    Py_XDECREF(m->target);
    Py_XDECREF(m->obj);
    Py_XDECREF(m->in);
    Py_XDECREF(m->out);
    PyMem_Free(m);
}

static const hl_tls_ops membio_ops = {
    .free = membio_free,
    .traverse = membio_traverse,
    .object = membio_object,
    .feed = membio_feed,
    .incoming = membio_incoming,
    .outgoing = membio_outgoing,
    .drain = membio_drain,
    .handshake = membio_handshake,
    .read = membio_read,
    .read_object = membio_read_object,
    .read_buffer = membio_read_buffer,
    .write = membio_write,
    .receive = membio_receive,
    .encrypt = membio_encrypt,
    .sent = membio_sent,
    .shutdown = membio_shutdown,
};

/* context.wrap_bio(in, out, server_side=..., server_hostname=...). */
static PyObject *
wrap(membio *m, PyObject *context, bool server, PyObject *hostname)
{
    hl_state *st = m->base.st;
    PyObject *names = PyTuple_Pack(2, st->s_server_side, st->s_server_hostname);
    if (names == NULL) {
        return NULL;
    }
    PyObject *args[] = {context, m->in, m->out, server ? Py_True : Py_False,
                        hostname != NULL ? hostname : Py_None};
    PyObject *obj = PyObject_VectorcallMethod(st->s_wrap_bio, args, 3, names);
    Py_DECREF(names);
    return obj;
}

hl_tls_engine *
hl_tls_membio_new(hl_state *st, PyObject *context, bool server, PyObject *hostname,
                  bool by_object)
{
    membio *m = hl_pymem_calloc(1, sizeof(*m));
    if (m == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    m->base.ops = &membio_ops;
    m->base.st = st;
    m->more = true;
    m->in = PyObject_CallNoArgs(st->i_MemoryBIO);
    m->out = m->in == NULL ? NULL : PyObject_CallNoArgs(st->i_MemoryBIO);
    m->obj = m->out == NULL ? NULL : wrap(m, context, server, hostname);
    if (m->obj != NULL) {
        m->base.by_object =
            by_object || !Py_IS_TYPE(m->obj, (PyTypeObject *)st->i_SSLObject);
        m->target = m->base.by_object ? Py_NewRef(m->obj)
                                      : PyObject_GetAttr(m->obj, st->s__sslobj);
    }
    if (m->target == NULL) {
        membio_free(&m->base);
        return NULL;
    }
    return &m->base;
}

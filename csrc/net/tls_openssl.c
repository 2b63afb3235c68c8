/* The libssl of the running `_ssl`, and what is asked of it.
 *
 * There is no header of OpenSSL here: hotloop builds without it, and the library is the
 * one that is loaded already. */
#include "net/tls_openssl.h"

#include <dlfcn.h>

#include "core/fault.h"
#include "py/compat.h"
#include "py/mem.h"

typedef struct bio_st BIO;
typedef struct ssl_st SSL;

/* OpenSSL's BUF_MEM, which is public. */
typedef struct {
    size_t length;
    char *data;
    size_t max;
    unsigned long flags;
} buf_mem;

/* Numbers of OpenSSL's public headers. */
enum {
    BIO_CTRL_INFO = 3,
    BIO_C_SET_BUF_MEM = 114,
    BIO_NOCLOSE = 0,
    SSL_ERROR_WANT_READ = 2,
    SSL_ERROR_ZERO_RETURN = 6,
    SSL_RECEIVED_SHUTDOWN = 2,
    KNOWN_MAJOR = 3, /* what this has been tested with */
};

#define FUNCTIONS(X)                                                                   \
    X(int, SSL_read_ex, (SSL *, void *, size_t, size_t *))                             \
    X(int, SSL_write_ex, (SSL *, const void *, size_t, size_t *))                      \
    X(int, SSL_get_error, (const SSL *, int))                                          \
    X(int, SSL_get_shutdown, (const SSL *))                                            \
    X(int, SSL_has_pending, (const SSL *))                                             \
    X(BIO *, SSL_get_rbio, (const SSL *))                                              \
    X(BIO *, SSL_get_wbio, (const SSL *))                                              \
    X(void, SSL_set0_rbio, (SSL *, BIO *))                                             \
    X(void, SSL_set0_wbio, (SSL *, BIO *))                                             \
    X(const void *, BIO_s_mem, (void))                                                 \
    X(BIO *, BIO_new, (const void *))                                                  \
    X(int, BIO_free, (BIO *))                                                          \
    X(int, BIO_up_ref, (BIO *))                                                        \
    X(long, BIO_ctrl, (BIO *, int, long, void *))                                      \
    X(size_t, BIO_ctrl_pending, (BIO *))                                               \
    X(int, BIO_read, (BIO *, void *, int))                                             \
    X(int, BIO_write, (BIO *, const void *, int))                                      \
    X(buf_mem *, BUF_MEM_new, (void))                                                  \
    X(void, BUF_MEM_free, (buf_mem *))                                                 \
    X(unsigned long, OpenSSL_version_num, (void))

struct hl_openssl {
#define X(type, name, args) type(*name) args;
    FUNCTIONS(X)
#undef X
    void *handle;         /* of dlopen() */
    BIO *in, *out;        /* owned: those that connections borrow */
    buf_mem borrowed;     /* what `in` reads from: of a caller */
    buf_mem *sink;        /* owned: what `out` writes to */
    const char *lent_end; /* of what `in` reads from */
    bool in_use, out_use;
    bool proven; /* fields of _ssl's objects are where compat.c takes them to be */
};

/* ---- finding it ---- */

static void
lib_free(hl_openssl *o)
{
    if (o->in != NULL) {
        o->BIO_free(o->in);
    }
    if (o->out != NULL) {
        o->BIO_free(o->out);
    }
    if (o->sink != NULL) {
        o->BUF_MEM_free(o->sink);
    }
    if (o->handle != NULL) {
        dlclose(o->handle);
    }
    PyMem_Free(o);
}

static void
capsule_free(PyObject *capsule)
{
    lib_free(PyCapsule_GetPointer(capsule, NULL));
}

/* What a BIO reads and writes from now on; it stays another's. */
static bool
point_at(hl_openssl *o, BIO *bio, buf_mem *memory)
{
    return o->BIO_ctrl(bio, BIO_C_SET_BUF_MEM, BIO_NOCLOSE, memory) == 1;
}

/* A handle on the file of _ssl finds what that file itself was linked with.  False:
 * OpenSSL is inside of it and not to be seen, or is another library. */
static bool
load(hl_openssl *o, const char *path, unsigned long version)
{
    o->handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
    if (o->handle == NULL) {
        return false;
    }
#define X(type, name, args)                                                            \
    o->name = (type(*) args)dlsym(o->handle, #name);                                   \
    if (o->name == NULL) {                                                             \
        return false;                                                                  \
    }
    FUNCTIONS(X)
#undef X
    if (o->OpenSSL_version_num() != version || version >> 28 != KNOWN_MAJOR) {
        return false;
    }
    o->in = o->BIO_new(o->BIO_s_mem());
    o->out = o->BIO_new(o->BIO_s_mem());
    o->sink = o->BUF_MEM_new();
    return o->in != NULL && o->out != NULL && o->sink != NULL &&
           point_at(o, o->in, &o->borrowed) && point_at(o, o->out, o->sink);
}

/* A capsule, or None. */
static PyObject *
look_for(PyObject *path, PyObject *version)
{
    unsigned long number = PyLong_AsUnsignedLong(version);
    const char *file = PyErr_Occurred() ? NULL : PyUnicode_AsUTF8(path);
    if (file == NULL) {
        return NULL;
    }
    hl_openssl *o = hl_pymem_calloc(1, sizeof(*o));
    if (o == NULL) {
        return PyErr_NoMemory();
    }
    if (!load(o, file, number)) {
        lib_free(o);
        return Py_NewRef(Py_None);
    }
    PyObject *capsule = PyCapsule_New(o, NULL, capsule_free);
    if (capsule == NULL) {
        lib_free(o);
    }
    return capsule;
}

/* Borrowed: a capsule, or None where it cannot be had; looked for once, and again where
 * somebody hides the module for a while. */
static PyObject *
find(hl_state *st)
{
    if (st->openssl != NULL) {
        return st->openssl;
    }
    PyObject *mod = PyImport_ImportModule("_ssl");
    if (mod == NULL) {
        PyErr_Clear();
        return Py_None;
    }
    PyObject *path = PyObject_GetAttrString(mod, "__file__");
    PyObject *version =
        path == NULL ? NULL : PyObject_GetAttrString(mod, "OPENSSL_VERSION_NUMBER");
    PyObject *found = version == NULL ? NULL : look_for(path, version);
    Py_XDECREF(path);
    Py_XDECREF(version);
    Py_DECREF(mod);
    if (found == NULL) { /* built in, or of another make */
        PyErr_Clear();
        found = Py_NewRef(Py_None);
    }
    Py_XSETREF(st->openssl, found);
    return st->openssl;
}

/* ---- is a connection what it seems? ---- */

/* Bytes put into a MemoryBIO by its method are seen in the BIO at the other end. */
static bool
shows(hl_openssl *o, PyObject *memory, BIO *bio)
{
    PyObject *put = PyObject_CallMethod(memory, "write", "y", "abc");
    bool seen = put != NULL && o->BIO_ctrl_pending(bio) == 3;
    PyObject *got = put == NULL ? NULL : PyObject_CallMethod(memory, "read", NULL);
    Py_XDECREF(put);
    Py_XDECREF(got);
    return got != NULL && seen && o->BIO_ctrl_pending(bio) == 0;
}

/* Once for each interpreter, on two MemoryBIOs that are nobody's: the pointers that are
 * followed here are those that the checks of compat.c let through. */
static bool
prove(hl_state *st, hl_openssl *o)
{
    if (!o->proven) {
        PyObject *memory = PyObject_CallNoArgs(st->i_MemoryBIO);
        BIO *bio = memory == NULL ? NULL : hl_ssl_bio(memory);
        o->proven = bio != NULL && shows(o, memory, bio);
        Py_XDECREF(memory);
    }
    return o->proven;
}

void
hl_direct_attach(hl_state *st, hl_direct *d, PyObject *sslobj, PyObject *in,
                 PyObject *out)
{
    PyObject *lib = HL_KNOWS_SSL ? find(st) : Py_None;
    if (lib == Py_None) {
        return;
    }
    PyObject *context = PyObject_GetAttr(sslobj, st->s_context);
    PyObject *watched =
        context == NULL ? NULL : PyObject_GetAttr(context, st->s__msg_callback);
    hl_openssl *o = PyCapsule_GetPointer(lib, NULL);
    if (watched == Py_None && o != NULL && prove(st, o)) {
        SSL *ssl = hl_ssl_pointer(sslobj, context);
        d->in = hl_ssl_bio(in);
        d->out = hl_ssl_bio(out);
        if (ssl != NULL && d->in != NULL && d->in == o->SSL_get_rbio(ssl) &&
            d->out == o->SSL_get_wbio(ssl)) {
            d->ssl = ssl;
            d->lib = o;
            d->keep = Py_NewRef(lib);
        }
    }
    Py_XDECREF(watched);
    Py_XDECREF(context);
    PyErr_Clear(); /* whatever was odd about it: it is left to the methods */
}

void
hl_direct_detach(hl_direct *d)
{
    d->lib = NULL;
    Py_CLEAR(d->keep);
}

/* ---- the BIOs ---- */

size_t
hl_direct_pending(hl_direct *d, void *bio)
{
    return d->lib->BIO_ctrl_pending(bio);
}

bool
hl_direct_feed(hl_direct *d, const void *p, size_t n)
{
    return !HL_FAILS("BIO_write") && d->lib->BIO_write(d->in, p, (int)n) == (int)n;
}

PyObject *
hl_direct_drain(hl_direct *d)
{
    size_t n = d->lib->BIO_ctrl_pending(d->out);
    PyObject *data =
        n > INT_MAX ? NULL : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (data != NULL && n > 0) {
        (void)d->lib->BIO_read(d->out, PyBytes_AS_STRING(data), (int)n);
    }
    return n > INT_MAX ? PyErr_NoMemory() : data;
}

bool
hl_direct_in_record(hl_direct *d)
{
    return d->lib->SSL_has_pending(d->ssl) != 0;
}

/* ---- reading ---- */

/* SSL_set0_rbio() takes a reference, and drops that on the one before; each BIO has
 * another owner. */
bool
hl_direct_lend(hl_direct *d, const void *p, size_t n)
{
    hl_openssl *o = d->lib;
    if (o->in_use) {
        return false;
    }
    o->lent_end = (const char *)p + n;
    o->borrowed = (buf_mem){.length = n, .data = (char *)p, .max = n};
    if (!point_at(o, o->in, &o->borrowed)) {
        return false;
    }
    o->BIO_up_ref(o->in);
    o->SSL_set0_rbio(d->ssl, o->in);
    o->in_use = d->lent = true;
    return true;
}

bool
hl_direct_end_lending(hl_direct *d)
{
    hl_openssl *o = d->lib;
    if (!d->lent) {
        return true;
    }
    size_t left = o->BIO_ctrl_pending(o->in);
    const char *end = o->lent_end;
    o->BIO_up_ref(d->in);
    o->SSL_set0_rbio(d->ssl, d->in);
    o->in_use = d->lent = false;
    return left == 0 || hl_direct_feed(d, end - left, left);
}

size_t
hl_direct_incoming(hl_direct *d)
{
    return d->lib->BIO_ctrl_pending(d->lent ? d->lib->in : d->in);
}

Py_ssize_t
hl_direct_read(hl_direct *d, char *p, size_t n)
{
    size_t got = 0;
    int rc = d->lib->SSL_read_ex(d->ssl, p, n, &got);
    if (rc > 0) {
        return (Py_ssize_t)got;
    }
    int err = d->lib->SSL_get_error(d->ssl, rc);
    if (err == SSL_ERROR_WANT_READ) {
        return HL_DIRECT_AGAIN;
    }
    bool end = err == SSL_ERROR_ZERO_RETURN &&
               d->lib->SSL_get_shutdown(d->ssl) == SSL_RECEIVED_SHUTDOWN;
    return end ? HL_DIRECT_END : HL_DIRECT_ERROR;
}

/* ---- writing ---- */

Py_ssize_t
hl_direct_write(hl_direct *d, const char *p, size_t n)
{
    size_t done = 0;
    int rc = d->lib->SSL_write_ex(d->ssl, p, n, &done);
    if (rc > 0) {
        return (Py_ssize_t)done;
    }
    int err = d->lib->SSL_get_error(d->ssl, rc);
    return err == SSL_ERROR_WANT_READ ? HL_DIRECT_AGAIN : HL_DIRECT_ERROR;
}

size_t
hl_direct_encrypt(hl_direct *d, const char *p, size_t n, const char **cipher,
                  size_t *size)
{
    hl_openssl *o = d->lib;
    if (o->out_use) {
        return 0;
    }
    o->sink->length = 0;
    if (!point_at(o, o->out, o->sink)) {
        return 0;
    }
    o->out_use = true;
    o->BIO_up_ref(o->out);
    o->SSL_set0_wbio(d->ssl, o->out);
    size_t used = 0, done = 0;
    while (used < n && !HL_FAILS("SSL_write_ex") &&
           o->SSL_write_ex(d->ssl, p + used, n - used, &done) > 0) {
        used += done;
    }
    o->BIO_up_ref(d->out);
    o->SSL_set0_wbio(d->ssl, d->out);
    char *data = NULL;
    long len = o->BIO_ctrl(o->out, BIO_CTRL_INFO, 0, &data);
    o->out_use = len > 0;
    if (len > 0) {
        *cipher = data;
        *size = (size_t)len;
    }
    return used;
}

void
hl_direct_sent(hl_direct *d)
{
    d->lib->out_use = false;
}

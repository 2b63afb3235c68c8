/* asyncio's streams without a Python frame between the socket and the reader.
 *
 * What data_received(), feed_data() and _wakeup_waiter() of asyncio/streams.py do, in
 * the same order, on the reader's own attributes.  Everything that could make a
 * difference is looked at first, without a side effect, so that the ordinary call can
 * still be made; from the first change on no foreign code runs until the transport is
 * asked to pause. */
#include "net/feed.h"
#include "core/sys.h"
#include "net/child.h"

#include "sched/future.h"

/* What is stood in for, in the order of _streams.py: st->i_streams_seen has what the
 * classes had at import, then the functions, then their codes. */
enum { DATA_RECEIVED, STREAM_READER, FEED_DATA, WAKEUP_WAITER, SEEN };

/* Borrowed, and immutable for as long as the module lives. */
static inline PyObject *
seen(hl_state *st, int which)
{
    return PyTuple_GET_ITEM(st->i_streams_seen, which);
}

bool
hl_feed_plain_class(PyTypeObject *type, PyObject *const *fields, int n)
{
    if (type->tp_getattro != PyObject_GenericGetAttr ||
        type->tp_setattro != PyObject_GenericSetAttr) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (hl_type_lookup(type, fields[i]) != NULL) {
            return false;
        }
    }
    return true;
}

/* The two classes have changed, or were never looked at.  Runs no foreign code.  A
 * class whose versions have run out cannot be followed: that is for good. */
static HL_COLD bool
look_at_classes(hl_state *st, PyTypeObject *reader, PyTypeObject *protocol)
{
    if (st->streams_lost || PyTuple_GET_SIZE(st->i_streams_seen) != 3 * SEEN) {
        return false;
    }
    /* Another thread may be looking: it finds no yes that is older than the versions.
     */
    HL_RELEASE(st->streams_ok, false);
    (void)PyUnstable_Type_AssignVersionTag(reader);
    (void)PyUnstable_Type_AssignVersionTag(protocol);
    st->reader_version = reader->tp_version_tag;
    st->reader_protocol_version = protocol->tp_version_tag;
    st->streams_lost = st->reader_version == 0 || st->reader_protocol_version == 0;
    PyObject *of_reader[] = {st->s__buffer, st->s__eof,       st->s__limit,
                             st->s__paused, st->s__transport, st->s__waiter};
    PyObject *of_protocol[] = {st->s__stream_reader_wr};
    bool ok =
        !st->streams_lost && hl_feed_plain_class(reader, of_reader, 6) &&
        hl_feed_plain_class(protocol, of_protocol, 1) &&
        hl_type_lookup(protocol, st->s_data_received) == seen(st, DATA_RECEIVED) &&
        hl_type_lookup(protocol, st->s__stream_reader) == seen(st, STREAM_READER) &&
        hl_type_lookup(reader, st->s_feed_data) == seen(st, FEED_DATA) &&
        hl_type_lookup(reader, st->s__wakeup_waiter) == seen(st, WAKEUP_WAITER);
    HL_RELEASE(st->streams_ok, ok);
    return ok;
}

/* Are the methods those of asyncio, down to their code? */
static inline bool
classes_untouched(hl_state *st)
{
    PyTypeObject *reader = (PyTypeObject *)st->i_StreamReader;
    PyTypeObject *protocol = (PyTypeObject *)st->i_StreamReaderProtocol;
    bool same = reader->tp_version_tag == st->reader_version &&
                protocol->tp_version_tag == st->reader_protocol_version &&
                st->reader_version != 0 && st->reader_protocol_version != 0;
    if (HL_LIKELY(same) ? !st->streams_ok : !look_at_classes(st, reader, protocol)) {
        return false;
    }
    for (int i = SEEN; i < 2 * SEEN; i++) {
        if (PyFunction_GET_CODE(seen(st, i)) != seen(st, i + SEEN)) {
            return false;
        }
    }
    return true;
}

/* What feed_data() works on; all references are owned. */
typedef struct {
    PyObject *self, *buffer, *waiter;
    Py_ssize_t limit;
} feed_target;

/* Dropping the reader may be the end of it, and run what its fields' finalisers run:
 * the last thing that is done. */
static void
drop(feed_target *r)
{
    Py_XDECREF(r->waiter);
    Py_XDECREF(r->buffer);
    Py_XDECREF(r->self);
}

/* None, or a future of ours whose wake-up runs no foreign code: its loop is this one,
 * which is plain. */
static inline bool
good_waiter(LoopObject *loop, PyObject *waiter)
{
    hl_state *st = loop->sched.st;
    return waiter == Py_None || (waiter != NULL && Py_IS_TYPE(waiter, st->t_Future) &&
                                 AS_FUTURE(waiter)->loop == (PyObject *)loop);
}

/* Fills in r from an exact reader (r->self): false when anything is unusual. */
static bool
look_at_reader(LoopObject *loop, feed_target *r)
{
    hl_state *st = loop->sched.st;
    if (!hl_method_is(r->self, st->s_feed_data, seen(st, FEED_DATA)) ||
        !hl_method_is(r->self, st->s__wakeup_waiter, seen(st, WAKEUP_WAITER))) {
        return false;
    }
    PyObject *eof = hl_feed_field(r->self, st->s__eof);
    PyObject *limit = hl_feed_field(r->self, st->s__limit);
    r->buffer = hl_feed_field(r->self, st->s__buffer);
    r->waiter = hl_feed_field(r->self, st->s__waiter);
    r->limit = limit != NULL && PyLong_CheckExact(limit) ? PyLong_AsSsize_t(limit) : -1;
    PyErr_Clear(); /* a limit that no buffer reaches is rare enough */
    bool ok = eof == Py_False && r->limit >= 0 && r->limit <= PY_SSIZE_T_MAX / 2 &&
              r->buffer != NULL && PyByteArray_CheckExact(r->buffer) &&
              good_waiter(loop, r->waiter);
    Py_XDECREF(limit);
    Py_XDECREF(eof);
    return ok;
}

/* The protocol's reader: 1; 0: unusual; -1: it has none any more, and what arrives is
 * dropped. */
static int
find_reader(hl_state *st, PyObject *protocol, feed_target *r)
{
    PyObject *ref = hl_feed_field(protocol, st->s__stream_reader_wr);
    int rc = 0;
    if (ref == Py_None) {
        rc = -1;
    }
    else if (ref != NULL && PyWeakref_CheckRefExact(ref)) {
        r->self = hl_weakref_get(ref);
        rc = r->self == NULL ? -1
                             : Py_IS_TYPE(r->self, (PyTypeObject *)st->i_StreamReader);
    }
    Py_XDECREF(ref);
    return rc;
}

/* The end of feed_data(): the transport may be slowed down. */
static HL_COLD int
pause_transport(hl_state *st, PyObject *reader)
{
    PyObject *transport = PyObject_GetAttr(reader, st->s__transport);
    PyObject *paused =
        transport == NULL ? NULL : PyObject_GetAttr(reader, st->s__paused);
    int rc = paused == NULL ? -1 : transport == Py_None ? 1 : PyObject_IsTrue(paused);
    if (rc == 0) {
        PyObject *res = PyObject_CallMethodNoArgs(transport, st->s_pause_reading);
        if (res != NULL) {
            rc = PyObject_SetAttr(reader, st->s__paused, Py_True);
        }
        else if (PyErr_ExceptionMatches(PyExc_NotImplementedError)) {
            PyErr_Clear(); /* it cannot: not asked again */
            rc = PyObject_SetAttr(reader, st->s__transport, Py_None);
        }
        else {
            rc = -1;
        }
        Py_XDECREF(res);
    }
    Py_XDECREF(paused);
    Py_XDECREF(transport);
    return rc < 0 ? -1 : 0;
}

/* feed_data(): 0, or -1 with what it would have raised. */
static int
feed_reader(hl_state *st, feed_target *r, const void *data, Py_ssize_t n)
{
    Py_ssize_t have = PyByteArray_GET_SIZE(r->buffer);
    if (PyByteArray_Resize(r->buffer, have + n) < 0) {
        return -1; /* somebody holds a view of it */
    }
    memcpy(PyByteArray_AS_STRING(r->buffer) + have, data, (size_t)n);
    /* asyncio's _wakeup_waiter(): the field is emptied before the waiter is told. */
    if (r->waiter != Py_None) {
        if (PyObject_GenericSetAttr(r->self, st->s__waiter, Py_None) < 0) {
            return -1;
        }
        if (AS_FUTURE(r->waiter)->state != HL_CANCELLED &&
            hl_future_set_result(st, r->waiter, Py_None) < 0) {
            return -1;
        }
    }
    /* asyncio slows the transport down at twice the limit. */
    if (HL_LIKELY(PyByteArray_GET_SIZE(r->buffer) <= 2 * r->limit)) {
        return 0;
    }
    return pause_transport(st, r->self);
}

/* Twice the limit, from which on transports are slowed down, a buffer of which somebody
 * holds a view, whose growth fails, and a waiter that is done, which is an error, are
 * for the ordinary call. */
static bool
is_smooth(feed_target *r, Py_ssize_t n)
{
    return PyByteArray_GET_SIZE(r->buffer) + n <= 2 * r->limit &&
           ((PyByteArrayObject *)r->buffer)->ob_exports == 0 &&
           (r->waiter == Py_None || AS_FUTURE(r->waiter)->state != HL_FINISHED);
}

int
hl_feed_reader(LoopObject *loop, PyObject *reader, const void *data, Py_ssize_t n)
{
    hl_state *st = loop->sched.st;
    if (!Py_IS_TYPE(reader, (PyTypeObject *)st->i_StreamReader) || !loop->sched.plain ||
        !st->native || hl_being_traced() || !classes_untouched(st)) {
        return 0;
    }
    feed_target r = {.self = Py_NewRef(reader)};
    int rc = 0;
    if (look_at_reader(loop, &r) && is_smooth(&r, n)) {
        rc = feed_reader(st, &r, data, n) < 0 ? -1 : 1;
    }
    drop(&r);
    return rc;
}

/* The checks that cost nothing come first; none of them has a side effect. */
int
hl_feed(LoopObject *loop, PyObject *protocol, const void *data, Py_ssize_t n)
{
    hl_state *st = loop->sched.st;
    if (!Py_IS_TYPE(protocol, (PyTypeObject *)st->i_StreamReaderProtocol) ||
        !loop->sched.plain || !st->native || hl_being_traced() ||
        !classes_untouched(st) ||
        !hl_method_is(protocol, st->s_data_received, seen(st, DATA_RECEIVED))) {
        return 0;
    }
    feed_target r = {0};
    int rc = find_reader(st, protocol, &r);
    /* asyncio's data_received() without a reader: the bytes are gone, and nobody is
     * told. */
    if (rc < 0) {
        return 1;
    }
    if (rc > 0) {
        rc = !look_at_reader(loop, &r) ? 0 : feed_reader(st, &r, data, n) < 0 ? -1 : 1;
    }
    drop(&r);
    return rc;
}

/* ---- for transports over a descriptor ---- */

/* protocol.data_received(data), which steals data: 1, or -1 with what it raised. */
static int
deliver(hl_transport *t, PyObject *data, size_t room)
{
    PyObject *res = NULL;
    int rc = hl_child_data(t, data);
    if (rc == 0) {
        res = hl_transport_upcall(t, t->st->s_data_received, data);
        rc = res == NULL ? -1 : 1;
    }
    if (room == 0) {
        Py_DECREF(data);
    }
    else {
        hl_transport_had(t, data, room);
    }
    Py_XDECREF(res);
    return rc;
}

/* The ordinary way: bytes, and a call. */
static int
read_and_call(hl_transport *t, int fd, bool sock, ssize_t *n)
{
    size_t room;
    PyObject *data = hl_transport_read(t, fd, sock, n, &room);
    return data == NULL ? 0 : deliver(t, data, room);
}

/* The same for what is in the scratch buffer already: copied before any call, since
 * that may read into it again. */
static int
call_with(hl_transport *t, const unsigned char *buf, ssize_t *n)
{
    PyObject *data = PyBytes_FromStringAndSize((const char *)buf, *n);
    if (data == NULL) {
        *n = -ENOMEM;
        return 0;
    }
    return deliver(t, data, 0);
}

/* A protocol that cannot be fed is found out before the read, so that bulk reads go
 * straight into their object; one that looks right gets the scratch buffer. */
int
hl_feed_read(hl_transport *t, int fd, bool sock, ssize_t *n)
{
    assert(t->protocol != NULL);
    if (!Py_IS_TYPE(t->protocol, (PyTypeObject *)t->st->i_StreamReaderProtocol)) {
        return read_and_call(t, fd, sock, n);
    }
    unsigned char *buf = hl_loop_scratch(t->loop);
    if (buf == NULL) {
        *n = -ENOMEM;
        return 0;
    }
    *n =
        sock ? hl_sys_recv(fd, buf, HL_READ_MAX, 0) : hl_sys_read(fd, buf, HL_READ_MAX);
    if (*n <= 0) {
        *n = *n < 0 ? -errno : 0;
        return 0;
    }
    PyObject *protocol = Py_NewRef(t->protocol);
    int rc = hl_feed(t->loop, protocol, buf, *n);
    Py_DECREF(protocol);
    return HL_LIKELY(rc != 0) ? rc : call_with(t, buf, n);
}

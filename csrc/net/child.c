/* From the pipe of a child process to its StreamReader without a Python frame.
 *
 * asyncio's ReadSubprocessPipeProto passes what was read on to the child's transport,
 * which has its protocol's pipe_data_received() called in the next turn, and that feeds
 * the reader.  Here the turn is the same, and so is the handle that waits for it; only
 * that it is looked at once more when its time has come, and fed from C if nothing has
 * been patched meanwhile.  Otherwise it runs like any other. */
#include "net/child.h"
#include "net/feed.h"

/* What is stood in for, in the order of _streams.py; see feed.c. */
enum { DATA_RECEIVED, PIPE_DATA, CALL, APP_DATA, SEEN };
enum { PIPE_PROTO, TRANSPORT, APP, CLASSES };

/* Borrowed, and immutable for as long as the module lives. */
static inline PyObject *
seen(hl_state *st, int which)
{
    return PyTuple_GET_ITEM(st->i_children_seen, which);
}

/* A class has changed, or was never looked at: as look_at_classes() of feed.c. */
static HL_COLD bool
look_at_classes(hl_state *st, PyTypeObject *const *types)
{
    if (st->child_lost || PyTuple_GET_SIZE(st->i_children_seen) != 3 * SEEN) {
        return false;
    }
    HL_RELEASE(st->child_ok, false);
    for (int i = 0; i < CLASSES; i++) {
        (void)PyUnstable_Type_AssignVersionTag(types[i]);
        st->child_versions[i] = types[i]->tp_version_tag;
        st->child_lost |= st->child_versions[i] == 0;
    }
    PyObject *of_pipe[] = {st->s_proc, st->s_fd};
    PyObject *of_transport[] = {st->s__pending_calls, st->s__loop, st->s__protocol};
    PyObject *of_app[] = {st->s_stdout, st->s_stderr};
    bool ok =
        !st->child_lost && hl_feed_plain_class(types[PIPE_PROTO], of_pipe, 2) &&
        hl_feed_plain_class(types[TRANSPORT], of_transport, 3) &&
        hl_feed_plain_class(types[APP], of_app, 2) &&
        hl_type_lookup(types[PIPE_PROTO], st->s_data_received) ==
            seen(st, DATA_RECEIVED) &&
        hl_type_lookup(types[TRANSPORT], st->s__pipe_data_received) ==
            seen(st, PIPE_DATA) &&
        hl_type_lookup(types[TRANSPORT], st->s__call) == seen(st, CALL) &&
        hl_type_lookup(types[APP], st->s_pipe_data_received) == seen(st, APP_DATA);
    HL_RELEASE(st->child_ok, ok);
    return ok;
}

/* Are the methods those of asyncio, down to their code? */
static bool
classes_untouched(hl_state *st)
{
    PyTypeObject *types[] = {(PyTypeObject *)st->i_ReadPipeProto,
                             (PyTypeObject *)st->i_SubprocessTransport,
                             (PyTypeObject *)st->i_SubprocessStreams};
    bool same = true;
    for (int i = 0; i < CLASSES; i++) {
        same &= st->child_versions[i] != 0 &&
                types[i]->tp_version_tag == st->child_versions[i];
    }
    if (HL_LIKELY(same) ? !st->child_ok : !look_at_classes(st, types)) {
        return false;
    }
    for (int i = SEEN; i < 2 * SEEN; i++) {
        if (PyFunction_GET_CODE(seen(st, i)) != seen(st, i + SEEN)) {
            return false;
        }
    }
    return true;
}

/* ---- the turn after ---- */

/* The reader of the child's output with that number, a new reference; or NULL. */
static PyObject *
reader_of(hl_state *st, PyObject *app, PyObject *fd)
{
    long number = PyLong_CheckExact(fd) ? PyLong_AsLong(fd) : -1;
    PyErr_Clear();
    return number == 1   ? hl_feed_field(app, st->s_stdout)
           : number == 2 ? hl_feed_field(app, st->s_stderr)
                         : NULL;
}

/* A handle that calls app.pipe_data_received(fd, data) as it was when the data came. */
static int
run_queued(PyObject *handle)
{
    hl_queued_call c = hl_handle_look(handle);
    if (c.nargs != 2 || !classes_untouched(c.st)) {
        return hl_handle_run_queued(c.st, handle);
    }
    PyObject *reader = reader_of(c.st, PyMethod_GET_SELF(c.func), c.args[0]);
    int rc = reader == NULL ? 0
                            : hl_feed_reader((LoopObject *)c.loop, reader,
                                             PyBytes_AS_STRING(c.args[1]),
                                             PyBytes_GET_SIZE(c.args[1]));
    Py_XDECREF(reader);
    return rc == 0 ? hl_handle_run_queued(c.st, handle) : rc < 0 ? -1 : 0;
}

/* ---- the turn of the read ---- */

/* Owned references. */
typedef struct {
    PyObject *proc, *fd, *app;
} target;

/* Fills in c from an exact protocol: false when anything is unusual. */
static bool
look_at_child(hl_transport *t, target *c)
{
    hl_state *st = t->st;
    c->proc = hl_feed_field(t->protocol, st->s_proc);
    c->fd = hl_feed_field(t->protocol, st->s_fd);
    if (c->fd == NULL || c->proc == NULL ||
        !Py_IS_TYPE(c->proc, (PyTypeObject *)st->i_SubprocessTransport) ||
        !hl_method_is(c->proc, st->s__pipe_data_received, seen(st, PIPE_DATA)) ||
        !hl_method_is(c->proc, st->s__call, seen(st, CALL))) {
        return false;
    }
    PyObject *pending = hl_feed_field(c->proc, st->s__pending_calls);
    PyObject *loop = hl_feed_field(c->proc, st->s__loop);
    c->app = hl_feed_field(c->proc, st->s__protocol);
    bool ok = pending == Py_None && loop == (PyObject *)t->loop && c->app != NULL &&
              Py_IS_TYPE(c->app, (PyTypeObject *)st->i_SubprocessStreams) &&
              hl_method_is(c->app, st->s_pipe_data_received, seen(st, APP_DATA));
    Py_XDECREF(pending);
    Py_XDECREF(loop);
    return ok;
}

/* loop.call_soon(app.pipe_data_received, fd, data): 1 or -1. */
static int
queue(hl_transport *t, target *c, PyObject *data)
{
    hl_sched *s = &t->loop->sched;
    PyObject *method = PyMethod_New(seen(t->st, APP_DATA), c->app);
    PyObject *args[] = {c->fd, data};
    PyObject *handle =
        method == NULL ? NULL
                       : hl_handle_new(s, (PyObject *)t->loop, method, args, 2, NULL);
    Py_XDECREF(method);
    if (handle == NULL) {
        return -1;
    }
    hl_cont_fn fn = run_queued;
    return hl_sched_push_steal(s, HL_KIND_CONT, handle, (void *)fn) < 0 ? -1 : 1;
}

int
hl_child_data(hl_transport *t, PyObject *data)
{
    hl_state *st = t->st;
    if (t->protocol == NULL ||
        !Py_IS_TYPE(t->protocol, (PyTypeObject *)st->i_ReadPipeProto) ||
        !t->loop->sched.plain || !st->native || hl_being_traced() ||
        !classes_untouched(st) ||
        !hl_method_is(t->protocol, st->s_data_received, seen(st, DATA_RECEIVED))) {
        return 0;
    }
    target c = {0};
    int rc = look_at_child(t, &c) ? queue(t, &c, data) : 0;
    Py_XDECREF(c.app);
    Py_XDECREF(c.fd);
    Py_XDECREF(c.proc);
    return rc;
}

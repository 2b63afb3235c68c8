/* Descriptors: add_reader() and its relatives, and what transports watch.
 *
 * The loop owns one reference to the object of every side that is set in self->fds, and
 * one to every file object that a descriptor was named by.  A reference is moved out of
 * the table before it is dropped: dropping it, or cancelling a handle, can run Python
 * code that watches and unwatches as it likes.  All of this belongs to the thread that
 * runs the loop; without a GIL a transport that dies in another thread gives up its
 * number there, so the table is looked at and changed under the loop's lock. */
#include "loop/loop.h"

#include <limits.h>

/* Gives up what stood in the table; a handle is cancelled, so that an event which is
 * queued already does not run it.  May run Python code.  0 or -1. */
static int
release_entry(hl_entry e)
{
    PyObject *obj = hl_entry_object(e);
    if (obj == NULL) {
        return 0;
    }
    int rc = hl_entry_kind(e) == HL_KIND_HANDLE ? hl_handle_cancel(obj) : 0;
    Py_DECREF(obj);
    return rc;
}

/* The backend's limit is a ValueError, as select.select() raises it; anything else is
 * the OSError of the system call, want of memory in the kernel too: MemoryError is for
 * the table, which has no slot for fd then. */
static HL_COLD int
raise_watch_error(LoopObject *self, int fd, int rc)
{
    const hl_poll_ops *ops = self->poll->ops;
    if (rc == -EINVAL && fd >= ops->max_fd) {
        PyErr_Format(PyExc_ValueError,
                     "file descriptor %d is out of range for the %s backend: "
                     "it can watch those below %d",
                     fd, ops->name, ops->max_fd);
        return -1;
    }
    return hl_fdtab_peek(&self->fds, fd) == NULL ? hl_raise_int(rc)
                                                 : hl_raise_errno(-rc);
}

/* What a side holds (borrowed by the table's reference); empty for nothing. */
static inline hl_entry
entry_of(LoopObject *self, int fd, uint32_t side)
{
    hl_entry e = {0, NULL};
    HL_LOCK(self);
    hl_watch *w = hl_fdtab_peek(&self->fds, fd);
    if (w != NULL) {
        e = w->on[hl_side_index(side)];
    }
    HL_UNLOCK();
    return e;
}

/* The file that this side was watched for was closed and its number taken by another.
 */
static HL_COLD void
drop_stale(LoopObject *self, int fd, uint32_t side)
{
    hl_entry e = entry_of(self, fd, side);
    if (e.tagged && hl_entry_kind(e) == HL_KIND_HANDLE) {
        hl_loop_unwatch(self, fd, side, hl_entry_object(e));
    }
}

/* -1: nothing has changed.  What stood on that side is the caller's to release, last of
 * all: cancelling a handle can run Python code that watches the same descriptor. */
static int
set_side(LoopObject *self, int fd, uint32_t side, PyObject *obj, hl_entry on,
         hl_entry *old)
{
    if (hl_loop_check_closed(self) < 0) {
        return -1;
    }
    int rc;
    HL_LOCK(self);
    rc = hl_fdtab_set(&self->fds, self->poll, fd, side, on, old);
    HL_UNLOCK();
    if (rc < 0) {
        return raise_watch_error(self, fd, rc);
    }
    Py_INCREF(obj); /* the table's */
    if (HL_UNLIKELY(rc > 0)) {
        drop_stale(self, fd, side == HL_READ ? HL_WRITE : HL_READ);
    }
    return 0;
}

/* ---- file objects ---- */

/* asyncio keeps the object that a descriptor was named by: it stays open as long as it
 * is watched, and can be unwatched after it was closed. */
static int
remember_fileobj(LoopObject *self, int fd, PyObject *fileobj)
{
    if (self->fileobjs == NULL) {
        if (PyLong_Check(fileobj)) {
            return 0;
        }
        self->fileobjs = PyDict_New();
        if (self->fileobjs == NULL) {
            return -1;
        }
    }
    PyObject *key = PyLong_FromLong(fd);
    if (key == NULL) {
        return -1;
    }
    PyObject *dict = Py_NewRef(self->fileobjs); /* replacing may run Python code */
    int rc = 0;
    if (!PyLong_Check(fileobj)) {
        rc = PyDict_SetItem(dict, key, fileobj);
    }
    else if (PyDict_DelItem(dict, key) < 0) {
        PyErr_Clear(); /* was not there */
    }
    Py_DECREF(dict);
    Py_DECREF(key);
    return rc;
}

/* Once neither side of fd is watched.  Keeps a set exception; may run Python code. */
static void
forget_fileobj(LoopObject *self, int fd)
{
    if (HL_LIKELY(self->fileobjs == NULL) || PyDict_GET_SIZE(self->fileobjs) == 0 ||
        entry_of(self, fd, HL_READ).tagged || entry_of(self, fd, HL_WRITE).tagged) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *key = PyLong_FromLong(fd);
    PyObject *dict = Py_NewRef(self->fileobjs);
    if (key == NULL || PyDict_DelItem(dict, key) < 0) {
        PyErr_Clear();
    }
    Py_DECREF(dict);
    Py_XDECREF(key);
    PyErr_SetRaisedException(exc);
}

/* The descriptor that this very object, closed since, is remembered under, or -1. */
static int
find_fileobj(LoopObject *self, PyObject *fileobj)
{
    PyObject *key, *value;
    Py_ssize_t pos = 0;
    int fd = -1;
    if (self->fileobjs != NULL) {
        HL_LOCK(self->fileobjs);
        while (fd < 0 && PyDict_Next(self->fileobjs, &pos, &key, &value)) {
            fd = value == fileobj ? (int)PyLong_AsLong(key) : -1;
        }
        HL_UNLOCK();
    }
    return fd;
}

/* asyncio hands the number to the selector, which takes any int: negative ones are told
 * apart by the caller, larger ones than any descriptor are an OverflowError. */
static int
int_to_fd(PyObject *num, int *fd)
{
    int overflow;
    long v = PyLong_AsLongAndOverflow(num, &overflow);
    if (v == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow > 0 || v > INT_MAX) {
        PyErr_Format(PyExc_OverflowError, "file descriptor %R is too large", num);
        return -1;
    }
    *fd = overflow < 0 || v < 0 ? -1 : (int)v;
    return 0;
}

/* The number of fileobj, -1 for a negative one; calls fileno().  0, or -1 with
 * asyncio's ValueError. */
static int
number_of(PyObject *fileobj, int *fd)
{
    if (HL_LIKELY(PyLong_Check(fileobj))) {
        return int_to_fd(fileobj, fd);
    }
    PyObject *res = PyObject_CallMethod(fileobj, "fileno", NULL);
    PyObject *num = res == NULL ? NULL : PyNumber_Long(res);
    Py_XDECREF(res);
    if (num == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) ||
            PyErr_ExceptionMatches(PyExc_TypeError) ||
            PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "Invalid file object: %R", fileobj);
        }
        return -1;
    }
    int rc = int_to_fd(num, fd);
    Py_DECREF(num);
    return rc;
}

/* asyncio's two texts: for a number, and for an object that has none any more. */
static HL_COLD int
raise_invalid_fd(PyObject *fileobj)
{
    if (PyLong_Check(fileobj)) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %S", fileobj);
    }
    else {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: -1 (closed: %R)",
                     fileobj);
    }
    return -1;
}

/* Runs fileno(), so any code: callers look at the loop and the transport afterwards. */
int
hl_fd_of(PyObject *fileobj)
{
    int fd;
    if (number_of(fileobj, &fd) < 0) {
        return -1;
    }
    return fd < 0 ? raise_invalid_fd(fileobj) : fd;
}

/* ---- for transports ---- */

/* No file object is remembered: a transport owns its descriptor, and unwatches before
 * it closes it.  What the handle of somebody else raises as it is cancelled is not the
 * transport's: it watches by then. */
int
hl_loop_watch(LoopObject *self, int fd, uint32_t side, PyObject *obj, hl_cont_fn fn)
{
    hl_entry old, on = {(uintptr_t)obj | HL_KIND_CONT, (void *)fn};
    if (set_side(self, fd, side, obj, on, &old) < 0) {
        return -1;
    }
    if (HL_UNLIKELY(release_entry(old) < 0)) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    return 0;
}

/* Clears a side that is obj's, or anybody's for NULL, and gives its entry to the
 * caller; false when nothing was there. */
static bool
take_side(LoopObject *self, int fd, uint32_t side, PyObject *obj, hl_entry *old)
{
    bool taken;
    HL_LOCK(self);
    hl_watch *w = hl_fdtab_peek(&self->fds, fd);
    hl_entry e = w == NULL ? (hl_entry){0, NULL} : w->on[hl_side_index(side)];
    taken = e.tagged && (obj == NULL || hl_entry_object(e) == obj);
    if (taken) {
        hl_fdtab_clear(&self->fds, self->poll, fd, side, old);
    }
    HL_UNLOCK();
    return taken;
}

/* Called with and without an exception set, from closing, errors and finalisers: it
 * keeps that, and reports its own. obj NULL: whoever watches. obj itself is only
 * compared, since the table may have the last reference. */
void
hl_loop_unwatch(LoopObject *self, int fd, uint32_t side, PyObject *obj)
{
    hl_entry old;
    if (!take_side(self, fd, side, obj, &old)) {
        return;
    }
    PyObject *exc = PyErr_GetRaisedException();
    if (release_entry(old) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    PyErr_SetRaisedException(exc);
    forget_fileobj(self, fd);
}

/* What add_reader() left behind belongs to an earlier use of the number, or could not
 * be taken back by remove_reader() any more. */
static void
drop_handles(LoopObject *self, int fd)
{
    for (uint32_t side = HL_READ; side <= HL_WRITE; side <<= 1) {
        hl_entry e = entry_of(self, fd, side);
        if (e.tagged && hl_entry_kind(e) == HL_KIND_HANDLE) {
            hl_loop_unwatch(self, fd, side, hl_entry_object(e));
        }
    }
}

/* From here on add_reader() and its relatives refuse the number.  Dropping the handles
 * of an earlier use can run Python code, after the mark is set. */
int
hl_loop_own_fd(LoopObject *self, int fd, const void *owner)
{
    hl_watch *w;
    int rc;
    HL_LOCK(self);
    rc = hl_fdtab_get(&self->fds, fd, &w);
    if (rc == 0) {
        w->owner = owner;
    }
    HL_UNLOCK();
    if (rc < 0) {
        return hl_raise_int(rc);
    }
    drop_handles(self, fd);
    return 0;
}

/* Does nothing when the number has another owner by now: then it was closed behind the
 * transport's back and has been adopted anew. */
void
hl_loop_disown_fd(LoopObject *self, int fd, const void *owner)
{
    HL_LOCK(self);
    hl_watch *w = hl_fdtab_peek(&self->fds, fd);
    if (w != NULL && w->owner == owner) {
        w->owner = NULL;
        if (w->want == 0) {
            w->gen++; /* else the poller would still report the old one */
        }
    }
    HL_UNLOCK();
}

/* The file that fd was watched for may have been closed, and its number given to
 * another file: then the old one's watchers are not to fire for the new one. */
static int
drop_if_stale(LoopObject *self, int fd, PyObject *fileobj)
{
    if (HL_LIKELY(self->fileobjs == NULL) || PyDict_GET_SIZE(self->fileobjs) == 0) {
        return 0;
    }
    PyObject *key = PyLong_FromLong(fd);
    if (key == NULL) {
        return -1;
    }
    PyObject *old = Py_XNewRef(PyDict_GetItemWithError(self->fileobjs, key));
    Py_DECREF(key);
    if (old != NULL && old != fileobj) {
        int now = -1;
        if (number_of(old, &now) < 0) {
            PyErr_Clear();
        }
        if (now != fd) {
            drop_handles(self, fd);
        }
    }
    Py_XDECREF(old);
    return PyErr_Occurred() ? -1 : 0;
}

/* asyncio names the transport.  It is known by what it watches; one that is paused and
 * has nothing to write watches nothing, and stays unnamed. */
static int
check_free(LoopObject *self, int fd, PyObject *fileobj)
{
    PyObject *owner = NULL;
    bool owned;
    HL_LOCK(self);
    hl_watch *w = hl_fdtab_peek(&self->fds, fd);
    owned = w != NULL && w->owner != NULL;
    if (owned) { /* its repr may run Python code */
        owner = Py_XNewRef(hl_entry_object(w->on[0].tagged ? w->on[0] : w->on[1]));
    }
    HL_UNLOCK();
    if (HL_LIKELY(!owned)) {
        return 0;
    }
    if (owner == NULL) {
        PyErr_Format(PyExc_RuntimeError, "File descriptor %R is used by transport",
                     fileobj);
        return -1;
    }
    PyErr_Format(PyExc_RuntimeError, "File descriptor %R is used by transport %R",
                 fileobj, owner);
    Py_DECREF(owner);
    return -1;
}

/* For transports that are being made: two owners would close the number twice. */
int
hl_loop_check_fd_free(LoopObject *self, int fd)
{
    bool owned;
    HL_LOCK(self);
    hl_watch *w = hl_fdtab_peek(&self->fds, fd);
    owned = w != NULL && w->owner != NULL;
    HL_UNLOCK();
    if (HL_LIKELY(!owned)) {
        return 0;
    }
    PyObject *num = PyLong_FromLong(fd);
    if (num != NULL) {
        check_free(self, fd, num);
        Py_DECREF(num);
    }
    return -1;
}

/* ---- for run.c and loop.c ---- */

/* Who is to be told (an own reference), or nobody: then the event was for an earlier
 * use of the number, and is noted in *stale. */
static hl_entry
take_event(LoopObject *self, const hl_fired *f, uint32_t side, hl_fired *stale)
{
    hl_entry e = {0, NULL};
    HL_LOCK(self);
    hl_watch *w = hl_fdtab_peek(&self->fds, f->fd);
    if (w != NULL && w->gen == f->gen) {
        e = w->on[hl_side_index(side)];
        Py_XINCREF(hl_entry_object(e));
    }
    else if (stale->events == 0 ||
             (f->fd == self->stale.fd && f->gen == self->stale.gen)) {
        *stale = *f;
    }
    HL_UNLOCK();
    return e;
}

/* What an earlier turn unwatched can be among the events of this one, but not again in
 * the next: a number that was closed before it was unwatched, while a duplicate keeps
 * its file open, epoll goes on to report, and there is no call left that would take it
 * out.  The loop would not sleep any more, so it gets another poller.  Where there is
 * none to be had now, the next turn tries again. */
static void
note_stale(LoopObject *self, hl_fired stale)
{
    bool again = stale.events != 0 && self->stale.events != 0 &&
                 stale.fd == self->stale.fd && stale.gen == self->stale.gen;
    self->stale = stale;
    if (HL_UNLIKELY(again)) {
        hl_loop_renew_poller(self);
    }
}

/* The ring takes references of its own: whatever runs later in this turn may unwatch,
 * and the entry then still has its object. */
int
hl_watch_dispatch(LoopObject *self, const hl_fired *fired, int n)
{
    hl_fired stale = {0, 0, 0};
    for (int i = 0; i < 2 * n; i++) {
        const hl_fired *f = &fired[i / 2];
        uint32_t side = i % 2 ? HL_WRITE : HL_READ; /* the reader first, as asyncio */
        if (!(f->events & side)) {
            continue;
        }
        /* Looked up for each side: dropping a cancelled handle runs Python code. */
        hl_entry e = take_event(self, f, side, &stale);
        PyObject *obj = hl_entry_object(e);
        if (obj == NULL) {
            continue;
        }
        if (hl_entry_kind(e) == HL_KIND_HANDLE && hl_handle_cancelled(obj)) {
            hl_loop_unwatch(self, f->fd, side, obj);
            Py_DECREF(obj);
            continue;
        }
        if (hl_sched_push_steal(&self->sched, hl_entry_kind(e), obj, e.arg) < 0) {
            return -1;
        }
    }
    if (HL_UNLIKELY(stale.events != 0)) {
        note_stale(self, stale);
    }
    return 0;
}

/* The poller is not told: it is closed next, and after a fork its kernel set is shared
 * with the parent's loop, which goes on using it. */
void
hl_watch_clear(LoopObject *self)
{
    for (int fd = 0; fd < self->fds.cap; fd++) {
        hl_entry old[2];
        HL_LOCK(self);
        hl_watch *w = &self->fds.v[fd];
        old[0] = w->on[0];
        old[1] = w->on[1];
        w->owner = NULL;
        if (w->want != 0) {
            w->on[0] = w->on[1] = (hl_entry){0, NULL};
            w->want = 0;
            w->gen++;
            self->fds.used--;
        }
        HL_UNLOCK();
        Py_XDECREF(hl_entry_object(old[0]));
        Py_XDECREF(hl_entry_object(old[1]));
    }
    Py_CLEAR(self->fileobjs);
}

/* Slots of both kinds of owners; a capsule of signals.c holds no reference to us. */
int
hl_watch_traverse(LoopObject *self, visitproc visit, void *arg)
{
    for (int fd = 0; fd < self->fds.cap; fd++) {
        Py_VISIT(hl_entry_object(self->fds.v[fd].on[0]));
        Py_VISIT(hl_entry_object(self->fds.v[fd].on[1]));
    }
    Py_VISIT(self->fileobjs);
    return 0;
}

/* ---- Python methods ---- */

static const char *const parameters[] = {"fd", "callback"};

/* The first `need` parameters, by position or, as asyncio takes them, by name. */
static int
parse(const char *method, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
      PyObject **out, Py_ssize_t need)
{
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < need; i++) {
        out[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t k = 0; k < nkw; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = 0;
        while (i < need && PyUnicode_CompareWithASCIIString(name, parameters[i]) != 0) {
            i++;
        }
        if (i == need || out[i] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         i == need ? "%s() got an unexpected keyword argument '%U'"
                                   : "%s() got multiple values for argument '%U'",
                         method, name);
            return -1;
        }
        out[i] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < need; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing the argument '%s'", method,
                         parameters[i]);
            return -1;
        }
    }
    return 0;
}

/* Makes the handle and puts it on its side.  Returns the handle. */
static PyObject *
add(LoopObject *self, const char *method, uint32_t side, bool checked,
    PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *in[2];
    int fd;
    if (parse(method, args, nargs, kwnames, in, 2) < 0 || number_of(in[0], &fd) < 0 ||
        (checked && check_free(self, fd, in[0]) < 0) ||
        hl_loop_check_closed(self) < 0) {
        return NULL;
    }
    if (fd < 0) {
        raise_invalid_fd(in[0]);
        return NULL;
    }
    if (drop_if_stale(self, fd, in[0]) < 0) {
        return NULL;
    }
    Py_ssize_t rest = nargs > 2 ? nargs - 2 : 0;
    PyObject *handle =
        hl_handle_new(&self->sched, (PyObject *)self, in[1], args + 2, rest, NULL);
    if (handle == NULL) {
        return NULL;
    }
    /* The new one stays, whatever cancelling the old one raises, as with asyncio. */
    hl_entry old, on = {(uintptr_t)handle | HL_KIND_HANDLE, NULL};
    if (set_side(self, fd, side, handle, on, &old) < 0 || release_entry(old) < 0 ||
        remember_fileobj(self, fd, in[0]) < 0) {
        Py_DECREF(handle);
        return NULL;
    }
    return handle;
}

/* asyncio's order: the number, the transport that may own it, then the closed loop, for
 * which there is nothing to remove. */
static PyObject *
drop(LoopObject *self, const char *method, uint32_t side, bool checked,
     PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *fileobj;
    int fd;
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes one argument (%zd given)", method,
                     nargs);
        return NULL;
    }
    if (parse(method, args, nargs, kwnames, &fileobj, 1) < 0) {
        return NULL;
    }
    if (number_of(fileobj, &fd) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return NULL;
        }
        PyErr_Clear(); /* no such descriptor, so it is not watched */
        Py_RETURN_FALSE;
    }
    if (checked && check_free(self, fd, fileobj) < 0) {
        return NULL;
    }
    if (self->closed) {
        Py_RETURN_FALSE;
    }
    /* A socket that was closed before it was unwatched: asyncio's selector searches its
     * map for the object too. */
    if (fd < 0 && (fd = find_fileobj(self, fileobj)) < 0) {
        raise_invalid_fd(fileobj);
        return NULL;
    }
    hl_entry old;
    if (!take_side(self, fd, side, NULL, &old)) {
        Py_RETURN_FALSE;
    }
    int rc = release_entry(old);
    forget_fileobj(self, fd);
    return rc < 0 ? NULL : Py_NewRef(Py_True);
}

#define HL_ADD(method, side, checked, result)                                          \
    static PyObject *Loop_##method(PyObject *op, PyObject *const *args,                \
                                   Py_ssize_t nargs, PyObject *kwnames)                \
    {                                                                                  \
        PyObject *handle =                                                             \
            add((LoopObject *)op, #method, side, checked, args, nargs, kwnames);       \
        result;                                                                        \
    }
#define HL_DROP(method, side, checked)                                                 \
    static PyObject *Loop_##method(PyObject *op, PyObject *const *args,                \
                                   Py_ssize_t nargs, PyObject *kwnames)                \
    {                                                                                  \
        return drop((LoopObject *)op, #method, side, checked, args, nargs, kwnames);   \
    }

/* add_reader() returns None; the handle is for those who call _add_reader().  Steals
 * it. */
static PyObject *
none_for(PyObject *handle)
{
    if (handle == NULL) {
        return NULL;
    }
    Py_DECREF(handle);
    Py_RETURN_NONE;
}

HL_ADD(add_reader, HL_READ, true, return none_for(handle))
HL_ADD(add_writer, HL_WRITE, true, return none_for(handle))
HL_ADD(_add_reader, HL_READ, false, return handle)
HL_ADD(_add_writer, HL_WRITE, false, return handle)
HL_DROP(remove_reader, HL_READ, true)
HL_DROP(remove_writer, HL_WRITE, true)
HL_DROP(_remove_reader, HL_READ, false)
HL_DROP(_remove_writer, HL_WRITE, false)

/* By asyncio's name, which the sock_ methods call before they watch a descriptor. */
static PyObject *
Loop_ensure_fd_no_transport(PyObject *op, PyObject *fileobj)
{
    int fd;
    if (number_of(fileobj, &fd) < 0 || check_free((LoopObject *)op, fd, fileobj) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

#define HL_METHOD(name, doc)                                                           \
    {#name, (PyCFunction)(void (*)(void))Loop_##name, METH_FASTCALL | METH_KEYWORDS,   \
     doc}

PyMethodDef hl_watch_methods[] = {
    HL_METHOD(
        add_reader,
        "add_reader($self, fd, callback, *args)\n--\n\n"
        "Call callback(*args) whenever fd can be read from.  Takes the place of a\n"
        "reader that fd has already."),
    HL_METHOD(
        add_writer,
        "add_writer($self, fd, callback, *args)\n--\n\n"
        "Call callback(*args) whenever fd can be written to.  Takes the place of\n"
        "a writer that fd has already."),
    HL_METHOD(remove_reader, "remove_reader($self, fd)\n--\n\n"
                             "Stop watching fd for reading; was it watched?"),
    HL_METHOD(remove_writer, "remove_writer($self, fd)\n--\n\n"
                             "Stop watching fd for writing; was it watched?"),
    HL_METHOD(_add_reader, "add_reader() that returns the handle and does not ask "
                           "whether a transport uses fd."),
    HL_METHOD(_add_writer, "add_writer() that returns the handle and does not ask "
                           "whether a transport uses fd."),
    HL_METHOD(_remove_reader, "remove_reader() that does not ask whether a transport "
                              "uses fd."),
    HL_METHOD(_remove_writer, "remove_writer() that does not ask whether a transport "
                              "uses fd."),
    {"_ensure_fd_no_transport", Loop_ensure_fd_no_transport, METH_O,
     "RuntimeError when a transport uses the descriptor."},
    {NULL, NULL, 0, NULL},
};

/* Checks the mirrored layouts against live objects of the running interpreter. */
#include "py/compat.h"

#include <dlfcn.h>

#include "py/mem.h"

/* func(a), or func(a, b) when b is not NULL: 0 or -1. */
static int
call(PyObject *func, PyObject *a, PyObject *b)
{
    PyObject *r = PyObject_CallFunctionObjArgs(func, a, b, NULL);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* ---- who awaits a future: more than one, or another one than expected ---- */

#if HL_KNOWS_WAITERS
/* From the second waiter on asyncio keeps a set.  A new reference, or NULL. */
static PyObject *
set_of_two(PyObject *a, PyObject *b)
{
    PyObject *set = PySet_New(NULL);
    if (set != NULL && (PySet_Add(set, a) < 0 || PySet_Add(set, b) < 0)) {
        Py_CLEAR(set);
    }
    return set;
}

/* As _asyncio: one waiter stands bare in the field, more of them in a set.  Hashing a
 * task runs no foreign code, unless a subclass brings a __hash__ of its own. */
int
hl_awaited_by_add_slow(hl_base_future *f, PyObject *waiter)
{
    if (f->awaited_by_is_set) {
        return PySet_Add(f->awaited_by, waiter);
    }
    PyObject *set = set_of_two(waiter, f->awaited_by);
    if (set == NULL) {
        return -1;
    }
    Py_SETREF(f->awaited_by, set);
    f->awaited_by_is_set = 1;
    return 0;
}

/* The field holds another waiter than this one: then there is nothing to take away.  A
 * set stays a set, however small it gets. */
int
hl_awaited_by_discard_slow(hl_base_future *f, PyObject *waiter)
{
    if (!f->awaited_by_is_set) {
        return 0;
    }
    return PySet_Discard(f->awaited_by, waiter) < 0 ? -1 : 0;
}
#endif

/* ---- the thread state ---- */

#if HL_TASKS_IN_TSTATE
/* What _asyncio publishes in its section .AsyncioDebug for `python -m asyncio ps`. */
typedef struct {
    struct {
        uint64_t size, name, awaited_by, is_task, awaited_by_is_set, coro, node;
    } task;
    struct {
        uint64_t size, tasks_head;
    } interpreter;
    struct {
        uint64_t size, running_loop, running_task, tasks_head;
    } thread;
} debug_offsets;

/* The last field of _asyncio's state points to them.  NULL when it does not point into
 * the code that _asyncio was loaded from. */
static const debug_offsets *
find_debug_offsets(void)
{
    PyObject *mod = PyImport_ImportModule("_asyncio");
    const debug_offsets *found = NULL;
    PyModuleDef *def = mod == NULL ? NULL : PyModule_GetDef(mod);
    char *state = def == NULL ? NULL : PyModule_GetState(mod);
    Dl_info at, code;
    if (state != NULL && def->m_size >= (Py_ssize_t)sizeof(found)) {
        memcpy(&found, state + def->m_size - sizeof(found), sizeof(found));
        if (dladdr(found, &at) == 0 || dladdr(def, &code) == 0 ||
            at.dli_fbase != code.dli_fbase) {
            found = NULL;
        }
    }
    PyErr_Clear();
    Py_XDECREF(mod); /* asyncio holds it for as long as the process lives */
    return found;
}

/* The thread's offsets cannot be compared with a structure of ours, since only _asyncio
 * knows it: they must at least lie within it, and record_agrees() looks at what is
 * there. */
static bool
offsets_agree(const debug_offsets *d)
{
    return d->task.size == sizeof(hl_base_task) &&
           d->task.name == offsetof(hl_base_task, name) &&
           d->task.awaited_by == offsetof(hl_base_task, awaited_by) &&
           d->task.is_task == offsetof(hl_base_task, is_task) &&
           d->task.awaited_by_is_set == offsetof(hl_base_task, awaited_by_is_set) &&
           d->task.coro == offsetof(hl_base_task, coro) &&
           d->task.node == offsetof(hl_base_task, node) &&
           d->thread.running_loop < d->thread.size - sizeof(void *) &&
           d->thread.running_task < d->thread.size - sizeof(void *) &&
           d->thread.tasks_head < d->thread.size - sizeof(hl_node);
}

/* Swaps `task` in as loop's current one: is it seen at its place?  1, 0, -1. */
static int
swap_agrees(hl_state *st, PyObject *loop, PyObject **place)
{
    PyObject *task = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    PyObject *args[] = {loop, task}, *before, *back;
    int ok = -1;
    if (task == NULL) {
        return -1;
    }
    before = PyObject_Vectorcall(st->i_swap_current_task, args, 2, NULL);
    if (before != NULL) {
        /* Looked at while it is there, and again after the one before is put back. */
        ok = *place == task;
        args[1] = before;
        back = PyObject_Vectorcall(st->i_swap_current_task, args, 2, NULL);
        ok = back == NULL ? -1 : ok && *place == (before == Py_None ? NULL : before);
        Py_XDECREF(back);
        Py_DECREF(before);
    }
    Py_DECREF(task);
    return ok;
}

/* Does asyncio really keep its record there?  Perhaps on behalf of a stand-in for a
 * running loop; that is gone again on return.  1, 0, -1. */
static int
record_agrees(hl_state *st, const hl_tstate_offsets *at)
{
    PyThreadState *ts = PyThreadState_Get();
    PyObject **place = hl_tstate_running_loop(ts, at);
    PyObject *loop = PyObject_CallNoArgs(st->i_get_running_loop);
    bool running = loop != Py_None;
    if (loop == NULL) {
        return -1;
    }
    if (!running) {
        Py_SETREF(loop, PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type));
        if (loop == NULL || call(st->i_set_running_loop, loop, NULL) < 0) {
            Py_XDECREF(loop);
            return -1;
        }
    }
    int ok = *place == loop ? swap_agrees(st, loop, hl_tstate_running_task(ts, at)) : 0;
    if (!running && call(st->i_set_running_loop, Py_None, NULL) < 0) {
        ok = -1;
    }
    Py_DECREF(loop);
    return ok;
}

/* The probe's task hangs on the list of this thread, last in it. */
static bool
list_agrees(PyObject *task, const hl_tstate_offsets *at)
{
    hl_node *head = hl_tstate_tasks(PyThreadState_Get(), at);
    hl_node *node = &((hl_base_task *)task)->node;
    return node->next == head && head->prev == node && node->prev != NULL &&
           node->prev->next == node;
}

/* Fills st->tstate if the offsets hold.  0, or -1 with an exception. */
static int
find_tstate(hl_state *st, PyObject *task)
{
    const debug_offsets *d = find_debug_offsets();
    if (d == NULL || !offsets_agree(d)) {
        return 0;
    }
    hl_tstate_offsets at = {
        .running_loop = d->thread.running_loop,
        .running_task = d->thread.running_task,
        .tasks_head = d->thread.tasks_head,
    };
    int ok = list_agrees(task, &at) ? record_agrees(st, &at) : 0;
    if (ok > 0) {
        /* Only what has been seen to agree is ever used: otherwise asyncio is called.
         */
        at.known = true;
        st->tstate = at;
    }
    return ok < 0 ? -1 : 0;
}

static bool
waiters_agree(hl_base_future *waiting, PyObject *waiter)
{
    return waiting->awaited_by == waiter && !waiting->awaited_by_is_set &&
           !waiting->is_task && ((hl_base_future *)waiter)->is_task == 1;
}
#else
static int
find_tstate(hl_state *st, PyObject *task)
{
    (void)st;
    (void)task;
    return 0;
}

static bool
waiters_agree(hl_base_future *waiting, PyObject *waiter)
{
    (void)waiting;
    (void)waiter;
    return true;
}
#endif

/* ---- the module _ssl ---- */

/* What its objects begin with, in 3.12 to 3.15. */
typedef struct {
    PyObject_HEAD
    PyObject *socket; /* a weak reference; NULL for those over a MemoryBIO */
    void *ssl;
    PyObject *context;
} ssl_socket;

typedef struct {
    PyObject_HEAD
    void *bio;
} ssl_memory;

/* Of a type that C made under this name, and big enough.  None without a GIL: others
 * could use the object meanwhile. */
static bool
is_of_ssl(PyObject *obj, const char *name, size_t size)
{
    PyTypeObject *type = Py_TYPE(obj);
    return HL_KNOWS_SSL && strcmp(type->tp_name, name) == 0 &&
           type->tp_basicsize >= (Py_ssize_t)size;
}

/* The two neighbours of `ssl` are where they are looked for, so it is too. */
void *
hl_ssl_pointer(PyObject *sslobj, PyObject *context)
{
    ssl_socket *s = (ssl_socket *)sslobj;
    bool fits = is_of_ssl(sslobj, "_ssl._SSLSocket", sizeof(*s)) && s->socket == NULL &&
                s->context == context;
    return fits ? s->ssl : NULL;
}

void *
hl_ssl_bio(PyObject *memory)
{
    bool fits = is_of_ssl(memory, "_ssl.MemoryBIO", sizeof(ssl_memory));
    return fits ? ((ssl_memory *)memory)->bio : NULL;
}

/* ---- Future and Task ---- */

/* A field that was added, or taken away, shows here first; fields_agree() then finds
 * those that have changed places. */
static bool
sizes_agree(hl_state *st)
{
    PyTypeObject *fut = (PyTypeObject *)st->i_BaseFuture;
    PyTypeObject *task = (PyTypeObject *)st->i_BaseTask;
    return PyType_Check(st->i_BaseFuture) && PyType_Check(st->i_BaseTask) &&
           fut->tp_basicsize == (Py_ssize_t)sizeof(hl_base_future) &&
           task->tp_basicsize == (Py_ssize_t)sizeof(hl_base_task);
}

/* probe: (loop, finished future, its result, waiting future, its callback, the
 * callback's context, task, coroutine, name, context); see hotloop._layout. */
static bool
fields_agree(PyObject *probe)
{
    PyObject *v[10];
    for (Py_ssize_t i = 0; i < 10; i++) {
        v[i] = PyTuple_GET_ITEM(probe, i);
    }
    hl_base_future *done = (hl_base_future *)v[1];
    hl_base_future *waiting = (hl_base_future *)v[3];
    hl_base_task *task = (hl_base_task *)v[6];
    return done->loop == v[0] && done->result == v[2] && done->state == HL_FINISHED &&
           waiting->state == HL_PENDING && waiting->callback0 == v[4] &&
           waiting->context0 == v[5] && waiting->callbacks == NULL &&
           waiting->exception == NULL && waiting->blocking && !done->blocking &&
           task->loop == v[0] && task->coro == v[7] && task->name == v[8] &&
           task->context == v[9] && task->fut_waiter == NULL &&
           task->num_cancels_requested == 2 && task->must_cancel &&
           !task->log_destroy_pending && waiters_agree(waiting, v[6]);
}

/* ---- handles ---- */

/* asyncio.Handle is a Python class with __slots__: their descriptors tell the offsets.
 * 1, 0, or -1. */
static int
handle_slot_agrees(PyObject *type, const char *name, Py_ssize_t offset)
{
    PyObject *descr = PyObject_GetAttrString(type, name);
    if (descr == NULL) {
        return -1;
    }
    int ok = Py_IS_TYPE(descr, &PyMemberDescr_Type) &&
             ((PyMemberDescrObject *)descr)->d_member->offset == offset;
    Py_DECREF(descr);
    return ok;
}

/* The handles cannot do without: a layout that disagrees is an ImportError here. */
static int
check_handles(hl_state *st)
{
    static const struct {
        const char *name;
        Py_ssize_t offset;
    } slots[] = {
        {"_args", offsetof(hl_base_handle, args)},
        {"_callback", offsetof(hl_base_handle, callback)},
        {"_cancelled", offsetof(hl_base_handle, cancelled_slot)},
        {"_context", offsetof(hl_base_handle, context)},
        {"_loop", offsetof(hl_base_handle, loop)},
        {"_repr", offsetof(hl_base_handle, repr)},
        {"_source_traceback", offsetof(hl_base_handle, source_traceback)},
        {"_scheduled", offsetof(hl_base_handle, scheduled_slot)},
        {"_when", offsetof(hl_base_handle, when_slot)},
    };
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        int ok =
            handle_slot_agrees(st->i_BaseTimerHandle, slots[i].name, slots[i].offset);
        if (ok < 0) {
            return -1;
        }
        /* There is nothing to fall back to: a loop without handles is none. */
        if (!ok) {
            PyErr_Format(PyExc_ImportError,
                         "hotloop does not know this interpreter's asyncio.Handle "
                         "(slot %s)",
                         slots[i].name);
            return -1;
        }
    }
    return 0;
}

/* 1 if Future and Task are as mirrored, 0 if not, -1 on error. */
static int
check_layout(hl_state *st)
{
    if (!sizes_agree(st)) {
        return 0;
    }
    PyObject *probe = PyObject_CallNoArgs(st->i_layout_probe);
    if (probe == NULL) {
        return -1;
    }
    int ok = PyTuple_CheckExact(probe) && PyTuple_GET_SIZE(probe) == 10 &&
             fields_agree(probe);
    PyObject *task = PyTuple_GET_ITEM(probe, 6);
    if (ok && find_tstate(st, task) < 0) {
        ok = -1;
    }
    if (ok >= 0 && call(st->i_unregister_task, task, NULL) < 0) {
        ok = -1; /* all_tasks() shall never show it */
    }
    Py_DECREF(probe);
    return ok;
}

int
hl_compat_check(hl_state *st)
{
    if (check_handles(st) < 0) {
        return -1;
    }
    int native = check_layout(st);
    if (native != 0) {
        return native;
    }
    if (PyErr_WarnEx(PyExc_RuntimeWarning,
                     "hotloop does not know this interpreter's Future and Task: "
                     "asyncio's own are used, which is slower",
                     1) < 0) {
        return -1;
    }
    return 0;
}

/* ---- contexts ---- */

/* A copy maps the very object that the original does, and both can be seen to, once one
 * variable is set: an interpreter that lays Context out otherwise does not agree. */
static bool
context_agrees(PyObject *empty, PyObject *ctx, PyObject *copy)
{
    hl_base_context *e = (hl_base_context *)empty, *c = (hl_base_context *)ctx;
    hl_base_context *d = (hl_base_context *)copy;
    return Py_TYPE(ctx)->tp_basicsize == (Py_ssize_t)sizeof(*c) && c->prev == NULL &&
           c->vars != NULL && c->vars != e->vars && c->vars == d->vars &&
           Py_IS_TYPE(e->vars, Py_TYPE(c->vars)) &&
           strcmp(Py_TYPE(c->vars)->tp_name, "hamt") == 0 && c->weakreflist == NULL &&
           !c->entered;
}

int
hl_contexts_check(hl_state *st)
{
    if (HL_FREE_THREADED) {
        return 0; /* a snapshot may be gone before it is referenced */
    }
    PyObject *var = PyContextVar_New("hotloop probe", NULL), *token = NULL;
    PyObject *empty = PyContext_New(), *ctx = PyContext_New(), *copy = NULL;
    int rc = -1;
    if (var == NULL || empty == NULL || ctx == NULL || PyContext_Enter(ctx) < 0) {
        goto done;
    }
    token = PyContextVar_Set(var, Py_None);
    copy = token == NULL ? NULL : PyContext_CopyCurrent();
    if (PyContext_Exit(ctx) < 0 || copy == NULL) {
        goto done;
    }
    if (context_agrees(empty, ctx, copy)) {
        st->no_vars = Py_NewRef(((hl_base_context *)empty)->vars);
    }
    rc = 0;
done:
    Py_XDECREF(token);
    Py_XDECREF(copy);
    Py_XDECREF(ctx);
    Py_XDECREF(empty);
    Py_XDECREF(var);
    return rc;
}

/* A token refers to its context, as do the thread while it is in it, a task, and
 * whoever asked for it: with one reference left it cannot be told from a new one.  What
 * a program gave as a context can be anything that has run().  One that maps nothing,
 * not even the empty mapping, has been emptied by the collector, before its owner. */
static inline bool
only_ours(PyObject *ctx)
{
    hl_base_context *c = (hl_base_context *)ctx;
    return Py_REFCNT(ctx) == 1 && PyContext_CheckExact(ctx) && !c->entered &&
           c->weakreflist == NULL && c->vars != NULL;
}

/* Runs no foreign code: what the new one maps is not dropped but replaced, and that is
 * the empty mapping, which the interpreter keeps. */
PyObject *
hl_context_take(hl_state *st, PyObject *vars)
{
    hl_freelist *list = &st->free_contexts;
    if (HL_UNLIKELY(list->n == 0)) {
        PyObject *made = hl_new_context();
        if (made == NULL) {
            return NULL;
        }
        Py_XSETREF(((hl_base_context *)made)->vars, vars);
        return made;
    }
    PyObject *ctx = list->v[--list->n];
    Py_XSETREF(((hl_base_context *)ctx)->vars, vars);
    PyObject_GC_Track(ctx);
    return ctx;
}

/* On the list the collector does not see it, so nobody can find it there.  What it
 * mapped may hold the last reference to a value, which runs any code: it goes when all
 * is in its place. */
void
hl_context_give(hl_state *st, PyObject *ctx)
{
    hl_base_context *c = (hl_base_context *)ctx;
    hl_freelist *list = &st->free_contexts;
    if (HL_LIKELY(st->no_vars != NULL && hl_freelist_takes(list) && only_ours(ctx))) {
        PyObject *vars = c->vars;
        PyObject_GC_UnTrack(ctx);
        c->vars = Py_NewRef(st->no_vars);
        list->v[list->n++] = ctx;
        Py_DECREF(vars);
    }
    else {
        Py_DECREF(ctx);
    }
}

/* They are whole, unlike what is on the other lists. */
void
hl_contexts_drop(hl_state *st)
{
    while (st->free_contexts.n > 0) {
        PyObject *ctx = st->free_contexts.v[--st->free_contexts.n];
        PyObject_GC_Track(ctx);
        Py_DECREF(ctx);
    }
}

/* A thread's own context, which nobody has entered, cannot be left: there it ends. */
int
hl_contexts_leave(PyObject *left)
{
    for (;;) {
        PyObject *ctx = Py_XNewRef(hl_context_borrow());
        if (ctx == NULL || PyContext_Exit(ctx) < 0) {
            PyErr_Clear();
            Py_XDECREF(ctx);
            return 0;
        }
        if (PyList_Append(left, ctx) < 0) {
            (void)PyContext_Enter(ctx);
            Py_DECREF(ctx);
            return -1;
        }
        Py_DECREF(ctx);
    }
}

int
hl_contexts_enter(PyObject *left)
{
    int rc = 0;
    PyObject *saved = PyErr_GetRaisedException();
    for (Py_ssize_t i = PyList_GET_SIZE(left); i > 0 && rc == 0; i--) {
        rc = PyContext_Enter(PyList_GET_ITEM(left, i - 1));
    }
    if (saved != NULL) {
        PyErr_Clear();
        PyErr_SetRaisedException(saved);
    }
    return rc;
}

/* Task: a coroutine and its place in the loop.  How it steps is in step.c. */
#include "sched/future.h"
#include "py/mem.h"

/* ---- making ---- */

/* 1 if coro is a coroutine, 0 if not, -1 on error. asyncio.iscoroutine() is Python code
 * that looks at abstract classes; types that it has accepted are remembered, and so
 * kept alive, up to a hundred. */
static int
is_coroutine(hl_state *st, PyObject *coro)
{
    if (HL_LIKELY(PyCoro_CheckExact(coro))) {
        return 1;
    }
    int known = PySet_Contains(st->coro_types, (PyObject *)Py_TYPE(coro));
    if (known != 0) {
        return known;
    }
    PyObject *r = PyObject_CallOneArg(st->i_iscoroutine, coro);
    int truth = r == NULL ? -1 : PyObject_IsTrue(r);
    Py_XDECREF(r);
    if (truth > 0 && PySet_GET_SIZE(st->coro_types) < 100 &&
        PySet_Add(st->coro_types, (PyObject *)Py_TYPE(coro)) < 0) {
        return -1;
    }
    return truth;
}

static int
call_one(PyObject *func, PyObject *arg)
{
    PyObject *r = PyObject_CallOneArg(func, arg);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* Up to 3.13 asyncio keeps the tasks in their first, eager step apart. all_tasks()
 * shows them from either place. */
static int
register_eager(hl_state *st, TaskObject *t)
{
    return HL_TASKS_IN_TSTATE ? hl_task_enlist(st, t)
                              : call_one(st->i_register_eager_task, (PyObject *)t);
}

/* A task that is still pending after its first step becomes an ordinary one. */
static int
unregister_eager(hl_state *st, TaskObject *t)
{
    if (HL_TASKS_IN_TSTATE) {
        return 0; /* the end of the task does that */
    }
    int rc = call_one(st->i_unregister_eager_task, (PyObject *)t);
    if (t->state == HL_PENDING && hl_task_enlist(st, t) < 0) {
        rc = -1;
    }
    return rc;
}

/* The first step, at once, inside whatever runs now.  The coroutine runs in the
 * caller's frame: it sees the new task as current one, the task around it is put back
 * afterwards, and an exception that is set by then is kept. */
static int
eager_start(hl_state *st, TaskObject *t)
{
    PyObject *prev = hl_current_swap(st, t->loop, (PyObject *)t);
    if (prev == NULL) {
        return -1;
    }
    int rc = register_eager(st, t);
    if (rc == 0 && (rc = PyContext_Enter(t->context)) == 0) {
        rc = hl_task_step(st, t, NULL);
        if (PyContext_Exit(t->context) < 0) {
            rc = -1;
        }
    }
    PyObject *saved = PyErr_GetRaisedException();
    PyObject *self = hl_current_swap(st, t->loop, prev);
    if (self == NULL) {
        rc = -1;
    }
    Py_XDECREF(self);
    Py_DECREF(prev);
    if (unregister_eager(st, t) < 0) {
        rc = -1;
    }
    if (saved != NULL) {
        PyErr_Clear();
        PyErr_SetRaisedException(saved);
    }
    if (t->state != HL_PENDING) {
        /* It will not run again: its frame is freed early. */
        HL_SETREF(t, t->coro, HL_NO_CORO);
    }
    return rc;
}

/* asyncio numbers the tasks in order of creation, whoever asks for the names. str() of
 * a name may be foreign code. */
static PyObject *
make_name(hl_state *st, PyObject *name)
{
    if (name == NULL || name == Py_None) {
        /* A number stands for "Task-N" until somebody asks, as in the base. */
        return PyLong_FromUnsignedLongLong(HL_COUNT(st->task_counter));
    }
    return PyUnicode_CheckExact(name) ? Py_NewRef(name) : PyObject_Str(name);
}

/* The step is queued before the task is listed, as in asyncio: a call_soon() that
 * raises leaves no trace in all_tasks().  The reference of the ring keeps it alive. */
static int
start(hl_state *st, TaskObject *t, bool eager)
{
    if (eager) {
        PyObject *r = PyObject_CallMethodNoArgs(t->loop, st->s_is_running);
        int running = r == NULL ? -1 : PyObject_IsTrue(r);
        Py_XDECREF(r);
        if (running != 0) {
            return running < 0 ? -1 : eager_start(st, t);
        }
    }
    return hl_task_step_soon(st, t, NULL) < 0 ? -1 : hl_task_enlist(st, t);
}

/* After hl_future_init(): the rest of __init__.  What is refused before the coroutine
 * is taken does not complain, from its finaliser, that it was destroyed while it was
 * pending; what fails later does, as in asyncio. */
static int
init_rest(hl_state *st, TaskObject *t, PyObject *coro, PyObject *name,
          PyObject *context, bool eager)
{
    int ok = is_coroutine(st, coro);
    if (ok <= 0) {
        t->log_destroy_pending = 0;
        if (ok == 0) {
            PyErr_Format(PyExc_TypeError, "a coroutine was expected, got %R", coro);
        }
        return -1;
    }
    if (context != NULL && context != Py_None && !PyContext_CheckExact(context)) {
        t->log_destroy_pending = 0;
        PyErr_Format(PyExc_TypeError, "a task's context must be a Context, not %R",
                     context);
        return -1;
    }
    PyObject *ctx = context == NULL || context == Py_None ? hl_context_copy(st)
                                                          : Py_NewRef(context);
    if (ctx == NULL) {
        return -1;
    }
    hl_mark_task(AS_FUTURE(t));
    Py_XSETREF(t->context, ctx);
    Py_CLEAR(t->fut_waiter);
    t->must_cancel = 0;
    t->log_destroy_pending = 1;
    t->num_cancels_requested = 0;
    Py_XSETREF(t->coro, Py_NewRef(coro));
    PyObject *label = make_name(st, name);
    if (label == NULL) {
        return -1;
    }
    Py_XSETREF(t->name, label);
    return start(st, t, eager);
}

/* st and mod are set even in a task whose __init__ never runs: dealloc needs them. */
static PyObject *
alloc(hl_state *st, PyTypeObject *type)
{
    PyObject *op;
    hl_freelist *list = &st->free_tasks;
    if (HL_LIKELY(list->n > 0 && type == st->t_Task)) {
        op = PyObject_Init(list->v[--list->n], type);
        PyObject_GC_Track(op);
    }
    else {
        op = hl_type_alloc(type);
        if (op == NULL) {
            return NULL;
        }
    }
    AS_TASK(op)->st = st;
    AS_TASK(op)->mod = Py_NewRef(st->mod);
    return op;
}

/* loop.create_task(), without a call of the type; type is Task or a subclass of it. */
PyObject *
hl_task_new(hl_state *st, PyTypeObject *type, PyObject *coro, PyObject *loop,
            PyObject *name, PyObject *context, bool eager)
{
    PyObject *op = alloc(st, type);
    if (op == NULL) {
        return NULL;
    }
    /* A half-made task is dropped like any other; its fields are NULL or owned. */
    if (HL_UNLIKELY(hl_future_init(st, op, loop) < 0 ||
                    init_rest(st, AS_TASK(op), coro, name, context, eager) < 0)) {
        Py_DECREF(op);
        return NULL;
    }
    return op;
}

/* For Python subclasses, and for whoever calls the type. */
static PyObject *
Task_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    hl_state *st = hl_state_by_type(type);
    if (st == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "hotloop has been unloaded");
        return NULL;
    }
    return alloc(st, type);
}

/* Up to 3.14 a second call starts the task anew, on another list perhaps. */
static int
Task_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"coro", "loop", "name", "context", "eager_start", NULL};
    PyObject *coro, *loop = Py_None, *name = Py_None, *context = Py_None;
    int eager = 0;
    TaskObject *t = AS_TASK(op);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOOp:Task", names, &coro, &loop,
                                     &name, &context, &eager)) {
        return -1;
    }
    if (!HL_INIT_ONCE) {
        hl_task_unlink(t); /* __init__ may be called again */
    }
    if (hl_future_init(t->st, op, loop) < 0) {
        return -1;
    }
    return init_rest(t->st, t, coro, name, context, eager != 0);
}

/* ---- the collector ---- */

/* mod is visited, never cleared: dealloc needs the state to the end. */
static int
Task_traverse(PyObject *op, visitproc visit, void *arg)
{
    TaskObject *t = AS_TASK(op);
    Py_VISIT(t->mod);
    Py_VISIT(t->fut_waiter);
    Py_VISIT(t->coro);
    Py_VISIT(t->name);
    Py_VISIT(t->context);
    return hl_future_traverse_base(op, visit, arg);
}

/* The loop goes first, in hl_future_clear_base(): what finalisers call below finds a
 * task that is not initialised. */
static int
Task_clear(PyObject *op)
{
    TaskObject *t = AS_TASK(op);
    hl_future_clear_base(op);
    Py_CLEAR(t->context);
    Py_CLEAR(t->coro);
    Py_CLEAR(t->name);
    Py_CLEAR(t->fut_waiter);
    hl_future_clear_dict(op);
    return 0;
}

/* asyncio's condition for "Task was destroyed but it is pending!". */
static bool
forgotten(TaskObject *t)
{
    return t->state == HL_PENDING && t->log_destroy_pending && t->loop != NULL;
}

/* asyncio's __del__, in its order: the pending task, then the exception nobody
 * retrieved. */
static void
Task_finalize(PyObject *op)
{
    TaskObject *t = AS_TASK(op);
    /* Off our list even if the report brings it back to life: asyncio's set holds weak
     * references, which are dead by now.  Its list of 3.14 shows it still. */
    if (!HL_TASKS_IN_TSTATE) {
        hl_task_unlink(t);
    }
    if (forgotten(t) && t->st->s_message != NULL) {
        PyObject *saved = PyErr_GetRaisedException();
        PyObject *message =
            PyUnicode_FromString("Task was destroyed but it is pending!");
        hl_future_complain(t->st, op, message, t->st->s_task, NULL);
        Py_XDECREF(message);
        PyErr_SetRaisedException(saved);
    }
    hl_future_finalize(op);
}

/* The list knows the task by a bare pointer: off it before the memory is anything else.
 * The module is released last, since the free list lies in its state. */
static void
Task_dealloc(PyObject *op)
{
    TaskObject *t = AS_TASK(op);
    PyTypeObject *type = Py_TYPE(op);
    hl_state *st = t->st;
    bool finalized =
        type != st->t_Task || t->log_tb || forgotten(t) || PyObject_GC_IsFinalized(op);
    /* As for futures: finalise only who has something to say. */
    if (finalized && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* resurrected */
    }
    PyObject *mod = t->mod;
    PyObject_GC_UnTrack(op);
    hl_task_unlink(t);
    PyObject_ClearWeakRefs(op);
    PyObject *ctx = t->context;
    t->context = NULL;
    (void)Task_clear(op);
    if (ctx != NULL) {
        hl_context_give(st, ctx);
    }
    t->mod = NULL;
    if (!finalized && hl_freelist_takes(&st->free_tasks) && st->t_Task == type) {
        t->state = HL_PENDING;
        t->blocking = t->must_cancel = t->log_destroy_pending = 0;
        t->num_cancels_requested = 0;
        st->free_tasks.v[st->free_tasks.n++] = op;
    }
    else {
        type->tp_free(op);
    }
    Py_DECREF(type);
    Py_DECREF(mod);
}

/* ---- the Python face ---- */

/* asyncio's cancel(): the request goes to what the task waits for, if that takes it;
 * otherwise the next step throws CancelledError.  The waiter is held: its cancel() is
 * foreign code that may finish the task. */
static PyObject *
Task_cancel(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"msg", NULL};
    TaskObject *t = AS_TASK(op);
    PyObject *msg = Py_None;
    if ((PyTuple_GET_SIZE(args) > 0 || kwargs != NULL) &&
        !PyArg_ParseTupleAndKeywords(args, kwargs, "|O:cancel", names, &msg)) {
        return NULL;
    }
    if (hl_future_alive(op) < 0) {
        return NULL;
    }
    t->log_tb = 0;
    if (t->state != HL_PENDING) {
        Py_RETURN_FALSE;
    }
    HL_STORE(t->num_cancels_requested, t->num_cancels_requested + 1);
    PyObject *waiter;
    HL_LOCK(op);
    waiter = Py_XNewRef(t->fut_waiter);
    HL_UNLOCK();
    if (waiter != NULL) {
        int rc = hl_task_cancel_waiter(t->st, waiter, msg);
        Py_DECREF(waiter);
        if (rc != 0) {
            return rc < 0 ? NULL : Py_NewRef(Py_True);
        }
    }
    t->must_cancel = 1;
    HL_SETREF(op, t->cancel_msg, Py_NewRef(msg));
    Py_RETURN_TRUE;
}

/* Only the coroutine ends a task. */
static PyObject *
Task_refuse_result(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(value))
{
    PyErr_SetString(PyExc_RuntimeError, "Task does not support set_result operation");
    return NULL;
}

static PyObject *
Task_refuse_exception(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(value))
{
    PyErr_SetString(PyExc_RuntimeError,
                    "Task does not support set_exception operation");
    return NULL;
}

static PyObject *
Task_cancelling(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(HL_LOAD(AS_TASK(op)->num_cancels_requested));
}

/* From 3.13 on the last uncancel() also takes back a cancellation that has not been
 * thrown yet. */
static PyObject *
Task_uncancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TaskObject *t = AS_TASK(op);
    if (t->num_cancels_requested > 0) {
        HL_STORE(t->num_cancels_requested, t->num_cancels_requested - 1);
        if (HL_UNCANCEL_CLEARS_MUST_CANCEL && t->num_cancels_requested == 0) {
            t->must_cancel = 0;
        }
    }
    return PyLong_FromLong(t->num_cancels_requested);
}

/* asyncio's Python function: rare, and long. */
static PyObject *
Task_get_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    PyObject *limit = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O:get_stack", names, &limit)) {
        return NULL;
    }
    return PyObject_CallFunctionObjArgs(AS_TASK(op)->st->i_task_get_stack, op, limit,
                                        NULL);
}

static PyObject *
Task_print_stack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "file", NULL};
    PyObject *limit = Py_None, *file = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OO:print_stack", names, &limit,
                                     &file)) {
        return NULL;
    }
    return PyObject_CallFunctionObjArgs(AS_TASK(op)->st->i_task_print_stack, op, limit,
                                        file, NULL);
}

/* NULL in a field reads as None; a new reference. */
static PyObject *
or_none(PyObject *value)
{
    return Py_NewRef(value == NULL ? Py_None : value);
}

static PyObject *
Task_get_coro(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return or_none(AS_TASK(op)->coro);
}
HL_LOCKED_METHOD(Task_get_coro)

static PyObject *
Task_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return or_none(AS_TASK(op)->context);
}

/* The number becomes "Task-N" once somebody looks; and stays so. */
static PyObject *
Task_get_name(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TaskObject *t = AS_TASK(op);
    if (t->name != NULL && PyLong_CheckExact(t->name)) {
        PyObject *text = PyUnicode_FromFormat("Task-%S", t->name);
        if (text == NULL) {
            return NULL;
        }
        Py_SETREF(t->name, text);
    }
    return or_none(t->name);
}
HL_LOCKED_METHOD(Task_get_name)

static PyObject *
Task_set_name(PyObject *op, PyObject *value)
{
    PyObject *text =
        PyUnicode_CheckExact(value) ? Py_NewRef(value) : PyObject_Str(value);
    if (text == NULL) {
        return NULL;
    }
    HL_SETREF(op, AS_TASK(op)->name, text);
    Py_RETURN_NONE;
}

/* asyncio's Python function, which shows the coroutine and what it waits for. */
static PyObject *
Task_repr(PyObject *op)
{
    return hl_future_describe(AS_TASK(op)->st->i_task_repr, op);
}

static PyObject *
get_log_destroy_pending(PyObject *op, void *closure)
{
    (void)closure;
    return PyBool_FromLong(AS_TASK(op)->log_destroy_pending);
}

static int
set_log_destroy_pending(PyObject *op, PyObject *value, void *closure)
{
    (void)closure;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "cannot delete attribute");
        return -1;
    }
    int truth = PyObject_IsTrue(value);
    if (truth < 0) {
        return -1;
    }
    AS_TASK(op)->log_destroy_pending = truth ? 1 : 0;
    return 0;
}

static PyObject *
get_must_cancel(PyObject *op, void *closure)
{
    (void)closure;
    return PyBool_FromLong(AS_TASK(op)->must_cancel);
}

static PyMethodDef task_methods[] = {
    {"set_result", Task_refuse_result, METH_O, "Not supported by tasks."},
    {"set_exception", Task_refuse_exception, METH_O, "Not supported by tasks."},
    {"cancel", (PyCFunction)(void (*)(void))Task_cancel, METH_VARARGS | METH_KEYWORDS,
     "Request that the task be cancelled; False if it is done."},
    {"cancelling", Task_cancelling, METH_NOARGS,
     "The number of pending cancellation requests."},
    {"uncancel", Task_uncancel, METH_NOARGS,
     "Take one cancellation request back; return how many remain."},
    {"get_stack", (PyCFunction)(void (*)(void))Task_get_stack,
     METH_VARARGS | METH_KEYWORDS, "The frames of the task's stack."},
    {"print_stack", (PyCFunction)(void (*)(void))Task_print_stack,
     METH_VARARGS | METH_KEYWORDS, "Print the task's stack or traceback."},
    {"get_coro", HL_LOCKED(Task_get_coro), METH_NOARGS, "The coroutine the task runs."},
    {"get_context", Task_get_context, METH_NOARGS,
     "The contextvars.Context the task runs in."},
    {"get_name", HL_LOCKED(Task_get_name), METH_NOARGS, "The task's name."},
    {"set_name", Task_set_name, METH_O, "Set the task's name, made a string."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef task_getset[] = {
    {"_log_destroy_pending", get_log_destroy_pending, set_log_destroy_pending, NULL,
     NULL},
    {"_must_cancel", get_must_cancel, NULL, NULL, NULL},
    {"_coro", hl_get_object, NULL, NULL, (void *)offsetof(TaskObject, coro)},
    {"_fut_waiter", hl_get_object, NULL, NULL,
     (void *)offsetof(TaskObject, fut_waiter)},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot task_slots[] = {
    {Py_tp_new, Task_new},
    {Py_tp_init, Task_init},
    {Py_tp_dealloc, Task_dealloc},
    {Py_tp_finalize, Task_finalize},
    {Py_tp_traverse, Task_traverse},
    {Py_tp_clear, Task_clear},
    {Py_tp_repr, Task_repr},
    {Py_tp_iter, hl_future_iter},
    {Py_am_await, hl_future_iter},
    {Py_tp_methods, task_methods},
    {Py_tp_getset, task_getset},
    {Py_tp_doc, "A coroutine on a hotloop event loop; see asyncio.Task."},
    {0, NULL},
};

static PyType_Spec task_spec = {
    .name = "hotloop.Task",
    .basicsize = sizeof(TaskObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = task_slots,
};

/* Into the dictionary itself: an immutable type refuses setattr().  Steals descr. */
static int
adopt(PyObject *own, const char *name, PyObject *descr)
{
    int rc = descr == NULL ? -1 : PyDict_SetItemString(own, name, descr);
    Py_XDECREF(descr);
    return rc;
}

/* Gives Task descriptors of its own for what it inherits from Future: the interpreter's
 * specialised calls want a descriptor of exactly the receiver's type. */
static int
adopt_future_members(hl_state *st)
{
    PyObject *own = PyType_GetDict(st->t_Task);
    int rc = own == NULL ? -1 : 0;
    for (PyMethodDef *m = hl_future_methods; rc == 0 && m->ml_name != NULL; m++) {
        if (!(m->ml_flags & METH_CLASS) &&
            PyDict_GetItemString(own, m->ml_name) == NULL) {
            rc = adopt(own, m->ml_name, PyDescr_NewMethod(st->t_Task, m));
        }
    }
    for (PyGetSetDef *g = hl_future_getset; rc == 0 && g->name != NULL; g++) {
        rc = adopt(own, g->name, PyDescr_NewGetSet(st->t_Task, g));
    }
    PyType_Modified(st->t_Task);
    Py_XDECREF(own);
    return rc;
}

/* Both bases are needed: Future for its methods, which are ours, and asyncio.Task for
 * isinstance().  Their layouts are one, which hl_compat_check() has proven. */
int
hl_task_exec(PyObject *mod, hl_state *st)
{
    PyObject *bases = PyTuple_Pack(2, st->t_Future, st->i_BaseTask);
    if (bases == NULL) {
        return -1;
    }
    int rc = hl_type_add(mod, &st->t_Task, &task_spec, bases);
    Py_DECREF(bases);
    if (rc == 0) {
        rc = adopt_future_members(st);
    }
    return rc < 0 ? -1 : hl_registry_install(mod, st);
}

/* TaskWakeup: what stands for a task's next step, or its wake-up by a future, wherever
 * a callable is needed: in debug mode, on foreign loops, for whoever looks at a
 * future's callbacks. */
#include "sched/future.h"
#include "py/mem.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *task; /* owned */
    PyObject *exc;  /* owned or NULL: what a step throws */
    bool step;      /* called without arguments: a step; else with the future */
} WakeupObject;

/* Somebody else has entered the context: a handle, or a foreign loop.  The task is held
 * across its step. */
static PyObject *
Wakeup_call(PyObject *op, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    WakeupObject *w = (WakeupObject *)op;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if ((kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0) || nargs != !w->step) {
        PyErr_SetString(PyExc_TypeError, w->step ? "a task's step takes no arguments"
                                                 : "a task's wakeup takes a future");
        return NULL;
    }
    if (w->task == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the task is gone");
        return NULL;
    }
    TaskObject *t = AS_TASK(Py_NewRef(w->task));
    int rc = w->step ? hl_task_step_in(t->st, t, w->exc)
                     : hl_task_wake_in(t->st, t, args[0]);
    Py_DECREF(t);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Not from a free list: this is the slow road. */
static PyObject *
make(hl_state *st, PyObject *task, bool step, PyObject *exc)
{
    WakeupObject *w = hl_gc_new(WakeupObject, st->t_TaskWakeup);
    if (w == NULL) {
        return NULL;
    }
    w->vectorcall = Wakeup_call;
    w->task = Py_NewRef(task);
    w->exc = Py_XNewRef(exc);
    w->step = step;
    PyObject_GC_Track(w);
    return (PyObject *)w;
}

PyObject *
hl_task_wakeup(hl_state *st, PyObject *task)
{
    return make(st, task, false, NULL);
}

PyObject *
hl_task_stepper(hl_state *st, PyObject *task, PyObject *exc)
{
    return make(st, task, true, exc);
}

static int
Wakeup_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((WakeupObject *)op)->task);
    Py_VISIT(((WakeupObject *)op)->exc);
    return 0;
}

/* Broken up by the collector, it can still be called: then it says that the task is
 * gone. */
static int
Wakeup_clear(PyObject *op)
{
    Py_CLEAR(((WakeupObject *)op)->task);
    Py_CLEAR(((WakeupObject *)op)->exc);
    return 0;
}

static void
Wakeup_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)Wakeup_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* asyncio's repr of a future, and tools that walk callbacks, get from the wake-up to
 * its task by __self__, as with a bound method. */
static PyObject *
Wakeup_self(PyObject *op, void *closure)
{
    (void)closure;
    PyObject *task = ((WakeupObject *)op)->task;
    return Py_NewRef(task == NULL ? Py_None : task);
}

/* Two wake-ups of the same task are the same callback. remove_done_callback() finds one
 * by another, since each look makes a new one. */
static PyObject *
Wakeup_compare(PyObject *a, PyObject *b, int op)
{
    if (!Py_IS_TYPE(b, Py_TYPE(a)) || (op != Py_EQ && op != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    WakeupObject *x = (WakeupObject *)a, *y = (WakeupObject *)b;
    bool same = x->task == y->task && x->step == y->step && x->exc == y->exc;
    return PyBool_FromLong(same == (op == Py_EQ));
}

/* Agrees with the comparison above, as far as it goes: steps of one task share it. */
static Py_hash_t
Wakeup_hash(PyObject *op)
{
    return (Py_hash_t)((uintptr_t)((WakeupObject *)op)->task >> 4);
}

/* The name that asyncio's own wake-ups go by in repr(future). */
static PyObject *
Wakeup_name(PyObject *op, void *closure)
{
    return PyUnicode_FromFormat("%s%s", (const char *)closure,
                                ((WakeupObject *)op)->step ? "task_step"
                                                           : "task_wakeup");
}

static PyGetSetDef wakeup_getset[] = {
    {"__name__", Wakeup_name, NULL, NULL, ""},
    {"__qualname__", Wakeup_name, NULL, NULL, "Task."},
    {"__self__", Wakeup_self, NULL, "The task.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef wakeup_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(WakeupObject, vectorcall),
     Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot wakeup_slots[] = {
    {Py_tp_dealloc, Wakeup_dealloc},
    {Py_tp_traverse, Wakeup_traverse},
    {Py_tp_clear, Wakeup_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_richcompare, Wakeup_compare},
    {Py_tp_hash, Wakeup_hash},
    {Py_tp_getset, wakeup_getset},
    {Py_tp_members, wakeup_members},
    {0, NULL},
};

static PyType_Spec wakeup_spec = {
    .name = "hotloop._core.TaskWakeup",
    .basicsize = sizeof(WakeupObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = wakeup_slots,
};

int
hl_wakeup_exec(PyObject *mod, hl_state *st)
{
    return hl_type_add(mod, &st->t_TaskWakeup, &wakeup_spec, NULL);
}

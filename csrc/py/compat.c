/* Checks the mirrored layouts against live objects of the running interpreter. */
#include "py/compat.h"

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
           !task->log_destroy_pending;
}

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

int
hl_compat_check(hl_state *st)
{
    if (check_handles(st) < 0) {
        return -1;
    }
    if (sizes_agree(st)) {
        PyObject *probe = PyObject_CallNoArgs(st->i_layout_probe);
        if (probe == NULL) {
            return -1;
        }
        bool ok = PyTuple_CheckExact(probe) && PyTuple_GET_SIZE(probe) == 10 &&
                  fields_agree(probe);
        Py_DECREF(probe);
        if (ok) {
            return 1;
        }
    }
    if (PyErr_WarnEx(PyExc_RuntimeWarning,
                     "hotloop does not know this interpreter's Future and Task: "
                     "asyncio's own are used, which is slower",
                     1) < 0) {
        return -1;
    }
    return 0;
}

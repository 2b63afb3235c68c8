/* asyncio's record of the current task, kept lazily.
 *
 * asyncio sets the record before each step and clears it after.  When one step follows
 * another directly we replace the value and clear it only before something else runs,
 * so a chain of steps pays for one dictionary store each.  `s->current` says what we
 * left there: NULL nothing, None a finished task's place, else the task. */
#include "sched/sched.h"

/* Up to 3.13 the record is a dictionary that asyncio shares with us. */
static int
dict_enter(hl_sched *s, PyObject *loop, PyObject *task)
{
    PyObject *record = s->st->current_tasks;
    if (s->current == NULL) {
        PyObject *other = PyDict_GetItemWithError(record, loop);
        if (other != NULL) {
            PyErr_Format(PyExc_RuntimeError,
                         "Cannot enter into task %R while another "
                         "task %R is being executed.",
                         task, other);
            return -1;
        }
        if (PyErr_Occurred()) {
            return -1;
        }
    }
    if (PyDict_SetItem(record, loop, task) < 0) {
        return -1;
    }
    s->current = task;
    return 0;
}

static int
call_enter(hl_sched *s, PyObject *loop, PyObject *task)
{
    hl_current_clear(s, loop);
    PyObject *args[] = {loop, task};
    PyObject *r = PyObject_Vectorcall(s->st->i_enter_task, args, 2, NULL);
    if (r == NULL) {
        return -1;
    }
    Py_DECREF(r);
    s->current = task;
    return 0;
}

int
hl_current_enter(hl_sched *s, PyObject *loop, PyObject *task)
{
    if (s->current == task) {
        return 0; /* it stepped last, and nothing else has run since */
    }
    if (HL_LIKELY(s->st->current_tasks != NULL)) {
        return dict_enter(s, loop, task);
    }
    return call_enter(s, loop, task);
}

void
hl_current_done(hl_sched *s, PyObject *loop)
{
    if (s->current == NULL) {
        return;
    }
    if (s->st->current_tasks == NULL) {
        hl_current_clear(s, loop);
        return;
    }
    s->current = Py_None;
    if (PyDict_SetItem(s->st->current_tasks, loop, Py_None) < 0) {
        PyErr_Clear(); /* the key is there: nothing is allocated, nothing can fail */
    }
}

static void
dict_clear(hl_sched *s, PyObject *loop)
{
    /* Python code may have left or swapped the record itself: take only what is ours.
     */
    PyObject *shown = PyDict_GetItemWithError(s->st->current_tasks, loop);
    if (shown != NULL && shown == s->current) {
        (void)PyDict_DelItem(s->st->current_tasks, loop);
    }
}

void
hl_current_clear(hl_sched *s, PyObject *loop)
{
    if (HL_LIKELY(s->current == NULL)) {
        return;
    }
    PyObject *saved = PyErr_GetRaisedException();
    PyObject *task = s->current;
    if (s->st->current_tasks != NULL) {
        dict_clear(s, loop);
        s->current = NULL;
    }
    else {
        s->current = NULL;
        PyObject *args[] = {loop, task};
        Py_XDECREF(PyObject_Vectorcall(s->st->i_leave_task, args, 2, NULL));
    }
    PyErr_Clear();
    PyErr_SetRaisedException(saved);
}

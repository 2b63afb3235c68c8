/* asyncio's record of the current task.
 *
 * asyncio sets the record before each step and clears it after.  From 3.14 on it is a
 * field of the thread state, and so do we.
 *
 * Up to 3.13 it is a dictionary, and kept lazily: when one step follows another
 * directly we replace the value and clear it only before something else runs, so a
 * chain of steps pays for one dictionary store each.  `s->current` says what we left
 * there: NULL nothing, None a finished task's place, else the task. */
#include "sched/sched.h"

/* ---- from 3.14 on: the thread state ---- */

/* The slots are those of the thread that runs: they die with it, hence the unbinding.
 */
hl_current_slots
hl_current_bind(hl_sched *s)
{
    hl_current_slots outer = {s->task_slot, s->loop_slot};
    const hl_tstate_offsets *at = &s->st->tstate;
    if (at->known) {
        PyThreadState *ts = PyThreadState_Get();
        s->task_slot = hl_tstate_running_task(ts, at);
        s->loop_slot = hl_tstate_running_loop(ts, at);
    }
    return outer;
}

void
hl_current_unbind(hl_sched *s, hl_current_slots outer)
{
    s->task_slot = outer.task_slot;
    s->loop_slot = outer.loop_slot;
}

/* By asyncio's own functions, which check and raise. */
static int
call_record(PyObject *func, PyObject *loop, PyObject *task)
{
    PyObject *args[] = {loop, task};
    PyObject *r = PyObject_Vectorcall(func, args, 2, NULL);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* Does loop run in this thread, with its record in known slots?  Tasks may be made, and
 * so started eagerly, in any thread.  The slots are looked into last: after a fork they
 * may be those of a thread that is no more. */
static inline bool
runs_here(hl_sched *s, PyObject *loop)
{
    return s != NULL && s->task_slot != NULL &&
           s->loop_slot ==
               hl_tstate_running_loop(PyThreadState_Get(), &s->st->tstate) &&
           *s->loop_slot == loop;
}

PyObject *
hl_current_swap(hl_state *st, PyObject *loop, PyObject *task)
{
    hl_sched *s = hl_sched_of(loop);
    if (HL_LIKELY(runs_here(s, loop))) {
        PyObject *old = *s->task_slot;
        *s->task_slot = task == Py_None ? NULL : Py_NewRef(task);
        return old == NULL ? Py_NewRef(Py_None) : old;
    }
    PyObject *args[] = {loop, task};
    return PyObject_Vectorcall(st->i_swap_current_task, args, 2, NULL);
}

/* ---- up to 3.13: a dictionary ---- */

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

/* Where the record is neither a plain dictionary nor at a known place of the thread
 * state. */
static int
call_enter(hl_sched *s, PyObject *loop, PyObject *task)
{
    hl_current_clear(s, loop);
    if (call_record(s->st->i_enter_task, loop, task) < 0) {
        return -1;
    }
    s->current = task;
    return 0;
}

int
hl_current_enter(hl_sched *s, PyObject *loop, PyObject *task)
{
    if (s->task_slot != NULL) {
        if (HL_LIKELY(*s->task_slot == NULL && *s->loop_slot == loop)) {
            *s->task_slot = Py_NewRef(task);
            return 0;
        }
        return call_record(s->st->i_enter_task, loop, task); /* knows what to raise */
    }
    if (s->current == task) {
        return 0; /* it stepped last, and nothing else has run since */
    }
    if (HL_LIKELY(s->st->current_tasks != NULL)) {
        return dict_enter(s, loop, task);
    }
    return call_enter(s, loop, task);
}

/* The slot owns its task, as asyncio's does.  Somebody may have changed it from Python,
 * and then it is asyncio that says what is wrong.  Keeps an exception that is set. */
static int
slot_leave(hl_sched *s, PyObject *loop, PyObject *task)
{
    if (HL_LIKELY(*s->task_slot == task && *s->loop_slot == loop)) {
        *s->task_slot = NULL;
        Py_DECREF(task); /* the caller has one */
        return 0;
    }
    PyObject *saved = PyErr_GetRaisedException();
    int rc = call_record(s->st->i_leave_task, loop, task);
    if (saved != NULL) {
        PyErr_Clear();
        PyErr_SetRaisedException(saved);
        rc = -1;
    }
    return rc;
}

int
hl_current_leave(hl_sched *s, PyObject *loop, PyObject *task, bool done)
{
    if (s->task_slot != NULL) {
        return slot_leave(s, loop, task);
    }
    if (HL_LIKELY(!done) || s->current == NULL) {
        return 0;
    }
    if (s->st->current_tasks == NULL) {
        hl_current_clear(s, loop);
        return 0;
    }
    s->current = Py_None;
    if (PyDict_SetItem(s->st->current_tasks, loop, Py_None) < 0) {
        PyErr_Clear(); /* the key is there: nothing is allocated, nothing can fail */
    }
    return 0;
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
        (void)call_record(s->st->i_leave_task, loop, task);
    }
    PyErr_Clear();
    PyErr_SetRaisedException(saved);
}

/* asyncio's record of the current task.
 *
 * asyncio sets the record before each step and clears it after.  From 3.14 on it is a
 * field of the thread state, and so do we.
 *
 * Up to 3.13 it is a dictionary, and kept lazily: when one step follows another
 * directly we replace the value and clear it only before something else runs, so a
 * chain of steps pays for one dictionary store each.  `s->current` says what we left
 * there: NULL nothing, None a finished task's place, else the task.
 *
 * Without a GIL loops in several threads would wait for each other there, so `current`
 * alone is set, for the time of a step, and the dictionary filled only when somebody
 * looks.  Looking up a loop takes its hash first: that is where we do it, in whatever
 * thread that is. */
#include "sched/inbox.h"

static HL_COLD void
refuse(PyObject *task, PyObject *other)
{
    PyErr_Format(PyExc_RuntimeError,
                 "Cannot enter into task %R while another task %R is being executed.",
                 task, other);
}

#if HL_SHOWS_WHEN_ASKED
/* ---- up to 3.13 without a GIL: the dictionary, when somebody looks ---- */

/* While a loop runs and nobody has asked, None stands for it in the record: an empty
 * dictionary would not ask for a hash.  `asked` is true, and the task there or nothing,
 * from when somebody looks to the next step that begins or ends without a task of
 * others there. */

/* As with the inbox, a lock that another thread held at a fork is nobody's. */
static inline void
lock_shown(hl_sched *s)
{
    if (HL_UNLIKELY(HL_LOAD(s->inbox.forks) != HL_LOAD(s->st->forks))) {
        hl_inbox_forked(s);
    }
    hl_mutex_lock(&s->show_lock);
}

/* With the lock held: value NULL takes the loop out of the record.  No Python code
 * runs, unless a class of loops has a hash of its own that is our loop's; and for this
 * thread our hash is free meanwhile.  What is dropped is owned by others too.  0 or -1.
 */
static int
put(hl_sched *s, PyObject *loop, PyObject *value)
{
    PyObject *record = s->st->current_tasks;
    HL_STORE(s->shower, (uintptr_t)PyThread_get_thread_ident());
    int rc = value == NULL ? PyDict_DelItem(record, loop)
                           : PyDict_SetItem(record, loop, value);
    HL_STORE(s->shower, (uintptr_t)0);
    return rc;
}

/* Once a step, for the task may be taken out by hand. */
static void
show(hl_sched *s, PyObject *loop)
{
    PyObject *saved = PyErr_GetRaisedException();
    lock_shown(s);
    if (!s->asked) {
        if (put(s, loop, s->current) < 0) {
            PyErr_Clear(); /* cannot be: the place is there, and so is its memory */
        }
        HL_RELEASE(s->asked, true); /* whoever sees this without the lock finds it */
    }
    hl_mutex_unlock(&s->show_lock);
    PyErr_SetRaisedException(saved);
}

/* Is it this thread that changes the loop's place right now?  In the child of a fork
 * the one that did is no more, and another may have its number. */
static inline bool
shows_itself(hl_sched *s)
{
    return HL_LOAD(s->inbox.forks) == HL_LOAD(s->st->forks) &&
           HL_LOAD(s->shower) == (uintptr_t)PyThread_get_thread_ident();
}

/* From any thread.  The loop's own owns the task that is current until it has taken it
 * away under the lock, so that it is safe to use under it. */
Py_hash_t
hl_current_hash(PyObject *loop)
{
    hl_sched *s = hl_sched_of(loop);
    if (s != NULL && HL_ACQUIRE(s->hides) && !HL_ACQUIRE(s->asked) &&
        !shows_itself(s)) {
        show(s, loop);
    }
    return PyBaseObject_Type.tp_hash(loop);
}

/* A run begins, which is not one within a step: such goes on as it was begun.  Not with
 * a class's own __hash__(). */
static void
begin_hiding(hl_sched *s)
{
    if (s->running) {
        return;
    }
    PyObject *loop = hl_sched_loop(s);
    bool hides =
        s->st->current_tasks != NULL && Py_TYPE(loop)->tp_hash == hl_current_hash;
    if (hides != s->hides) {
        hl_current_clear(s, loop); /* what a run that did not hide has left */
        HL_STORE(s->asked, true);
        HL_RELEASE(s->hides, hides); /* after asked: there is no place yet */
    }
}

/* A run is over, and the place it had is given up. */
static void
end_hiding(hl_sched *s)
{
    if (s->hides) {
        show(s, hl_sched_loop(s));
    }
}

/* Somebody has looked since the loop had its place. */
static HL_COLD int
asked_enter(hl_sched *s, PyObject *loop, PyObject *task)
{
    PyObject *other = NULL;
    int there = PyDict_GetItemRef(s->st->current_tasks, loop, &other);
    if (there > 0) {
        refuse(task, other);
        Py_DECREF(other);
    }
    if (there != 0) {
        return -1;
    }
    lock_shown(s);
    int rc = put(s, loop, Py_None);
    if (rc == 0) {
        HL_STORE(s->current, task);
        HL_STORE(s->asked, false);
    }
    hl_mutex_unlock(&s->show_lock);
    return rc;
}

static inline int
hidden_enter(hl_sched *s, PyObject *loop, PyObject *task)
{
    lock_shown(s);
    bool hidden = !s->asked && s->current == NULL;
    if (HL_LIKELY(hidden)) {
        HL_STORE(s->current, task);
    }
    hl_mutex_unlock(&s->show_lock);
    return HL_LIKELY(hidden) ? 0 : asked_enter(s, loop, task);
}

/* Only what is ours: Python code may have swapped it.  Keeps an exception that is set.
 */
static HL_COLD void
asked_leave(hl_sched *s, PyObject *loop, PyObject *task)
{
    PyObject *saved = PyErr_GetRaisedException();
    PyObject *shown = NULL;
    (void)PyDict_GetItemRef(s->st->current_tasks, loop, &shown);
    if (shown == task) {
        lock_shown(s);
        if (put(s, loop, Py_None) == 0) {
            HL_STORE(s->asked, false);
        }
        hl_mutex_unlock(&s->show_lock);
    }
    Py_XDECREF(shown);
    PyErr_Clear();
    PyErr_SetRaisedException(saved);
}

static inline void
hidden_leave(hl_sched *s, PyObject *loop, PyObject *task)
{
    lock_shown(s);
    HL_STORE(s->current, NULL);
    bool asked = s->asked;
    hl_mutex_unlock(&s->show_lock);
    if (HL_UNLIKELY(asked)) {
        asked_leave(s, loop, task);
    }
}
#endif

/* ---- from 3.14 on: the thread state ---- */

/* The slots are those of the thread that runs: they die with it, hence the unbinding.
 */
hl_current_slots
hl_current_bind(hl_sched *s)
{
    hl_current_slots outer = {s->task_slot, s->loop_slot};
#if HL_SHOWS_WHEN_ASKED
    begin_hiding(s);
#endif
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
#if HL_SHOWS_WHEN_ASKED
    end_hiding(s);
#endif
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
            Py_INCREF(other); /* repr() may take it out of the record */
            refuse(task, other);
            Py_DECREF(other);
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
#if HL_SHOWS_WHEN_ASKED
    if (HL_LIKELY(s->hides)) {
        return hidden_enter(s, loop, task);
    }
#endif
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
#if HL_SHOWS_WHEN_ASKED
    if (HL_LIKELY(s->hides)) {
        hidden_leave(s, loop, task);
        return 0;
    }
#endif
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
#if HL_SHOWS_WHEN_ASKED
    if (s->hides) {
        return; /* a step around this: nothing is left over from another */
    }
#endif
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

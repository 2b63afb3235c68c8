/* Which tasks there are: the list behind asyncio.all_tasks(), or asyncio's own. */
#include "sched/future.h"

#if HL_TASKS_IN_TSTATE
/* From 3.14 on: the list of the thread state.  asyncio's all_tasks() goes through the
 * threads; a task hangs on the list of the one that made it.  false: asyncio has to be
 * asked. */
static inline bool
link_task(hl_state *st, TaskObject *t)
{
    if (HL_UNLIKELY(!st->tstate.known)) {
        return false;
    }
    if (HL_LIKELY(t->node.next == NULL)) {
        hl_list_push(hl_tstate_tasks(PyThreadState_Get(), &st->tstate), &t->node);
    }
    return true;
}

/* On whatever list it is: a node knows its neighbours, not its list. */
void
hl_task_unlink(TaskObject *t)
{
    if (t->node.next != NULL) {
        hl_list_remove(&t->node);
        t->node.next = t->node.prev = NULL;
    }
}
#else
/* Loops that are made one after the other, such as those of a program's threads, have a
 * list each. */
static inline hl_task_list *
list_of(hl_state *st, TaskObject *t)
{
#if HL_FREE_THREADED
    hl_sched *s = hl_sched_of(t->loop);
    return &st->tasks[s == NULL ? 0 : s->task_list];
#else
    (void)t;
    return &st->tasks[0];
#endif
}

/* Up to 3.13: a list of ours, for all loops or for some.  The lock is nothing where
 * there is a GIL, and so is the mark, by which whoever walks the list knows a task that
 * another thread is freeing. */
static inline bool
link_task(hl_state *st, TaskObject *t)
{
    if (HL_UNLIKELY(!st->tasks_listed)) {
        return false;
    }
    hl_task_list *list = list_of(st, t);
    hl_incref_tried((PyObject *)t);
    hl_mutex_lock(&list->lock);
    if (HL_LIKELY(t->node.next == NULL)) {
        HL_SET_TASK_LIST(t, list);
        hl_list_push(&list->head, &t->node);
    }
    hl_mutex_unlock(&list->lock);
    return true;
}

/* From any thread; where there is one list only, a node need not know which. */
void
hl_task_unlink(TaskObject *t)
{
#if HL_FREE_THREADED
    hl_task_list *list = t->list; /* set before the node is first linked */
    if (list == NULL) {
        return;
    }
    hl_mutex_lock(&list->lock);
#endif
    if (t->node.next != NULL) {
        hl_list_remove(&t->node);
        t->node.next = t->node.prev = NULL;
    }
#if HL_FREE_THREADED
    hl_mutex_unlock(&list->lock);
#endif
}
#endif

/* func is asyncio's _register_task() or its counterpart: Python code. */
static HL_COLD int
call_registry(PyObject *func, TaskObject *t)
{
    PyObject *r = PyObject_CallOneArg(func, (PyObject *)t);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* The list owns nothing, like asyncio's weak set: the task comes off in its dealloc. */
int
hl_task_enlist(hl_state *st, TaskObject *t)
{
    if (HL_UNLIKELY(!link_task(st, t))) {
        return call_registry(st->i_register_task, t);
    }
    return 0;
}

/* The task is done. */
int
hl_task_delist(hl_state *st, TaskObject *t)
{
    if (HL_UNLIKELY(!HL_TASKS_IN_TSTATE && !st->tasks_listed)) {
        return call_registry(st->i_unregister_task, t);
    }
    hl_task_unlink(t); /* on 3.14, wherever asyncio has put it */
    return 0;
}

/* ---- what asyncio.all_tasks() walks ---- */

/* 0, or -1 with MemoryError. */
static int
append_listed(PyObject *out, hl_task_list *list)
{
    PyObject *failed = NULL;
    hl_mutex_lock(&list->lock);
    hl_node *n = list->head.next;
    for (; n != &list->head && failed == NULL; n = n->next) {
        PyObject *task = (PyObject *)hl_container_of(n, TaskObject, node);
        /* Nothing here runs foreign code, or drops a last reference while the lock is
         * held: the list stays put. */
        if (!hl_incref_try(task)) {
            continue; /* its dealloc, in another thread, is about to take it off */
        }
        if (PyList_Append(out, task) < 0) {
            failed = task;
            break;
        }
        Py_DECREF(task);
    }
    hl_mutex_unlock(&list->lock);
    Py_XDECREF(failed);
    return failed == NULL ? 0 : -1;
}

/* Strong references to all, made without running foreign code; the caller, asyncio's
 * all_tasks() by way of _registry.py, filters by loop. */
static PyObject *
listed_tasks(PyObject *mod, PyObject *Py_UNUSED(ignored))
{
    hl_state *st = hl_state_of(mod);
    PyObject *out = PyList_New(0);
    for (int i = 0; out != NULL && i < HL_TASK_LISTS; i++) {
        if (append_listed(out, &st->tasks[i]) < 0) {
            Py_CLEAR(out);
        }
    }
    return out;
}

/* For asyncio._unregister_task() on a task of ours; True when it was listed here. */
static PyObject *
unlink_task(PyObject *mod, PyObject *op)
{
    hl_state *st = hl_state_of(mod);
    if (!hl_task_check(st, op) || AS_TASK(op)->node.next == NULL) {
        Py_RETURN_FALSE;
    }
    hl_task_unlink(AS_TASK(op));
    Py_RETURN_TRUE;
}

static PyMethodDef registry_methods[] = {
    {"_listed_tasks", listed_tasks, METH_NOARGS, "The unfinished tasks of ours."},
    {"_unlink_task", unlink_task, METH_O, "Take a task off that list."},
    {NULL, NULL, 0, NULL},
};

/* Without the set of asyncio's that _registry.py knows, tasks are registered by calls.
 */
int
hl_registry_install(PyObject *mod, hl_state *st)
{
    if (PyModule_AddFunctions(mod, registry_methods) < 0) {
        return -1;
    }
    PyObject *listed = PyObject_GetAttrString(mod, "_listed_tasks");
    PyObject *unlink = PyObject_GetAttrString(mod, "_unlink_task");
    PyObject *r = listed == NULL || unlink == NULL
                      ? NULL
                      : PyObject_CallFunctionObjArgs(st->i_install_registry, listed,
                                                     unlink, NULL);
    Py_XDECREF(listed);
    Py_XDECREF(unlink);
    if (r == NULL) {
        return -1;
    }
    st->tasks_listed = r == Py_True;
    Py_DECREF(r);
    return 0;
}

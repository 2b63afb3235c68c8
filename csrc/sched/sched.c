/* The scheduler: entries in, entries out, and what is flushed after each. */
#include "sched/inbox.h"

#include "py/mem.h"

#include <string.h>

const char hl_loop_brand = 'h';

#define READY_CAP 256
#define FLUSH_CAP 16

/* STEP and WAKE entries own their argument, the others have none that is an object. */
static inline PyObject *
entry_argument(hl_entry e)
{
    int kind = hl_entry_kind(e);
    return kind == HL_KIND_STEP || kind == HL_KIND_WAKE ? (PyObject *)e.arg : NULL;
}

/* Runs finalisers: the entry must be out of the ring by now. */
void
hl_entry_drop(hl_entry e)
{
    Py_XDECREF(entry_argument(e));
    Py_DECREF(hl_entry_object(e));
}

int
hl_entry_visit(hl_entry e, visitproc visit, void *arg)
{
    PyObject *obj = hl_entry_object(e);
    int rc = hl_entry_kind(e) == HL_KIND_HANDLE ? hl_handle_visit(obj, visit, arg)
                                                : visit(obj, arg);
    if (rc != 0) {
        return rc;
    }
    Py_VISIT(entry_argument(e));
    return 0;
}

/* On failure nothing is left to be released but zeroed memory. */
int
hl_sched_init(hl_sched *s, hl_state *st)
{
    memset(s, 0, sizeof(*s));
    s->st = st;
    hl_heap_init(&s->timers);
    if (hl_ring_init(&s->ready, READY_CAP) < 0) {
        PyErr_NoMemory();
        return -1;
    }
#if HL_FREE_THREADED
    s->task_list = HL_COUNT(st->loops) % HL_TASK_LISTS;
    if (hl_inbox_init(s) < 0) {
        hl_ring_fini(&s->ready);
        PyErr_NoMemory();
        return -1;
    }
#endif
    return 0;
}

/* Closing a loop, and tearing one down.  May be called twice, and from within itself.
 */
void
hl_sched_clear(hl_sched *s)
{
    hl_handle_settle(s->st);
    /* Dropping runs finalisers, which may push: the ring is consistent at every drop.
     */
    while (s->ready.v != NULL && hl_ring_len(&s->ready) > 0) {
        hl_entry_drop(hl_ring_pop(&s->ready));
    }
    while (s->timers.len > 0) {
        Py_DECREF(hl_timer_handle(hl_heap_pop(&s->timers)));
    }
#if HL_FREE_THREADED
    hl_inbox_clear(s);
#endif
    while (s->n_flush > 0) {
        hl_entry e = s->flush[--s->n_flush];
        if (e.tagged != 0) {
            hl_entry_drop(e);
        }
    }
    s->at_flush = 0;
}

/* The memory goes after the entries: what these run may still push.  A push that comes
 * later even so fails by ready.v. */
void
hl_sched_fini(hl_sched *s)
{
    hl_sched_clear(s);
    hl_ring_fini(&s->ready);
    hl_heap_fini(&s->timers);
#if HL_FREE_THREADED
    hl_inbox_fini(&s->inbox);
#endif
    free(s->flush);
    s->flush = NULL;
    s->cap_flush = 0;
}

/* The ring, the heap and the flush list: all that the scheduler owns.  Entries that
 * have run, before at_flush, are blank. */
int
hl_sched_traverse(hl_sched *s, visitproc visit, void *arg)
{
    size_t n = s->ready.v == NULL ? 0 : hl_ring_len(&s->ready);
    for (size_t i = 0; i < n; i++) {
        int rc = hl_entry_visit(*hl_ring_at(&s->ready, i), visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
#if HL_FREE_THREADED
    int in = hl_inbox_traverse(&s->inbox, visit, arg);
    if (in != 0) {
        return in;
    }
#endif
    for (size_t i = 0; i < s->timers.len; i++) {
        int rc = hl_handle_visit(hl_timer_handle(s->timers.v[i].node), visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
    for (size_t i = 0; i < s->n_flush; i++) {
        Py_VISIT(hl_entry_object(s->flush[i]));
    }
    return 0;
}

/* Stealing on failure too lets callers forget the entry in either case. */
int
hl_sched_push_steal(hl_sched *s, int kind, PyObject *obj, void *arg)
{
    hl_entry e = {(uintptr_t)obj | (uintptr_t)kind, arg};
#if HL_FREE_THREADED
    if (!hl_sched_mine(s)) {
        return hl_inbox_put(s, e);
    }
    if (hl_sched_drain(s) < 0) {
        hl_entry_drop(e);
        return -1;
    }
#endif
    if (HL_UNLIKELY(s->ready.v == NULL || hl_ring_push(&s->ready, e.tagged, arg) < 0)) {
        hl_entry_drop(e);
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

int
hl_sched_push(hl_sched *s, int kind, PyObject *obj, void *arg)
{
    return hl_sched_push_steal(s, kind, Py_NewRef(obj), arg);
}

/* Owns obj until fn has run: the transport that has bytes to send may be dropped by the
 * callback that wrote them. */
int
hl_sched_flush_later(hl_sched *s, PyObject *obj, hl_cont_fn fn)
{
    if (s->n_flush == s->cap_flush) {
        size_t cap = s->cap_flush ? s->cap_flush * 2 : FLUSH_CAP;
        hl_entry *v = hl_realloc(s->flush, cap * sizeof(*v));
        if (v == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        s->flush = v;
        s->cap_flush = cap;
    }
    s->flush[s->n_flush++] =
        (hl_entry){(uintptr_t)Py_NewRef(obj) | HL_KIND_CONT, (void *)fn};
    return 0;
}

/* In the order of arrival.  fn may add to the list and, by a fork or a nested run, come
 * here again: so the place lies in the scheduler, whoever is first runs the next entry,
 * and an entry is blanked before it runs, lest it run twice. */
int
hl_sched_flush_now(hl_sched *s)
{
    while (s->at_flush < s->n_flush) {
        hl_entry e = s->flush[s->at_flush];
        PyObject *obj = hl_entry_object(e);
        s->flush[s->at_flush++].tagged = 0;
        int rc = ((hl_cont_fn)e.arg)(obj);
        Py_DECREF(obj);
        if (rc < 0) {
            return -1; /* the others are left for the next call */
        }
    }
    s->at_flush = s->n_flush = 0;
    return 0;
}

/* The handle that comes back is dropped: the loop has it, and nobody here cancels. */
int
hl_call_soon(hl_state *st, PyObject *loop, PyObject *func, PyObject *arg, PyObject *ctx)
{
    PyObject *stack[5] = {NULL, loop, func, NULL, NULL};
    size_t n = 2;
    if (arg != NULL) {
        stack[1 + n++] = arg;
    }
    stack[1 + n] = ctx;
    PyObject *handle = PyObject_VectorcallMethod(st->s_call_soon, stack + 1,
                                                 n | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                                 ctx == NULL ? NULL : st->kw_context);
    if (handle == NULL) {
        return -1;
    }
    Py_DECREF(handle);
    return 0;
}

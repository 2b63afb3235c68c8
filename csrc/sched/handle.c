/* Handle and TimerHandle: a callback, its arguments inline, and its context.
 *
 * Both extend asyncio's Python classes and reuse the memory of their slots, so that
 * they are real asyncio.Handles; the attributes of the same names here shadow the
 * slots. */
#include "sched/handle.h"
#include "py/mem.h"

#include "core/clock.h"
#include "py/compat.h"
#include "py/err.h"
#include "sched/inbox.h"

#include <math.h>

#define AS_HANDLE(op) ((HandleObject *)(op))
#define AS_TIMER(op) ((TimerObject *)(op))

/* The node is embedded: no field of its own leads back. */
PyObject *
hl_timer_handle(hl_timer *node)
{
    return (PyObject *)hl_container_of(node, TimerObject, node);
}

bool
hl_handle_cancelled(PyObject *op)
{
    return HL_LOAD(AS_HANDLE(op)->cancelled);
}

hl_queued_call
hl_handle_look(PyObject *op)
{
    HandleObject *h = AS_HANDLE(op);
    bool gone = hl_handle_cancelled(op) || h->callback == NULL || h->loop == NULL;
    return (hl_queued_call){h->st, h->loop, h->callback, h->slot + 1,
                            gone ? -1 : h->nargs};
}

/* ---- making ---- */

/* An untouched handle, from the free list if there is one: everything but the type's
 * header is zero, or has been zeroed by dealloc.  The collector does not see it yet. */
static PyObject *
alloc(hl_state *st, PyTypeObject *type, hl_freelist *list)
{
    PyObject *op;
    if (HL_LIKELY(list->n > 0)) {
        op = PyObject_Init(list->v[--list->n], type);
        if (HL_FREE_THREADED) {
            PyObject_GC_Track(op);
        }
    }
    else if (HL_LIKELY(st->handle_head > 0)) {
        op = hl_gc_new_uncounted(type, st->handle_head);
    }
    else if ((op = hl_type_alloc(type)) != NULL && !HL_FREE_THREADED) {
        PyObject_GC_UnTrack(op);
    }
    if (HL_UNLIKELY(op == NULL)) {
        return NULL;
    }
    HandleObject *h = AS_HANDLE(op);
    h->st = st;
    h->mod = Py_NewRef(st->mod);
    return op;
}

/* ---- handles and the collector ----
 *
 * Of a thousand callbacks that are queued most handles are seen by nobody, and an
 * object that only its queue owns needs no entry in the collector's lists: the loop,
 * which owns the queue, visits what the handle holds as if it were its own.  So a
 * handle is tracked from when somebody else may hold it for long.  Nor does it count as
 * an allocation: of a backlog of thousands the collector would go through all, again
 * and again.
 *
 * A handle that call_soon() has just returned is `fresh`: whether the caller keeps it
 * is seen when the next one is made, and before it runs, leaves its queue, or the loop
 * sleeps or stops.  Meanwhile all that it holds counts as reachable, which at worst
 * delays a collection. */

static inline bool
has_weakrefs(PyObject *op)
{
    Py_ssize_t offset = Py_TYPE(op)->tp_weaklistoffset;
    return offset != 0 && *(PyObject **)((char *)op + offset) != NULL;
}

static void
track(PyObject *op)
{
    if (!PyObject_GC_IsTracked(op)) {
        PyObject_GC_Track(op);
    }
}

/* The fresh handle is in its queue, which holds one reference. */
void
hl_handle_settle(hl_state *st)
{
    PyObject *op = st->fresh;
    if (op != NULL) {
        st->fresh = NULL;
        if (Py_REFCNT(op) > 1 || has_weakrefs(op)) {
            track(op);
        }
    }
}

/* op is in a queue and goes to the caller as well.  Of a loop that does not run nobody
 * knows when the next handle is made, or whether the loop lives to see it. */
static inline void
hand_out(hl_sched *s, PyObject *op)
{
    if (HL_FREE_THREADED) {
        return; /* tracked from the start: two threads may hold it */
    }
    hl_handle_settle(s->st);
    if (HL_LIKELY(s->running)) {
        s->st->fresh = op;
    }
    else {
        PyObject_GC_Track(op);
    }
}

/* With two owners and untracked it is the fresh one, or one that runs: then its fields
 * are not the queue's alone, and are left out. */
int
hl_handle_visit(PyObject *op, visitproc visit, void *arg)
{
    if (Py_REFCNT(op) == 1 && !PyObject_GC_IsTracked(op)) {
        int rc = hl_handle_tp_traverse(op, visit, arg);
        if (rc != 0) {
            return rc;
        }
    }
    return visit(op, arg);
}

/* Up to HL_INLINE_ARGS arguments stand in the handle itself, behind a scratch slot
 * that vectorcall may overwrite; more of them go into a tuple, and nargs is -1. */
static int
fill_args(HandleObject *h, PyObject *const *args, Py_ssize_t nargs)
{
    if (HL_LIKELY(nargs <= HL_INLINE_ARGS)) {
        for (Py_ssize_t i = 0; i < nargs; i++) {
            h->slot[1 + i] = Py_NewRef(args[i]);
        }
        h->nargs = (int)nargs;
        return 0;
    }
    h->args = PyTuple_New(nargs);
    if (h->args == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(h->args, i, Py_NewRef(args[i]));
    }
    h->nargs = -1;
    return 0;
}

/* On failure the handle is half filled; its dealloc releases what is there. */
static int
fill(HandleObject *h, PyObject *loop, PyObject *callback, PyObject *const *args,
     Py_ssize_t nargs, PyObject *ctx)
{
    h->loop = Py_NewRef(loop);
    h->callback = Py_NewRef(callback);
    if (fill_args(h, args, nargs) < 0) {
        return -1;
    }
    if (ctx == NULL && HL_LIKELY((h->vars = hl_context_snapshot(h->st)) != NULL)) {
        return 0;
    }
    h->context = ctx != NULL ? Py_NewRef(ctx) : PyContext_CopyCurrent();
    return h->context == NULL ? -1 : 0;
}

/* Debug mode only. Walks the stack by asyncio's own function: runs Python code. */
static int
fill_traceback(HandleObject *h)
{
    h->source_traceback = PyObject_CallNoArgs(h->st->i_extract_stack);
    return h->source_traceback == NULL ? -1 : 0;
}

/* The last step of making a handle that is in no queue yet. Steals op (NULL: passes
 * the failure on). */
static PyObject *
finish_new(hl_sched *s, PyObject *op, PyObject *loop, PyObject *callback,
           PyObject *const *args, Py_ssize_t nargs, PyObject *ctx)
{
    if (op == NULL) {
        return NULL;
    }
    if (fill(AS_HANDLE(op), loop, callback, args, nargs, ctx) < 0 ||
        (HL_UNLIKELY(s->debug) && fill_traceback(AS_HANDLE(op)) < 0)) {
        Py_DECREF(op);
        return NULL;
    }
    return op;
}

/* In no queue yet; the caller pushes it, or drops it. */
PyObject *
hl_handle_new(hl_sched *s, PyObject *loop, PyObject *callback, PyObject *const *args,
              Py_ssize_t nargs, PyObject *ctx)
{
    hl_state *st = s->st;
    PyObject *op = alloc(st, st->t_Handle, &st->free_handles);
    op = finish_new(s, op, loop, callback, args, nargs, ctx);
    if (op != NULL && !HL_FREE_THREADED) {
        PyObject_GC_Track(op);
    }
    return op;
}

/* Up to 3.13 asyncio has no type of its own for it. */
static PyObject *
alloc_shared(hl_state *st)
{
    if (st->t_ThreadSafeHandle == NULL) {
        return alloc(st, st->t_Handle, &st->free_handles);
    }
    PyObject *op = alloc(st, st->t_ThreadSafeHandle, &st->free_safe_handles);
    if (op != NULL) {
        AS_HANDLE(op)->shared = true;
    }
    return op;
}

PyObject *
hl_handle_soon(hl_sched *s, PyObject *loop, PyObject *callback, PyObject *const *args,
               Py_ssize_t nargs, PyObject *ctx, bool threadsafe)
{
    hl_state *st = s->st;
    PyObject *op =
        threadsafe ? alloc_shared(st) : alloc(st, st->t_Handle, &st->free_handles);
    op = finish_new(s, op, loop, callback, args, nargs, ctx);
    if (op == NULL || hl_sched_push(s, HL_KIND_HANDLE, op, NULL) < 0) {
        Py_XDECREF(op);
        return NULL;
    }
    hand_out(s, op);
    return op;
}

int
hl_handle_push(hl_sched *s, PyObject *loop, PyObject *callback, PyObject *const *args,
               Py_ssize_t nargs, PyObject *ctx)
{
    hl_state *st = s->st;
    PyObject *op = alloc(st, st->t_Handle, &st->free_handles);
    op = finish_new(s, op, loop, callback, args, nargs, ctx);
    return op == NULL ? -1 : hl_sched_push_steal(s, HL_KIND_HANDLE, op, NULL);
}

/* In the heap when this returns.  Pushing is the last step that can fail, so that a
 * failure never has to take a timer out again. */
PyObject *
hl_timer_new(hl_sched *s, PyObject *loop, double when, PyObject *callback,
             PyObject *const *args, Py_ssize_t nargs, PyObject *ctx)
{
    hl_state *st = s->st;
    PyObject *op = alloc(st, st->t_TimerHandle, &st->free_timers);
    if (op == NULL) {
        return NULL;
    }
    TimerObject *t = AS_TIMER(op);
    t->node.index = HL_HEAP_OUT;
    t->node.when = when;
    if (fill(&t->h, loop, callback, args, nargs, ctx) < 0 ||
        (HL_UNLIKELY(s->debug) && fill_traceback(&t->h) < 0)) {
        goto fail;
    }
    if (HL_UNLIKELY(isnan(when))) {
        /* Such a timer is due at once, as under asyncio; when() still says NaN. */
        t->h.when_slot = PyFloat_FromDouble(when);
        if (t->h.when_slot == NULL) {
            goto fail;
        }
        t->node.when = -HUGE_VAL;
    }
    /* One reference for the heap, one for the caller. */
    if (hl_sched_add_timer(s, Py_NewRef(op), &t->node) < 0) {
        goto fail;
    }
    hand_out(s, op);
    return op;
fail:
    Py_DECREF(op);
    return NULL;
}

/* What when() says is the object that the program gave, as with asyncio. */
void
hl_timer_given(PyObject *op, PyObject *when)
{
    Py_XSETREF(AS_HANDLE(op)->when_slot, Py_NewRef(when));
}

/* ---- running ---- */

/* What `_args` shows and what the exception handler gets: made on demand, since nobody
 * else needs a tuple. */
static PyObject *
args_tuple(HandleObject *h)
{
    if (h->nargs < 0) {
        return Py_NewRef(h->args == NULL ? Py_None : h->args);
    }
    PyObject *tuple = PyTuple_New(h->nargs);
    if (tuple != NULL) {
        for (int i = 0; i < h->nargs; i++) {
            PyTuple_SET_ITEM(tuple, i, Py_NewRef(h->slot[1 + i]));
        }
    }
    return tuple;
}

/* The exception that is set goes to the loop's handler; -1 for what propagates. */
static HL_COLD int
report(hl_state *st, HandleObject *h, PyObject *func)
{
    if (hl_err_propagates()) {
        return -1;
    }
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *args = args_tuple(h);
    PyObject *r = NULL;
    if (args != NULL) {
        PyObject *loop = Py_NewRef(h->loop == NULL ? Py_None : h->loop);
        PyObject *stack[] = {(PyObject *)h, loop, func, args, exc};
        r = PyObject_Vectorcall(st->i_handle_failed, stack, 5, NULL);
        Py_DECREF(loop);
        Py_DECREF(args);
    }
    Py_DECREF(exc);
    Py_XDECREF(r);
    if (r != NULL) {
        return 0;
    }
    if (hl_err_propagates()) {
        return -1;
    }
    PyErr_WriteUnraisable((PyObject *)h);
    return 0;
}

/* Never twice at a time for one handle, since its context cannot be entered twice: the
 * inline arguments and their scratch slot are the callback's alone. */
static PyObject *
invoke(hl_state *st, HandleObject *h, PyObject *func)
{
    if (HL_UNLIKELY(Py_IS_TYPE(func, st->t_Task)) && h->nargs == 1) {
        /* An unbound asyncio.Future.set_result() and the like pass on a fused waiter
         * as if it were a callback. */
        PyObject *wakeup = hl_task_wakeup(st, func);
        if (wakeup == NULL) {
            return NULL;
        }
        PyObject *r = PyObject_CallOneArg(wakeup, h->slot[1]);
        Py_DECREF(wakeup);
        return r;
    }
    if (HL_LIKELY(h->nargs >= 0)) {
        return PyObject_Vectorcall(
            func, h->slot + 1, (size_t)h->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    PyObject *args = args_tuple(h);
    if (args != NULL && HL_UNLIKELY(!PyTuple_CheckExact(args))) {
        Py_SETREF(args, PySequence_Tuple(args)); /* set through asyncio.Handle's slot */
    }
    PyObject *r = args == NULL ? NULL : PyObject_Call(func, args, NULL);
    Py_XDECREF(args);
    return r;
}

/* Callback and arguments, moved out of a handle: releasing them runs any code. */
typedef struct {
    PyObject *func, *args, *held[HL_INLINE_ARGS];
    int n;
} taken_call;

/* `_args` is None from now on. */
static void
take_call(HandleObject *h, taken_call *out)
{
    out->func = h->callback;
    out->args = h->args;
    out->n = h->nargs > 0 ? h->nargs : 0;
    for (int i = 0; i < out->n; i++) { /* few: a call of memcpy() would cost more */
        out->held[i] = h->slot[1 + i];
        h->slot[1 + i] = NULL;
    }
    h->callback = h->args = NULL;
    h->nargs = -1;
}

static void
release_call(taken_call *c)
{
    for (int i = 0; i < c->n; i++) {
        Py_DECREF(c->held[i]);
    }
    Py_XDECREF(c->args);
    Py_XDECREF(c->func);
}

/* Where nobody else has the handle. */
static void
drop_call(HandleObject *h)
{
    taken_call call;
    take_call(h, &call);
    release_call(&call);
}

/* A cancelled handle shows neither callback nor arguments, and gives them up, unless
 * the callback is on the stack: then hl_handle_run() does. */
static void
give_up_call(HandleObject *h)
{
    taken_call call = {.n = 0};
    HL_LOCK(h);
    h->hidden = true;
    if (!h->running) {
        take_call(h, &call);
    }
    HL_UNLOCK();
    release_call(&call);
}

/* A context that is none of the interpreter's only has to have run(), as for asyncio.
 */
static HL_COLD PyObject *
invoke_in_foreign(HandleObject *h, PyObject *ctx, PyObject *func)
{
    PyObject *args = args_tuple(h), *r = NULL;
    PyObject *first = PyTuple_Pack(1, func);
    PyObject *run = PyObject_GetAttrString(ctx, "run");
    if (args != NULL && first != NULL && run != NULL) {
        PyObject *all = PySequence_Concat(first, args);
        r = all == NULL ? NULL : PyObject_CallObject(run, all);
        Py_XDECREF(all);
    }
    Py_XDECREF(run);
    Py_XDECREF(first);
    Py_XDECREF(args);
    return r;
}

static PyObject *
invoke_in(hl_state *st, HandleObject *h, PyObject *ctx, PyObject *func)
{
    if (HL_UNLIKELY(!PyContext_CheckExact(ctx))) {
        return invoke_in_foreign(h, ctx, func);
    }
    if (PyContext_Enter(ctx) < 0) {
        return NULL;
    }
    PyObject *r = invoke(st, h, func);
    if (PyContext_Exit(ctx) < 0) {
        Py_CLEAR(r);
    }
    return r;
}

/* The context that the callback runs in (a new reference): from a snapshot it is made
 * now, and the handle shows it from now on.  NULL with an exception. */
static PyObject *
context_of(hl_state *st, HandleObject *h)
{
    if (h->context == NULL && h->vars != NULL) {
        h->context = hl_context_take(st, h->vars);
        h->vars = h->context == NULL ? h->vars : NULL; /* it is asked again then */
    }
    return Py_XNewRef(h->context);
}

/* After a run that made the context; steals ctx.  owners: the references to the handle
 * that the runners hold.  If those are all, nobody can ask for the context any more,
 * unless by a weak reference: one that still finds the handle, from the finaliser of
 * what the callback set, has to find it whole, so the handle goes first. */
static void
drop_context(hl_state *st, HandleObject *h, PyObject *ctx, Py_ssize_t owners)
{
    if (HL_LIKELY(Py_REFCNT(h) == owners && h->context == ctx &&
                  !has_weakrefs((PyObject *)h))) {
        h->context = NULL;
        Py_DECREF(ctx);
        hl_context_give(st, ctx);
    }
    else {
        Py_DECREF(ctx);
    }
}

/* The callback may cancel this handle, run it once more, or drop the last other
 * reference to it: one is held here, and callback and context are held apart from the
 * handle's fields. A handle that is cancelled meanwhile keeps its arguments alive
 * until the callback is done with them. */
static int
run_handle(hl_state *st, PyObject *op, Py_ssize_t owners)
{
    HandleObject *h = AS_HANDLE(op);
    PyObject *func = NULL, *ctx = NULL;
    bool outer = false; /* a handle may be run again by its own callback */
    bool made = false, failed = false;
    HL_LOCK(op);
    if (!h->cancelled && h->callback != NULL &&
        (h->context != NULL || h->vars != NULL)) {
        made = h->context == NULL;
        ctx = context_of(st, h);
        failed = ctx == NULL;
    }
    if (ctx != NULL) {
        func = Py_NewRef(h->callback);
        outer = h->running;
        h->running = true; /* whoever cancels it leaves the call alone */
    }
    HL_UNLOCK();
    if (HL_UNLIKELY(func == NULL)) {
        return failed ? report(st, h, h->callback) : 0;
    }
    Py_INCREF(op);
    if (HL_UNLIKELY(h->shared)) {
        hl_safehandle_enter(op);
    }
    PyObject *r = invoke_in(st, h, ctx, func);
    int rc = r == NULL ? -1 : 0;
    Py_XDECREF(r);
    if (HL_UNLIKELY(rc < 0)) {
        rc = report(st, h, func);
    }
    bool cancelled;
    HL_LOCK(op);
    h->running = outer;
    cancelled = h->cancelled;
    HL_UNLOCK();
    if (HL_UNLIKELY(cancelled) && !outer) {
        give_up_call(h);
    }
    if (HL_UNLIKELY(h->shared) && !outer) {
        hl_safehandle_leave(op);
    }
    Py_DECREF(func);
    if (HL_LIKELY(made)) {
        drop_context(st, h, ctx, owners + 1);
    }
    else {
        Py_DECREF(ctx);
    }
    Py_DECREF(op);
    return rc;
}

/* Whoever keeps a handle that the queue has let go of shows it to the collector: before
 * it runs if it is the fresh one, and after if it came to light by running. */
int
hl_handle_run_queued(hl_state *st, PyObject *op)
{
    if (st->fresh == op) {
        hl_handle_settle(st);
    }
    int rc = run_handle(st, op, 1);
    if (HL_UNLIKELY(Py_REFCNT(op) > 1)) {
        track(op);
    }
    return rc;
}

/* For whoever holds the handle: it may be in a queue still. */
int
hl_handle_run(hl_state *st, PyObject *op)
{
    return run_handle(st, op, 0);
}

/* ---- cancelling ---- */

/* In debug mode a cancelled handle keeps its description. */
static int
keep_repr(HandleObject *h)
{
    PyObject *text = PyObject_Repr((PyObject *)h);
    if (text == NULL) {
        return -1;
    }
    HL_SETREF(h, h->repr, text);
    return 0;
}

/* A loop that is not ours is asked by its Python method. */
static int
loop_debug(HandleObject *h)
{
    hl_sched *s = hl_sched_of(h->loop);
    if (s != NULL) {
        return s->debug;
    }
    if (h->loop == NULL) {
        return 0;
    }
    PyObject *r = PyObject_CallMethodNoArgs(h->loop, h->st->s_get_debug);
    int debug = r == NULL ? -1 : PyObject_IsTrue(r);
    Py_XDECREF(r);
    return debug;
}

/* Safe at any time, also from the callback itself and from a finaliser that the
 * release of the arguments runs: `cancelled` is set first. A timer leaves the heap
 * now, and with it goes the heap's reference. */
int
hl_handle_cancel(PyObject *op)
{
    HandleObject *h = AS_HANDLE(op);
    bool before;
    HL_LOCK(op);
    before = h->cancelled;
    HL_STORE(h->cancelled, true);
    HL_UNLOCK();
    if (before) {
        return 0;
    }
    Py_INCREF(op);
    if (h->st->fresh == op) {
        hl_handle_settle(h->st); /* the caller holds it */
    }
    int rc = 0;
    if (PyObject_TypeCheck(op, h->st->t_TimerHandle)) {
        hl_sched *s = hl_sched_of(h->loop);
        /* It drops the heap's reference; ours keeps the handle alive. */
        rc = s == NULL ? 0 : hl_sched_drop_timer(s, op, &AS_TIMER(op)->node);
    }
    int debug = rc < 0 ? -1 : loop_debug(h);
    rc = debug > 0 ? keep_repr(h) : debug;
    give_up_call(h);
    Py_DECREF(op);
    return rc;
}

/* ---- the Python face ---- */

/* asyncio's cancel(), idempotent. */
static PyObject *
Handle_cancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (hl_handle_cancel(op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Handle_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(HL_LOAD(AS_HANDLE(op)->cancelled));
}

/* asyncio's _run(), for loops and tests that run handles by hand. */
static PyObject *
Handle_run(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (hl_handle_run(AS_HANDLE(op)->st, op) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* None in a handle that the collector has cleared. */
static PyObject *
Handle_get_context(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    HandleObject *h = AS_HANDLE(op);
    PyObject *ctx = context_of(h->st, h);
    return ctx != NULL || PyErr_Occurred() ? ctx : Py_NewRef(Py_None);
}

static PyObject *
get_context(PyObject *op, void *closure)
{
    (void)closure;
    return Handle_get_context(op, NULL);
}

/* The very object that the program gave to TimerHandle(), where it did. */
static PyObject *
Timer_when(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TimerObject *t = AS_TIMER(op);
    if (t->h.when_slot != NULL) {
        return Py_NewRef(t->h.when_slot);
    }
    return PyFloat_FromDouble(t->node.when);
}

/* asyncio clears the fields of a cancelled handle; a program that looks must see None.
 */
static PyObject *
get_callback(PyObject *op, void *closure)
{
    (void)closure;
    HandleObject *h = AS_HANDLE(op);
    /* While its callback runs, a cancelled handle still holds it, but shows None. */
    return Py_NewRef(h->hidden || h->callback == NULL ? Py_None : h->callback);
}
HL_LOCKED_GETTER(get_callback)

static PyObject *
get_args(PyObject *op, void *closure)
{
    (void)closure;
    HandleObject *h = AS_HANDLE(op);
    return h->hidden ? Py_NewRef(Py_None) : args_tuple(h);
}
HL_LOCKED_GETTER(get_args)

static PyObject *
get_cancelled(PyObject *op, void *closure)
{
    (void)closure;
    return PyBool_FromLong(HL_LOAD(AS_HANDLE(op)->cancelled));
}

/* asyncio's `_scheduled`: is the timer in the heap? */
static PyObject *
get_scheduled(PyObject *op, void *closure)
{
    (void)closure;
    return PyBool_FromLong(AS_TIMER(op)->node.index != HL_HEAP_OUT);
}

static PyObject *
get_when(PyObject *op, void *closure)
{
    (void)closure;
    return Timer_when(op, NULL);
}

/* asyncio trims the traceback of handles that it made; a few programs assign it too. */
static int
set_source_traceback(PyObject *op, PyObject *value, void *closure)
{
    (void)closure;
    HL_SETREF(op, AS_HANDLE(op)->source_traceback, Py_XNewRef(value));
    return 0;
}

/* For handles that Python code makes by calling the type. PySequence_Tuple() may run
 * code that initialises this very handle, hence the check after it. */
static int
init_common(HandleObject *h, PyObject *callback, PyObject *args, PyObject *loop,
            PyObject *context)
{
    PyObject *tuple = PySequence_Tuple(args); /* runs any code */
    if (tuple == NULL) {
        return -1;
    }
    if (h->loop != NULL) {
        Py_DECREF(tuple);
        PyErr_SetString(PyExc_RuntimeError, "a handle cannot be initialised twice");
        return -1;
    }
    int rc = fill(h, loop, callback, &PyTuple_GET_ITEM(tuple, 0),
                  PyTuple_GET_SIZE(tuple), context == Py_None ? NULL : context);
    Py_DECREF(tuple);
    if (rc == 0) {
        rc = loop_debug(h);
        if (rc > 0) {
            rc = fill_traceback(h);
        }
    }
    return rc;
}

int
hl_handle_tp_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"callback", "args", "loop", "context", NULL};
    PyObject *callback, *cargs, *loop, *context = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|O:Handle", names, &callback,
                                     &cargs, &loop, &context)) {
        return -1;
    }
    return init_common(AS_HANDLE(op), callback, cargs, loop, context);
}

/* A timer made by hand is in no heap: the loop knows nothing of it, as under asyncio.
 */
static int
Timer_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"when", "callback", "args", "loop", "context", NULL};
    PyObject *when, *callback, *cargs, *loop, *context = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO|O:TimerHandle", names, &when,
                                     &callback, &cargs, &loop, &context)) {
        return -1;
    }
    double seconds = PyFloat_AsDouble(when);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (init_common(AS_HANDLE(op), callback, cargs, loop, context) < 0) {
        return -1;
    }
    AS_TIMER(op)->node.when = seconds;
    Py_XSETREF(AS_HANDLE(op)->when_slot, Py_NewRef(when));
    return 0;
}

/* The object can be torn down from here on, whether or not __init__ runs. */
PyObject *
hl_handle_tp_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                 PyObject *Py_UNUSED(kwargs))
{
    hl_state *st = hl_state_by_type(type);
    if (st == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "hotloop has been unloaded");
        return NULL;
    }
    PyObject *op = hl_type_alloc(type);
    if (op == NULL) {
        return NULL;
    }
    AS_HANDLE(op)->st = st;
    AS_HANDLE(op)->mod = Py_NewRef(st->mod);
    AS_HANDLE(op)->shared = st->t_ThreadSafeHandle != NULL &&
                            PyType_IsSubtype(type, st->t_ThreadSafeHandle);
    if (PyType_IsSubtype(type, st->t_TimerHandle)) {
        AS_TIMER(op)->node.index = HL_HEAP_OUT;
    }
    return op;
}

/* ---- the collector ---- */

/* The module is visited but never cleared: what is left of the handle needs its state
 * up to the end. */
int
hl_handle_tp_traverse(PyObject *op, visitproc visit, void *arg)
{
    HandleObject *h = AS_HANDLE(op);
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(h->mod);
    Py_VISIT(h->args);
    Py_VISIT(h->callback);
    Py_VISIT(h->context);
    Py_VISIT(h->vars);
    Py_VISIT(h->loop);
    Py_VISIT(h->repr);
    Py_VISIT(h->source_traceback);
    Py_VISIT(h->when_slot);
    for (int i = 0; i < h->nargs; i++) {
        Py_VISIT(h->slot[1 + i]);
    }
    return 0;
}

/* drop_call() is safe however often it is called. */
int
hl_handle_tp_clear(PyObject *op)
{
    HandleObject *h = AS_HANDLE(op);
    drop_call(h);
    Py_CLEAR(h->context);
    Py_CLEAR(h->vars);
    Py_CLEAR(h->loop);
    Py_CLEAR(h->repr);
    Py_CLEAR(h->source_traceback);
    Py_CLEAR(h->when_slot);
    return 0;
}

/* Keeps the memory for the next handle of the same exact type. */
static bool
recycle(hl_freelist *list, PyObject *op)
{
    if (!hl_freelist_takes(list)) {
        return false;
    }
    list->v[list->n++] = op;
    return true;
}

/* The order is that of every type here: untrack, weak references, fields, then the
 * memory, the type and, last, the module that keeps the state alive. */
void
hl_handle_tp_dealloc(PyObject *op)
{
    HandleObject *h = AS_HANDLE(op);
    PyTypeObject *type = Py_TYPE(op);
    hl_state *st = h->st;
    PyObject *mod = h->mod;
    if (st->fresh == op) {
        st->fresh = NULL;
    }
    PyObject_GC_UnTrack(op);
    if (HL_UNLIKELY(has_weakrefs(op))) {
        PyObject_ClearWeakRefs(op);
    }
    PyObject *ctx = h->context;
    h->context = NULL;
    (void)hl_handle_tp_clear(op);
    if (ctx != NULL) {
        hl_context_give(st, ctx);
    }
    h->nargs = 0;
    h->cancelled = h->running = h->hidden = false;
    if (HL_UNLIKELY(h->shared)) {
        hl_safehandle_fini(op);
    }
    h->st = NULL;
    h->mod = NULL;
    bool kept = false;
    bool ours = type == st->t_Handle || type == st->t_TimerHandle ||
                type == st->t_ThreadSafeHandle;
    if (type == st->t_Handle) {
        kept = recycle(&st->free_handles, op);
    }
    else if (type == st->t_TimerHandle) {
        kept = recycle(&st->free_timers, op);
    }
    else if (type == st->t_ThreadSafeHandle) {
        kept = recycle(&st->free_safe_handles, op);
    }
    if (!kept && ours && st->handle_head > 0) {
        hl_gc_free_uncounted(op, st->handle_head);
    }
    else if (!kept) {
        type->tp_free(op);
    }
    Py_DECREF(type);
    Py_DECREF(mod);
}

#define HANDLE_METHODS                                                                 \
    {"cancel", Handle_cancel, METH_NOARGS,                                             \
     "Never run the callback; no effect once it has run."},                            \
        {"cancelled", Handle_cancelled, METH_NOARGS, "Was the handle cancelled?"},     \
        {"get_context", Handle_get_context, METH_NOARGS,                               \
         "The contextvars.Context that the callback runs in."},                        \
        {"_run", Handle_run, METH_NOARGS, "Run the callback now."}

/* In the order of the enumeration in handle.h. */
PyMethodDef hl_handle_methods[] = {
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

/* asyncio.TimerHandle is the base, not our Handle: nothing of that is inherited. */
static PyMethodDef timer_methods[] = {
    HANDLE_METHODS,
    {"when", Timer_when, METH_NOARGS, "The deadline, in seconds on the loop's clock."},
    {NULL, NULL, 0, NULL},
};

#define FIELD(name, field)                                                             \
    {name, hl_get_object, NULL, NULL, (void *)offsetof(hl_base_handle, field)}
#define HANDLE_GETSET                                                                  \
    {"_args", HL_LOCKED(get_args), NULL, NULL, NULL},                                  \
        {"_callback", HL_LOCKED(get_callback), NULL, NULL, NULL},                      \
        {"_cancelled", get_cancelled, NULL, NULL, NULL},                               \
        {"_context", get_context, NULL, NULL, NULL}, FIELD("_loop", loop),             \
        FIELD("_repr", repr),                                                          \
    {                                                                                  \
        "_source_traceback", hl_get_object, set_source_traceback, NULL,                \
            (void *)offsetof(hl_base_handle, source_traceback)                         \
    }

PyGetSetDef hl_handle_getset[] = {
    HANDLE_GETSET,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef timer_getset[] = {
    HANDLE_GETSET,
    {"_scheduled", get_scheduled, NULL, NULL, NULL},
    {"_when", get_when, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define HANDLE_SLOTS                                                                   \
    {Py_tp_new, hl_handle_tp_new}, {Py_tp_dealloc, hl_handle_tp_dealloc},              \
        {Py_tp_traverse, hl_handle_tp_traverse},                                       \
    {                                                                                  \
        Py_tp_clear, hl_handle_tp_clear                                                \
    }

static PyType_Slot handle_slots[] = {
    HANDLE_SLOTS,
    {Py_tp_init, hl_handle_tp_init},
    {Py_tp_methods, hl_handle_methods},
    {Py_tp_getset, hl_handle_getset},
    {Py_tp_doc, "What call_soon() returns; see asyncio.Handle."},
    {0, NULL},
};

static PyType_Slot timer_slots[] = {
    HANDLE_SLOTS,
    {Py_tp_init, Timer_init},
    {Py_tp_methods, timer_methods},
    {Py_tp_getset, timer_getset},
    {Py_tp_doc, "What call_later() and call_at() return; see asyncio.TimerHandle."},
    {0, NULL},
};

#define HANDLE_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE)

static PyType_Spec handle_spec = {
    .name = "hotloop.Handle",
    .basicsize = sizeof(HandleObject),
    .flags = HANDLE_FLAGS,
    .slots = handle_slots,
};

static PyType_Spec timer_spec = {
    .name = "hotloop.TimerHandle",
    .basicsize = sizeof(TimerObject),
    .flags = HANDLE_FLAGS,
    .slots = timer_slots,
};

/* asyncio's classes are their bases, so isinstance() holds; the layouts were checked
 * before (hl_compat_check). */
int
hl_handle_exec(PyObject *mod, hl_state *st)
{
    if (hl_type_add(mod, &st->t_Handle, &handle_spec, st->i_BaseHandle) < 0) {
        return -1;
    }
    if (hl_type_add(mod, &st->t_TimerHandle, &timer_spec, st->i_BaseTimerHandle) < 0) {
        return -1;
    }
    if (hl_safehandle_exec(mod, st) < 0) {
        return -1;
    }
    size_t head = hl_gc_head_size(st->t_Handle);
    bool same = head == hl_gc_head_size(st->t_TimerHandle) &&
                (st->t_ThreadSafeHandle == NULL ||
                 head == hl_gc_head_size(st->t_ThreadSafeHandle));
    st->handle_head = same ? head : 0;
    return 0;
}

/* call_soon() and its relatives: what puts handles, timers and tasks into the
 * scheduler. */
#include "core/clock.h"
#include "loop/loop.h"
#include "py/mem.h"
#include "sched/inbox.h"

#define AS_LOOP(op) ((LoopObject *)(op))

/* Every method that schedules asks this before it takes a reference to anything, so a
 * closed loop never holds a callback again. */
int
hl_loop_check_closed(LoopObject *self)
{
    if (HL_UNLIKELY(HL_LOAD(self->closed))) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    return 0;
}

/* asyncio makes this check in debug mode only. */
int
hl_loop_check_thread(LoopObject *self)
{
    unsigned long thread = HL_LOAD(self->thread_id);
    if (thread != 0 && thread != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Non-thread-safe operation invoked on an event loop other "
                        "than the current one");
        return -1;
    }
    return 0;
}

/* An overridden time() is foreign code: it may schedule, cancel and stop as it likes,
 * so callers read the heap and the ring anew afterwards. */
int
hl_loop_time(LoopObject *self, double *out)
{
    if (HL_LIKELY(!self->time_overridden)) {
        *out = hl_clock_seconds();
        return 0;
    }
    hl_state *st = self->sched.st;
    if (!self->sched.in_callback) {
        hl_current_clear(&self->sched, (PyObject *)self); /* between two steps */
    }
    PyObject *r = PyObject_CallMethodNoArgs((PyObject *)self, st->s_time);
    *out = r == NULL ? -1.0 : PyFloat_AsDouble(r);
    Py_XDECREF(r);
    return *out == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* The ring takes its own reference to obj and drops it after fn has run, or when the
 * loop is closed with the entry still in it. */
int
hl_loop_soon(LoopObject *self, PyObject *obj, hl_cont_fn fn)
{
    return hl_sched_push(&self->sched, HL_KIND_CONT, obj, (void *)fn);
}

/* Under the GIL, as is the flag: of many callers only the first writes, and a caller
 * that finds the loop awake knows that it looks at the ring before it sleeps. */
void
hl_loop_wakeup(LoopObject *self)
{
    hl_inbox_lock(&self->sched); /* it keeps the descriptor open meanwhile */
    /* Whoever wakes the sleeper first spares the others the system call. */
    if (self->sched.sleeping) {
        self->sched.sleeping = false;
        hl_wake_signal(&self->wake);
    }
    hl_inbox_unlock(&self->sched);
}

/* One buffer for all transports of the loop: such reads never overlap, since each is
 * over before foreign code runs. Made by the first read, freed by close(). */
unsigned char *
hl_loop_scratch(LoopObject *self)
{
    if (HL_UNLIKELY(self->scratch == NULL)) {
        self->scratch = hl_malloc(HL_SCRATCH_SIZE);
        if (self->scratch == NULL) {
            PyErr_NoMemory();
        }
    }
    return self->scratch;
}

/* Other reads may come in between: they find no buffer, and make one. */
unsigned char *
hl_loop_scratch_take(LoopObject *self)
{
    unsigned char *buf = hl_loop_scratch(self);
    self->scratch = NULL;
    return buf;
}

void
hl_loop_scratch_give(LoopObject *self, unsigned char *buf)
{
    if (self->scratch != NULL || self->closed) {
        free(buf);
    }
    else {
        self->scratch = buf;
    }
}

/* Of `most` the caller knows how much memory may be held for nothing, should what it
 * reads be kept. */
PyObject *
hl_loop_bytes(LoopObject *self, size_t least, size_t most, size_t *room)
{
    hl_spare *s = &self->spare[least >= HL_LARGE_READ];
    PyObject *data = s->data;
    if (data != NULL && s->room >= least && s->room <= most) {
        *room = s->room;
        s->data = NULL;
        hl_bytes_reshape(data, (Py_ssize_t)*room);
        return data;
    }
    *room = least;
    return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)least);
}

/* One of each kind is enough: reads do not overlap, but for those of a nested run.  Of
 * two large ones that with more room is kept, since it takes more to make; of small
 * ones the last, since the next will be like it. */
void
hl_loop_bytes_give(LoopObject *self, PyObject *data, size_t room)
{
    hl_spare *s = &self->spare[room >= HL_LARGE_READ];
    bool better = s->data == NULL || room < HL_LARGE_READ || room >= s->room;
    if (!better || self->closed || !hl_only_ours(data)) {
        Py_DECREF(data);
        return;
    }
    Py_XSETREF(s->data, data);
    s->room = room;
}

void
hl_loop_bytes_free(LoopObject *self)
{
    for (int i = 0; i < 2; i++) {
        Py_CLEAR(self->spare[i].data);
    }
}

/* ---- arguments ---- */

/* f(*args, context=None): the context (borrowed, NULL for none) into *ctx. */
static int
parse_context(const char *name, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames, PyObject **ctx)
{
    *ctx = NULL;
    if (HL_LIKELY(kwnames == NULL)) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(key, "context") != 0) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument '%U'", name, key);
            return -1;
        }
        *ctx = args[nargs + i] == Py_None ? NULL : args[nargs + i];
    }
    return 0;
}

/* asyncio's methods are Python functions: what must be given may be given by name too.
 * For a call with fewer positional arguments than parameters, puts them in order into
 * `stack` and leaves the context in *ctx. */
static HL_COLD int
args_by_name(const char *name, const char *const *params, Py_ssize_t n,
             PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
             PyObject **stack, PyObject **ctx)
{
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    *ctx = NULL;
    for (Py_ssize_t i = 0; i < n; i++) {
        stack[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t k = 0; k < nkw; k++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = 0;
        while (i < n && PyUnicode_CompareWithASCIIString(key, params[i]) != 0) {
            i++;
        }
        if (i == n) {
            PyObject *one = PyTuple_Pack(1, key);
            int rc =
                one == NULL ? -1 : parse_context(name, &args[nargs + k], 0, one, ctx);
            Py_XDECREF(one);
            if (rc < 0) {
                return -1;
            }
        }
        else if (stack[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'",
                         name, key);
            return -1;
        }
        else {
            stack[i] = args[nargs + k];
        }
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (stack[i] == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing required positional argument: '%s'", name,
                         params[i]);
            return -1;
        }
    }
    return 0;
}

static const char *const params_at[] = {"when", "callback"};
static const char *const params_later[] = {"delay", "callback"};

/* The arguments of a method whose first n parameters (params) are required. */
static inline int
take_args(const char *name, const char *const *params, Py_ssize_t n,
          PyObject *const **args, Py_ssize_t *nargs, PyObject *kwnames,
          PyObject **stack, PyObject **ctx)
{
    if (HL_LIKELY(*nargs >= n)) {
        return parse_context(name, *args, *nargs, kwnames, ctx);
    }
    if (args_by_name(name, params, n, *args, *nargs, kwnames, stack, ctx) < 0) {
        return -1;
    }
    *args = stack;
    *nargs = n;
    return 0;
}

/* In debug mode: the right thread, and something that can be called. */
static HL_COLD int
check_debug(LoopObject *self, PyObject *callback, const char *name, bool any_thread)
{
    if (!any_thread && hl_loop_check_thread(self) < 0) {
        return -1;
    }
    PyObject *r =
        PyObject_CallMethod((PyObject *)self, "_check_callback", "Os", callback, name);
    Py_XDECREF(r);
    return r == NULL ? -1 : 0;
}

/* ---- handles ---- */

/* The hot road of asyncio.BaseEventLoop.call_soon(): no Python code runs here unless
 * debug mode is on. */
static PyObject *
Loop_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    LoopObject *self = AS_LOOP(op);
    PyObject *ctx, *in[2];
    if (take_args("call_soon", params_at + 1, 1, &args, &nargs, kwnames, in, &ctx) <
            0 ||
        hl_loop_check_closed(self) < 0) {
        return NULL;
    }
    if (HL_UNLIKELY(self->sched.debug) &&
        check_debug(self, args[0], "call_soon", false) < 0) {
        return NULL;
    }
    return hl_handle_soon(&self->sched, op, args[0], args + 1, nargs - 1, ctx, false);
}

/* From any thread, with the GIL: the push itself needs no lock, and its place in the
 * ring is its place among call_soon()'s. The loop is woken only if it sleeps. */
static PyObject *
Loop_call_soon_threadsafe(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    LoopObject *self = AS_LOOP(op);
    PyObject *ctx, *in[2];
    if (take_args("call_soon_threadsafe", params_at + 1, 1, &args, &nargs, kwnames, in,
                  &ctx) < 0 ||
        hl_loop_check_closed(self) < 0) {
        return NULL;
    }
    if (HL_UNLIKELY(self->sched.debug) &&
        check_debug(self, args[0], "call_soon_threadsafe", true) < 0) {
        return NULL;
    }
    PyObject *handle =
        hl_handle_soon(&self->sched, op, args[0], args + 1, nargs - 1, ctx, true);
    if (handle != NULL) {
        hl_loop_wakeup(self);
    }
    return handle;
}

/* The heap takes one reference to the handle, the caller the other. */
static PyObject *
at(LoopObject *self, double when, PyObject *const *args, Py_ssize_t nargs,
   PyObject *ctx)
{
    return hl_timer_new(&self->sched, (PyObject *)self, when, args[0], args + 1,
                        nargs - 1, ctx);
}

/* asyncio's order of checks: None first, then the closed loop, then debug mode's. What
 * is no number fails where asyncio would compare it. */
static PyObject *
Loop_call_at(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    LoopObject *self = AS_LOOP(op);
    PyObject *ctx, *in[2];
    if (take_args("call_at", params_at, 2, &args, &nargs, kwnames, in, &ctx) < 0) {
        return NULL;
    }
    /* asyncio's own check, with its text; all other wrong types fail in the arithmetic.
     */
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    if (hl_loop_check_closed(self) < 0 ||
        (HL_UNLIKELY(self->sched.debug) &&
         check_debug(self, args[1], "call_at", false) < 0)) {
        return NULL;
    }
    double when = PyFloat_AsDouble(args[0]);
    if (when == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *timer = at(self, when, args + 1, nargs - 1, ctx);
    if (timer != NULL && HL_UNLIKELY(!PyFloat_CheckExact(args[0]))) {
        hl_timer_given(timer, args[0]);
    }
    return timer;
}

/* self.call_at(self.time() + delay, ...) by name, for loops that override call_at(). */
static HL_COLD PyObject *
later_by_name(LoopObject *self, PyObject *when, PyObject *const *args, Py_ssize_t nargs,
              PyObject *ctx)
{
    PyObject **stack = hl_pymem_malloc(sizeof(*stack) * (size_t)(nargs + 2));
    if (stack == NULL) {
        return PyErr_NoMemory();
    }
    stack[0] = (PyObject *)self;
    stack[1] = when;
    for (Py_ssize_t i = 1; i < nargs; i++) {
        stack[1 + i] = args[i];
    }
    stack[1 + nargs] = ctx == NULL ? Py_None : ctx; /* asyncio passes it always */
    PyObject *r =
        PyObject_VectorcallMethod(self->sched.st->s_call_at, stack, (size_t)nargs + 1,
                                  self->sched.st->kw_context);
    PyMem_Free(stack);
    return r;
}

/* time() + delay in the arithmetic of the delay's type, as asyncio computes it. */
static HL_COLD int
add_delay(double now, PyObject *delay, double *when)
{
    PyObject *start = PyFloat_FromDouble(now);
    PyObject *sum = start == NULL ? NULL : PyNumber_Add(start, delay);
    Py_XDECREF(start);
    if (sum == NULL) {
        return -1;
    }
    *when = PyFloat_AsDouble(sum);
    Py_DECREF(sum);
    return *when == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* Reads the clock anew, not the turn's value: a callback that took long must not
 * shorten the delay. A call_at() of a subclass gets the call, as it would from
 * asyncio. */
static PyObject *
Loop_call_later(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    LoopObject *self = AS_LOOP(op);
    PyObject *ctx, *in[2];
    double now, when;
    if (take_args("call_later", params_later, 2, &args, &nargs, kwnames, in, &ctx) <
        0) {
        return NULL;
    }
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    if (hl_loop_time(self, &now) < 0) {
        return NULL;
    }
    if (HL_LIKELY(PyFloat_CheckExact(args[0]))) {
        when = now + PyFloat_AS_DOUBLE(args[0]);
    }
    else if (PyLong_CheckExact(args[0])) {
        /* What float.__add__() makes of it; too big a one is its OverflowError. */
        double delay = PyLong_AsDouble(args[0]);
        if (delay == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        when = now + delay;
    }
    else if (add_delay(now, args[0], &when) < 0) {
        return NULL;
    }
    if (HL_UNLIKELY(self->call_at_overridden)) {
        PyObject *moment = PyFloat_FromDouble(when);
        PyObject *r =
            moment == NULL ? NULL : later_by_name(self, moment, args, nargs, ctx);
        Py_XDECREF(moment);
        return r;
    }
    if (hl_loop_check_closed(self) < 0 ||
        (HL_UNLIKELY(self->sched.debug) &&
         check_debug(self, args[1], "call_at", false) < 0)) {
        return NULL;
    }
    return at(self, when, args + 1, nargs - 1, ctx);
}

/* ---- futures and tasks ---- */

/* By asyncio.BaseEventLoop.create_future(); overriding it on a loop is honoured by
 * whoever calls it by name, our transports among them. */
static PyObject *
Loop_create_future(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return hl_future_new(AS_LOOP(op)->sched.st, op);
}

typedef struct {
    PyObject *coro, *name, *context, *eager;
} task_args;

/* The signature of this version's BaseEventLoop.create_task(): one without
 * eager_start refuses it like any other unknown name. */
static int
parse_task(hl_state *st, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
           task_args *out)
{
    *out = (task_args){nargs > 0 ? args[0] : NULL, NULL, NULL, NULL};
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i), *value = args[nargs + i];
        if (PyUnicode_CompareWithASCIIString(key, "name") == 0) {
            out->name = value;
        }
        else if (PyUnicode_CompareWithASCIIString(key, "context") == 0) {
            out->context = value;
        }
        else if (PyUnicode_CompareWithASCIIString(key, "coro") == 0 && nargs == 0) {
            out->coro = value;
        }
        else if (st->takes_eager_start &&
                 PyUnicode_CompareWithASCIIString(key, "eager_start") == 0) {
            out->eager = value;
        }
        else {
            PyErr_Format(PyExc_TypeError,
                         "create_task() got an unexpected keyword argument '%U'", key);
            return -1;
        }
    }
    if (nargs > 1 || out->coro == NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "create_task() takes exactly one positional argument: coro");
        return -1;
    }
    return 0;
}

/* With a factory the arguments go on as asyncio of this version hands them on: its own
 * create_task() does that, on our loop, and refuses what it does not take. */
static HL_COLD PyObject *
create_by_factory(LoopObject *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    Py_ssize_t n = nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
    PyObject **stack = hl_pymem_malloc(sizeof(*stack) * (size_t)(n + 1));
    if (stack == NULL) {
        return PyErr_NoMemory();
    }
    stack[0] = (PyObject *)self;
    for (Py_ssize_t i = 0; i < n; i++) {
        stack[1 + i] = args[i];
    }
    PyObject *func = PyObject_GetAttr(self->sched.st->i_BaseEventLoop,
                                      self->sched.st->s_create_task);
    PyObject *r = func == NULL
                      ? NULL
                      : PyObject_Vectorcall(func, stack, (size_t)nargs + 1, kwnames);
    Py_XDECREF(func);
    PyMem_Free(stack);
    return r;
}

/* Without a Future and Task of ours for this interpreter: asyncio's Task. */
static HL_COLD PyObject *
create_base_task(LoopObject *self, const task_args *in)
{
    hl_state *st = self->sched.st;
    PyObject *kwargs = Py_BuildValue("{sO}", "loop", self);
    PyObject *args = PyTuple_Pack(1, in->coro);
    PyObject *r = NULL;
    if (kwargs != NULL && args != NULL &&
        (in->name == NULL || PyDict_SetItemString(kwargs, "name", in->name) == 0) &&
        (in->context == NULL ||
         PyDict_SetItemString(kwargs, "context", in->context) == 0)) {
        r = PyObject_Call(st->i_BaseTask, args, kwargs);
    }
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return r;
}

/* Takes over coro only if it returns a task: on failure the caller still owns the
 * coroutine, which then says that it was never awaited. */
static PyObject *
Loop_create_task(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    LoopObject *self = AS_LOOP(op);
    hl_state *st = self->sched.st;
    task_args in;
    bool eager = self->task_factory != NULL;
    /* asyncio's own eager factory: the task can be ours all the same.  Any other is
     * called, and what it returns goes to the caller unlooked at, as in asyncio. */
    if (HL_UNLIKELY(eager) &&
        (self->task_factory != st->eager_factory || !st->native)) {
        return create_by_factory(self, args, nargs, kwnames);
    }
    if (parse_task(st, args, nargs, kwnames, &in) < 0 ||
        hl_loop_check_closed(self) < 0) {
        return NULL;
    }
    if (in.eager != NULL && in.eager != Py_None) {
        int truth = PyObject_IsTrue(in.eager);
        if (truth < 0) {
            return NULL;
        }
        eager = truth;
    }
    if (HL_UNLIKELY(!st->native)) {
        return create_base_task(self, &in);
    }
    /* The ring, or the future that it waits for, keeps the task alive from here on. */
    return hl_task_new(st, st->t_Task, in.coro, op, in.name, in.context, eager);
}

/* The factory is any callable; the old one is released last, since that may run code
 * that looks at the new one. */
static PyObject *
Loop_set_task_factory(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"factory", NULL};
    PyObject *factory;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:set_task_factory", names,
                                     &factory)) {
        return NULL;
    }
    if (factory != Py_None && !PyCallable_Check(factory)) {
        PyErr_SetString(PyExc_TypeError, "task factory must be a callable or None");
        return NULL;
    }
    Py_XSETREF(AS_LOOP(op)->task_factory,
               factory == Py_None ? NULL : Py_NewRef(factory));
    Py_RETURN_NONE;
}

/* As it was given, None for none: asyncio's eager_task_factory too, though we do not
 * call it. */
static PyObject *
Loop_get_task_factory(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *factory = AS_LOOP(op)->task_factory;
    return Py_NewRef(factory == NULL ? Py_None : factory);
}

/* time.monotonic() by another way; a subclass that overrides it is asked wherever the
 * loop needs the time. */
static PyObject *
Loop_time(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble(hl_clock_seconds());
}

#define FAST(name, func, doc)                                                          \
    {name, (PyCFunction)(void (*)(void))func, METH_FASTCALL | METH_KEYWORDS, doc}

PyMethodDef hl_calls_methods[] = {
    FAST("call_soon", Loop_call_soon,
         "Call callback(*args) in the next turn; return its Handle."),
    FAST("call_soon_threadsafe", Loop_call_soon_threadsafe,
         "call_soon() from any thread; wakes the loop."),
    FAST("call_later", Loop_call_later,
         "Call callback(*args) after delay seconds; return its TimerHandle."),
    FAST("call_at", Loop_call_at,
         "Call callback(*args) when time() reaches `when`; return its TimerHandle."),
    FAST("create_task", Loop_create_task, "Schedule a coroutine; return its Task."),
    {"create_future", Loop_create_future, METH_NOARGS, "A new Future of this loop."},
    {"set_task_factory", (PyCFunction)(void (*)(void))Loop_set_task_factory,
     METH_VARARGS | METH_KEYWORDS,
     "What create_task() calls as factory(loop, coro, ...); None for the default."},
    {"get_task_factory", Loop_get_task_factory, METH_NOARGS,
     "The task factory, or None for the default."},
    {"time", Loop_time, METH_NOARGS, "The loop's clock: time.monotonic(), in seconds."},
    {NULL, NULL, 0, NULL},
};

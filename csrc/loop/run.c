/* One turn of the loop, and turns until stopped.  Nothing else.
 *
 * A turn asks the poller, queues what is ready and what is due, and runs exactly the
 * entries that are queued by then, whatever their kind, in their order. */
#include "core/clock.h"
#include "loop/loop.h"
#include "sched/inbox.h"

#include <math.h>

#define FIRED_CAP 256

/* With work ready the poller is asked only this often: I/O waits at most so long. */
#define UNPOLLED_TURNS 64
#define UNPOLLED_TICKS 50000 /* no more than as many nanoseconds */

/* Polls that wait right away, at most, before it is tried again without. */
#define LONGEST_OFF 63

/* asyncio waits no longer than a day at a time, so that no clock can overflow. */
#define LONGEST_WAIT_S 86400.0
/* asyncio runs timers that are due within the clock's resolution. */
#define CLOCK_RESOLUTION 1e-9

/* ---- polling ---- */

/* Nanoseconds to the next timer: 0 when due, -1 without timers. */
static int
time_left(LoopObject *self, int64_t *out)
{
    hl_timer *top = hl_heap_top(&self->sched.timers);
    double now;
    if (top == NULL) {
        *out = -1;
        return 0;
    }
    if (hl_loop_time(self, &now) < 0) {
        return -1;
    }
    /* time() may have run anything: the top may be another one. */
    top = hl_heap_top(&self->sched.timers);
    double left = top == NULL ? 0.0 : top->when - now;
    if (!(left > 0.0)) {
        *out = 0;
    }
    else if (left > LONGEST_WAIT_S) {
        *out = (int64_t)(LONGEST_WAIT_S * 1e9);
    }
    else {
        *out = (int64_t)ceil(left * 1e9); /* never early */
    }
    return 0;
}

/* Takes our own wakeup descriptor out of what fired: how many are left. */
static int
take_wakeup(LoopObject *self, hl_fired *fired, int n)
{
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (fired[i].fd == self->wake.rfd) {
            hl_wake_drain(&self->wake);
        }
        else {
            fired[kept++] = fired[i];
        }
    }
    return kept;
}

/* Where no other thread could run meanwhile, letting go of the GIL and taking it back
 * is for nothing if the kernel has events already: then a look that does not wait comes
 * first.  Each that finds nothing puts the next one off for longer, so that a loop that
 * sleeps most of the time seldom asks twice. */
static int
look_first(LoopObject *self, hl_fired *fired)
{
    if (self->looks_off > 0) {
        self->looks_off--;
        return 0;
    }
    if (!hl_only_thread()) {
        return 0;
    }
    int n = self->poll->ops->wait(self->poll, fired, FIRED_CAP, 0);
    unsigned off = n != 0 ? 0 : 2u * self->misses + 1;
    self->misses = self->looks_off = (uint8_t)(off < LONGEST_OFF ? off : LONGEST_OFF);
    return n;
}

/* Everything that another thread may want of us while we sleep goes through the wakeup
 * descriptor: it pushes under the GIL, sees `sleeping`, and writes.  What was pushed
 * before that flag was set is in the ring, which the caller has looked at. */
static int
wait_blocking(LoopObject *self, hl_fired *fired, int64_t timeout)
{
    hl_poll *poll = self->poll;
    hl_handle_settle(self->sched.st);
    int n = look_first(self, fired);
    if (n != 0) {
        return n;
    }
    /* Published under the GIL, which call_soon_threadsafe() holds as well, or under the
     * inbox's lock. */
    if (HL_UNLIKELY(!hl_sched_sleep(&self->sched))) {
        return poll->ops->wait(poll, fired, FIRED_CAP, 0);
    }
    Py_BEGIN_ALLOW_THREADS
    n = poll->ops->wait(poll, fired, FIRED_CAP, timeout);
    Py_END_ALLOW_THREADS
    hl_sched_awake(&self->sched);
    return n;
}

/* Pending signals are looked at here, so a moment late at most; Python code that
 * runs in a turn looks at them itself. */
static int
ask_poller(LoopObject *self, int64_t timeout)
{
    hl_fired fired[FIRED_CAP];
    hl_current_clear(&self->sched, (PyObject *)self);
    int n = timeout == 0 ? self->poll->ops->wait(self->poll, fired, FIRED_CAP, 0)
                         : wait_blocking(self, fired, timeout);
    self->unpolled = 0;
    if (n == -EINTR) {
        n = 0; /* the signal is looked at by the caller */
    }
    if (n < 0) {
        return hl_raise_errno(-n);
    }
    if (n > 0) {
        n = take_wakeup(self, fired, n);
    }
    if (n > 0 && hl_watch_dispatch(self, fired, n) < 0) {
        return -1;
    }
    return PyErr_CheckSignals();
}

/* Polls, unless there is work and the poller was asked a moment ago. */
static int
poll_step(LoopObject *self)
{
    int64_t timeout = 0;
    if (hl_sched_drain(&self->sched) < 0) {
        return -1;
    }
    bool busy = hl_ring_len(&self->sched.ready) > 0;
    if (busy && ++self->unpolled < UNPOLLED_TURNS &&
        hl_clock_ticks() - self->last_poll < UNPOLLED_TICKS) {
        return 0;
    }
    if (!busy && !HL_LOAD(self->stopping) && time_left(self, &timeout) < 0) {
        return -1;
    }
    /* time() may have queued something, or closed the loop's way out. */
    if (hl_ring_len(&self->sched.ready) > 0) {
        timeout = 0;
    }
    if (ask_poller(self, timeout) < 0) {
        return -1;
    }
    self->last_poll = hl_clock_ticks();
    return 0;
}

/* ---- timers ---- */

/* Queues the handles that are due, in the order of their deadlines. */
static int
queue_due(LoopObject *self)
{
    hl_sched *s = &self->sched;
    double now;
    if (hl_sched_drain(s) < 0) { /* of this poll's time: it may bring timers */
        return -1;
    }
    if (HL_LIKELY(s->timers.len == 0)) {
        return 0;
    }
    if (hl_loop_time(self, &now) < 0) {
        return -1;
    }
    now += CLOCK_RESOLUTION;
    hl_timer *top;
    while ((top = hl_heap_top(&s->timers)) != NULL && !(top->when >= now)) {
        /* No foreign code runs between looking at the top and taking it. */
        (void)hl_heap_pop(&s->timers);
        /* The heap's reference becomes the ring's. */
        if (hl_sched_push_steal(s, HL_KIND_HANDLE, hl_timer_handle(top), NULL) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- running ---- */

static int
run_cont(LoopObject *self, PyObject *obj, hl_cont_fn fn)
{
    if (HL_LIKELY(fn(obj) == 0)) {
        return 0;
    }
    return hl_report(self->sched.st, (PyObject *)self, "Exception in a transport", NULL,
                     NULL, NULL, NULL);
}

/* In debug mode a handle, or a transport, that held the loop up is named in the log.
 * fn NULL: obj is a handle. */
static HL_COLD int
run_debug(LoopObject *self, PyObject *obj, hl_cont_fn fn)
{
    double before, after;
    hl_state *st = self->sched.st;
    if (fn == NULL) {
        Py_XSETREF(self->current_handle, Py_NewRef(obj));
    }
    int rc = hl_loop_time(self, &before);
    if (rc == 0) {
        rc = fn == NULL ? hl_handle_run_queued(st, obj) : run_cont(self, obj, fn);
    }
    if (rc == 0 && (rc = hl_loop_time(self, &after)) == 0 &&
        after - before >= self->slow_callback_duration) {
        PyObject *r =
            PyObject_CallFunction(st->i_slow_callback, "Od", obj, after - before);
        Py_XDECREF(r);
        rc = r == NULL ? -1 : 0;
    }
    Py_CLEAR(self->current_handle);
    return rc;
}

/* Runs one entry, which is ours now.  -1: what must leave run_forever(). */
static int
run_entry(LoopObject *self, hl_entry e)
{
    hl_sched *s = &self->sched;
    PyObject *obj = hl_entry_object(e);
    int rc;
    switch (hl_entry_kind(e)) {
    case HL_KIND_STEP:
        rc = hl_task_run_step(s, obj, (PyObject *)e.arg);
        break;
    case HL_KIND_WAKE:
        rc = hl_task_run_wake(s, obj, (PyObject *)e.arg);
        break;
    case HL_KIND_HANDLE:
        hl_current_clear(s, (PyObject *)self);
        rc = HL_UNLIKELY(s->debug) ? run_debug(self, obj, NULL)
                                   : hl_handle_run_queued(s->st, obj);
        break;
    default:
        hl_current_clear(s, (PyObject *)self);
        rc = HL_UNLIKELY(s->debug) ? run_debug(self, obj, (hl_cont_fn)e.arg)
                                   : run_cont(self, obj, (hl_cont_fn)e.arg);
        break;
    }
    Py_DECREF(obj);
    return rc;
}

/* What was written in the callback or step leaves now: all of it, since the loop may
 * sleep next.  The first exception that must propagate does. */
static int
flush(LoopObject *self, int rc)
{
    hl_sched *s = &self->sched;
    PyObject *saved = rc < 0 ? PyErr_GetRaisedException() : NULL;
    hl_current_clear(s, (PyObject *)self);
    while (s->n_flush > 0) {
        if (hl_sched_flush_now(s) < 0 &&
            hl_report(s->st, (PyObject *)self, "Exception in a transport", NULL, NULL,
                      NULL, NULL) < 0) {
            PyObject *exc = PyErr_GetRaisedException();
            if (saved == NULL) {
                saved = exc;
            }
            else {
                Py_DECREF(exc);
            }
        }
    }
    if (saved == NULL) {
        return 0;
    }
    PyErr_SetRaisedException(saved);
    return -1;
}

/* Entries that are pushed meanwhile wait for the next turn: only those that were there
 * are counted. in_callback tells writes that a flush is sure to come. */
static int
run_ready(LoopObject *self)
{
    hl_sched *s = &self->sched;
    int rc = 0;
    s->in_callback = true;
    /* A nested run may take the head past the mark: what came later is not ours. */
    const size_t end = s->ready.tail;
    while (rc == 0 && (ptrdiff_t)(end - s->ready.head) > 0) {
        rc = run_entry(self, hl_ring_pop(&s->ready));
        if (HL_UNLIKELY(s->n_flush > 0)) {
            rc = flush(self, rc);
        }
    }
    s->in_callback = false;
    return rc;
}

/* What a class-level assignment changed since the last turn. */
static void
look_at_type(LoopObject *self)
{
    unsigned int tag = Py_TYPE(self)->tp_version_tag;
    if (HL_UNLIKELY(tag != self->type_version || tag == 0)) {
        hl_loop_refresh(self);
    }
}

/* One iteration of asyncio's _run_once(): the order of its parts is asyncio's, so that
 * what becomes ready in this poll runs behind what was queued before it. */
static int
turn(LoopObject *self)
{
    self->turns++;
    look_at_type(self);
    if (poll_step(self) < 0 || queue_due(self) < 0) {
        return -1;
    }
    return hl_sched_drain(&self->sched) < 0 ? -1 : run_ready(self);
}

/* stop() ends the turn in which it is called, not the callback: what was ready still
 * runs, as with asyncio.  Where the thread keeps the current task is bound for the run,
 * and given back to a run around this one, if there is one. */
int
hl_run(LoopObject *self)
{
    hl_current_slots outer = hl_current_bind(&self->sched);
    bool inside = self->sched.in_callback; /* of the run around this */
    bool running = self->sched.running;
    self->sched.running = true;
    int rc = self->sched.n_flush > 0 ? flush(self, 0) : 0;
    self->sched.in_callback = false; /* not between our own */
    if (rc == 0) {
        do {
            rc = turn(self);
        } while (rc == 0 && !HL_LOAD(self->stopping));
    }
    HL_STORE(self->stopping, false);
    self->sched.in_callback = inside;
    self->sched.running = running;
    hl_handle_settle(self->sched.st);
    hl_current_clear(&self->sched, (PyObject *)self);
    hl_current_unbind(&self->sched, outer);
    return rc;
}

/* The loop object and what the transports may ask of it. */
#ifndef HL_LOOP_LOOP_H
#define HL_LOOP_LOOP_H

#include "core/fdtab.h"
#include "core/poll.h"
#include "core/wake.h"
#include "py/err.h"
#include "sched/sched.h"

#define HL_SCRATCH_SIZE (256 * 1024) /* bytes of the shared receive buffer */
#define HL_LARGE_READ (16 * 1024)    /* from here on memory is dearer than a guess */

/* Bytes that were read into, and that nobody has any more. */
typedef struct {
    PyObject *data; /* owned, or NULL */
    size_t room;    /* bytes that there is memory for in it */
} hl_spare;

typedef struct {
    PyObject_HEAD
    const void *brand; /* the first members are those of hl_loop_head */
    hl_sched sched;
    PyObject *mod; /* owned: keeps sched.st alive; dropped last */
    const hl_poll_ops *backend;
    hl_poll *poll; /* owned; NULL once closed */
    hl_fdtab fds;  /* the loop owns the entries' objects */
    hl_wake wake;
    pid_t pid;          /* the process that opened both */
    PyObject *fileobjs; /* owned dict or NULL: what watched descriptors were named by */
    int signal_rfd;     /* the end of st->sig that this loop watches; -1: none */
    uint8_t signals;    /* HL_SIG_... flags of signals.c */
    hl_fdid signal_old; /* for hl_signals_leave() */
    unsigned long thread_id; /* of the running thread; 0: not running */
    bool closed, stopping;
    bool connects;             /* see hl_loop_connects() */
    bool time_overridden;      /* a subclass or an instance has a time() of its own */
    bool call_at_overridden;   /* the same for call_at() */
    unsigned int type_version; /* tp_version_tag for which the flags were found */
    PyObject *task_factory;    /* owned or NULL */
    PyObject *current_handle;  /* owned or NULL: what runs now, in debug mode */
    double slow_callback_duration; /* seconds */
    uint64_t turns;
    uint64_t last_poll;     /* hl_clock_ticks() when the poller was asked last */
    unsigned unpolled;      /* turns since then */
    uint8_t looks_off;      /* polls that may wait right away, see run.c */
    uint8_t misses;         /* how many there were the last time */
    unsigned char *scratch; /* HL_SCRATCH_SIZE bytes, see hl_loop_scratch() */
    hl_fired stale;    /* the last event that had no owner; events 0: there was none */
    hl_spare spare[2]; /* below HL_LARGE_READ, and from there on */
} LoopObject;

/* ---- calls.c ---- */
/* The loop's clock: hl_clock_seconds(), or the overridden time().  0, or -1. */
int hl_loop_time(LoopObject *self, double *out);
/* Has fn(obj) run in the next turn.  From the loop's thread.  0 or -1. */
int hl_loop_soon(LoopObject *self, PyObject *obj, hl_cont_fn fn);
/* Wakes the loop's thread if it sleeps in poll; from any thread. */
void hl_loop_wakeup(LoopObject *self);
/* -1 with RuntimeError("Event loop is closed"). */
int hl_loop_check_closed(LoopObject *self);
/* -1 with asyncio's RuntimeError when the loop runs in another thread than this one;
 * one that does not run has no thread, and passes. */
int hl_loop_check_thread(LoopObject *self);
/* The shared receive buffer, or NULL with MemoryError.  Its content is only valid until
 * the next call that can run foreign code. */
unsigned char *hl_loop_scratch(LoopObject *self);
/* The same for whoever runs foreign code before it is done with the buffer, which is
 * its own until it is given back. */
unsigned char *hl_loop_scratch_take(LoopObject *self);
void hl_loop_scratch_give(LoopObject *self, unsigned char *buf);
/* Bytes to be read into: an object of at least so many, *room in all, or NULL with
 * MemoryError.  What was given back is used again if it has room for no more than
 * `most`: memory that was used a moment ago is in the cache, and costs no search. */
PyObject *hl_loop_bytes(LoopObject *self, size_t least, size_t most, size_t *room);
/* Takes the reference to data, whose memory is for `room` bytes, for when nobody else
 * has it. */
void hl_loop_bytes_give(LoopObject *self, PyObject *data, size_t room);
void hl_loop_bytes_free(LoopObject *self); /* drops all that was given back */

/* ---- watch.c ---- */
/* Watch a side (HL_READ or HL_WRITE) of fd for a C owner: when it is ready, fn(obj)
 * runs in the same turn, in the order of the ready queue.  The loop takes its own
 * reference to obj until hl_loop_unwatch().  An event that is queued already when the
 * side is unwatched still calls fn once: fn checks its object's state.  0 or -1. */
int hl_loop_watch(LoopObject *self, int fd, uint32_t side, PyObject *obj,
                  hl_cont_fn fn);
/* Only what obj watches: its descriptor may have been closed behind its back, and the
 * number be watched for somebody else by now. */
void hl_loop_unwatch(LoopObject *self, int fd, uint32_t side, PyObject *obj);
/* Marks fd as owned by a transport (or no more, if it is still this one):
 * add_reader() and friends then refuse it with RuntimeError, as asyncio does. */
int hl_loop_own_fd(LoopObject *self, int fd, const void *owner);
void hl_loop_disown_fd(LoopObject *self, int fd, const void *owner);
/* -1 with asyncio's RuntimeError when a transport owns fd. */
int hl_loop_check_fd_free(LoopObject *self, int fd);
/* The descriptor of an int or of an object with fileno(): >= 0, or -1 with asyncio's
 * ValueError or TypeError. */
int hl_fd_of(PyObject *fileobj);
/* Moves fired descriptors to the ready queue (called by run.c).  0 or -1. */
int hl_watch_dispatch(LoopObject *self, const hl_fired *fired, int n);
/* Drops all watches. */
void hl_watch_clear(LoopObject *self);
int hl_watch_traverse(LoopObject *self, visitproc visit, void *arg);
extern PyMethodDef hl_watch_methods[]; /* add_reader, remove_reader, add_writer, ... */

/* ---- signals.c ---- */
/* Installs the wakeup fd when in the main thread, chaining the old one: 0 or -1. */
int hl_signals_enter(LoopObject *self);
void hl_signals_leave(LoopObject *self); /* restores it; keeps a set exception */
void hl_signals_close(LoopObject *self);
extern PyMethodDef hl_signals_methods[];

/* ---- run.c ---- */
/* Turns until stopped: the middle of run_forever().  0, or -1 with an exception. */
int hl_run(LoopObject *self);

extern PyMethodDef hl_calls_methods[]; /* call_soon, call_later, create_task, ... */

/* ---- loop.c ---- */
/* Another poller that is told of every watch, in place of one that reports what it
 * should not.  What goes wrong leaves the one of before; no exception. */
void hl_loop_renew_poller(LoopObject *self);
/* Finds out anew what is overridden, and with it sched.plain. */
void hl_loop_refresh(LoopObject *self);
/* Are the methods by which asyncio connects and watches sockets all our own, right now,
 * and is the loop plain? */
bool hl_loop_connects(LoopObject *self);
int hl_loop_exec(PyObject *mod, hl_state *st);
/* Adds methods that a higher layer (net, proc) brings to the EventLoop type; called
 * from that layer's exec.  0 or -1. */
int hl_loop_add_methods(hl_state *st, PyMethodDef *methods);

#endif

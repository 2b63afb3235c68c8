/* Per-module state: interned names, imported objects, types, free lists.
 *
 * Each list below is written once and expanded four times (declare, make, visit,
 * clear), so the four cannot drift apart.  Nothing mutable is static. */
#ifndef HL_PY_STATE_H
#define HL_PY_STATE_H

#include "py/lock.h"
#include "py/pycompat.h"

#include "core/list.h"
#include "core/sigpair.h"

/* st->s_NAME is the interned string "NAME".  Keep the list sorted. */
#define HL_NAMES(X)                                                                    \
    X(__init__)                                                                        \
    X(_add_reader)                                                                     \
    X(_add_writer)                                                                     \
    X(_asyncio_future_blocking)                                                        \
    X(_attach)                                                                         \
    X(_buffer)                                                                         \
    X(_call)                                                                           \
    X(_call_connection_lost)                                                           \
    X(_check_handshake_timeout)                                                        \
    X(_check_shutdown_timeout)                                                         \
    X(_close_base)                                                                     \
    X(_create_connection_transport)                                                    \
    X(_detach)                                                                         \
    X(_do_read)                                                                        \
    X(_ensure_fd_no_transport)                                                         \
    X(_ensure_resolved)                                                                \
    X(_enter_nested)                                                                   \
    X(_enter_run)                                                                      \
    X(_eof)                                                                            \
    X(_force_close)                                                                    \
    X(_leave_nested)                                                                   \
    X(_leave_run)                                                                      \
    X(_limit)                                                                          \
    X(_loop)                                                                           \
    X(_paused)                                                                         \
    X(_pending_calls)                                                                  \
    X(_pipe_data_received)                                                             \
    X(_process_signals)                                                                \
    X(_protocol)                                                                       \
    X(_remove_reader)                                                                  \
    X(_remove_writer)                                                                  \
    X(_resumed)                                                                        \
    X(_set_aside)                                                                      \
    X(_sslobj)                                                                         \
    X(_msg_callback)                                                                   \
    X(_start)                                                                          \
    X(_stream_reader)                                                                  \
    X(_stream_reader_wr)                                                               \
    X(_transport)                                                                      \
    X(_waiter)                                                                         \
    X(_wakeup_waiter)                                                                  \
    X(abort)                                                                           \
    X(add_done_callback)                                                               \
    X(buffer_updated)                                                                  \
    X(call_at)                                                                         \
    X(call_exception_handler)                                                          \
    X(call_later)                                                                      \
    X(call_soon)                                                                       \
    X(cancel)                                                                          \
    X(cipher)                                                                          \
    X(close)                                                                           \
    X(compression)                                                                     \
    X(connect)                                                                         \
    X(connection_lost)                                                                 \
    X(connection_made)                                                                 \
    X(context)                                                                         \
    X(create_future)                                                                   \
    X(create_task)                                                                     \
    X(data_received)                                                                   \
    X(datagram_received)                                                               \
    X(debug)                                                                           \
    X(do_handshake)                                                                    \
    X(eof_received)                                                                    \
    X(error_received)                                                                  \
    X(exception)                                                                       \
    X(family)                                                                          \
    X(fd)                                                                              \
    X(feed_data)                                                                       \
    X(fileno)                                                                          \
    X(future)                                                                          \
    X(get_buffer)                                                                      \
    X(get_debug)                                                                       \
    X(get_extra_info)                                                                  \
    X(get_loop)                                                                        \
    X(getpeercert)                                                                     \
    X(getpeername)                                                                     \
    X(getsockname)                                                                     \
    X(gettimeout)                                                                      \
    X(getsockopt)                                                                      \
    X(info)                                                                            \
    X(is_closing)                                                                      \
    X(is_running)                                                                      \
    X(loop)                                                                            \
    X(message)                                                                         \
    X(pause_reading)                                                                   \
    X(pause_writing)                                                                   \
    X(peercert)                                                                        \
    X(peername)                                                                        \
    X(pending)                                                                         \
    X(pipe)                                                                            \
    X(pipe_data_received)                                                              \
    X(proc)                                                                            \
    X(proto)                                                                           \
    X(protocol)                                                                        \
    X(read)                                                                            \
    X(recv)                                                                            \
    X(result)                                                                          \
    X(resume_reading)                                                                  \
    X(resume_writing)                                                                  \
    X(server_hostname)                                                                 \
    X(server_side)                                                                     \
    X(setblocking)                                                                     \
    X(shutdown)                                                                        \
    X(sock_connect)                                                                    \
    X(socket)                                                                          \
    X(sockname)                                                                        \
    X(source_traceback)                                                                \
    X(ssl_object)                                                                      \
    X(sslcontext)                                                                      \
    X(stderr)                                                                          \
    X(stdout)                                                                          \
    X(task)                                                                            \
    X(throw)                                                                           \
    X(time)                                                                            \
    X(transport)                                                                       \
    X(type)                                                                            \
    X(unwrap)                                                                          \
    X(warn_on_full_buffer)                                                             \
    X(warning)                                                                         \
    X(wrap_bio)                                                                        \
    X(write)

/* st->t_NAME is a heap type of ours (NULL until its layer's exec made it). */
#define HL_TYPES(X)                                                                    \
    X(Handle)                                                                          \
    X(TimerHandle)                                                                     \
    X(ThreadSafeHandle)                                                                \
    X(Future)                                                                          \
    X(Task)                                                                            \
    X(FutureIter)                                                                      \
    X(TaskWakeup)                                                                      \
    X(EventLoop)                                                                       \
    X(StreamTransport)                                                                 \
    X(DatagramTransport)                                                               \
    X(ReadPipeTransport)                                                               \
    X(WritePipeTransport)                                                              \
    X(Receiving)                                                                       \
    X(Connecting)                                                                      \
    X(Listener)                                                                        \
    X(TLSProtocol)                                                                     \
    X(TLSTransport)

/* X(field, module, attribute): st->i_FIELD, imported when our module is. */
#define HL_IMPORTS(X)                                                                  \
    X(BaseFuture, "_asyncio", "Future")                                                \
    X(BaseTask, "_asyncio", "Task")                                                    \
    X(BaseHandle, "asyncio.events", "Handle")                                          \
    X(BaseTimerHandle, "asyncio.events", "TimerHandle")                                \
    X(CancelledError, "asyncio.exceptions", "CancelledError")                          \
    X(InvalidStateError, "asyncio.exceptions", "InvalidStateError")                    \
    X(future_repr, "asyncio.base_futures", "_future_repr")                             \
    X(task_repr, "asyncio.base_tasks", "_task_repr")                                   \
    X(task_get_stack, "asyncio.base_tasks", "_task_get_stack")                         \
    X(task_print_stack, "asyncio.base_tasks", "_task_print_stack")                     \
    X(iscoroutine, "asyncio.coroutines", "iscoroutine")                                \
    X(extract_stack, "asyncio.format_helpers", "extract_stack")                        \
    X(get_event_loop, "asyncio.events", "get_event_loop")                              \
    X(set_running_loop, "asyncio.events", "_set_running_loop")                         \
    X(set_wakeup_fd, "signal", "set_wakeup_fd")                                        \
    X(enter_task, "asyncio.tasks", "_enter_task")                                      \
    X(leave_task, "asyncio.tasks", "_leave_task")                                      \
    X(swap_current_task, "asyncio.tasks", "_swap_current_task")                        \
    X(register_eager_task, "asyncio.tasks", "_register_eager_task")                    \
    X(unregister_eager_task, "asyncio.tasks", "_unregister_eager_task")                \
    X(Transport, "asyncio.transports", "Transport")                                    \
    X(BaseDatagramTransport, "asyncio.transports", "DatagramTransport")                \
    X(ReadTransport, "asyncio.transports", "ReadTransport")                            \
    X(TransportSocket, "asyncio.trsock", "TransportSocket")                            \
    X(BufferedProtocol, "asyncio.protocols", "BufferedProtocol")                       \
    X(StreamReader, "asyncio.streams", "StreamReader")                                 \
    X(StreamReaderProtocol, "asyncio.streams", "StreamReaderProtocol")                 \
    X(streams_seen, "hotloop._streams", "SEEN")                                        \
    X(children_seen, "hotloop._streams", "CHILDREN_SEEN")                              \
    X(ReadPipeProto, "asyncio.base_subprocess", "ReadSubprocessPipeProto")             \
    X(SubprocessStreams, "asyncio.subprocess", "SubprocessStreamProtocol")             \
    X(SubprocessTransport, "hotloop._subprocess", "SubprocessTransport")               \
    X(socket_names, "socket", "__dict__")                                              \
    X(socket_seen, "hotloop._net", "SOCKET_SEEN")                                      \
    X(connecting_seen, "hotloop._net", "CONNECTING_SEEN")                              \
    X(SendfileMode, "asyncio.constants", "_SendfileMode")                              \
    X(logger, "asyncio.log", "logger")                                                 \
    X(RawSocket, "_socket", "socket")                                                  \
    X(af_inet, "socket", "AF_INET")                                                    \
    X(af_inet6, "socket", "AF_INET6")                                                  \
    X(sock_stream, "socket", "SOCK_STREAM")                                            \
    X(sock_dgram, "socket", "SOCK_DGRAM")                                              \
    X(socket, "socket", "socket")                                                      \
    X(LoopBase, "hotloop._base", "LoopBase")                                           \
    X(layout_probe, "hotloop._layout", "probe")                                        \
    X(handle_failed, "hotloop._report", "handle_failed")                               \
    X(slow_callback, "hotloop._report", "slow_callback")                               \
    X(install_registry, "hotloop._registry", "install")                                \
    X(register_task, "asyncio.tasks", "_register_task")                                \
    X(unregister_task, "asyncio.tasks", "_unregister_task")                            \
    X(BaseEventLoop, "asyncio.base_events", "BaseEventLoop")                           \
    X(is_debug_mode, "asyncio.coroutines", "_is_debug_mode")                           \
    X(get_running_loop, "asyncio.events", "_get_running_loop")

/* The same, but NULL where Python was built without OpenSSL: no TLS then. */
#define HL_SSL_IMPORTS(X)                                                              \
    X(MemoryBIO, "ssl", "MemoryBIO")                                                   \
    X(SSLObject, "ssl", "SSLObject")                                                   \
    X(SSLError, "ssl", "SSLError")                                                     \
    X(SSLWantReadError, "ssl", "SSLWantReadError")                                     \
    X(SSLSyscallError, "ssl", "SSLSyscallError")                                       \
    X(CertificateError, "ssl", "CertificateError")

#define HL_FREE_MAX 1024 /* objects kept per free list */

/* None where threads would have to share them, and none where making one is to fail. */
#ifdef HL_FAULTS
#define HL_KEEPS_FREE 0
#else
#define HL_KEEPS_FREE (!HL_FREE_THREADED)
#endif

typedef struct {
    PyObject *v[HL_KEEPS_FREE ? HL_FREE_MAX : 1];
    int n;
} hl_freelist;

/* Is there room for another one? */
#define hl_freelist_takes(list) (HL_KEEPS_FREE && (list)->n < HL_FREE_MAX)

/* The unfinished tasks of some loops.  Without a GIL there are several lists, for loops
 * that run at the same time not to wait for each other; each is alone in its cache
 * lines. */
#define HL_TASK_LISTS (HL_FREE_THREADED ? 32 : 1)

typedef struct {
    hl_node head; /* owns nothing */
    hl_mutex lock;
#if HL_FREE_THREADED
    char apart[128];
#endif
} hl_task_list;

typedef struct hl_state {
#define X(n) PyObject *s_##n;
    HL_NAMES(X)
#undef X
#define X(n) PyTypeObject *t_##n;
    HL_TYPES(X)
#undef X
#define X(n, mod, attr) PyObject *i_##n;
    HL_IMPORTS(X)
    HL_SSL_IMPORTS(X)
#undef X
    PyObject *mod;           /* borrowed: the module this state belongs to */
    PyObject *kw_context;    /* ("context",) */
    PyObject *current_tasks; /* asyncio's {loop: task}, shared with _asyncio; or NULL */
    PyObject *coro_types;    /* set of types that asyncio.iscoroutine() has accepted */
    PyObject *eager_factory; /* asyncio.eager_task_factory; or NULL */
    PyObject *openssl;       /* a capsule, None, or NULL: net/tls_openssl.c */
    bool takes_eager_start;  /* does this version's loop.create_task()? */
    bool stops_with_none;    /* do its futures' iterators: StopIteration(None)? */
    bool native;             /* our Future and Task fit this interpreter */
    /* Versions of StreamReader and its protocol for which streams_ok was found. */
    unsigned int reader_version, reader_protocol_version;
    unsigned int socket_version;    /* the same of socket.socket, for socket_ok */
    bool socket_ok;                 /* nothing of it is patched: net/connect.c */
    bool streams_lost;              /* such versions have run out */
    unsigned int child_versions[3]; /* those of net/child.c, for child_ok */
    bool child_lost, child_ok;
    bool streams_ok;   /* nothing about the two is patched: net/feed.c */
    bool tasks_listed; /* all_tasks() walks st->tasks (3.12, 3.13) */
#if HL_FREE_THREADED
    char apart[128]; /* from here to the next: what threads write all the time */
#endif
    hl_task_list tasks[HL_TASK_LISTS]; /* our unfinished tasks, by loop: registry.c */
    uint64_t task_counter;             /* last number given to an unnamed task */
#if HL_FREE_THREADED
    char apart_too[128];
    unsigned loops; /* made so far */
    unsigned forks; /* between the process that imported us and this one */
#endif
    PyObject
        *no_vars; /* what an empty Context maps; NULL: Context is not as mirrored */
    size_t handle_head;       /* bytes before a handle in its memory; 0: not known */
    PyObject *fresh;          /* borrowed: the handle handed out last: sched/handle.c */
    hl_tstate_offsets tstate; /* where asyncio keeps its record in the thread state */
    hl_sigpair sig;           /* the process's signal wakeup: loop/signals.c */
    hl_freelist free_handles, free_timers, free_safe_handles, free_futures, free_tasks,
        free_iters, free_contexts;
} hl_state;

extern struct PyModuleDef hl_module_def;

static inline hl_state *
hl_state_of(PyObject *mod)
{
    return (hl_state *)PyModule_GetState(mod);
}

/* The state for a type of ours or a Python subclass of one; NULL, without an exception,
 * only when the module has been torn down already. */
static inline hl_state *
hl_state_by_type(PyTypeObject *type)
{
    /* The collector may have cleared the type itself at the interpreter's end. */
    PyObject *mod =
        type->tp_mro == NULL ? NULL : PyType_GetModuleByDef(type, &hl_module_def);
    if (HL_UNLIKELY(mod == NULL)) {
        PyErr_Clear();
        return NULL;
    }
    return hl_state_of(mod);
}

/* Names, imports and shared objects: 0 or -1 with an exception. */
int hl_state_init(PyObject *mod, hl_state *st);
int hl_state_traverse(hl_state *st, visitproc visit, void *arg);
int hl_state_clear(hl_state *st);

/* Makes a heap type, stores it in *slot and publishes it in the module under the last
 * part of its name.  bases: a type, a tuple of types, or NULL. */
int hl_type_add(PyObject *mod, PyTypeObject **slot, PyType_Spec *spec, PyObject *bases);
/* A getter for an attribute that is an object field: the closure is the offset, and
 * NULL reads as None. */
PyObject *hl_get_object(PyObject *op, void *closure);

#endif

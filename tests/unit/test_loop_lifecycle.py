"""run_forever, run_until_complete, stop, close, and what they leave."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref

import pytest
from helpers import in_thread, turn

import hotloop


async def nothing():
    pass


def test_states(anyloop):
    seen = []
    assert not anyloop.is_running()
    assert not anyloop.is_closed()
    anyloop.call_soon(lambda: seen.append((anyloop.is_running(), anyloop.is_closed())))
    turn(anyloop)
    assert seen == [(True, False)]
    assert not anyloop.is_running()
    anyloop.close()
    assert anyloop.is_closed()


def test_run_until_complete_returns_and_raises(anyloop):
    async def fail():
        raise ValueError("v")

    async def value():
        return 5

    assert anyloop.run_until_complete(value()) == 5
    with pytest.raises(ValueError, match="v"):
        anyloop.run_until_complete(fail())
    future = anyloop.create_future()
    anyloop.call_soon(future.set_result, 6)
    assert anyloop.run_until_complete(future) == 6
    assert anyloop.run_until_complete(future) == 6
    gone = anyloop.create_future()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        anyloop.run_until_complete(gone)


@pytest.mark.parametrize("wrong", [None, 1, nothing, "x", [1]], ids=repr)
def test_run_until_complete_of_something_else(anyloop, wrong):
    with pytest.raises(TypeError):
        anyloop.run_until_complete(wrong)


def test_run_until_complete_of_an_awaitable(anyloop):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return 7

    assert anyloop.run_until_complete(Awaitable()) == 7


def test_stopped_before_the_end(anyloop):
    future = anyloop.create_future()
    anyloop.call_soon(anyloop.stop)
    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        anyloop.run_until_complete(future)
    assert not future._callbacks


def test_stop_runs_what_is_ready_and_no_more(anyloop):
    seen = []
    anyloop.call_soon(seen.append, 1)
    anyloop.call_soon(anyloop.stop)
    anyloop.call_soon(seen.append, 2)
    anyloop.call_soon(lambda: anyloop.call_soon(seen.append, 3))
    anyloop.run_forever()
    assert seen == [1, 2]
    turn(anyloop)
    assert seen == [1, 2, 3]


def test_stop_before_run(anyloop):
    seen = []
    anyloop.stop()
    anyloop.call_soon(seen.append, 1)
    anyloop.run_forever()
    assert seen == [1]


def test_stop_is_used_up(anyloop):
    anyloop.stop()
    anyloop.stop()
    anyloop.run_forever()
    seen = []
    anyloop.call_soon(lambda: (seen.append(1), anyloop.call_soon(lambda: seen.append(2))))
    anyloop.call_soon(lambda: anyloop.call_soon(anyloop.stop))
    anyloop.run_forever()
    assert seen == [1, 2]


def test_stop_with_an_expired_timer(anyloop):
    seen = []
    anyloop.call_later(0, seen.append, "timer")
    anyloop.stop()
    anyloop.run_forever()
    assert seen == ["timer"]


def test_stop_returns_none(anyloop):
    assert anyloop.stop() is None
    assert anyloop.run_forever() is None
    assert anyloop.close() is None


def test_runs_many_times(anyloop):
    for number in range(50):

        async def value(number=number):
            await asyncio.sleep(0)
            return number

        assert anyloop.run_until_complete(value()) == number


def test_running_loop_is_known_while_it_runs(anyloop):
    seen = []
    anyloop.call_soon(lambda: seen.append(asyncio.get_running_loop()))
    turn(anyloop)
    assert seen == [anyloop]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_running_loop_is_forgotten_after_an_exception(anyloop):
    def callback():
        raise KeyboardInterrupt

    anyloop.call_soon(callback)
    with pytest.raises(KeyboardInterrupt):
        anyloop.run_forever()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert not anyloop.is_running()
    turn(anyloop)


def test_run_inside_run(loop):
    """Not on stock asyncio, whose 3.13.0 forgets its own run in the clean-up of the refused one."""
    anyloop = loop
    errors = []

    def callback():
        for call in (anyloop.run_forever, lambda: anyloop.run_until_complete(future)):
            try:
                call()
            except RuntimeError as exc:
                errors.append(str(exc))

    future = anyloop.create_future()
    anyloop.call_soon(callback)
    turn(anyloop)
    assert errors == ["This event loop is already running"] * 2
    future.cancel()


def test_another_loop_inside_run(anyloop, factory_of_loops):
    other = factory_of_loops(asyncio.SelectorEventLoop)
    errors = []

    def callback(inner):
        try:
            inner.run_forever()
        except RuntimeError as exc:
            errors.append(str(exc))

    anyloop.call_soon(callback, other)
    turn(anyloop)
    other.call_soon(callback, anyloop)
    turn(other)
    assert errors == ["Cannot run the event loop while another loop is running"] * 2
    assert not anyloop.is_running()
    turn(anyloop)


def test_close_while_running(anyloop):
    errors = []

    def callback():
        try:
            anyloop.close()
        except RuntimeError as exc:
            errors.append(str(exc))

    anyloop.call_soon(callback)
    turn(anyloop)
    assert errors == ["Cannot close a running event loop"]
    assert not anyloop.is_closed()


def test_close_twice(anyloop):
    anyloop.close()
    anyloop.close()
    assert anyloop.is_closed()


def test_closed_loop_refuses(anyloop):
    coro = nothing()
    anyloop.close()
    for call in (
        anyloop.run_forever,
        lambda: anyloop.run_until_complete(anyloop.create_future()),
        lambda: anyloop.run_until_complete(coro),
        lambda: anyloop.call_soon(print),
        lambda: anyloop.call_soon_threadsafe(print),
        lambda: anyloop.call_later(1, print),
        lambda: anyloop.call_at(1, print),
        lambda: anyloop.create_task(coro),
        lambda: anyloop.run_in_executor(None, print),
        lambda: anyloop.add_reader(0, print),
        lambda: anyloop.add_signal_handler(10, print),
    ):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call()
    coro.close()
    assert anyloop.time() > 0
    repr(anyloop)
    assert anyloop.get_debug() is False
    anyloop.stop()


def test_future_of_a_closed_loop(anyloop):
    future = anyloop.create_future()
    anyloop.close()
    future.set_result(1)
    assert future.result() == 1
    other = anyloop.create_future()
    other.add_done_callback(print)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        other.set_result(1)


def test_close_with_things_queued(anyloop):
    seen = []
    for _ in range(10):
        anyloop.call_soon(seen.append, 1)
    anyloop.close()
    assert seen == []


def test_unclosed_loop_warns(backend):
    loop = hotloop.new_event_loop(backend)
    ref = weakref.ref(loop)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
    assert ref() is None


def test_closed_loop_is_freed_without_gc(backend):
    loop = hotloop.new_event_loop(backend)

    async def main():
        await asyncio.sleep(0)
        await asyncio.gather(*[asyncio.sleep(0.001) for _ in range(3)])

    loop.run_until_complete(main())
    loop.call_later(100, print).cancel()
    loop.close()
    ref = weakref.ref(loop)
    gc.collect()
    gc.disable()
    try:
        del loop, main
        assert ref() is None
    finally:
        gc.enable()


def test_attributes_and_weak_references(anyloop):
    anyloop.mine = 1
    assert anyloop.mine == 1
    assert weakref.ref(anyloop)() is anyloop


def test_it_is_an_abstract_event_loop(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert type(loop) is hotloop.EventLoop


def test_backend(backend):
    loop = hotloop.new_event_loop(backend=backend)
    assert loop.backend == backend
    loop.close()
    assert loop.backend == backend


def test_backend_from_the_environment(backend, monkeypatch):
    monkeypatch.setenv("HOTLOOP_BACKEND", backend)
    loop = hotloop.new_event_loop()
    assert loop.backend == backend
    loop.close()


@pytest.mark.parametrize("wrong", ["", "kqueue9", "EPOLL", 1, b"epoll"])
def test_backend_that_is_none(wrong):
    with pytest.raises((ValueError, TypeError)):
        hotloop.EventLoop(wrong)


def test_many_loops(make_loop):
    for _ in range(20):
        loop = make_loop()
        loop.run_until_complete(asyncio.sleep(0, loop))
        loop.close()


def test_loops_in_threads(backend):
    def body():
        loop = hotloop.new_event_loop(backend)
        try:
            assert loop.run_until_complete(asyncio.sleep(0.001, "slept")) == "slept"
        finally:
            loop.close()

    with in_thread(body), in_thread(body), in_thread(body):
        body()


def test_thread_id(anyloop):
    seen = []
    assert anyloop._thread_id is None
    anyloop.call_soon(lambda: seen.append(anyloop._thread_id))
    turn(anyloop)
    assert seen == [threading.get_ident()]
    assert anyloop._thread_id is None


def test_run_doors(backend, monkeypatch):
    async def main():
        return type(asyncio.get_running_loop()), asyncio.get_running_loop().backend

    monkeypatch.setenv("HOTLOOP_BACKEND", backend)
    expected = (hotloop.EventLoop, backend)
    assert hotloop.run(main()) == expected
    assert asyncio.run(main(), loop_factory=hotloop.new_event_loop) == expected
    with asyncio.Runner(loop_factory=hotloop.new_event_loop) as runner:
        assert runner.run(main()) == expected


def test_subclass_with_init(backend):
    class Loop(hotloop.EventLoop):
        def __init__(self, extra, **kwargs):
            super().__init__(**kwargs)
            self.extra = extra

    loop = Loop(5, backend=backend)
    assert loop.extra == 5
    assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
    loop.close()


def test_object_made_without_init(backend):
    """Usable or refusing, but no crash; and no warning about a loop that never was."""
    loop = hotloop.EventLoop.__new__(hotloop.EventLoop)
    for call in (repr, lambda it: it.is_running(), lambda it: it.call_soon(print)):
        try:
            call(loop)
        except (RuntimeError, AttributeError):
            pass
    for name in dir(loop):
        try:
            getattr(loop, name)
        except (RuntimeError, AttributeError):
            pass
    try:
        loop.close()
    except RuntimeError:
        pass


def test_init_again(backend):
    """A second __init__ leaks nothing (the fixture counts the descriptors)."""
    loop = hotloop.new_event_loop(backend)
    try:
        loop.__init__(backend)
    except RuntimeError:
        pass
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_recursion_of_garbage_loops(backend):
    loop = hotloop.new_event_loop(backend)
    loop.me = loop
    loop.call_later(1000, loop.stop)
    loop.create_future().add_done_callback(lambda fut, loop=loop: loop)
    loop.close()
    ref = weakref.ref(loop)
    del loop
    gc.collect()
    assert ref() is None


def test_refcount_of_none_is_left_alone(loop):
    if sys.version_info >= (3, 12) and sys.getrefcount(None) > 1 << 30:
        pytest.skip("None is immortal here")

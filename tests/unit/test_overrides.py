"""What a subclass overrides, or what is set on an instance, is what everybody calls: C code too."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading

import pytest
from helpers import turn

import hotloop


@pytest.fixture(params=["subclass", "instance"])
def replace(request, backend, stock_loop):
    """replace(name, make): a loop on which `name` is make(original)."""

    def init(self):
        hotloop.EventLoop.__init__(self, backend)

    def on(base, name, make):
        if request.param == "instance":
            loop = base()
            setattr(loop, name, make(getattr(loop, name)))
        else:
            box = []

            def method(self, *args, **kwargs):
                if not box:
                    box.append(make(getattr(super(cls, self), name)))
                return box[0](*args, **kwargs)

            cls = type("Loop", (base,), {name: method})
            loop = cls()
        return loop

    def check(name, make, scenario):
        answers = []
        for base in (asyncio.SelectorEventLoop, hotloop.EventLoop):
            cls = base
            if base is hotloop.EventLoop:
                cls = type("EventLoop", (base,), {"__init__": init})
            loop = on(cls, name, make)
            try:
                answers.append(scenario(loop))
            finally:
                gc.collect()
                loop.__dict__.pop(name, None)
                loop.close()
        assert answers[1] == answers[0]
        return answers[1]

    return check


async def work(loop):
    """Some of everything that schedules."""
    future = loop.create_future()
    future.add_done_callback(lambda fut: None)
    loop.call_soon(future.set_result, None)
    await future
    await asyncio.sleep(0)
    await loop.create_task(asyncio.sleep(0))
    await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
    task = loop.create_task(asyncio.sleep(1000))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


def test_call_soon(replace):
    """Steps, wake-ups and callbacks of futures go through it, in the same number and order."""
    calls = []

    def make(original):
        def call_soon(callback, *args, **kwargs):
            name = getattr(callback, "__name__", type(callback).__name__)
            calls.append((name.replace("task_wakeup", "wakeup"), len(args), sorted(kwargs)))
            return original(callback, *args, **kwargs)

        return call_soon

    def scenario(loop):
        calls.clear()
        loop.run_until_complete(work(loop))
        return len(calls)

    assert replace("call_soon", make, scenario) > 10


def test_call_soon_that_delays(replace):
    """One that queues by itself, as simulators do."""
    queue = []

    def make(original):
        def call_soon(callback, *args, context=None):
            handle = asyncio.Handle(callback, args, context_loop[0], context)
            queue.append(handle)
            return handle

        return call_soon

    context_loop = [None]

    def scenario(loop):
        context_loop[0] = loop
        queue.clear()
        seen = []

        async def main():
            seen.append("began")
            await asyncio.sleep(0)
            seen.append("ended")

        task = loop.create_task(main())
        seen.append(len(queue))
        asyncio._set_running_loop(loop)
        try:
            while queue:
                queue.pop(0)._run()
        finally:
            asyncio._set_running_loop(None)
        return seen, task.done()

    assert replace("call_soon", make, scenario) == ([1, "began", "ended"], True)


def test_create_future(replace):
    made = []

    def make(original):
        def create_future():
            made.append(1)
            return original()

        return create_future

    def scenario(loop):
        made.clear()

        async def main():
            await asyncio.sleep(0.001)
            queue = asyncio.Queue()
            loop.call_soon(queue.put_nowait, 1)
            await queue.get()
            await asyncio.wait([loop.create_task(asyncio.sleep(0))])

        loop.run_until_complete(main())
        return len(made)

    assert replace("create_future", make, scenario) == 3


def test_create_task(replace):
    made = []

    def make(original):
        def create_task(coro, **kwargs):
            made.append(coro.__name__)
            return original(coro, **kwargs)

        return create_task

    def scenario(loop):
        made.clear()

        async def main():
            await asyncio.create_task(asyncio.sleep(0))
            await asyncio.gather(asyncio.sleep(0))
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))

        loop.run_until_complete(main())
        return list(made)

    assert replace("create_task", make, scenario) == ["main", "sleep", "sleep", "sleep"]


def test_call_exception_handler(replace):
    seen = []

    def make(original):
        return lambda context: seen.append(context["message"].split("\n")[0].split(" at ")[0])

    def fail():
        raise ValueError

    async def failing():
        raise ValueError

    async def forever():
        await asyncio.get_running_loop().create_future()

    def scenario(loop):
        seen.clear()
        loop.call_soon(fail)
        turn(loop)
        loop.create_task(failing())
        turn(loop)
        gc.collect()
        loop.create_task(forever())
        turn(loop)
        gc.collect()
        loop.create_future().set_exception(ValueError())
        gc.collect()
        return [text.replace("test_call_exception_handler.<locals>.", "") for text in seen]

    assert len(replace("call_exception_handler", make, scenario)) == 4


def test_call_exception_handler_gets_transport_errors(replace):
    seen = []

    def make(original):
        return lambda context: seen.append(type(context["exception"]).__name__)

    class Broken(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            raise ZeroDivisionError

        def connection_lost(self, exc):
            lost.set_result(None)

    lost = None

    def scenario(loop):
        nonlocal lost
        seen.clear()
        lost = loop.create_future()

        async def main():
            server = await loop.create_server(Broken, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            _, writer = await asyncio.open_connection(*address)
            writer.write(b"x")
            async with asyncio.timeout(60):
                await lost
            writer.close()
            server.close()
            await server.wait_closed()

        loop.run_until_complete(main())
        return list(seen)

    assert replace("call_exception_handler", make, scenario) == ["ZeroDivisionError"]


def test_call_later_and_call_at(replace):
    calls = []

    def make(original):
        def call_at(when, callback, *args, **kwargs):
            calls.append(args)
            return original(when, callback, *args, **kwargs)

        return call_at

    def scenario(loop):
        calls.clear()
        loop.call_later(0, int, 1)
        loop.run_until_complete(asyncio.sleep(0.001))
        return len(calls)

    replace("call_at", make, scenario)


def test_stop(replace):
    calls = []

    def make(original):
        def stop():
            calls.append(1)
            original()

        return stop

    def scenario(loop):
        calls.clear()
        loop.run_until_complete(asyncio.sleep(0))
        return len(calls)

    assert replace("stop", make, scenario) == 1


def test_time(replace):
    """A patched clock moves the timers."""
    now = [1000.0]

    def make(original):
        return lambda: now[0]

    def scenario(loop):
        now[0] = 1000.0
        seen = []
        timer = loop.call_later(50, seen.append, "fifty")
        seen.append(timer.when())
        loop.call_at(1020, seen.append, "twenty")
        loop.call_later(0, seen.append, "now")
        turn(loop)
        now[0] = 1020.0
        turn(loop)
        now[0] = 1049.9
        turn(loop)
        seen.append("not yet")
        now[0] = 1050.0
        turn(loop)
        return seen

    assert replace("time", make, scenario) == [1050.0, "now", "twenty", "not yet", "fifty"]


def test_time_moved_by_callbacks(replace):
    """The looptime trick: a virtual clock that jumps, hours in no time."""
    now = [0.0]

    def make(original):
        return lambda: now[0]

    def scenario(loop):
        now[0] = 0.0
        seen = []

        async def sleeper(delay):
            await asyncio.sleep(delay)
            seen.append((delay, now[0]))

        async def main():
            await asyncio.gather(*[sleeper(delay) for delay in (3600, 60, 7200)])

        def jump():
            if task.done():
                return
            now[0] += 30
            loop.call_soon(jump)

        task = loop.create_task(main())
        loop.call_soon(jump)
        loop.run_until_complete(task)
        turn(loop)
        return [(delay, at - delay <= 120) for delay, at in seen]

    assert replace("time", make, scenario) == [(60, True), (3600, True), (7200, True)]


def test_time_set_while_it_runs(backend):
    """Test tools patch the clock of a loop that runs already."""
    loop = hotloop.new_event_loop(backend)
    seen = []

    async def main():
        start = loop.time()
        loop.call_later(500, seen.append, "timer")
        loop.time = lambda: start + 1000
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del loop.time
        assert loop.time() < start + 1000

    loop.run_until_complete(main())
    loop.close()
    assert seen == ["timer"]


def test_time_of_a_class_patched_later(backend):
    class Loop(hotloop.EventLoop): ...

    loop = Loop(backend)
    seen = []
    loop.call_later(500, seen.append, "timer")
    turn(loop)
    Loop.time = lambda self: hotloop.EventLoop.time(self) + 1000
    turn(loop)
    del Loop.time
    loop.close()
    assert seen == ["timer"]


def test_time_that_raises_or_is_no_number(backend):
    loop = hotloop.new_event_loop(backend)

    def broken():
        raise ZeroDivisionError

    loop.time = broken
    with pytest.raises(ZeroDivisionError):
        loop.call_later(1, print)
    loop.time = lambda: "noon"
    with pytest.raises(TypeError):
        loop.call_later(1, print)
    del loop.time
    turn(loop)
    loop.close()


def test_get_debug(replace):
    calls = []

    def make(original):
        def get_debug():
            calls.append(1)
            return True

        return get_debug

    def scenario(loop):
        future = loop.create_future()
        return future._source_traceback is not None

    replace("get_debug", make, scenario)


def test_debug_methods_over_the_private_flag(anyloop):
    """As asyncio's own are: its get_debug() and set_debug() are nothing but that."""
    base = type(anyloop)

    class Loop(base):
        def get_debug(self):
            return self._debug

        def set_debug(self, enabled):
            self._debug = enabled

    loop = Loop()
    before = sys.get_coroutine_origin_tracking_depth()
    loop.set_debug(True)
    assert loop._debug is True
    assert loop.get_debug() is True
    loop._debug = 0
    assert not loop.get_debug()
    loop.get_debug = lambda: True
    assert not loop._debug
    loop.run_until_complete(asyncio.sleep(0))
    assert sys.get_coroutine_origin_tracking_depth() == before
    loop.close()


def test_methods_of_a_subclass_of_task(anyloop, task_class):
    calls = []

    class Mine(task_class):
        def cancel(self, msg=None):
            calls.append("cancel")
            return super().cancel(msg)

        def add_done_callback(self, fn, *, context=None):
            calls.append("add")
            super().add_done_callback(fn, context=context)

    async def main():
        task = Mine(asyncio.sleep(1000), loop=anyloop)

        async def wait():
            await task

        outer = anyloop.create_task(wait())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        outer.cancel()
        await asyncio.wait([outer, task])
        assert outer.cancelled()
        assert task.cancelled()

    anyloop.run_until_complete(main())
    assert calls[0] == "add"
    assert "cancel" in calls


def test_call_soon_threadsafe(replace):
    calls = []

    def make(original):
        def call_soon_threadsafe(callback, *args, **kwargs):
            calls.append(1)
            return original(callback, *args, **kwargs)

        return call_soon_threadsafe

    def scenario(loop):
        calls.clear()

        async def main():
            gate = threading.Event()
            future = loop.run_in_executor(None, gate.wait, 60)
            loop.call_soon(gate.set)  # not before the future is chained to the thread's
            return await future

        answer = loop.run_until_complete(main()), len(calls)
        loop.run_until_complete(loop.shutdown_default_executor())
        return answer

    assert replace("call_soon_threadsafe", make, scenario) == (True, 1)


def test_deleting_what_was_set_brings_the_method_back(loop):
    seen = []
    loop.call_soon = lambda *args, **kwargs: seen.append(args)
    loop.create_future().add_done_callback(print)
    future = loop.create_future()
    future.add_done_callback(print)
    future.set_result(None)
    assert len(seen) == 1
    del loop.call_soon
    ran = []
    loop.call_soon(ran.append, 1)
    turn(loop)
    assert ran == [1]

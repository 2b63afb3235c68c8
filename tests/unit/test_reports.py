"""What is said of futures and tasks that are dropped: asyncio's words through asyncio's logger."""

from __future__ import annotations

import asyncio
import gc

from helpers import plain, turn


def said(caplog):
    gc.collect()
    lines = []
    for record in caplog.records:
        text = plain(record.getMessage())
        error = record.exc_info[0].__name__ if record.exc_info else None
        lines.append((record.name, record.levelname, text, error))
    caplog.clear()
    return lines


def test_future_exception_never_retrieved(same, caplog):
    def scenario(loop):
        future = loop.create_future()
        future.set_exception(ValueError("lost"))
        del future
        return said(caplog)

    ((name, level, text, error),) = same(scenario)
    assert (name, level, error) == ("asyncio", "ERROR", "ValueError")
    assert text.startswith("Future exception was never retrieved\nfuture: <Future finished ")


def test_task_exception_never_retrieved(same, caplog):
    async def fail():
        raise ValueError("lost")

    def scenario(loop):
        task = loop.create_task(fail())
        turn(loop)
        assert task.done()
        del task
        return said(caplog)

    ((_, _, text, error),) = same(scenario)
    assert text.startswith("Task exception was never retrieved\nfuture: <Task finished ")
    assert error == "ValueError"


def test_retrieved_is_not_reported(same, caplog):
    async def fail():
        raise ValueError("seen")

    def scenario(loop):
        for retrieve in (lambda t: t.exception(), lambda t: setattr(t, "_log_traceback", False)):
            task = loop.create_task(fail())
            turn(loop)
            retrieve(task)
        del task
        cancelled = loop.create_future()
        cancelled.cancel()
        del cancelled
        loop.create_future()
        return said(caplog)

    assert same(scenario) == []


def test_awaited_is_not_reported(same, caplog):
    async def fail():
        raise ValueError("seen")

    def scenario(loop):
        async def main():
            try:
                await loop.create_task(fail())
            except ValueError:
                pass

        loop.run_until_complete(main())
        return said(caplog)

    assert same(scenario) == []


def test_pending_task_destroyed(same, caplog):
    async def forever():
        await asyncio.get_running_loop().create_future()

    def scenario(loop):
        loop.create_task(forever())
        turn(loop)
        return said(caplog)

    ((_, _, text, error),) = same(scenario)
    assert text.startswith("Task was destroyed but it is pending!\ntask: <Task pending ")
    assert error is None


def test_pending_task_with_log_destroy_pending_off(same, caplog):
    async def forever():
        await asyncio.get_running_loop().create_future()

    def scenario(loop):
        loop.create_task(forever())._log_destroy_pending = False
        turn(loop)
        return said(caplog)

    assert same(scenario) == []


def test_task_destroyed_in_a_cycle(same, caplog):
    async def forever(me):
        await me[0]

    def scenario(loop):
        me = []
        me.append(loop.create_future())
        me[0].mine = me
        me.append(loop.create_task(forever(me)))
        turn(loop)
        del me
        return said(caplog)

    assert len(same(scenario)) == 1


def test_context_given_to_the_handler(same):
    async def fail():
        raise ValueError("lost")

    async def forever():
        await asyncio.get_running_loop().create_future()

    def scenario(loop):
        seen = []

        def handler(loop, context):
            seen.append(
                {
                    key: value if isinstance(value, str) else type(value).__name__
                    for key, value in context.items()
                }
            )

        loop.set_exception_handler(handler)
        loop.create_future().set_exception(ValueError())
        loop.create_task(fail())
        turn(loop)
        loop.create_task(forever())
        turn(loop)
        gc.collect()
        loop.set_exception_handler(None)
        return seen

    seen = same(scenario)
    assert [sorted(context) for context in seen] == [
        ["exception", "future", "message"],
        ["exception", "future", "message"],
        ["message", "task"],
    ]


def test_source_traceback_in_debug_mode(same, caplog):
    def scenario(loop):
        loop.set_debug(True)
        future = loop.create_future()
        assert future._source_traceback
        assert __file__ in [frame.filename for frame in future._source_traceback]
        future.set_exception(ValueError("lost"))
        del future
        loop.set_debug(False)
        return [
            (
                text.split("created at", 1)[0],
                "source_traceback: Object created at (most recent call last):" in text,
            )
            for _, _, text, _ in said(caplog)
        ]

    assert same(scenario)[0][1] is True


def test_the_handler_gets_the_object_itself_and_may_keep_it(anyloop):
    kept = []
    anyloop.set_exception_handler(lambda loop, context: kept.append(context))

    async def forever():
        await asyncio.get_running_loop().create_future()

    anyloop.create_task(forever())
    turn(anyloop)
    gc.collect()
    task = kept[0]["task"]
    assert not task.done()
    assert task.get_loop() is anyloop
    assert "pending" in repr(task)
    anyloop.create_future().set_exception(KeyError("k"))
    future = kept[1]["future"]
    assert type(future.exception()) is KeyError
    kept.clear()
    del task, future
    gc.collect()
    anyloop.set_exception_handler(None)
    assert kept == []


def test_call_exception_handler_of_the_instance_is_called(anyloop):
    seen = []
    anyloop.call_exception_handler = lambda context: seen.append(context["message"])
    anyloop.create_future().set_exception(ValueError())
    gc.collect()
    assert seen == ["Future exception was never retrieved"]
    del anyloop.call_exception_handler


def test_destroyed_after_the_loop_was_closed(same, caplog):
    async def forever():
        await asyncio.get_running_loop().create_future()

    import hotloop

    def scenario(loop):
        ours = isinstance(loop, hotloop.EventLoop)
        loop = hotloop.new_event_loop(loop.backend) if ours else asyncio.SelectorEventLoop()
        task = loop.create_task(forever())
        turn(loop)
        future = loop.create_future()
        future.set_exception(ValueError())
        loop.close()
        del task, future
        return said(caplog)

    assert len(same(scenario)) == 2


def test_stopped_main_task_is_not_reported(same, caplog):
    """run_until_complete() raises instead."""

    def scenario(loop):
        async def main():
            loop.stop()
            await loop.create_future()

        try:
            loop.run_until_complete(main())
        except RuntimeError as exc:
            answer = str(exc)
        return answer, said(caplog)

    assert same(scenario) == ("Event loop stopped before Future completed.", [])

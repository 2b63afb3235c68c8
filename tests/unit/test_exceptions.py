"""Callbacks that raise, and exceptions that leave run_forever()."""

from __future__ import annotations

import asyncio

import pytest
from helpers import plain, turn


@pytest.fixture
def handled(anyloop):
    """The contexts that reach the loop's exception handler."""
    contexts = []
    anyloop.set_exception_handler(lambda loop, context: contexts.append(context))
    yield contexts
    if not anyloop.is_closed():
        anyloop.set_exception_handler(None)


def fail(*args):
    raise ValueError("in callback")


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_callback_that_raises_is_reported_once(anyloop, handled, method):
    seen = []
    handle = getattr(anyloop, method)(*([0] if method == "call_later" else []), fail, 1)
    anyloop.call_soon(seen.append, "next")
    turn(anyloop, 2)
    assert seen == ["next"]
    (context,) = handled
    assert set(context) == {"message", "exception", "handle"}
    assert type(context["exception"]) is ValueError
    assert context["handle"] is handle
    assert context["message"].startswith("Exception in callback fail(")


def test_message_is_asyncios(same):
    def scenario(loop):
        seen = []
        loop.set_exception_handler(lambda loop, context: seen.append(plain(context["message"])))
        loop.call_soon(fail)
        loop.call_soon(fail, 1, "two", [3])
        loop.call_later(0, fail)
        future = loop.create_future()
        future.add_done_callback(fail)
        future.set_result(7)
        turn(loop, 2)
        loop.set_exception_handler(None)
        return seen

    assert len(same(scenario)) == 4


def test_future_callback_that_raises(anyloop, handled):
    seen = []
    future = anyloop.create_future()
    future.add_done_callback(fail)
    future.add_done_callback(seen.append)
    future.set_result(None)
    turn(anyloop)
    assert seen == [future]
    assert len(handled) == 1


def test_reader_that_raises(anyloop, handled):
    from helpers import stream_pair

    with stream_pair() as (one, two):

        def broken():
            one.recv(1)
            raise ZeroDivisionError

        anyloop.add_reader(one, broken)
        two.send(b"x")
        while not handled:
            turn(anyloop)
        anyloop.remove_reader(one)
    assert [type(context["exception"]) for context in handled] == [ZeroDivisionError]


def test_handler_that_raises_is_reported_by_the_default_one(anyloop, reports):
    def handler(loop, context):
        raise ZeroDivisionError

    anyloop.set_exception_handler(handler)
    anyloop.call_soon(fail)
    turn(anyloop)
    anyloop.set_exception_handler(None)
    assert "Unhandled error in exception handler" in reports[0].getMessage()


def test_default_handler_logs(same, caplog):
    def scenario(loop):
        caplog.clear()
        loop.call_soon(fail, 1)
        turn(loop)
        return [(r.name, r.levelname, plain(r.getMessage()), r.exc_info[0]) for r in caplog.records]

    assert len(same(scenario)) == 1


def test_default_handler_of_odd_contexts(same, caplog):
    def scenario(loop):
        caplog.clear()
        for context in (
            {},
            {"message": "m"},
            {"message": "m", "b": 1, "a": "x"},
            {"message": "m", "exception": ValueError("v")},
            {"message": "m", "source_traceback": []},
        ):
            loop.call_exception_handler(context)
        return [plain(record.getMessage()) for record in caplog.records]

    same(scenario)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["callback", "timer", "future", "task", "wakeup", "reader"])
def test_interrupts_propagate_and_nothing_queued_is_lost(anyloop, error, kind, reports):
    from helpers import stream_pair

    seen = []

    def interrupt(*args):
        raise error("now")

    async def child(future):
        await future
        interrupt()

    task = None
    with stream_pair() as (one, two):
        future = anyloop.create_future()
        match kind:
            case "callback":
                anyloop.call_soon(interrupt)
            case "timer":
                anyloop.call_later(0, interrupt)
            case "future":
                future.add_done_callback(interrupt)
                future.set_result(None)
            case "task":
                future.set_result(None)
                task = anyloop.create_task(child(future))
            case "wakeup":
                task = anyloop.create_task(child(future))
                turn(anyloop)
                future.set_result(None)
            case "reader":
                two.send(b"x")
                anyloop.add_reader(one, lambda: (anyloop.remove_reader(one), interrupt()))
        if kind == "callback":
            anyloop.call_soon(seen.append, "after")
        anyloop.call_later(0, seen.append, "timer")
        sleeper = anyloop.create_task(asyncio.sleep(0.001, "slept"))
        with pytest.raises(error, match="now"):
            anyloop.run_forever()
        assert not anyloop.is_running()
        assert anyloop.run_until_complete(sleeper) == "slept"
    assert seen == (["after", "timer"] if kind == "callback" else ["timer"])
    if task is not None:
        assert task.done()
        assert type(task.exception()) is error
    assert reports == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_the_main_task(anyloop, error):
    seen = []

    async def main():
        anyloop.call_soon(seen.append, "queued")
        await asyncio.sleep(0)
        anyloop.call_soon(seen.append, "queued too")
        raise error

    with pytest.raises(error):
        anyloop.run_until_complete(main())
    turn(anyloop)
    assert seen == ["queued", "queued too"]


def test_two_interrupts_in_one_turn(anyloop):
    def interrupt(number):
        raise KeyboardInterrupt(number)

    for number in range(3):
        anyloop.call_soon(interrupt, number)
    for number in range(3):
        with pytest.raises(KeyboardInterrupt, match=str(number)):
            anyloop.run_forever()
    turn(anyloop)


def test_run_until_complete_after_an_interrupt(anyloop):
    def interrupt():
        raise SystemExit(3)

    anyloop.call_soon(interrupt)
    with pytest.raises(SystemExit):
        anyloop.run_until_complete(anyloop.create_future())

    async def main():
        await asyncio.sleep(0)
        return "fine"

    assert anyloop.run_until_complete(main()) == "fine"


class Custom(BaseException): ...


def test_other_base_exceptions_in_callbacks(same):
    """Only SystemExit and KeyboardInterrupt propagate; the rest is reported."""

    def scenario(loop):
        seen = []
        loop.set_exception_handler(lambda loop, c: seen.append(type(c.get("exception")).__name__))

        def throw(error):
            raise error

        for error in (Custom(), GeneratorExit(), asyncio.CancelledError()):
            loop.call_soon(throw, error)
        loop.call_soon(seen.append, "end")
        turn(loop)
        loop.set_exception_handler(None)
        return seen

    same(scenario)


def test_other_base_exceptions_in_tasks(same):
    def scenario(loop):
        async def main(error):
            raise error

        seen = []
        for error in (Custom(), GeneratorExit()):
            task = loop.create_task(main(error))
            try:
                turn(loop)
            except BaseException as exc:
                seen.append(("propagated", type(exc).__name__))
            if task.done():
                seen.append((task.cancelled(), type(task.exception()).__name__))
        return seen

    same(scenario)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exception_handler_that_interrupts(anyloop, error):
    def handler(loop, context):
        raise error

    anyloop.set_exception_handler(handler)
    anyloop.call_soon(fail)
    with pytest.raises(error):
        anyloop.run_forever()
    anyloop.set_exception_handler(None)
    turn(anyloop)


def test_exception_from_call_exception_handler_keeps_the_queue(anyloop):
    seen = []

    def handler(loop, context):
        raise KeyboardInterrupt

    anyloop.set_exception_handler(handler)
    anyloop.call_soon(fail)
    anyloop.call_soon(seen.append, 1)
    with pytest.raises(KeyboardInterrupt):
        anyloop.run_forever()
    anyloop.set_exception_handler(None)
    turn(anyloop)
    assert seen == [1]


def test_callback_that_closes_nothing_but_raises_runtime_error(anyloop, handled):
    anyloop.call_soon(anyloop.close)
    turn(anyloop)
    assert str(handled[0]["exception"]) == "Cannot close a running event loop"


def test_recursion_error_in_a_callback(anyloop, handled):
    def deep():
        deep()

    anyloop.call_soon(deep)
    turn(anyloop)
    assert type(handled[0]["exception"]) is RecursionError
    assert not anyloop.is_running()


def test_get_and_set_exception_handler(anyloop):
    assert anyloop.get_exception_handler() is None

    def handler(loop, context): ...

    anyloop.set_exception_handler(handler)
    assert anyloop.get_exception_handler() is handler
    anyloop.set_exception_handler(None)
    assert anyloop.get_exception_handler() is None
    for wrong in (1, "x", object()):
        with pytest.raises(TypeError, match="A callable object or None is expected"):
            anyloop.set_exception_handler(wrong)


def test_current_task_while_a_callback_is_reported(anyloop):
    """The handler runs outside of every task, also right after one has stepped."""
    seen = []
    anyloop.set_exception_handler(lambda loop, c: seen.append(asyncio.current_task(anyloop)))

    async def main():
        anyloop.call_soon(fail)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    anyloop.run_until_complete(main())
    anyloop.set_exception_handler(None)
    assert seen == [None]

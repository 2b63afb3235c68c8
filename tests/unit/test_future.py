"""Future: states, results, callbacks, awaiting."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest
from helpers import run, turn


def test_it_is_an_asyncio_future(anyloop, future_class):
    future = anyloop.create_future()
    assert type(future) is future_class
    assert isinstance(future, asyncio.Future)
    assert asyncio.isfuture(future)
    assert future.get_loop() is anyloop
    assert future._loop is anyloop


def test_constructor_takes_the_loop_by_keyword_only(anyloop, future_class):
    assert future_class(loop=anyloop).get_loop() is anyloop
    with pytest.raises(TypeError):
        future_class(anyloop)
    with pytest.raises(TypeError):
        future_class(loop=anyloop, other=1)


def test_constructor_takes_the_running_loop(anyloop, future_class):
    async def main():
        return future_class().get_loop(), future_class(loop=None).get_loop()

    assert run(anyloop, main()) == (anyloop, anyloop)


def test_pending(anyloop):
    future = anyloop.create_future()
    assert not future.done()
    assert not future.cancelled()
    assert future._state == "PENDING"
    assert future._result is None
    assert future._exception is None
    assert future._callbacks is None
    assert future._source_traceback is None
    assert future._cancel_message is None
    assert future._log_traceback is False
    assert future._asyncio_future_blocking is False
    with pytest.raises(asyncio.InvalidStateError, match=r"^Result is not set\.$"):
        future.result()
    with pytest.raises(asyncio.InvalidStateError, match=r"^Exception is not set\.$"):
        future.exception()


def test_result(anyloop):
    future = anyloop.create_future()
    answer = object()
    assert future.set_result(answer) is None
    assert future.done()
    assert not future.cancelled()
    assert future._state == "FINISHED"
    assert future.result() is answer
    assert future._result is answer
    assert future.exception() is None
    assert future.cancel() is False


def test_exception_instance(anyloop):
    future = anyloop.create_future()
    error = ValueError("no")
    future.set_exception(error)
    assert future._log_traceback is True
    assert future._exception is error
    assert future.exception() is error
    assert future._log_traceback is False
    with pytest.raises(ValueError, match="no") as caught:
        future.result()
    assert caught.value is error


def test_exception_class_is_called(anyloop):
    future = anyloop.create_future()
    future.set_exception(KeyError)
    assert type(future.exception()) is KeyError


def test_result_raises_with_the_same_traceback_each_time(anyloop):
    future = anyloop.create_future()
    future.set_exception(ValueError())
    lengths = []
    for _ in range(3):
        try:
            future.result()
        except ValueError as exc:
            frames = 0
            step = exc.__traceback__
            while step:
                frames, step = frames + 1, step.tb_next
            lengths.append(frames)
    assert lengths == [1, 1, 1]


@pytest.mark.parametrize("error", [StopIteration, StopIteration(1)])
def test_stop_iteration_is_wrapped(anyloop, error):
    future = anyloop.create_future()
    if sys.version_info < (3, 13):  # 3.12 refuses it
        with pytest.raises(TypeError, match="StopIteration interacts badly"):
            future.set_exception(error)
        assert not future.done()
        return
    future.set_exception(error)
    wrapper = future.exception()
    assert type(wrapper) is RuntimeError
    assert "StopIteration" in str(wrapper)
    assert type(wrapper.__cause__) is StopIteration
    assert wrapper.__context__ is wrapper.__cause__


@pytest.mark.parametrize("bad", [1, "error", object, int, None])
def test_what_is_no_exception_is_refused(anyloop, bad):
    future = anyloop.create_future()
    with pytest.raises(TypeError):
        future.set_exception(bad)
    assert not future.done()


def test_repr_asks_each_callback_once(anyloop):
    """Through tasks that wait for each other too, and when it raises."""
    asked = []

    class Odd:
        def __call__(self, future):
            pass

        def __repr__(self):
            asked.append(self)
            raise TypeError("no text")

    async def waits(other):
        await other

    last = anyloop.create_future()
    first = last
    for _ in range(3):
        first = anyloop.create_task(waits(first))
    turn(anyloop, 3)
    last.add_done_callback(Odd())
    for future in (last, first):
        asked.clear()
        with pytest.raises(TypeError, match="no text"):
            repr(future)
        assert len(asked) == 1
    last.set_result(None)
    run(anyloop, first)


@pytest.mark.parametrize("finish", ["result", "exception", "cancel"])
def test_finished_is_final(anyloop, finish):
    future = anyloop.create_future()
    if finish == "result":
        future.set_result(1)
    elif finish == "exception":
        future.set_exception(ValueError())
        future.exception()
    else:
        future.cancel()
    before = repr(future)
    with pytest.raises(asyncio.InvalidStateError):
        future.set_result(2)
    with pytest.raises(asyncio.InvalidStateError):
        future.set_exception(KeyError())
    assert future.cancel("late") is False
    assert repr(future) == before


def test_cancel(anyloop):
    future = anyloop.create_future()
    assert future.cancel() is True
    assert future.cancelled()
    assert future.done()
    assert future._state == "CANCELLED"
    with pytest.raises(asyncio.CancelledError):
        future.result()
    with pytest.raises(asyncio.CancelledError):
        future.exception()


@pytest.mark.parametrize("how", ["result", "exception", "await"])
def test_cancel_message(anyloop, how):
    future = anyloop.create_future()
    assert future.cancel(msg="enough")
    assert future._cancel_message == "enough"

    async def wait():
        await future

    with pytest.raises(asyncio.CancelledError) as caught:
        if how == "await":
            anyloop.run_until_complete(wait())
        else:
            getattr(future, how)()
    assert caught.value.args == ("enough",)


def test_make_cancelled_error(anyloop):
    future = anyloop.create_future()
    assert future._make_cancelled_error().args == ()
    future.cancel("why")
    assert future._make_cancelled_error().args == ("why",)


def test_set_result_takes_one_argument(anyloop):
    future = anyloop.create_future()
    for bad in [(), (1, 2)]:
        with pytest.raises(TypeError):
            future.set_result(*bad)
        with pytest.raises(TypeError):
            future.set_exception(*bad)
    with pytest.raises(TypeError):
        future.add_done_callback()
    with pytest.raises(TypeError):
        future.cancel(1, 2)
    assert not future.done()


# ---- callbacks ----


def test_callbacks_run_in_order_in_the_next_turn(anyloop):
    future = anyloop.create_future()
    seen = []
    for number in range(5):
        future.add_done_callback(lambda fut, n=number: seen.append((n, fut)))
    future.set_result(None)
    assert seen == []
    turn(anyloop)
    assert seen == [(n, future) for n in range(5)]


def test_callback_of_a_finished_future_is_scheduled(anyloop):
    future = anyloop.create_future()
    future.set_result(1)
    seen = []
    future.add_done_callback(seen.append)
    assert seen == []
    turn(anyloop)
    assert seen == [future]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_callbacks_list(anyloop, count):
    future = anyloop.create_future()
    context = contextvars.copy_context()
    functions = [lambda fut: None for _ in range(count)]
    for function in functions:
        future.add_done_callback(function, context=context)
    assert future._callbacks == [(function, context) for function in functions]
    future.cancel()
    assert not future._callbacks
    turn(anyloop)


def test_remove_done_callback_counts(anyloop):
    future = anyloop.create_future()
    seen = []

    def one(fut):
        seen.append(1)

    def two(fut):
        seen.append(2)

    for function in (one, two, one, two, one):
        future.add_done_callback(function)
    assert future.remove_done_callback(one) == 3
    assert future.remove_done_callback(one) == 0
    future.set_result(None)
    assert future.remove_done_callback(two) == 0
    turn(anyloop)
    assert seen == [2, 2]


def test_remove_done_callback_compares_by_equality(anyloop):
    future = anyloop.create_future()
    sink = []
    future.add_done_callback(sink.append)
    future.add_done_callback(sink.append)
    assert future.remove_done_callback(sink.append) == 2
    assert future._callbacks in (None, [])


def test_a_removed_callback_whose_finaliser_adds_one(loop):
    """On hotloop alone: stock asyncio keeps the new callback without its context, and crashes."""
    future = loop.create_future()
    seen = []

    class Same:
        def __init__(self, then=None):
            self.then = then

        def __call__(self, fut): ...

        def __eq__(self, other):
            return True

        __hash__ = None

        def __del__(self):
            if self.then is not None:
                future.add_done_callback(self.then)

    future.add_done_callback(Same(seen.append))
    assert future.remove_done_callback(Same()) == 1
    assert [callback for callback, _ in future._callbacks] == [seen.append]
    future.set_result(None)
    turn(loop)
    assert seen == [future]


def test_remove_done_callback_while_comparing_removes_others(anyloop):
    future = anyloop.create_future()

    class Evil:
        def __call__(self, fut): ...

        def __eq__(self, other):
            if not removed:
                removed.append(1)
                future.remove_done_callback(keep)
            return False

        __hash__ = None

    removed = []

    def keep(fut): ...

    for _ in range(3):
        future.add_done_callback(Evil())
        future.add_done_callback(keep)
    future.remove_done_callback(Evil())
    future.cancel()
    turn(anyloop)


def test_remove_done_callback_while_comparing_finishes(anyloop):
    future = anyloop.create_future()

    class Evil:
        def __call__(self, fut): ...

        def __eq__(self, other):
            if not future.done():
                future.set_result(None)
            return True

        __hash__ = None

    for _ in range(4):
        future.add_done_callback(Evil())
    future.remove_done_callback(Evil())
    turn(anyloop)
    assert future.done()


def test_remove_done_callback_passes_on_errors_of_equality(anyloop):
    future = anyloop.create_future()

    class Bad:
        def __call__(self, fut): ...

        def __eq__(self, other):
            raise ZeroDivisionError

        __hash__ = None

    future.add_done_callback(Bad())
    with pytest.raises(ZeroDivisionError):
        future.remove_done_callback(Bad())
    future.add_done_callback(print)
    with pytest.raises(ZeroDivisionError):
        future.remove_done_callback(Bad())


def test_callback_added_by_a_callback_runs_in_the_turn_after(anyloop):
    future = anyloop.create_future()
    seen = []

    def first(fut):
        seen.append("first")
        fut.add_done_callback(lambda fut: seen.append("late"))
        anyloop.call_soon(seen.append, "soon")

    future.add_done_callback(first)
    future.add_done_callback(lambda fut: seen.append("second"))
    future.set_result(None)
    turn(anyloop)
    assert seen == ["first", "second"]
    turn(anyloop)
    assert seen == ["first", "second", "late", "soon"]


def test_callbacks_and_call_soon_share_one_queue(anyloop):
    one, two = anyloop.create_future(), anyloop.create_future()
    seen = []
    one.add_done_callback(lambda fut: seen.append("one"))
    two.add_done_callback(lambda fut: seen.append("two"))
    anyloop.call_soon(seen.append, "a")
    two.set_result(None)
    anyloop.call_soon(seen.append, "b")
    one.set_result(None)
    anyloop.call_soon(seen.append, "c")
    turn(anyloop)
    assert seen == ["a", "two", "b", "one", "c"]


def test_the_same_callback_twice_runs_twice(anyloop):
    future = anyloop.create_future()
    seen = []
    future.add_done_callback(seen.append)
    future.add_done_callback(seen.append)
    future.set_result(1)
    turn(anyloop)
    assert seen == [future, future]


# ---- awaiting ----


def test_await_a_finished_future_takes_no_turn(anyloop):
    future = anyloop.create_future()
    future.set_result(3)

    async def main():
        return await future

    coro = main()
    with pytest.raises(StopIteration) as caught:
        coro.send(None)
    assert caught.value.value == 3


def test_await_a_pending_future_yields_it(anyloop):
    future = anyloop.create_future()

    async def main():
        return await future

    coro = main()
    assert coro.send(None) is future
    assert future._asyncio_future_blocking is True
    future._asyncio_future_blocking = False
    future.set_result(5)
    with pytest.raises(StopIteration) as caught:
        coro.send(None)
    assert caught.value.value == 5


def test_await_resumed_too_early(anyloop):
    future = anyloop.create_future()
    iterator = iter(future)
    assert next(iterator) is future
    with pytest.raises(RuntimeError, match=r"await wasn't used with future"):
        next(iterator)
    future.cancel()


def test_iterator_send_throw_close(anyloop):
    future = anyloop.create_future()
    iterator = future.__await__()
    assert iter(iterator) is iterator
    assert iterator.send(None) is future
    with pytest.raises(ZeroDivisionError):
        iterator.throw(ZeroDivisionError())
    with pytest.raises(ValueError, match="no"):
        future.__await__().throw(ValueError("no"))
    with pytest.raises(TypeError):
        future.__await__().throw(0)
    future._asyncio_future_blocking = False
    other = future.__await__()
    other.send(None)
    assert other.close() is None
    future.cancel()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_iterator_throw_in_three_parts(anyloop):
    future = anyloop.create_future()
    for args in [(ValueError,), (ValueError, "x"), (ValueError, ValueError("x"), None)]:
        with pytest.raises(ValueError):
            future.__await__().throw(*args)
    for args in [(ValueError("x"), 1), (ValueError, None, 5), (int,)]:
        with pytest.raises(TypeError):
            future.__await__().throw(*args)


def test_iterator_of_a_finished_future(anyloop):
    future = anyloop.create_future()
    future.set_result((1, 2))  # a tuple must not become StopIteration(1, 2)
    with pytest.raises(StopIteration) as caught:
        next(iter(future))
    assert caught.value.value == (1, 2)
    failed = anyloop.create_future()
    failed.set_exception(KeyError("k"))
    with pytest.raises(KeyError):
        next(iter(failed))


@pytest.mark.parametrize("answer", [None, 0, "text"])
def test_sent_to_by_hand_it_raises_asyncios_stop_iteration(anyloop, answer):
    future = anyloop.create_future()
    future.set_result(answer)
    with pytest.raises(StopIteration) as caught:
        future.__await__().send(None)
    assert caught.value.value == answer
    theirs = asyncio.Future(loop=anyloop)  # for None it has none, until late in 3.13
    theirs.set_result(answer)
    with pytest.raises(StopIteration) as expected:
        theirs.__await__().send(None)
    assert caught.value.args == expected.value.args


def test_sent_to_by_hand_it_chains_as_asyncio_does(anyloop):
    contexts = []
    for future in (anyloop.create_future(), asyncio.Future(loop=anyloop)):
        future.set_result("text")
        try:
            raise KeyError
        except KeyError:
            with pytest.raises(StopIteration) as caught:
                future.__await__().send(None)
        contexts.append(type(caught.value.__context__))
    assert contexts[0] is contexts[1]


@pytest.mark.parametrize("answer", [None, 0, "text"])
@pytest.mark.parametrize("drive", [next, lambda iterator: iterator.__next__()])
def test_iterated_by_hand_it_ends_with_the_result(anyloop, drive, answer):
    future = anyloop.create_future()
    future.set_result(answer)
    with pytest.raises(StopIteration) as caught:
        drive(iter(future))
    assert caught.value.value == answer
    assert caught.value.args in ((answer,), () if answer is None else (answer,))


@pytest.mark.parametrize("answer", [None, 0, (), (1,), StopIteration(4), ValueError("v")])
def test_any_value_is_a_result(anyloop, answer):
    async def main():
        future = anyloop.create_future()
        anyloop.call_soon(future.set_result, answer)
        return await future

    assert run(anyloop, main()) is answer


def test_several_tasks_wait_for_one_future(anyloop):
    async def main():
        future = anyloop.create_future()
        order = []

        async def wait(number):
            assert await future == "go"
            order.append(number)

        tasks = [anyloop.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        future.set_result("go")
        await asyncio.gather(*tasks)
        return order

    assert run(anyloop, main()) == [0, 1, 2, 3, 4]


# ---- attributes ----


def test_log_traceback_can_only_be_cleared(anyloop):
    future = anyloop.create_future()
    future.set_exception(ValueError())
    with pytest.raises(ValueError, match=r"_log_traceback can only be set to False"):
        future._log_traceback = True
    future._log_traceback = False
    assert future._log_traceback is False


@pytest.mark.parametrize(
    "name", ["_state", "_loop", "_result", "_exception", "_callbacks", "_source_traceback"]
)
def test_read_only_attributes(anyloop, name):
    future = anyloop.create_future()
    with pytest.raises(AttributeError):
        setattr(future, name, None)


def test_blocking_flag_is_settable(anyloop):
    future = anyloop.create_future()
    future._asyncio_future_blocking = True
    assert future._asyncio_future_blocking is True
    future._asyncio_future_blocking = 0
    assert future._asyncio_future_blocking is False


def test_deleting_attributes_is_an_error_and_no_crash(anyloop):
    future = anyloop.create_future()
    for name in ("_asyncio_future_blocking", "_log_traceback", "_cancel_message"):
        with pytest.raises(AttributeError):
            delattr(future, name)
    future.cancel()


def test_other_attributes_can_be_set(anyloop):
    future = anyloop.create_future()
    future.mine = 1
    assert future.mine == 1
    del future.mine
    assert not hasattr(future, "mine")
    with pytest.raises(AttributeError):
        future.other  # noqa: B018


def test_weak_reference(anyloop):
    future = anyloop.create_future()
    gone = []
    reference = weakref.ref(future, gone.append)
    assert reference() is future
    del future
    assert gone == [reference]


def test_a_cycle_is_collected(anyloop):
    future = anyloop.create_future()
    future.set_result([future])
    reference = weakref.ref(future)
    del future
    gc.collect()
    assert reference() is None


def test_generic_alias(future_class):
    assert future_class[int].__origin__ is future_class
    assert future_class[int].__args__ == (int,)


def test_not_awaited_future_has_no_hash_surprise(anyloop):
    one, two = anyloop.create_future(), anyloop.create_future()
    assert one == one
    assert one != two
    assert len({one, two, one}) == 2


def test_init_again_makes_it_new(anyloop, future_class):
    future = future_class(loop=anyloop)
    future.set_result(1)
    if sys.version_info >= (3, 15):
        with pytest.raises(RuntimeError, match="Future object is already initialized"):
            future.__init__(loop=anyloop)
        assert future.result() == 1
        return
    future.__init__(loop=anyloop)
    assert not future.done()
    assert future.get_loop() is anyloop
    future.set_result(2)
    assert future.result() == 2


def test_object_made_without_init(future_class):
    future = future_class.__new__(future_class)
    with pytest.raises(RuntimeError, match=r"Future object is not initialized\."):
        future.get_loop()
    for call in (
        lambda: future.add_done_callback(print),
        lambda: future.set_result(1),
        lambda: future.set_exception(ValueError()),
        lambda: next(iter(future)),
        future.cancel,
        future.result,
        future.exception,
    ):
        with pytest.raises((RuntimeError, asyncio.InvalidStateError)):
            call()
    assert future.done() is False
    assert future.cancelled() is False
    with pytest.raises(RuntimeError):
        repr(future)


@pytest.mark.parametrize("result", [None, 1])
@pytest.mark.parametrize("step", ["next", "send"])
def test_how_an_iterator_returns_its_result(anyloop, result, step):
    future = anyloop.create_future()
    iterator = future.__await__()
    assert next(iterator) is future
    future.set_result(result)
    with pytest.raises(StopIteration) as caught:
        next(iterator) if step == "next" else iterator.send(None)
    assert caught.value.value is result
    assert caught.value.args in [(result,), () if result is None else (result,)]  # by version


def exceptions_traced(loop):
    """How many exceptions a tracer is told of in a coroutine that awaits a future."""
    events = []

    def trace(frame, event, arg):
        if frame.f_code is main.__code__:
            events.append(event)
            return trace
        return None

    async def main(future):
        loop.call_soon(future.set_result, None)
        await future

    sys.settrace(trace)
    try:
        loop.run_until_complete(main(loop.create_future()))
    finally:
        sys.settrace(None)
    return events.count("exception")


def test_a_tracer_hears_of_the_end_of_an_await(loop):
    stock = asyncio.SelectorEventLoop()
    try:
        assert exceptions_traced(loop) == exceptions_traced(stock)
    finally:
        stock.close()

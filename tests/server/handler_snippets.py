"""Handlers whose outcome depends on the task they run in. Each returns or raises what it could observe.

In a worker it must be what it is in an ordinary task.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any

__all__ = ["SNIPPETS", "VAR", "Snippet", "me", "never", "soon"]

VAR: contextvars.ContextVar[Any] = contextvars.ContextVar("VAR")

Snippet = Callable[[], Coroutine[Any, Any, Any]]
SNIPPETS: dict[str, Snippet] = {}


def snippet(function: Snippet) -> Snippet:
    SNIPPETS[function.__name__] = function
    return function


def me() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def soon(function: Callable[..., Any], *args: Any) -> None:
    asyncio.get_running_loop().call_soon(function, *args)


def never() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def forever() -> None:
    """`never`, for what makes a task of it."""
    await never()


async def timer() -> None:
    """A wait that a timer of the loop ends, in a later turn."""
    await asyncio.sleep(0.001)


@snippet
async def returns_at_once() -> Any:
    return 1


@snippet
async def bare_sleeps() -> Any:
    for _ in range(5):
        await asyncio.sleep(0)
    return 1


@snippet
async def real_sleep() -> Any:
    await timer()
    return 1


@snippet
async def same_task_in_every_step() -> Any:
    tasks = [me()]
    await asyncio.sleep(0)
    tasks.append(me())
    await timer()
    tasks.append(me())
    try:
        async with asyncio.timeout(0):
            await never()
    except TimeoutError:
        tasks.append(me())
    return len(set(tasks)), me() in asyncio.all_tasks(), me().done()


@snippet
async def done_future() -> Any:
    future = never()
    future.set_result(2)
    return await future


@snippet
async def failed_future() -> Any:
    future = never()
    soon(future.set_exception, KeyError("k"))
    return await future


@snippet
async def cancelled_future() -> Any:
    future = never()
    soon(future.cancel, "by its owner")
    try:
        await future
    except asyncio.CancelledError as error:
        return error.args, me().cancelling()


@snippet
async def future_set_before_the_worker_wakes() -> Any:
    future = never()
    soon(future.set_result, 3)
    return await future


class _Yields:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self.value)


@snippet
async def bad_yield() -> Any:
    try:
        await _Yields(42)
    except RuntimeError as error:
        return str(error).split(":")[0]


@snippet
async def bad_yield_twice() -> Any:
    await asyncio.sleep(0)
    return await _Yields("nonsense")


@snippet
async def future_yielded_without_await() -> Any:
    try:
        await _Yields(never())
    except RuntimeError:
        return "refused"


@snippet
async def awaits_itself() -> Any:
    try:
        await me()
    except RuntimeError:
        return "refused"


@snippet
async def future_of_another_loop() -> Any:
    other = asyncio.new_event_loop()
    try:
        await other.create_future()
    except RuntimeError:
        return "refused"
    finally:
        other.close()


@snippet
async def timeout_zero() -> Any:
    try:
        async with asyncio.timeout(0):
            await never()
    except TimeoutError as error:
        return type(error.__cause__), me().cancelling()


@snippet
async def timeout_zero_without_wait() -> Any:
    async with asyncio.timeout(0):  # noqa: ASYNC100 (there is no checkpoint: that is the subject)
        pass
    await asyncio.sleep(0)
    return me().cancelling()


@snippet
async def timeout_zero_around_bare_sleep() -> Any:
    count = 0
    try:
        async with asyncio.timeout(0):
            for _ in range(10):
                await asyncio.sleep(0)
                count += 1
    except TimeoutError:
        return count, me().cancelling()


@snippet
async def timeout_negative() -> Any:
    try:
        async with asyncio.timeout(-1):
            await timer()
    except TimeoutError:
        return me().cancelling()


@snippet
async def timeout_in_nested_await() -> Any:
    async def inner() -> None:
        try:
            await never()
        finally:
            await asyncio.sleep(0)

    async def middle() -> None:
        await inner()

    try:
        async with asyncio.timeout(0.001):
            await middle()
    except TimeoutError:
        return me().cancelling()


@snippet
async def timeout_that_is_not_reached() -> Any:
    async with asyncio.timeout(30) as timeout:
        await asyncio.sleep(0)
    return timeout.expired(), me().cancelling()


@snippet
async def timeout_inside_timeout() -> Any:
    try:
        async with asyncio.timeout(0), asyncio.timeout(0):
            await never()
    except TimeoutError:
        return me().cancelling()


@snippet
async def timeout_is_no_context_of_later_errors() -> Any:
    try:
        async with asyncio.timeout(0):
            await never()
    except TimeoutError:
        pass
    seen = type(sys.exc_info()[1])
    try:
        raise ValueError
    except ValueError as error:
        return seen, type(error.__context__)


@snippet
async def raises_after_swallowing() -> Any:
    try:
        await failed_future()
    except KeyError:
        pass
    raise ValueError("its context is None")


@snippet
async def wait_for_expires() -> Any:
    try:
        await asyncio.wait_for(never(), 0.001)
    except TimeoutError:
        return me().cancelling()


@snippet
async def wait_for_zero() -> Any:
    try:
        await asyncio.wait_for(never(), 0)
    except TimeoutError:
        return me().cancelling()


@snippet
async def wait_for_result() -> Any:
    return await asyncio.wait_for(bare_sleeps(), 30)


@snippet
async def task_group() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(bare_sleeps()) for _ in range(3)]
    return [task.result() for task in tasks], me().cancelling()


@snippet
async def task_group_whose_child_fails_at_once() -> Any:
    async def fails() -> None:
        raise LookupError("child")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await never()
    except* LookupError as error:
        result = [str(e) for e in error.exceptions]
    return result, me().cancelling()


@snippet
async def task_group_whose_child_fails_while_the_body_is_done() -> Any:
    async def fails() -> None:
        raise LookupError("child")

    async def waits() -> None:
        await never()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(fails())
    except* LookupError as error:
        result = [str(e) for e in error.exceptions]
    return result, me().cancelling()


@snippet
async def task_group_whose_body_fails() -> Any:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await never()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            await asyncio.sleep(0)
            raise ZeroDivisionError
    except* ZeroDivisionError:
        pass
    return ended, me().cancelling()


@snippet
async def task_group_in_a_timeout() -> Any:
    try:
        async with asyncio.timeout(0), asyncio.TaskGroup() as group:
            group.create_task(forever())
    except TimeoutError:
        return me().cancelling()


@snippet
async def gather_with_a_failure() -> Any:
    return [
        type(r)
        for r in await asyncio.gather(bare_sleeps(), failed_future(), cancelled_future(), return_exceptions=True)
    ]


@snippet
async def gather_cancelled_at_the_first_suspension() -> Any:
    soon(me().cancel)
    await asyncio.gather(forever(), forever())


@snippet
async def shield_survives_the_cancellation() -> Any:
    inner = asyncio.ensure_future(bare_sleeps())
    soon(me().cancel)
    try:
        await asyncio.shield(inner)
    except asyncio.CancelledError:
        me().uncancel()
    return await inner, me().cancelling()


@snippet
async def own_cancel_in_the_first_step() -> Any:
    me().cancel("own")
    try:
        await never()
    except asyncio.CancelledError as error:
        return error.args, me().cancelling()


@snippet
async def own_cancel_in_the_first_step_is_raised() -> Any:
    me().cancel()
    await asyncio.sleep(0)
    return "not reached"


@snippet
async def own_cancel_then_bare_sleep() -> Any:
    me().cancel()
    for step in range(3):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return step, me().cancelling()
    return "went on"


@snippet
async def own_cancel_without_wait() -> Any:
    me().cancel()
    return me().cancelling()


@snippet
async def own_cancel_after_a_wait_without_another() -> Any:
    await asyncio.sleep(0)
    me().cancel()
    return me().cancelling()


@snippet
async def own_cancel_and_uncancel() -> Any:
    me().cancel()
    count = me().uncancel()
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return "cancelled", count, me().cancelling()  # before 3.13
    return "went on", count, me().cancelling()


@snippet
async def own_cancel_and_uncancel_later() -> Any:
    await asyncio.sleep(0)
    me().cancel()
    me().uncancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return "cancelled", me().cancelling()
    return "went on", me().cancelling()


@snippet
async def own_cancel_and_uncancel_without_wait() -> Any:
    me().cancel()
    me().uncancel()
    return me().cancelling()


@snippet
async def own_cancel_twice() -> Any:
    me().cancel()
    me().cancel()
    count = 0
    for _ in range(3):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            count += 1
    return count, me().cancelling()


@snippet
async def cancelled_in_the_tick_of_the_first_suspension() -> Any:
    soon(me().cancel, "from outside")
    future = never()
    try:
        await future
    except asyncio.CancelledError as error:
        return error.args, me().cancelling(), future.cancelled()


@snippet
async def cancelled_in_that_tick_and_raised() -> Any:
    soon(me().cancel)
    await never()


@snippet
async def cancelled_in_that_tick_at_a_bare_sleep() -> Any:
    soon(me().cancel)
    for step in range(5):
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return "cancelled", me().cancelling(), step
    return "went on"


@snippet
async def cancelled_in_that_tick_while_the_future_is_done() -> Any:
    future = never()
    future.set_result(1)
    soon(me().cancel)
    try:
        for _ in range(3):
            await asyncio.sleep(0)
    except asyncio.CancelledError:
        return "cancelled"


@snippet
async def cancelled_in_that_tick_and_swallowed() -> Any:
    soon(me().cancel)
    try:
        await never()
    except asyncio.CancelledError:
        pass
    await asyncio.sleep(0)
    return me().cancelling()


@snippet
async def cancelled_and_uncancelled_by_itself() -> Any:
    soon(me().cancel)
    try:
        await never()
    except asyncio.CancelledError:
        left = me().uncancel()
    await asyncio.sleep(0)
    return left, me().cancelling()


@snippet
async def cancelled_by_another_task() -> Any:
    task = me()

    async def canceller() -> bool:
        return task.cancel("other")

    other = asyncio.create_task(canceller())
    try:
        await never()
    except asyncio.CancelledError as error:
        return error.args, await other, me().cancelling()


@snippet
async def cancelled_twice_by_others() -> Any:
    count = 0
    soon(me().cancel)
    soon(me().cancel)
    for _ in range(4):
        try:
            await timer()
        except asyncio.CancelledError:
            count += 1
    return count, me().cancelling()


@snippet
async def cancelled_in_its_second_wait() -> Any:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    soon(me().cancel)
    try:
        await never()
    except asyncio.CancelledError:
        return me().cancelling()


@snippet
async def cancellation_raises_something_else() -> Any:
    soon(me().cancel)
    try:
        await never()
    finally:
        raise OSError("from the cleanup")


@snippet
async def awaits_in_cleanup() -> Any:
    soon(me().cancel)
    try:
        await never()
    finally:
        await timer()


@snippet
async def cancelled_child_task() -> Any:
    child = asyncio.create_task(forever())
    soon(child.cancel)
    try:
        await child
    except asyncio.CancelledError:
        return me().cancelling()


@snippet
async def cancel_passes_on_to_the_child() -> Any:
    child = asyncio.create_task(forever())
    soon(me().cancel)
    try:
        await child
    except asyncio.CancelledError:
        return child.cancelled(), me().cancelling()


@snippet
async def lock_event_queue() -> Any:
    lock, event, queue = asyncio.Lock(), asyncio.Event(), asyncio.Queue[int]()
    soon(event.set)
    soon(queue.put_nowait, 7)
    async with lock:
        await event.wait()
        return await queue.get()


@snippet
async def wait_first_completed() -> Any:
    slow, fast = asyncio.create_task(forever()), asyncio.create_task(asyncio.sleep(0))
    done, pending = await asyncio.wait((slow, fast), return_when=asyncio.FIRST_COMPLETED)
    slow.cancel()
    return fast in done, slow in pending


@snippet
async def context_variables() -> Any:
    VAR.set("mine")
    await asyncio.sleep(0)
    seen: list[Any] = [VAR.get()]
    soon(lambda: seen.append(VAR.get()))
    VAR.set("changed")
    child = asyncio.create_task(bare_sleeps())
    await child
    return seen, VAR.get(), child.get_name() != me().get_name()


@snippet
async def async_generator() -> Any:
    closed: list[str] = []

    async def numbers() -> Any:
        try:
            for n in range(10):
                await asyncio.sleep(0)
                yield n
        finally:
            closed.append("closed")

    found = []
    generator = numbers()
    async for n in generator:
        found.append(n)
        if n == 2:
            break
    await generator.aclose()
    return found, closed


@snippet
async def raises_stop_iteration() -> Any:
    await asyncio.sleep(0)
    raise StopIteration(1)


@snippet
async def raises_base_exception() -> Any:
    await asyncio.sleep(0)
    raise GeneratorExit


@snippet
async def in_a_thread() -> Any:
    return await asyncio.to_thread(lambda: 5)


if sys.version_info >= (3, 12):

    @snippet
    async def eager_child() -> Any:
        task = me()
        steps: list[bool] = []

        async def child() -> None:
            steps.append(me() is task)
            await asyncio.sleep(0)
            steps.append(me() is task)

        loop = asyncio.get_running_loop()
        eager = asyncio.Task(child(), loop=loop, eager_start=True)
        steps.append(me() is task)
        await eager
        return steps

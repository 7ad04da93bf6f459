import asyncio
import random

from aligntune_operator.queue import KeyedQueue


def queue(**settings: float) -> KeyedQueue[str]:
    return KeyedQueue(random.Random(0), **settings)


async def test_a_key_added_twice_is_worked_on_once() -> None:
    keys = queue()
    keys.add("a")
    keys.add("a")
    assert await keys.get() == "a"
    assert len(keys) == 0


async def test_a_key_added_while_it_is_worked_on_comes_again_afterwards() -> None:
    keys = queue()
    keys.add("a")
    await keys.get()
    keys.add("a")
    assert len(keys) == 0
    keys.done("a")
    assert await keys.get() == "a"


async def test_two_keys_are_worked_on_at_the_same_time() -> None:
    keys = queue()
    keys.add("a")
    keys.add("b")
    assert {await keys.get(), await keys.get()} == {"a", "b"}


async def test_the_earlier_of_two_times_counts() -> None:
    keys = queue()
    keys.add_after("a", 3600)
    keys.add_after("a", 0)
    assert await asyncio.wait_for(keys.get(), 30) == "a"
    keys.done("a")
    keys.add_after("a", 0)
    keys.add_after("a", 3600)
    assert await asyncio.wait_for(keys.get(), 30) == "a"


async def test_retries_wait_longer_each_time_up_to_a_bound_and_start_over_after_success() -> None:
    keys = queue(first_retry_seconds=1, longest_retry_seconds=8)
    waits = [keys.retry("a") for _ in range(6)]
    assert all(
        1 <= wait / base < 1.25 for wait, base in zip(waits, [1, 2, 4, 8, 8, 8], strict=True)
    )
    keys.add("a")
    keys.done(await keys.get())
    assert keys.retry("a") < 1.25


async def test_a_wait_that_the_server_asks_for_is_kept() -> None:
    assert 30 <= queue().retry("a", 30) < 37.5


async def test_keys_that_come_first_are_taken_first_and_others_do_not_wait_for_ever() -> None:
    keys = KeyedQueue(random.Random(0), comes_first=str.isupper)
    for key in "abABCDEFGHI":
        keys.add(key)
    assert len(keys) == 11
    assert [await keys.get() for _ in range(11)] == list("ABCDEFGaHIb")


async def test_those_that_do_not_come_first_leave_workers_free_for_those_that_do() -> None:
    keys = KeyedQueue(random.Random(0), comes_first=str.isupper, others_at_once=2)
    for key in "abcd":
        keys.add(key)
    assert [await keys.get(), await keys.get()] == ["a", "b"]
    waiting = asyncio.ensure_future(keys.get())
    await asyncio.sleep(0)
    assert not waiting.done(), "two others are worked on"
    keys.add("A")
    assert await waiting == "A"
    keys.add("a")
    keys.done("a")
    assert [await keys.get(), len(keys)] == ["c", 2]
    keys.done("c")
    keys.done("b")
    assert [await keys.get(), await keys.get()] == ["d", "a"]


async def test_a_queue_that_is_closed_keeps_nothing_and_begins_with_what_it_is_opened_with() -> (
    None
):
    keys = queue(closed=True)
    keys.add("deleted long ago")
    assert len(keys) == 0
    keys.open(["a", "b"])
    keys.add("c")
    keys.add("a")
    assert [await keys.get() for _ in range(3)] == ["a", "b", "c"]
    assert len(keys) == 0


async def test_others_get_a_turn_between_two_keys() -> None:
    keys, turns = queue(), list[int]()
    for key in ("a", "b"):
        keys.add(key)
        asyncio.get_running_loop().call_soon(turns.append, 1)
        keys.done(await keys.get())
        assert turns.pop()

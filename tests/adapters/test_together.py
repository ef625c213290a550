"""Independent work at the same time: in order, all of it, and whatever one of it raises."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from adapters.together import AT_ONCE, Threads
from triggers.errors import Retry
from triggers.ports import in_turn


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads()
    yield made
    made.close()


def test_answers_come_in_order_of_what_was_asked(threads: Threads) -> None:
    assert threads(str, range(100)) == in_turn(str, range(100)) == [str(n) for n in range(100)]


def test_work_is_done_at_the_same_time(threads: Threads) -> None:
    all_there = threading.Barrier(AT_ONCE, timeout=30)
    assert sorted(threads(lambda _: all_there.wait(), range(AT_ONCE))) == list(range(AT_ONCE))


def test_what_one_raises_is_raised_when_all_are_done(threads: Threads) -> None:
    done: list[int] = []

    def work(n: int) -> None:
        if n == 0:
            raise Retry("not now")
        done.append(n)

    with pytest.raises(Retry, match="not now"):
        threads(work, range(20))
    assert sorted(done) == list(range(1, 20))

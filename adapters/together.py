"""Work on independent things at the same time: what waits for a disk or a service waits once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")

AT_ONCE = 8


class Threads:
    """Field `together` of Ports, in threads that are started when they are first needed."""

    def __call__(self, work: Callable[[A], R], items: Iterable[A]) -> list[R]:
        """What `work` returns for each, in order; where one raises, all are tried before that is raised."""
        given = list(items)
        if len(given) < 2:
            return [work(item) for item in given]
        found: list[Future[R]] = [self._pool.submit(work, item) for item in given]
        wait(found)
        return [each.result() for each in found]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(AT_ONCE, "together")

    def close(self) -> None:
        if "_pool" in vars(self):
            self._pool.shutdown()

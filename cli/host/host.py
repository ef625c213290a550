"""The local host: drives a Functions app by its own triggers, on one machine, in real or in virtual time."""

from __future__ import annotations

import fcntl
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from adapters.local.bus import Delivery, SqliteBus
from adapters.local.clock import VirtualClock
from adapters.local.topic import SqliteTopic
from adapters.queues import QUEUES, SESSIONS
from cli.host import decode, timers
from cli.host.app import AppError, Function, HostJson, index, read_host_json
from cli.host.http import Answer, BadPath, Router, Server, path_of, problem
from functions.answers import SECURITY
from triggers.errors import DriftloopError, Retry
from triggers.ports import Clock, Put, Store

log = logging.getLogger("driftloop.host")

PARTITION = "$host"
"""Where the store keeps when each timer ran last."""

PAST_DUE = timedelta(seconds=5)
TICK_S = 0.5
RENEWED_FOR_S = 300.0
IDLE_S = (0.01, 0.1)
GIVE_BACK_S = 60.0


class Took(NamedTuple):
    """Seconds for which a handler was at work: of the wall, and of processor time that all threads of this process
    used meanwhile."""

    wall: float
    processor: float


OnInvoke = Callable[[str, Took, Exception | None], None]


def give_back() -> None:
    """Free memory goes back to the system: glibc keeps most of it, in pieces, and a host runs for months. Other C
    libraries have no call for this, and do without."""
    with suppress(AttributeError, ImportError, OSError):
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


class Host:
    """One host of one state: locks that an earlier host left behind are released as it starts (see `alone`).

    A message is completed only after its handler has returned: what was in hand when the process died comes again.
    """

    def __init__(
        self,
        app: ModuleType,
        bus: SqliteBus,
        topic: SqliteTopic,
        store: Store,
        clock: Clock,
        settings: Mapping[str, str],
        *,
        subscriptions: Mapping[str, Sequence[str]] | None = None,
        on_invoke: OnInvoke | None = None,
    ) -> None:
        """`subscriptions`: beginnings of the event types that a function wants, by its name (none named: all).

        Raises AppError where Azure would not have the functions either, or the bus not their queues.
        """
        self.functions = index(app, settings)
        self.json = read_host_json(Path(app.__file__ or "").parent / "host.json")
        self._bus, self._topic, self._clock = bus, topic, clock
        self._wanted = {name: tuple(types) for name, types in (subscriptions or {}).items()}
        self._on_invoke = on_invoke
        self._router = Router(self.functions, self.json.route_prefix)
        self._turns = {f.name: threading.Semaphore(_at_once(f, self.json)) for f in self.functions}
        self._in_hand: dict[str, _Held] = {}
        self._bell, self._end = threading.Event(), threading.Event()
        for function in self._of("queue"):
            _check_queue(function)
        for function in self._of("event"):
            topic.subscribe(function.name)
        bus.recover()
        self._timers = {f.name: _Timer(f, store, clock.now()) for f in self._of("timer")}

    def _of(self, *kinds: str) -> list[Function]:
        return [f for f in self.functions if f.kind in kinds]

    # Virtual time

    def pump(self, max_rounds: int | None = None) -> int:
        """Handle what is due, until nothing is or for so many rounds; returns how many messages and events were tried.

        One at a time and always in the same order; a round asks each function once. A message whose handler raises
        is tried again at once, until it is a dead letter.
        """
        handled, rounds = 0, 0
        while max_rounds is None or rounds < max_rounds:
            done = sum(self._step(f) for f in self._of("queue", "event"))
            handled, rounds = handled + done, rounds + 1
            if not done:
                break
        return handled

    def next_timer(self) -> datetime | None:
        """When the next timer is due: past, where one was missed."""
        return min((t.due for t in self._timers.values()), default=None)

    def run_due_timers(self) -> int:
        """Run each timer that is due once, the longest due first; returns how many."""
        due = sorted((t for t in self._timers.values() if t.due <= self._clock.now()), key=lambda t: t.due)
        return sum(self._step(t.function) for t in due)

    def advance(self, to: datetime) -> int:
        """Move the virtual clock to `to`; on the way whatever is due is handled at its own time. Returns how much."""
        assert isinstance(self._clock, VirtualClock)
        handled = self.run_due_timers() + self.pump()
        while self._clock.now() < to:
            self._clock.set(min(to, self.next_due() or to))
            handled += self.run_due_timers() + self.pump()
        return handled

    def next_due(self) -> datetime | None:
        """When something is due next: a timer, a scheduled message, an event to be tried again."""
        found = [self.next_timer()]
        found += [self._bus.next_due(f.queue) for f in self._of("queue")]  # type: ignore[arg-type]
        found += [self._topic.next_due(f.name) for f in self._of("event")]
        return min((due for due in found if due is not None), default=None)

    # Real time

    def serve_forever(
        self, port: int = 7071, workers: int = 4, listening: Callable[[str], None] = lambda _: None
    ) -> None:
        """Serve HTTP, drive the rest with `workers` threads, until `stop` or SIGTERM; what is in hand is finished.

        `listening` is told the address, once there is one.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
        server = self.start_http(port)
        loops = [self._work] * workers + [self._renew]
        threads = [threading.Thread(target=loop, name=f"host-{n}", daemon=True) for n, loop in enumerate(loops)]
        for thread in threads:
            thread.start()
        log.info("listening on http://127.0.0.1:%d", server.port)
        listening(f"http://127.0.0.1:{server.port}")
        gave = time.monotonic()
        while not self._end.wait(1.0):
            if time.monotonic() - gave > GIVE_BACK_S:
                give_back()
                gave = time.monotonic()
        server.stop()
        for thread in threads:
            thread.join(30.0)

    def stop(self) -> None:
        self._end.set()
        self._bell.set()

    def start_http(self, port: int = 7071) -> Server:
        """Serve HTTP triggers on 127.0.0.1 from threads of its own (port 0: any, see `.port`)."""
        server = Server(port, self.request)
        server.start()
        return server

    def _work(self) -> None:
        idle = IDLE_S[0]
        while not self._end.is_set():
            try:
                done = sum(self._step(f) for f in self._of("queue", "event", "timer"))
            except Exception as e:
                log.error("a worker waits a second: %s", e, exc_info=not isinstance(e, DriftloopError))
                done, idle = 0, 1.0
            if not done:
                self._bell.wait(idle)
                self._bell.clear()
            idle = IDLE_S[0] if done else min(2 * idle, IDLE_S[1])

    def _renew(self) -> None:
        """Keep what is in hand locked for up to five minutes, as the Functions host does; batches are not."""
        while not self._end.wait(TICK_S):
            now = time.monotonic()
            due = [held for held in list(self._in_hand.values()) if held.again < now < held.until]
            for held in due:
                held.again = now + held.every
            try:
                self._bus.renew([held.delivery for held in due])
            except Retry as e:
                log.warning("locks were not renewed: %s", e)

    # Invoking

    def _step(self, function: Function) -> int:
        """Give a function what is due for it, once; returns how many messages, events or occurrences that was."""
        turn = self._turns[function.name]
        if not turn.acquire(blocking=False):
            return 0
        try:
            if function.kind == "queue":
                return self._queue(function)
            return self._events(function) if function.kind == "event" else self._timer(function)
        finally:
            turn.release()

    def _queue(self, f: Function) -> int:
        batch = self._bus.receive(f.queue, self.json.batch if f.many else 1)  # type: ignore[arg-type]
        if not batch:
            return 0
        first = batch[0]
        if f.many:
            about = f"{len(batch)} messages from {first.id}, delivery {first.count}"
            _, error = self._invoke(f, lambda: decode.messages(batch, binary=f.binary), about)
        else:
            self._in_hand[first.token] = _held(first, self._clock.now())
            about = f"message {first.id}, delivery {first.count}"
            _, error = self._invoke(f, lambda: decode.message(first, binary=f.binary), about)
            del self._in_hand[first.token]
        self._settle(f, self._bus.abandon if error else self._bus.complete, batch)
        return len(batch)

    def _settle(
        self, f: Function, settle: Callable[[Sequence[Delivery]], list[Delivery]], batch: list[Delivery]
    ) -> None:
        try:
            lost = settle(batch)
        except Retry as e:
            log.warning("%s: not settled, %d messages will come again: %s", f.name, len(batch), e)
        else:
            if lost:
                log.warning("%s: lock lost, %d messages from %s will come again", f.name, len(lost), lost[0].id)

    def _events(self, f: Function) -> int:
        handouts = self._topic.pending(f.name)
        for handout in handouts:
            wanted = self._wanted.get(f.name)
            if wanted and not str(handout.event["type"]).startswith(wanted):
                self._topic.done([handout])
                continue
            about = f"event {handout.event['id']}, attempt {handout.attempts + 1}"
            _, error = self._invoke(f, partial(decode.event, handout.event), about)
            if error:
                self._topic.retry(handout, f"{type(error).__name__}: {error}")
            else:
                self._topic.done([handout])
        return len(handouts)

    def _timer(self, f: Function) -> int:
        timer, now = self._timers[f.name], self._clock.now()
        if timer.due > now:
            return 0
        late = now - timer.due > PAST_DUE
        self._invoke(f, lambda: decode.timer(late, timer.last, timer.due), f"due {timer.due.isoformat()}")
        timer.ran(now)
        return 1

    def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer one HTTP request; `url` is absolute. An exception of the handler is a 500 that says nothing of it."""
        try:
            match = self._router.match(method, path_of(url))
            if match.function is None and method == "HEAD" and "GET" in match.allowed:
                method, match = "GET", self._router.match("GET", path_of(url))
        except BadPath:
            return problem(400, "malformed path")
        function = match.function
        if function is None:
            page = f"/{self.json.route_prefix}/ui/"
            if path_of(url) == "/" and self._router.match("GET", page).function:
                return 302, [*SECURITY.items(), ("location", page)], b""
            return _without_function(method, match.allowed)
        value = partial(decode.request, method, url, headers, match.params, body)
        answer, error = self._invoke(function, value, f"{method} {path_of(url)}")
        self._bell.set()
        return problem(500, f"the function {function.name} failed") if error else answer

    def _invoke(self, function: Function, value: Callable[[], Any], about: str) -> tuple[Any, Exception | None]:
        """What the handler answered, or the error that it ended with."""
        began, answer, error = (time.perf_counter(), time.process_time()), None, None
        try:
            answer = function.call(**{function.arg: value()})
            if function.kind == "http":
                answer = decode.response(answer)
            elif answer is not None:
                raise RuntimeError("returned a value, but has no $return binding")
        except Exception as e:  # noqa: BLE001 - no handler ends the host
            error = e
            _complain(function, about, e)
        if self._on_invoke:
            took = Took(time.perf_counter() - began[0], time.process_time() - began[1])
            self._on_invoke(function.name, took, error)
        return answer, error


@dataclass(slots=True)
class _Held:
    """A message in a handler's hand, and (monotonic) when its lock is to be renewed, and until when."""

    delivery: Delivery
    every: float
    again: float
    until: float


def _held(delivery: Delivery, now: datetime) -> _Held:
    every, began = (delivery.locked_until - now).total_seconds() / 3, time.monotonic()
    return _Held(delivery, every, began + every, began + RENEWED_FOR_S)


class _Timer:
    """A timer function, and when it ran last: kept, so that a restart neither skips nor doubles a run."""

    def __init__(self, function: Function, store: Store, now: datetime) -> None:
        self.function, self._store, self._key = function, store, f"timer/{function.name}"
        try:
            self._schedule = timers.parse(function.schedule)
        except ValueError as e:
            raise AppError(f"{function.name}: {e}") from e
        kept = store.get(PARTITION, self._key)
        if kept:
            self.last = datetime.fromisoformat(kept.value.decode())
            self.due = self._schedule.after(self.last)
        else:
            self.ran(now)
        if function.on_startup:
            self.due = min(self.due, now)

    def ran(self, now: datetime) -> None:
        """Occurrences missed before `now` are done with this one."""
        self.last = now
        self.due = self._schedule.after(now)
        self._store.commit(PARTITION, [Put(self._key, now.isoformat().encode(), "*")])


def _check_queue(function: Function) -> None:
    if function.queue not in QUEUES:
        raise AppError(f"{function.name}: no such queue: {function.queue}")
    if function.sessions != (function.queue in SESSIONS):
        raise AppError(f"{function.name}: queue {function.queue}: sessions must be on at both ends, or at neither")


def _at_once(function: Function, said: HostJson) -> int:
    """How many invocations of a function may run at the same time."""
    if function.kind != "queue" or (function.many and not function.sessions):
        return 1
    return said.sessions if function.sessions else said.calls


def _without_function(method: str, allowed: Sequence[str]) -> Answer:
    if not allowed:
        return problem(404)
    more = ("HEAD", "OPTIONS") if "GET" in allowed else ("OPTIONS",)
    allow = ("allow", ", ".join(dict.fromkeys((*allowed, *more))))
    return (204, [*SECURITY.items(), allow], b"") if method == "OPTIONS" else problem(405, headers=[allow])


def _complain(function: Function, about: str, error: Exception) -> None:
    """A bug is logged with its traceback; an error that asks for a reaction, in a line."""
    level = logging.WARNING if isinstance(error, Retry) else logging.ERROR
    bug = not isinstance(error, DriftloopError)
    log.log(level, "%s failed (%s): %s: %s", function.name, about, type(error).__name__, error, exc_info=bug)


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Be the only host of this state folder; raises AppError where another process is."""
    state.mkdir(parents=True, exist_ok=True)
    with open(state / "host.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise AppError(f"another host is running on {state}") from e
        yield

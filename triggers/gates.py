"""Evidence + limits -> verdict. Fails closed: what is missing, stale or not a number never passes.

Each gate is a function of its own. One that has nothing to say says nothing; `judge` puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from triggers.compute import amount
from triggers.config import Fleet, Gates, Site, duration
from triggers.events import Comparison, Evidence, Room, Trial

Outcome = Literal["passed", "failed", "inconclusive"]

EXTENSION_CPU, EXTENSION_MEMORY = 1.78, 2440 * 2.0**20
"""The least that Azure ML's Kubernetes extension requests: 1780m CPU and 2440 Mi in all, set up for tests on one node
(the resource requirements that Microsoft publishes for it)."""

_SAID = 8
"""Reasons that one verdict gives."""

_AHEAD = timedelta(minutes=10)
"""How far two clocks of ours may be apart."""

_ARCHITECTURES = {"x86_64": "amd64", "x64": "amd64", "aarch64": "arm64"}


class Verdict(msgspec.Struct, frozen=True):
    """What a gate says, and the numbers that made it say so."""

    outcome: Outcome
    reason: str

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"


def judge(
    evidence: Evidence, candidate: str, champion: str, limits: Gates, now: datetime, rooms: Sequence[Room] = ()
) -> Verdict:
    """One verdict over all gates: the worst outcome wins, and every gate's reason is kept."""
    return worst(
        [
            _subject(evidence, candidate, champion, limits),
            _fresh(evidence, limits, now),
            gain(evidence, limits),
            holdout(evidence, limits),
            *slices(evidence, limits),
            *fairness(evidence, limits),
            *smoke(evidence),
            *footprint(evidence, rooms),
            *download(evidence, rooms),
            *latency(evidence, limits, rooms),
            *behaviour(evidence, limits),
        ]
    )


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst outcome, with the reasons of those who gave it.

    >>> worst([Verdict("passed", "a"), Verdict("failed", "b"), Verdict("inconclusive", "c")])
    Verdict(outcome='failed', reason='b')
    """
    all_of = list(verdicts)
    outcomes: tuple[Outcome, ...] = ("failed", "inconclusive", "passed")
    for outcome in outcomes:
        reasons = [v.reason for v in all_of if v.outcome == outcome and v.reason]
        if any(v.outcome == outcome for v in all_of):
            more = [f"and {len(reasons) - _SAID} more"] if len(reasons) > _SAID else []
            return Verdict(outcome, "; ".join(reasons[:_SAID] + more))
    return Verdict("inconclusive", "nothing was judged")


def _subject(evidence: Evidence, candidate: str, champion: str, limits: Gates) -> Verdict:
    if (evidence.challenger, evidence.champion) != (candidate, champion):
        shown = f"{evidence.challenger[:12]} against {evidence.champion[:12]}"
        return Verdict("failed", f"evidence is about {shown}, not {candidate[:12]} against {champion[:12]}")
    if limits.metric and evidence.metric != limits.metric:
        return Verdict("failed", f"evidence is about {evidence.metric}, not {limits.metric}")
    return Verdict("passed", "")


def _fresh(evidence: Evidence, limits: Gates, now: datetime) -> Verdict:
    if evidence.end is None:
        return Verdict("inconclusive", "evidence does not say from when it is")
    if evidence.end > now + _AHEAD:
        return Verdict("inconclusive", f"evidence ends at {evidence.end:%Y-%m-%d %H:%M} UTC, in the future")
    age = now - (evidence.newest or evidence.end)  # stored evidence may not have the former
    if age > duration(limits.maximum_age):
        return Verdict("inconclusive", f"evidence is {age.days} days old, more than {limits.maximum_age}")
    return Verdict("passed", "")


def gain(evidence: Evidence, limits: Gates) -> Verdict:
    """Better by more than asked for, on rows that neither was trained on; or, with a margin, no worse by more."""
    least = limits.minimum_gain if limits.margin is None else -limits.margin
    unseen = "labelled rows outside both training windows"
    return _above(least, evidence.overall, evidence, limits, evidence.metric, unseen)


def holdout(evidence: Evidence, limits: Gates) -> Verdict:
    """On rows that never change, not worse by more than stated."""
    if limits.holdout is None:
        return Verdict("passed", "no frozen holdout")
    if evidence.holdout is None or not evidence.holdout_sha256:
        return Verdict("inconclusive", f"the frozen holdout {limits.holdout.table or 'of its sites'} was not looked at")
    asked, found = limits.holdout.sha256, evidence.holdout_sha256
    if asked and asked != found:
        return Verdict("failed", f"the holdout has sha256 {found[:12]}..., not {asked[:12]}... as frozen")
    least = -limits.holdout.maximum_loss
    named = f"frozen holdout {found[:12]}...: {evidence.metric}"
    return _above(least, evidence.holdout, evidence, limits, named, "rows in the frozen holdout")


def _above(least: float, found: Comparison, evidence: Evidence, limits: Gates, named: str, unseen: str) -> Verdict:
    """Whether the whole interval of a gain lies above `least`; not above it, but for its upper end, is a failure."""
    if found.rows < limits.minimum_rows:
        return Verdict("inconclusive", f"{found.rows} {unseen}, fewer than {limits.minimum_rows}")
    numbers = _numbers(found)
    if numbers is None:
        return Verdict("failed", f"{named} is not a number")
    champion, challenger, gained, low, high = numbers
    if not low <= gained <= high:
        return Verdict("failed", _outside(gained, low, high))
    if not limits.confidence <= evidence.confidence < 1:
        at = f"{evidence.confidence:.0%} confidence, not {limits.confidence:.0%}"
        return Verdict("inconclusive", f"the interval is at {at}")
    said = (
        f"{named} {challenger:.4f} against {champion:.4f} on {found.rows:,} rows, "
        f"gain {gained:+.4f} [{low:+.4f}, {high:+.4f}] at {evidence.confidence:.0%}"
    )
    if low > least:
        return Verdict("passed", f"{said}, above {least:+.4f}")
    if gained <= least:
        return Verdict("failed", f"{said}: not above {least:+.4f}")
    return Verdict("inconclusive", f"{said}: the interval reaches below {least:+.4f}")


def _outside(gained: float, low: float, high: float) -> str:
    return f"the interval [{low:+.4f}, {high:+.4f}] does not hold its own estimate {gained:+.4f}"


def slices(evidence: Evidence, limits: Gates) -> Iterator[Verdict]:
    """No site, cohort or group with rows enough loses more than stated.

    Where neither model could be measured, the rows have no measure (of the AUC: they all have one outcome).
    """
    parts = (
        ("site", evidence.sites, limits.maximum_site_loss, True),
        ("cohort", evidence.cohorts, limits.maximum_slice_loss, True),
        ("group", evidence.groups, limits.maximum_slice_loss, bool(limits.slices)),
    )
    for kind, found, most, wanted in parts:
        if most is None or not wanted:
            continue
        large = {name: each for name, each in found.items() if each.rows >= limits.minimum_part_rows}
        judged = {n: e for n, e in large.items() if not (_missing(e.champion) and _missing(e.challenger))}
        few, without = len(found) - len(large), len(large) - len(judged)
        if not judged and evidence.overall.rows >= limits.minimum_rows:
            said = [f"{few} {'has' if few == 1 else 'have'} fewer rows than {limits.minimum_part_rows}"] * bool(few)
            said += [f"at {without} neither model could be measured by {evidence.metric}"] * bool(without)
            why = (
                f"no {kind} could be compared: {', '.join(said)}" if said else f"the models were not compared by {kind}"
            )
            yield Verdict("inconclusive", why)
        elif without:
            yield Verdict("passed", f"{without} of {len(found)} {kind}s could not be compared by {evidence.metric}")
        for name, each in sorted(judged.items()):
            named = name if kind != "cohort" else f"cohort {name}"
            yield from _loss(f"{named} loses", each, most, evidence.metric)


def fairness(evidence: Evidence, limits: Gates) -> Iterator[Verdict]:
    """Groups do not come to lie further apart than stated."""
    for part in limits.slices:
        if part.maximum_difference is None:
            continue
        found = evidence.fairness.get(part.feature)
        if found is None:
            yield Verdict("inconclusive", f"how far apart the groups of {part.feature} are was not measured")
        else:
            far = f"groups of {part.feature} lie further apart by"
            yield from _loss(far, found, part.maximum_difference, "in their answers")


def _loss(said: str, found: Comparison, most: float, of: str) -> Iterator[Verdict]:
    """A loss above `most`: failed where the whole interval says so, else for a person to judge."""
    numbers, named = _numbers(found), said.rsplit(" ", 1)[0]
    if numbers is None:
        yield Verdict("failed", f"{named}: {of} is not a number")
        return
    _, _, gained, low, high = numbers
    if not low <= gained <= high:
        yield Verdict("failed", f"{named}: {_outside(gained, low, high)}")
    elif -gained > most:
        loss = f"{said} {-gained:.4f} [{-high:.4f}, {-low:.4f}] {of} on {found.rows:,} rows, more than {most:.4f}"
        yield Verdict("failed", loss) if -high > most else Verdict("inconclusive", f"{loss}, though not proven")


def smoke(evidence: Evidence) -> Iterator[Verdict]:
    """The packaged candidate serves, loaded in a process of its own as a site loads it."""
    tried = evidence.trials.get("challenger")
    if tried is None:
        yield Verdict("inconclusive", "the candidate was not tried as a site loads it")
    elif tried.error:
        yield Verdict("failed", f"a site cannot serve it: {tried.error}")


def footprint(evidence: Evidence, rooms: Sequence[Room]) -> Iterator[Verdict]:
    """Old and new version fit beside each other, and the Azure ML extension where it carries them."""
    for room in rooms:
        if room.types or room.memory is not None or room.cpu is not None:
            yield from _fits(evidence, room)


def _fits(evidence: Evidence, room: Room) -> Iterator[Verdict]:
    asked: list[tuple[str, float, float]] = []
    for role, word in (("champion", "old"), ("challenger", "new")):
        trial = evidence.trials.get(role)
        cpu = _cores(trial, evidence.rows_per_hour)
        if trial is None or trial.memory is None or cpu is None:
            yield Verdict("inconclusive", f"{_at(room)}: what the {word} version needs was not measured")
            return
        if not room.types:
            asked.append((word, cpu, trial.memory))
            continue
        fitting = [t for t in room.types if _or(t[1], cpu) >= cpu and _or(t[2], trial.memory) >= trial.memory]
        if not fitting:
            takes = f"{_size(trial.memory)} and {cpu:.2g} CPU"
            has = ", ".join(f"{name} {_said(m, _size)} and {_said(c, _short)} CPU" for name, c, m in room.types)
            yield Verdict("failed", f"{_at(room)}: the {word} version takes {takes}, the instance types have {has}")
            return
        name, cpus, memory = min(fitting, key=lambda t: (_or(t[2], math.inf), _or(t[1], math.inf)))
        asked.append((f"{word}, {name}", _or(cpus, cpu), _or(memory, trial.memory)))
    if room.extension:
        asked.append(("Azure ML's extension", EXTENSION_CPU, EXTENSION_MEMORY))
    yield from _sum("memory", [(name, memory) for name, _, memory in asked], room.memory, room, _size)
    yield from _sum("CPU", [(name, cpu) for name, cpu, _ in asked], room.cpu, room, _short)


def _sum(
    what: str, asked: Sequence[tuple[str, float]], free: float | None, room: Room, said: Callable[[float], str]
) -> Iterator[Verdict]:
    total = sum(need for _, need in asked)
    if free is not None and total > free:
        terms = " + ".join(f"{said(need)} ({name})" for name, need in asked)
        yield Verdict("failed", f"{_at(room)}: {what} {terms} = {said(total)}, of {said(free)} free")


def _cores(trial: Trial | None, rows_per_hour: int) -> float | None:
    """CPUs that scoring the busiest hour of the busiest site takes."""
    return None if trial is None or trial.cpu_ms is None else trial.cpu_ms * rows_per_hour / 3.6e6


def download(evidence: Evidence, rooms: Sequence[Room]) -> Iterator[Verdict]:
    """What is new arrives within the longest maintenance window."""
    for room in rooms:
        if room.link_kbps is None or room.window_s is None:
            continue
        if evidence.new_bytes is None:
            yield Verdict("inconclusive", f"{_at(room)}: how much there is to download was not measured")
            continue
        seconds = evidence.new_bytes * 8 / 1000 / room.link_kbps
        if seconds > room.window_s:
            took = f"{_size(evidence.new_bytes)} over {room.link_kbps:g} kbit/s take {seconds / 60:,.1f} min"
            yield Verdict(
                "failed", f"{_at(room)}: {took}, longer than its longest window, {room.window_s / 60:,.1f} min"
            )


def latency(evidence: Evidence, limits: Gates, rooms: Sequence[Room]) -> Iterator[Verdict]:
    """Rows are scored fast enough, on the architecture that the sites have."""
    if limits.maximum_p95_ms is None:
        return
    tried = evidence.trials.get("challenger")
    if tried is None or tried.p95_ms is None or not math.isfinite(tried.p95_ms):
        yield Verdict("inconclusive", "how long a row takes was not measured")
        return
    on = tried.architecture or "an unknown architecture"
    if tried.p95_ms > limits.maximum_p95_ms:
        took = f"p50 {tried.p50_ms or math.nan:.3g} ms, p95 {tried.p95_ms:.3g} ms on {on}"
        yield Verdict("failed", f"a row takes {took}, more than {limits.maximum_p95_ms:g} ms")
    for room in rooms:
        if room.architecture and _same(room.architecture) != _same(tried.architecture):
            yield Verdict("inconclusive", f"{_at(room)} is {room.architecture}, and a row's time was measured on {on}")


def _same(architecture: str) -> str:
    return _ARCHITECTURES.get(architecture.lower(), architecture.lower())


def behaviour(evidence: Evidence, limits: Gates) -> Iterator[Verdict]:
    """It takes the loop's rows, is as well calibrated as asked, changes no more answers, and fails no example."""
    if evidence.schema is None:
        yield Verdict("inconclusive", "whether its rows are the loop's was not looked at")
    elif evidence.schema:
        yield Verdict("failed", f"its rows are not the loop's: {evidence.schema}")
    error = evidence.calibration.get("challenger")
    for what, found, most in (
        ("calibration error", error, limits.maximum_calibration_error),
        ("share of changed answers", evidence.churn, limits.maximum_churn),
    ):
        if most is None:
            continue
        if found is None or not math.isfinite(found):
            yield Verdict("inconclusive", f"the {what} was not measured")
        elif found > most:
            yield Verdict("failed", f"{what} {found:.4f}, more than {most:.4f}")
    if limits.examples is None:
        return
    if evidence.missed:
        more = f" and {len(evidence.missed) - 5} more" if len(evidence.missed) > 5 else ""
        failed = f"{len(evidence.missed)} of {evidence.examples} examples that must not fail"
        yield Verdict("failed", f"{failed}: {', '.join(evidence.missed[:5])}{more}")
    elif not evidence.examples:
        yield Verdict("inconclusive", f"no example of {limits.examples} was tried")


def rooms(fleet: Fleet, sites: Sequence[str] | None) -> tuple[Room, ...]:
    """What the sites (None: all) have for a candidate, those that have the same together."""
    alike: dict[Room, list[str]] = {}
    for site in fleet.sites:
        if sites is None or site.name in sites:
            alike.setdefault(_room(site), []).append(site.name)
    return tuple(msgspec.structs.replace(room, site=names[0], sites=len(names)) for room, names in alike.items())


def _room(site: Site) -> Room:
    free = site.free
    return Room(
        site="",
        cpu=_amount(free.cpu) if free else None,
        memory=_amount(free.memory) if free else None,
        types=tuple((t.name, _amount(t.cpu), _amount(t.memory)) for t in site.instance_types),
        extension=site.executor == "azureml",
        link_kbps=site.link_kbps,
        window_s=max((duration(w.duration).total_seconds() for w in site.windows), default=None),
        architecture=site.architecture,
    )


def _amount(quantity: str) -> float | None:
    return amount(quantity) if quantity else None


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _said(value: float | None, words: Callable[[float], str]) -> str:
    return "any" if value is None else words(value)


def _short(number: float) -> str:
    return f"{number:.2g}"


def _at(room: Room) -> str:
    return room.site if room.sites == 1 else f"{room.site} (and {room.sites - 1} like it)"


def _size(bytes_: float) -> str:
    """
    >>> _size(2440 * 2**20), _size(3.5 * 2**30), _size(900)
    ('2.4 GiB', '3.5 GiB', '900 B')
    """
    units: Mapping[str, float] = {"GiB": 2.0**30, "MiB": 2.0**20, "KiB": 2.0**10}
    for unit, size in units.items():
        if bytes_ >= size:
            return f"{bytes_ / size:.1f} {unit}"
    return f"{bytes_:.0f} B"


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _numbers(found: Comparison) -> tuple[float, float, float, float, float] | None:
    """Champion, challenger, gain, and the ends of its interval; None where one is no number."""
    a, b, gained, low, high = found.champion, found.challenger, found.gain, found.gain_low, found.gain_high
    if a is None or b is None or gained is None or low is None or high is None:
        return None
    return (a, b, gained, low, high) if all(map(math.isfinite, (a, b, gained, low, high))) else None

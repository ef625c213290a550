"""Why a run began, what was proven, who decided and what each site did, in plain sentences with their numbers.

What is told is what was kept: the audit trail, the decision, the evidence and the run's list of sites.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from triggers import loop, sites, views
from triggers.errors import DriftloopError
from triggers.notices import plain
from triggers.policy import Decision
from triggers.ports import Ports
from triggers.records import AuditEntry, RolloutRow
from triggers.run import Phase, Run
from triggers.views import Sentence, View

_FEW = 12
"""So many sites are told of one by one."""


class Chapter(View, frozen=True, kw_only=True):
    """One question, answered in sentences."""

    title: str
    text: list[str]


class Story(View, frozen=True, kw_only=True):
    """What happened to a run: in chapters, and step by step, oldest first."""

    run: str
    chapters: list[Chapter]
    sentences: list[Sentence]


def story(ports: Ports, run_id: str) -> Story:
    """Raises NotFound."""
    run = views.stored_run(ports, run_id)
    entries = loop.story(ports, run.loop, run_id)
    cause = views.cause(ports, run)
    told = {
        "Why then": _why_then(ports, run, cause),
        "What had moved": _what_moved(ports, run, cause),
        "What was made of it": _training(ports, run, entries),
        "Why this candidate": _comparison(ports, run),
        "Who decided": _deciders(ports, run, entries),
        "What each site did": _sites(ports, run),
        "How it ended": _end(run),
    }
    chapters = [Chapter(title=title, text=text) for title, of in told.items() if (text := list(of))]
    return Story(run=run_id, chapters=chapters, sentences=views.steps(entries))


def _when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def _count(n: int, noun: str, many: str = "") -> str:
    return f"{n:,} {noun if n == 1 else many or noun + 's'}"


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _lasted(length: timedelta) -> str:
    """
    >>> _lasted(timedelta(minutes=3)), _lasted(timedelta(hours=50))
    ('3 minutes', '2.1 days')
    """
    seconds = length.total_seconds()
    if seconds < 5400:
        return _count(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours" if seconds < 172_800 else f"{seconds / 86400:.1f} days"


# --- why it began


def _why_then(ports: Ports, run: Run, cause: Decision | None) -> Iterator[str]:
    if cause is None:
        yield f"It began on {_when(run.started)}: {run.cause}."
        return
    where = {"fleet": "the whole fleet"}.get(cause.scope, cause.scope.replace(":", " "))
    kinds = _listed(list(dict.fromkeys(f.kind for f in cause.findings if f.statistical)))
    yield f"The check of {_when(cause.at)} found {kinds} drift and began a run for {where}."
    if found := re.search(r"; (\d+) checks? in a row", cause.reason):
        yield f"It was the {_ordinal(int(found[1]))} check in a row that found it."
    yield from _held_before(ports, run, cause)
    if found := re.search(r"; ([\d,]+) labelled rows", cause.reason):
        yield f"{found[1]} labelled rows were there to train on."
    if found := re.search(r"; compute (.+)$", cause.reason):
        yield f"It was to train here: {found[1]}."
    if any(not f.covered for f in cause.findings if f.statistical):
        yield (
            "The training time was too short to carry the promised rate of false alarms; the decision says by how much."
        )


def _ordinal(n: int) -> str:
    """
    >>> [_ordinal(n) for n in (1, 2, 11, 42)]
    ['1st', '2nd', '11th', '42nd']
    """
    end = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{end}"


def _held_before(ports: Ports, run: Run, cause: Decision) -> Iterator[str]:
    """Why it did not begin at the checks before, that had found drift as well."""
    held: list[Decision] = []
    for decision in views.decisions(ports, run.loop, 200, f"{cause.at:%Y-%m-%dT%H%M%S}").decisions:
        if decision.action != "hold" or "; held: " not in decision.reason:
            break
        held.append(decision)
    if held:
        whys = Counter(re.sub(r" ends in .*| \(.*", "", d.reason.split("; held: ")[1]) for d in held)
        said = ", ".join(f"{why} ({_count(n, 'time')})" for why, n in whys.most_common(4))
        yield f"Since {held[-1].at:%Y-%m-%d} drift had been there and nothing began: {said}."


def _what_moved(ports: Ports, run: Run, cause: Decision | None) -> Iterator[str]:
    for finding in cause.findings if cause else ():
        rule = "" if finding.statistical else " (a rule, apart from the promise on false alarms)"
        yield f"{plain(finding.reason)[:1].upper()}{plain(finding.reason)[1:]}{rule}."
    try:
        found = views.heat(ports, run.loop, f"{run.started:%Y-%m-%dT%H%M%S}-{run.champion[:12]}", "psi", limit=1000)
    except DriftloopError:
        return
    cells = [
        (value, feature, site)
        for site, row in zip(found.sites, found.values, strict=True)
        for feature, value in zip(found.features, row, strict=True)
        if value is not None
    ]
    if cause and cells:
        top = [f"{feature} at {site} ({value:.2f})" for value, feature, site in sorted(cells, reverse=True)[:5]]
        yield f"Furthest from the training time, by PSI: {', '.join(top)}."


# --- what was made and proven


def _training(ports: Ports, run: Run, entries: Sequence[AuditEntry]) -> Iterator[str]:
    ended = next((e for e in entries if e.kind == "event-trained"), None)
    lineage = views.lineage(ports, run.candidate) or {}
    if ended is not None:
        span = f", from {str(lineage['from'])[:10]} to {str(lineage['to'])[:10]}" if lineage.get("from") else ""
        took = ended.at - run.started
        lasted = f" It took {_lasted(took)}." if took >= timedelta(minutes=1) else ""
        yield f"A candidate was trained on {run.rows:,} rows{span}: {run.candidate[:12]}.{lasted}"
    elif run.candidate:
        yield f"Candidate {run.candidate[:12]} was handed in; driftloop did not train it."
    for entry in entries:
        if entry.kind == "event-job-failed":
            yield f"On {_when(entry.at)} a job failed: {entry.text}."


def _comparison(ports: Ports, run: Run) -> Iterator[str]:
    found = views.evidence(ports, run.evidence)
    if not found:
        return
    metric, gain = found.get("metric"), found.get("gain")
    span = f", from {str(found['from'])[:10]} to {str(found['to'])[:10]}" if found.get("from") else ""
    yield (
        f"On {found.get('rows', 0):,} rows that neither model was trained on{span}, {metric} was "
        f"{_number(found.get('challenger_value'))} against the champion's {_number(found.get('champion_value'))}."
    )
    if isinstance(gain, int | float):
        yield f"That is a gain of {gain:+.4f}{_interval(found)}."
    yield from _parts(found)
    word = {
        "passed": "let it through",
        "failed": "refused it",
        "inconclusive": "could not decide and left it to people",
    }
    yield f"The gates {word.get(run.outcome, run.outcome)}: {run.verdict}."


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found.get("gain_low"), found.get("gain_high")
    if low is None or high is None:
        return ", with no interval"
    return f", between {low:+.4f} and {high:+.4f} at {float(found.get('confidence') or 0):.0%} confidence"


def _parts(found: Mapping[str, Any]) -> Iterator[str]:
    """Where it gains and where it loses."""
    parts = {str(k): v for k, v in (found.get("sites") or {}).items() if isinstance(v, Mapping) and "gain" in v}
    known = {k: v for k, v in parts.items() if v.get("gain_low") is not None and v.get("gain_high") is not None}
    better = [f"{k} ({v['gain']:+.4f})" for k, v in known.items() if v["gain_low"] > 0]
    worse = [f"{k} ({v['gain']:+.4f})" for k, v in known.items() if v["gain_high"] < 0]
    if known:
        won = f"surely better at {_listed(better)}" if better else "surely better at none"
        lost = f"surely worse at {_listed(worse)}" if worse else "surely worse at none"
        yield f"Site by site it was {won}, and {lost}."


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "not known"


# --- who decided, and what followed


def _deciders(ports: Ports, run: Run, entries: Sequence[AuditEntry]) -> Iterator[str]:
    asked = next((e for e in entries if e.kind == "approval-asked"), None)
    if asked is not None:
        request = views.approval_request(ports, run.id)
        until = f", to be answered until {_when(request.expires)}" if request else ""
        yield f"People were asked on {_when(asked.at)}{until}."
    elif run.outcome == "failed":
        yield "Nobody was asked: what the gates refuse does not come before people."
    for entry in entries:
        if entry.kind == "answered":
            yield from _answer(entry)
        elif entry.kind == "answer-refused":
            yield f"An answer of {entry.actor} on {_when(entry.at)} did not count: {entry.text}."
        elif entry.kind in ("event-cancelled", "event-rollback-asked", "event-paused", "event-resumed"):
            did = entry.kind.removeprefix("event-").replace("-", " ")
            yield f"{entry.actor} had it {did} on {_when(entry.at)}: {entry.text}."


def _answer(entry: AuditEntry) -> Iterator[str]:
    word = {"approve": "approved it", "reject": "rejected it", "changes": "asked for changes"}
    did = word.get(entry.data.get("answer", ""), "answered")
    if entry.data.get("automatic"):
        yield f"On {_when(entry.at)} a rule let the first ring begin: {entry.text}."
        return
    reason = f", saying: {entry.data['reason']}" if entry.data.get("reason") else ", without a reason"
    bound = [str(entry.data.get(k, ""))[:12] for k in ("candidate", "evidence", "plan")]
    yield (
        f"{entry.actor} {did} on {_when(entry.at)}{reason}. The answer is bound to candidate {bound[0]}, "
        f"evidence {bound[1]} and plan {bound[2]}."
    )


def _sites(ports: Ports, run: Run) -> Iterator[str]:
    if not run.times:
        if run.phase.final:
            yield "No site was changed."
        return
    rows = [row for _, row in sites.rows(ports, run.id)]
    for n, (wave, times) in enumerate(zip(run.waves, run.times, strict=False)):
        mine = [row for row in rows if row.wave == n]
        done = f", verified {_lasted(times.verified - times.started)} later" if times.verified else ""
        yield f"Wave {n + 1} ({wave.ring}, {_count(wave.sites, 'site')}) began on {_when(times.started)}{done}."
        yield from _told(mine)
    left = sum(wave.sites for wave in run.waves[len(run.times) :])
    if left:
        later = _count(len(run.waves) - len(run.times), "later wave")
        yield f"{_count(left, 'site')} in {later} {'was' if left == 1 else 'were'} never reached."


def _told(rows: Sequence[RolloutRow]) -> Iterator[str]:
    """Few sites one by one; of many the counts, and those that did not go well."""
    shown = rows if len(rows) <= _FEW else [r for r in rows if r.status not in ("verified", "restored")][:_FEW]
    if len(rows) > _FEW:
        yield ", ".join(f"{n:,} {status}" for status, n in Counter(r.status for r in rows).most_common()) + "."
    for row in shown:
        yield f"{row.site}: {row.status} by {_when(row.at)}" + (f" ({row.reason})." if row.reason else ".")


def _end(run: Run) -> Iterator[str]:
    if run.ended is None:
        yield f"It has not ended: it is {run.phase} since {run.because}."
        return
    word = {Phase.ROLLED_BACK: "rolled back"}.get(run.phase, str(run.phase))
    took = run.ended - run.started
    lasted = f", {_lasted(took)} after it began" if took >= timedelta(minutes=1) else ""
    yield f"It ended as {word} on {_when(run.ended)}{lasted}: {run.because}."

"""The approval page: what a reviewer needs, in words and tables, and what will happen when they answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from functions.pages import Html, html, shell
from triggers.approval import IN_WORDS
from triggers.run import Phase
from triggers.views import ApprovalView, PlanWave, RunDetail


class You(NamedTuple):
    """Who looks. `token` marks the form of those who may answer; empty for others. `not_asked`: why they may not;
    `not_impartial`: why they may reject and not approve."""

    name: str
    token: str
    not_asked: str
    not_impartial: str


def render(detail: RunDetail, asked: ApprovalView, you: You, refused: str = "", reason: str = "") -> Html:
    """What people are asked, with everything that the answer is bound to."""
    run = detail.run
    return shell(
        f"Approval of {run.id}",
        html("<h1>{}: a new model</h1><p class='sub'>Run <code>{}</code></p>", run.loop, run.id),
        _state(detail, asked, you, refused),
        _section("What will happen" if asked.state == "open" else "What was asked", _what_will_happen(detail, asked)),
        _section("What the gate says", _verdict(asked)),
        _section("How the models compare", _evidence(detail.evidence)),
        _section("What drifted", _drifted(detail)),
        _section("Where it goes", _waves(detail.waves), _timeline(detail.waves, detail.now), _quota(detail.quota)),
        _section("Where it comes from", _lineage(detail, asked)),
        _section("What the answer is bound to", _digests(asked)),
        _section("Your answer", _form(asked, you, reason), name="answer") if you.token else Html(""),
    )


def _section(title: str, *body: Html, name: str = "") -> Html:
    attribute = html(' id="{}"', name) if name else ""
    return html("<section{}><h2>{}</h2>{}</section>", attribute, title, body)


def _note(tone: str, text: str, strong: str = "", more: str = "") -> Html:
    said = html("<strong>{}</strong> ", strong) if strong else ""
    return html('<p class="note {}">{}{}{}</p>', tone, said, text, more)


def _state(detail: RunDetail, asked: ApprovalView, you: You, refused: str) -> Html:
    notes = []
    if refused:
        notes.append(html('<p class="note bad" role="alert"><strong>Not counted:</strong> {}.</p>', refused))
    if asked.state == "open":
        expired = detail.now >= asked.expires
        waits = f"Expired at {when(asked.expires)}" if expired else f"Waits for an answer until {when(asked.expires)}"
        link = html(' <a href="#answer">To your answer</a>') if you.token else Html("")
        notes.append(_note("warn", f"{waits} (now {when(detail.now)}).", more=link))
        if asked.frozen:
            notes.append(_note("info", f"{asked.frozen}. Nobody's approval counts until that ends.", "Frozen:"))
        if asked.needed > 1:
            given = _listed([f"{c.by} ({when(c.at)})" for c in asked.consents]) or "nobody yet"
            notes.append(_note("neutral", f"{asked.needed} people have to approve. So far: {given}."))
    else:
        notes.append(_settled(detail, asked))
    if you.not_asked:
        names = _listed([*asked.approvers, *(f"group {g}" for g in asked.groups)]) or "nobody is on it"
        notes.append(_note("neutral", f"You may look, and not answer: {you.not_asked} ({names})."))
    elif you.not_impartial and asked.state == "open":
        notes.append(_note("neutral", f"You may reject it or ask for changes, and not approve: {you.not_impartial}."))
    return html("{}", notes)


def _settled(detail: RunDetail, asked: ApprovalView) -> Html:
    state = IN_WORDS.get(asked.state, asked.state)
    by = f" by {asked.by}" if asked.by else ""
    at = f" at {when(asked.answered)}" if asked.answered else ""
    why = f": {asked.reason}" if asked.reason else ""
    heard = detail.run.phase is not Phase.AWAITING_APPROVAL
    follows = f"The run is now {detail.run.phase}: {detail.run.because}." if heard else "The run hears of it now."
    tone = "good" if asked.state in ("approved", "automatic") else "neutral"
    return _note(tone, follows, f"{state[0].upper()}{state[1:]}{by}{at}{why}.")


def _what_will_happen(detail: RunDetail, asked: ApprovalView) -> Html:
    run, limits = detail.run, detail.limits
    done = [w for w in detail.waves if w.verified]
    waves = [w for w in detail.waves if not w.verified]
    sites = sum(len(w.sites) for w in waves)
    slow = limits.get("max_p95_ms")
    speed = f", answers within {slow:g} ms" if slow is not None else ""
    health = (
        f"at least {limits['minimum_requests']} requests, at most {limits['max_error_rate']:.1%} errors{speed}, "
        f"for {limits['soak']}"
    )
    failed = limits["max_failed"]
    beyond = "a site fails" if failed == 0 else f"more than {_count(failed, 'site')} fail"
    before = f"By rule, it is served at {_listed([s.site for w in done for s in w.sites])} already. " if done else ""
    stays = "every site that was reached goes back and the run ends" if done else "no site changes and the run ends"
    more = asked.needed - len(asked.consents) - 1
    others = f"{_count(more, 'person', 'people')} more {'has' if more == 1 else 'have'}"
    first = f"nothing begins before {others} approved; then " if more > 0 else ""
    return html(
        "<ul><li>{}<strong>If you approve,</strong> {}candidate <code>{}</code> replaces <code>{}</code> at {} in {}: "
        "{}. A wave begins when the one before it is verified by its own telemetry ({}).</li>"
        "<li><strong>If {},</strong> or a wave is not verified within {} after that, every site that was reached goes "
        "back to its last known good, without asking.</li>"
        "<li><strong>If you reject,</strong> {}.</li>"
        "<li><strong>If you ask for changes,</strong> {} too, and your words go to whoever asked: what is changed "
        "is another candidate, and is asked about anew.</li>"
        "<li><strong>If nobody answers</strong> until {}, the run expires and {}.</li></ul>",
        before,
        first,
        run.candidate[:12],
        run.champion[:12],
        _count(sites, "site"),
        _count(len(waves), "wave"),
        ", then ".join(f"{w.ring} ({_listed([s.site for s in w.sites])})" for w in waves) or "no site",
        health,
        beyond,
        limits["deadline"],
        stays,
        stays,
        when(asked.expires),
        "every site that was reached goes back" if done else "no site changes",
    )


def _count(n: int, noun: str, many: str = "") -> str:
    return f"{n:,} {noun if n == 1 else many or noun + 's'}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _verdict(asked: ApprovalView) -> Html:
    words = {
        "passed": "It is better by more than the gate asks for.",
        "inconclusive": "Inconclusive: the numbers do not decide it, so you do.",
        "failed": "It is not better.",
    }
    return html(
        '<p><span class="pill {}">{}</span> {}</p><p>{}.</p>',
        asked.outcome,
        asked.outcome,
        words.get(asked.outcome, ""),
        asked.verdict,
    )


# --- what was measured, whatever the evaluation wrote


class Compared(NamedTuple):
    """Champion and challenger on some rows."""

    where: str
    part: Mapping[str, Any]

    @property
    def side(self) -> str:
        """Better, worse, or neither, by the interval."""
        low, high = self.part.get("gain_low"), self.part.get("gain_high")
        if low is None or high is None:
            return ""
        return "up" if low > 0 else "down" if high < 0 else ""


_SAID = {"champion", "challenger", "metric", "confidence", "from", "to", "rows", "champion_value", "challenger_value"}
_SAID |= {"gain", "gain_low", "gain_high"}


def _evidence(found: Mapping[str, Any] | None) -> Html:
    if found is None:
        return html("<p>{}</p>", "There is no evidence.")
    overall = {"champion": found.get("champion_value"), "challenger": found.get("challenger_value")}
    groups = {"": [Compared("all rows", {**found, **overall})]}
    shown = set(_SAID)
    for name, value in found.items():
        if name not in _SAID and (rows := list(_comparisons(name, value))):
            shown.add(name)
            groups.setdefault("" if _is_comparison(value) else _words(name), []).extend(rows)
    every = [row for rows in groups.values() for row in rows]
    reach = max((abs(v) for row in every for v in _interval(row.part)), default=0.0) or 1.0
    body = []
    for name, rows in groups.items():
        if name:
            body.append(html('<tr><th scope="rowgroup" class="group" colspan="4">{}</th></tr>', name))
        body += [_row(row, reach) for row in rows]
    rest = {k: v for k, v in found.items() if k not in shown and v not in (None, "", {}, [])}
    when_ = f"Rows from {_day(found.get('from'))} to {_day(found.get('to'))}, outside both training windows."
    return html(
        '{}<div class="scroll" tabindex="0" role="region" aria-label="Comparison"><table><thead><tr>'
        '<th scope="col">where</th><th scope="col" class="n">candidate</th>'
        '<th scope="col" class="n">gain, {} interval</th><th scope="col" class="wide">worse | better</th>'
        '</tr></thead><tbody>{}</tbody></table></div><p class="sub">Metric: {}. A gain above zero is better. {}</p>{}',
        _gist(every[1:]),
        f"{float(found.get('confidence') or 0):.0%}",
        body,
        found.get("metric"),
        when_,
        _facts(rest),
    )


def _comparisons(name: str, value: Any) -> Iterator[Compared]:
    """The comparisons in a part of the evidence: itself, or one by name, at any depth."""
    if not isinstance(value, Mapping):
        return
    if _is_comparison(value):
        yield Compared(_words(name), value)
        return
    for key, part in sorted(value.items()):
        yield from _comparisons(str(key), part)


def _is_comparison(value: Mapping[str, Any]) -> bool:
    return {"champion", "challenger", "gain"} <= value.keys()


def _gist(parts: Sequence[Compared]) -> Html:
    """Where it gains and where it loses, in a line."""
    if not parts:
        return Html("")
    worse = sorted((p for p in parts if p.side == "down"), key=lambda p: p.part["gain"])
    better = [p for p in parts if p.side == "up"]
    open_ = len(parts) - len(worse) - len(better)
    losses = f"surely worse in {len(worse)} ({_listed([p.where for p in worse])})" if worse else "surely worse in none"
    return html(
        "<p>Of {}, it is surely better in {}, {}; in {} the interval spans zero or is not known.</p>",
        _count(len(parts), "part"),
        len(better),
        losses,
        open_,
    )


def _interval(part: Mapping[str, Any]) -> list[float]:
    return [v for v in (part.get("gain_low"), part.get("gain"), part.get("gain_high")) if isinstance(v, int | float)]


def _row(row: Compared, reach: float) -> Html:
    part, interval = row.part, "not known"
    low, high, gain = part.get("gain_low"), part.get("gain_high"), part.get("gain")
    if low is not None and high is not None:
        interval = f"{low:+.4f} to {high:+.4f}"
    two = '<td class="n {}">{}<br><span class="sub">{}</span></td>'
    return html(
        '<tr><th scope="row">{}<br><span class="sub">{}</span></th>' + 2 * two + '<td class="wide">{}</td></tr>',
        row.where,
        _count(int(part.get("rows") or 0), "row"),
        "",
        number(part.get("challenger")),
        f"champion {number(part.get('champion'))}",
        row.side,
        "not known" if gain is None else f"{gain:+.4f}",
        interval,
        _bar(row, reach),
    )


def _bar(row: Compared, reach: float) -> Html:
    """The interval as a line across zero; what it says stands beside it in numbers."""
    found = _interval(row.part)
    if len(found) < 3:
        return Html("")
    low, gain, high = (60 + 56 * v / reach for v in found)
    return html(
        '<svg class="gain {}" viewBox="0 0 120 16" width="120" height="16" aria-hidden="true">'
        '<line class="zero" x1="60" x2="60" y1="0" y2="16"/><line x1="{}" x2="{}" y1="8" y2="8"/>'
        '<circle cx="{}" cy="8" r="3.5"/></svg>',
        row.side,
        *(f"{v:.1f}" for v in (low, high, gain)),
    )


def _facts(found: Mapping[str, Any]) -> Html:
    """Whatever else was measured, by name."""
    pairs = [html("<dt>{}</dt><dd>{}</dd>", _words(k), _said(v)) for k, v in found.items()]
    return html('<dl class="facts">{}</dl>', pairs) if pairs else Html("")


_UNITS = {"ms": "ms", "bytes": "bytes", "mb": "MB", "kb": "kB", "s": "s", "seconds": "s"}


def _words(name: str) -> str:
    """
    >>> _words("latency_ms"), _words("log_loss")
    ('latency (ms)', 'log loss')
    """
    stem, _, unit = name.rpartition("_")
    return f"{stem.replace('_', ' ')} ({_UNITS[unit]})" if stem and unit in _UNITS else name.replace("_", " ")


def _drifted(detail: RunDetail) -> Html:
    if detail.decision is None:
        return html("<p>{}.</p>", detail.run.cause)
    findings = [
        html('<li><span class="pill">{}</span> {}</li>', f.kind if f.statistical else f"{f.kind} (a rule)", f.reason)
        for f in detail.decision.findings
    ]
    links = [html('<li><a href="{}" rel="noopener">{}</a></li>', r, "The full drift report") for r in detail.reports]
    if not links:
        command = f"driftloop report --run {detail.run.id} --state ..."
        links = [html("<li>No full drift report is drawn yet: <code>{}</code> draws it.</li>", command)]
    return html(
        "<ul>{}{}</ul><details><summary>The decision in full</summary><p>{}.</p></details>",
        findings,
        links,
        detail.decision.reason,
    )


def _waves(waves: Iterable[PlanWave]) -> Html:
    rows = [
        html(
            '<tr><td>{}</td><th scope="row">{}</th><td>{}</td></tr>',
            n,
            w.ring,
            ", ".join(s.site if s.status == "planned" else f"{s.site} ({s.status})" for s in w.sites),
        )
        for n, w in enumerate(waves, 1)
    ]
    return html(
        '<table><thead><tr><th scope="col" class="order">wave</th><th scope="col">ring</th>'
        '<th scope="col">sites</th></tr>'
        "</thead><tbody>{}</tbody></table>",
        rows,
    )


def _timeline(waves: Iterable[PlanWave], now: datetime) -> Html:
    """When each wave is expected: a bar a wave, and what holds it back."""
    ahead = [(n, w.start, w.end, w) for n, w in enumerate(waves, 1) if w.start and w.end]
    if not ahead:
        return Html("")
    last = max(end for _, _, end, _ in ahead)
    whole = max((last - now).total_seconds(), 1.0)

    def share(length: timedelta) -> float:
        return max(0.0, length.total_seconds()) / whole * 100

    bars = [
        html(
            '<li>{}<svg viewBox="0 0 100 8" preserveAspectRatio="none" width="100%" height="8" aria-hidden="true">'
            '<rect width="100" height="8" fill="currentColor" opacity="0.1"/>'
            '<rect x="{}" width="{}" height="8" fill="currentColor" opacity="0.6"/></svg>{}</li>',
            f"wave {n}, {w.ring}: {when(start)} to {when(end)}, {w.bytes / 1e6:,.1f} MB",
            f"{share(start - now):.1f}",
            f"{max(0.5, share(end - start)):.1f}",
            html('<span class="sub">{}</span>', w.held) if w.held else "",
        )
        for n, start, end, w in ahead[:40]
    ]
    return html(
        '<p class="sub">If you approve now and every site is well, it is verified everywhere by {}.</p><ul>{}</ul>',
        when(last),
        bars,
    )


def _quota(problems: Iterable[str]) -> Html:
    """Sites that Azure has no room for."""
    return html("<ul>{}</ul>", [html("<li>{}</li>", p) for p in problems]) if problems else Html("")


def _lineage(detail: RunDetail, asked: ApprovalView) -> Html:
    found = {k: v for k, v in (detail.lineage or {}).items() if v not in (None, "", {}, [])}
    who = {"asked for by": ", ".join(asked.requested_by)} if asked.requested_by else {}
    if not found and not who:
        return html("<p>{}</p>", "The candidate's manifest says nothing of its origin.")
    return _facts({**who, **found})


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(k))}: {_said(v)}" for k, v in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _digests(asked: ApprovalView) -> Html:
    pairs = (("candidate", asked.candidate), ("evidence", asked.evidence), ("plan", asked.plan))
    return html(
        '<dl class="facts">{}</dl><p class="sub">An answer counts for exactly these bytes.</p>',
        [html("<dt>{}</dt><dd><code>{}</code></dd>", *pair) for pair in pairs],
    )


def _form(asked: ApprovalView, you: You, reason: str) -> Html:
    hidden = {"candidate": asked.candidate, "evidence": asked.evidence, "plan": asked.plan, "csrf": you.token}
    approve = html('<button class="go" name="answer" value="approve" formnovalidate>Approve</button>')
    return html(
        '<form method="post" autocomplete="off">{}<label for="reason">Reason (needed to reject or to ask for '
        'changes)</label><textarea id="reason" name="reason" rows="3" maxlength="1000" required>{}</textarea>'
        '<div class="row">{}<button name="answer" value="changes">Ask for changes</button>'
        '<button class="stop" name="answer" value="reject">Reject</button></div></form>',
        [html('<input type="hidden" name="{}" value="{}">', k, v) for k, v in hidden.items()],
        reason,
        "" if you.not_impartial else approve,
    )


def number(value: Any, digits: int = 4) -> str:
    """
    >>> number(0.71234567), number(None)
    ('0.7123', 'not known')
    """
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "not known"


def when(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _day(text: Any) -> str:
    return str(text)[:10] if text else "an unknown day"

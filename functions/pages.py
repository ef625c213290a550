"""Pages that work without JavaScript. Whatever is not markup of ours is escaped, and what cannot be seen is shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

import azure.functions as func

from functions import answers
from triggers.run import Phase
from triggers.views import ApprovalView, PlanWave, RunDetail

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Html(str):
    """Markup of ours."""

    __slots__ = ()


def html(template: str, *values: object) -> Html:
    """Fill `{}` in markup of ours.

    >>> html("<p>{}</p>", "<script>")
    '<p>&lt;script&gt;</p>'
    """
    return Html(template.format(*(_part(v) for v in values)))


def _part(value: object) -> str:
    if isinstance(value, Html):
        return value
    if isinstance(value, list | tuple):
        return "".join(_part(v) for v in value)
    return escape("".join(map(_visible, str(value))))


def _visible(character: str) -> str:
    """Controls, and marks that turn text around or hide in it, as their code."""
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character not in "\n\t"
    return f"\\u{ord(character):04x}" if hidden else character


def respond(status: int, page: Html, headers: Mapping[str, str] | None = None) -> func.HttpResponse:
    """A page, never kept by a cache and never in a frame."""
    return func.HttpResponse(
        page.encode("utf-8", "backslashreplace"),
        status_code=status,
        mimetype="text/html",
        headers={**answers.SECURITY, "Content-Security-Policy": POLICY, **(headers or {})},
    )


def shell(title: str, *body: Html, onward: str = "") -> Html:
    """A whole page; `onward`: where it goes on by itself."""
    refresh = html('<meta http-equiv="refresh" content="1; url={}">', onward) if onward else Html("")
    return html(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{} · driftloop</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">{}'
        '<link rel="icon" href="/api/ui/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="/api/ui/style.css"></head><body class="page">'
        '<header class="bar"><a class="brand" href="/api/ui/">driftloop</a></header>'
        "<main>{}</main></body></html>",
        title,
        refresh,
        body,
    )


def signed_in(name: str, onward: str) -> Html:
    return shell(
        "Signed in", html('<h1>Signed in as {}</h1><p><a href="{}">Go on</a></p>', name, onward), onward=onward
    )


def signed_out(why: str) -> Html:
    return shell(
        "Sign in",
        html(
            "<h1>Sign in first</h1><p>{}</p>"
            "<p>driftloop prints a login link in the terminal where it runs. Open it, then come back.</p>",
            why,
        ),
    )


def message(title: str, text: str) -> Html:
    return shell(title, html('<h1>{}</h1><p>{}</p><p><a href="/api/ui/">To the dashboard</a></p>', title, text))


# --- the approval page


def approval(
    detail: RunDetail, asked: ApprovalView, person: str, token: str, refused: str = "", reason: str = ""
) -> Html:
    """What a person is asked, with everything that the answer is bound to. The form is there for those who may answer:
    `token` is empty for the others."""
    run = detail.run
    return shell(
        f"Approval of {run.id}",
        html("<h1>{}: a new model</h1><p class='sub'>Run <code>{}</code></p>", run.loop, run.id),
        _state(detail, asked, person, refused),
        _section("What will happen" if asked.state == "open" else "What was asked", _what_will_happen(detail, asked)),
        _section("What the gate says", _verdict(asked)),
        _section("How the models compare", _evidence(detail.evidence)),
        _section("What drifted", _drifted(detail)),
        _section("Where it goes", _waves(detail.waves)),
        _section("Where it comes from", _lineage(detail)),
        _section("What the answer is bound to", _digests(asked)),
        _section("Your answer", _form(asked, token, reason)) if token else Html(""),
    )


def _section(title: str, *body: Html) -> Html:
    return html("<section><h2>{}</h2>{}</section>", title, body)


def _state(detail: RunDetail, asked: ApprovalView, person: str, refused: str) -> Html:
    notes = []
    if refused:
        notes.append(html('<p class="note bad" role="alert"><strong>Not counted:</strong> {}.</p>', refused))
    if asked.state == "open":
        expired = detail.now >= asked.expires
        waits = f"Expired at {when(asked.expires)}" if expired else f"Waits for an answer until {when(asked.expires)}"
        notes.append(html('<p class="note warn">{} (now {}).</p>', waits, when(detail.now)))
    else:
        good = "good" if asked.state == "approved" else "neutral"
        by = f" by {asked.by}" if asked.by else ""
        at = f" at {when(asked.answered)}" if asked.answered else ""
        why = f": {asked.reason}" if asked.reason else ""
        said = f"{asked.state.capitalize()}{by}{at}{why}."
        heard = detail.run.phase is not Phase.AWAITING_APPROVAL
        follows = f"The run is now {detail.run.phase}: {detail.run.because}." if heard else "The run hears of it now."
        notes.append(html('<p class="note {}"><strong>{}</strong> {}</p>', good, said, follows))
    if person not in asked.approvers:
        names = ", ".join(asked.approvers) or "nobody is on it"
        words = f"You are signed in as {person}, who is not on the list of approvers ({names})."
        notes.append(html('<p class="note neutral">{}</p>', words))
    return html("{}", notes)


def _what_will_happen(detail: RunDetail, asked: ApprovalView) -> Html:
    run, limits, waves = detail.run, detail.limits, detail.waves
    sites = sum(len(w.sites) for w in waves)
    slow = limits.get("max_p95_ms")
    speed = f", answers within {slow:g} ms" if slow is not None else ""
    health = (
        f"at least {limits['minimum_requests']} requests, at most {limits['max_error_rate']:.1%} errors{speed}, "
        f"for {limits['soak']}"
    )
    failed = limits["max_failed"]
    beyond = "a site fails" if failed == 0 else f"more than {_count(failed, 'site')} fail"
    return html(
        "<ul><li><strong>If you approve,</strong> candidate <code>{}</code> replaces <code>{}</code> at {} in {}: {}. "
        "A wave begins when the one before it is verified by its own telemetry ({}).</li>"
        "<li><strong>If {},</strong> or a wave is not verified within {} after that, every site that was reached goes "
        "back to its last known good, without asking.</li>"
        "<li><strong>If you reject,</strong> no site changes and the run ends.</li>"
        "<li><strong>If nobody answers</strong> until {}, the run expires and no site changes.</li></ul>",
        run.candidate[:12],
        run.champion[:12],
        _count(sites, "site"),
        _count(len(waves), "wave"),
        ", then ".join(f"{w.ring} ({_named([s.site for s in w.sites])})" for w in waves) or "no site",
        health,
        beyond,
        limits["deadline"],
        when(asked.expires),
    )


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _named(names: Sequence[str], most: int = 8) -> str:
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


def _evidence(found: Mapping[str, Any] | None) -> Html:
    if found is None:
        return html("<p>{}</p>", "There is no evidence.")
    overall = {"champion": found.get("champion_value"), "challenger": found.get("challenger_value")}
    rows = [_compared("all sites", {**found, **overall})]
    rows += [_compared(name, part) for name, part in sorted((found.get("sites") or {}).items())]
    loss, latency = found.get("log_loss") or {}, found.get("latency_ms") or {}
    more = [
        f"Rows from {_day(found.get('from'))} to {_day(found.get('to'))}, outside both training windows.",
        f"Log loss {number(loss.get('challenger'))} against {number(loss.get('champion'))}." if loss else "",
        f"The new model answers in {number(latency.get('p50'), 1)} ms (p50), {number(latency.get('p95'), 1)} ms (p95)."
        if latency
        else "",
        f"It has {int(found['bytes']):,} bytes." if found.get("bytes") else "",
    ]
    return html(
        '<div class="scroll" tabindex="0" role="region" aria-label="Evidence"><table><thead><tr><th scope="col">where'
        '</th><th scope="col" class="n">rows</th><th scope="col" class="n">candidate</th>'
        '<th scope="col" class="n">gain, {} interval</th>'
        '</tr></thead><tbody>{}</tbody></table></div><p class="sub">'
        "Metric: {}. A gain above zero is better. {}</p>",
        f"{float(found.get('confidence') or 0):.0%}",
        rows,
        found.get("metric"),
        " ".join(m for m in more if m),
    )


def _compared(where: str, part: Mapping[str, Any]) -> Html:
    low, high, gain = part.get("gain_low"), part.get("gain_high"), part.get("gain")
    side, interval = "", "not known"
    if low is not None and high is not None:
        side, interval = "up" if low > 0 else "down" if high < 0 else "", f"{low:+.4f} to {high:+.4f}"
    two = '<td class="n {}">{}<br><span class="sub">{}</span></td>'
    return html(
        '<tr><th scope="row">{}</th><td class="n">{}</td>' + 2 * two + "</tr>",
        where,
        f"{int(part.get('rows') or 0):,}",
        "",
        number(part.get("challenger")),
        f"champion {number(part.get('champion'))}",
        side,
        "not known" if gain is None else f"{gain:+.4f}",
        interval,
    )


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


def _lineage(detail: RunDetail) -> Html:
    found = {k: v for k, v in (detail.lineage or {}).items() if v not in (None, "", {}, [])}
    if not found:
        return html("<p>{}</p>", "The candidate's manifest says nothing of its origin.")
    return html('<dl class="facts">{}</dl>', [html("<dt>{}</dt><dd>{}</dd>", k, _said(v)) for k, v in found.items()])


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_said(v)}" for k, v in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _digests(asked: ApprovalView) -> Html:
    pairs = (("candidate", asked.candidate), ("evidence", asked.evidence), ("plan", asked.plan))
    return html(
        '<dl class="facts">{}</dl><p class="sub">An answer counts for exactly these bytes.</p>',
        [html("<dt>{}</dt><dd><code>{}</code></dd>", *pair) for pair in pairs],
    )


def _form(asked: ApprovalView, token: str, reason: str) -> Html:
    hidden = {"candidate": asked.candidate, "evidence": asked.evidence, "plan": asked.plan, "csrf": token}
    return html(
        '<form method="post" autocomplete="off">{}<label for="reason">Reason (needed to reject)</label>'
        '<textarea id="reason" name="reason" rows="3" maxlength="1000" required>{}</textarea><div class="row">'
        '<button class="go" name="answer" value="approve" formnovalidate>Approve</button>'
        '<button class="stop" name="answer" value="reject">Reject</button></div></form>',
        [html('<input type="hidden" name="{}" value="{}">', k, v) for k, v in hidden.items()],
        reason,
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

"""What a replay came to, as numbers (summary.json) and as tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.tables import in_words
from triggers import codec, quarantine, sites
from triggers import loop as shell
from triggers.policy import Decision
from triggers.ports import Ports
from triggers.run import Phase, Run

if TYPE_CHECKING:
    from cli.replay import Replay


def make(replay: Replay) -> dict[str, Any]:
    """summary.json, from what the state folder holds."""
    ports, name = replay.local.ports, replay.loop.loop
    states = sites.states(ports, name)
    review = replay.review()
    report = replay.drawn()
    runs = shell.runs(ports, name)
    quarantined = [found for _, found in quarantine.listed(ports, name)]
    return {
        "loop": name,
        "from": replay.start.isoformat(),
        "to": replay.end.isoformat(),
        "rows": sum(s.rows for s in states.values()),
        "bootstrap_rows": replay.span.bootstrap_rows,
        "left_out": replay.span.left_out,
        "batches": {
            "accepted": sum(s.batches for s in states.values()),
            "duplicate": sum(s.duplicates for s in states.values()),
            "quarantined": sum(not q.rows for q in quarantined),
        },
        "quarantine": [{"site": q.site, "batch": q.batch, "reason": q.reason} for q in quarantined],
        "drift": onsets(ports, name),
        "runs": [_run(r) for r in runs],
        "sites": {
            site: {"candidate": s.observed, "verified": s.status in ("verified", "restored"), "status": s.status}
            for site, s in states.items()
        },
        "performance": {k: review[k] for k in ("metric", "static", "loop", "log_loss") if k in review},
        "regret": regret(runs, review),
        "report": str(report) if report else None,
        "figures": figures(replay),
    }


def figures(replay: Replay) -> dict[str, Any]:
    """Of this process since it began: wall seconds, memory of all processes together, rows per second in which batches
    were accepted or folded, by the wall and by the processor time of this process; how often each function raised, and
    what failed for good (see Replay.failed)."""
    meter = replay.meter
    hearing = ("accept_telemetry", "fold_telemetry")
    folding, busy = meter.seconds(*hearing), meter.processor_seconds(*hearing)
    folded = sum(s.rows for s in sites.states(replay.local.ports, replay.loop.loop).values()) - replay.rows_before
    return {
        "seconds": round(time.monotonic() - meter.began, 1),
        "peak_mb": round(meter.peak_mb),
        "rows_per_second": round(folded / folding) if folding else 0,
        "rows_per_processor_second": round(folded / busy) if busy else 0,
        "seconds_by_function": {name: round(meter.seconds(name), 2) for name in meter.names},
        "errors": {k: n for k, n in sorted(meter.errors.items()) if n},
        "failed": replay.failed(),
    }


def status(found: Mapping[str, Any]) -> int:
    """1 where something failed for good, so that the summary may lack what it did not do."""
    return 1 if found["figures"]["failed"] else 0


def onsets(ports: Ports, loop: str) -> list[dict[str, Any]]:
    """Each time that drift was found where the check before had found none in that scope."""
    found, before = [], ""
    for record in ports.store.scan(loop, "decision/"):
        decision = codec.decode(record.value, Decision)
        scope = decision.scope if decision.findings and ("held" in decision.reason or decision.action != "hold") else ""
        if scope and scope != before:
            concerned = [f for f in decision.findings if f.statistical] or list(decision.findings)
            found.append(
                {
                    "at": decision.at.isoformat(),
                    "scope": scope,
                    "sites": sorted({s for f in concerned for s in f.sites}),
                    "features": sorted({x for f in concerned for x in f.features}),
                    "reason": decision.reason,
                }
            )
        before = scope
    return found


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "phase": str(run.phase),
        "reason": run.because,
        "cause": run.cause,
        "outcome": run.outcome,
        "verdict": run.verdict,
        "candidate": run.candidate,
        "champion": run.champion,
        "started": run.started.isoformat(),
        "ended": run.ended.isoformat() if run.ended else None,
        "waves": [
            {
                "ring": wave.ring,
                "sites": wave.sites,
                "started": times.started.isoformat(),
                "verified": times.verified.isoformat() if times.verified else None,
                "deferred": times.deferred,
            }
            for wave, times in zip(run.waves, run.times, strict=False)
        ],
    }


def regret(runs: Iterable[Run], review: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By month after a decision: what the candidate scored, or would have, against the champion that it met."""
    better_low = review["metric"] != "auc"
    months = sorted(review["static"])
    found = []
    for run in runs:
        scored, met = (review["candidates"].get(d, {}) for d in (run.candidate, run.champion))
        decided = run.ended or run.started
        for month in months:
            if month <= f"{decided:%Y-%m}" or scored.get(month) is None or met.get(month) is None:
                continue
            gain = (scored[month] - met[month]) * (-1 if better_low else 1)
            taken = run.phase is Phase.VERIFIED
            found.append(
                {
                    "month": month,
                    "run": run.id,
                    "accepted": taken,
                    "gain": round(gain, 4),
                    "regret": (gain < 0) if taken else (gain > 0),
                }
            )
    return sorted(found, key=lambda r: (r["month"], r["run"]))


# --- for people


MOST_WORDS = 400
"""Letters of a reason that a table shows, in whole clauses."""


def show(found: Mapping[str, Any], console: Console | None = None) -> None:
    """The summary as tables; what did not happen is a line."""
    out = console or Console()
    out.print()
    out.print(_drift_table(found) if found["drift"] else "No drift found.")
    out.print(_runs_table(found) if found["runs"] else "No run began.")
    out.print(_performance_table(found))
    if found["regret"]:
        out.print(_regret_table(found))
    batches, figures_ = found["batches"], found["figures"]
    out.print(
        f"[bold]Telemetry[/] {found['rows']:,} rows in {batches['accepted']:,} batches, each once; "
        f"{batches['duplicate']} came twice, {batches['quarantined']} quarantined"
    )
    if found["left_out"]:
        out.print(f"  {in_words(found['left_out'])}", markup=False)
    for q in found["quarantine"][:5]:
        out.print(f"  quarantined: {q['site']} {q['batch']}: {q['reason']}", markup=False)
    for site, state in found["sites"].items():
        out.print(f"  {site}: serves {state['candidate'][:12]}, {state['status']}", markup=False)
    if found["report"]:
        out.print(f"Evidently's report of the first drift: {found['report']}", markup=False, soft_wrap=True)
    out.print(
        f"[bold]Figures[/] {figures_['seconds']:.0f} s, {figures_['peak_mb']} MB at the peak (all processes), "
        f"{figures_['rows_per_second']:,} rows/s through the functions into windows, "
        f"{figures_['rows_per_processor_second']:,} a second of one core"
    )
    for name, times in figures_["failed"].items():
        out.print(f"failed for good: {name}, {times} time{'s' * (times != 1)}", style="bold red", markup=False)


def _drift_table(found: Mapping[str, Any]) -> Table:
    table = _table("Drift found", "When", "Where and what the check said")
    for drift in found["drift"]:
        features = drift["features"]
        more = f" and {len(features) - 6} more" if len(features) > 6 else ""
        where = f"{drift['scope']}: {', '.join(drift['sites'])}; {', '.join(features[:6])}{more}"
        table.add_row(drift["at"][:10], _cell(where, clauses(drift["reason"])))
    return table


def _runs_table(found: Mapping[str, Any]) -> Table:
    table = _table("Runs", "Run and candidate", "What came of it")
    for run in found["runs"]:
        waves = ", ".join(f"{w['ring']} {_short(w['verified'])}" for w in run["waves"])
        why = run["verdict"] if run["phase"] == "rejected" and run["outcome"] == "failed" else run["reason"]
        gate = f"{run['verdict']}; " if run["phase"] in ("verified", "rolled-back") else ""
        said = clauses(gate + why) + (f"\nwaves verified: {waves}" if waves else "")
        table.add_row(_cell(run["id"], run["candidate"][:12]), _cell(run["phase"], said))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _cell(head: str, rest: str) -> Text:
    return Text.assemble((head, "bold"), f"\n{rest}" if rest else "")


def clauses(text: str, most: int = MOST_WORDS) -> str:
    """The clauses that fit into so many letters, and how many more there are; the first one in any case.

    >>> clauses("evidence 143 >= 12.9; held: seen once; rows: 60", 35)
    'evidence 143 >= 12.9; ... (2 more)'
    """
    parts = text.split("; ")
    kept = len(parts)
    while kept > 1 and len("; ".join(parts[:kept])) > most:
        kept -= 1
    return "; ".join(parts[:kept]) + (f"; ... ({len(parts) - kept} more)" if kept < len(parts) else "")


def _short(moment: str | None) -> str:
    return f"{datetime.fromisoformat(moment):%m-%d %H:%M}" if moment else "-"


def _performance_table(found: Mapping[str, Any]) -> Table:
    performance = found["performance"]
    metric, losses = performance["metric"], performance.get("log_loss") or {}
    table = Table(title=f"The first model left alone, against the loop ({metric})", title_justify="left")
    for name in ("Month", "static", "loop", "gain", "log loss static", "log loss loop"):
        table.add_column(name, justify="right")
    for month, static in performance["static"].items():
        looped = performance["loop"].get(month)
        gain = f"{looped - static:+.3f}" if looped is not None and static is not None else "-"
        row = [month, _number(static), _number(looped), gain]
        row += [_number((losses.get(which) or {}).get(month)) for which in ("static", "loop")]
        table.add_row(*row)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _regret_table(found: Mapping[str, Any]) -> Table:
    title = "Was it right? Each candidate on later months, against the champion it met"
    table = _table(title, "Run", "Decision", "Gain by month after it", "Mean", "Regretted")
    by_run: dict[str, list[Mapping[str, Any]]] = {}
    for row in found["regret"]:
        by_run.setdefault(row["run"], []).append(row)
    for run, rows in by_run.items():
        mean = sum(r["gain"] for r in rows) / len(rows)
        accepted = rows[0]["accepted"]
        regretted = mean < 0 if accepted else mean > 0
        gains = "  ".join(f"{r['month'][5:]} {r['gain']:+.3f}" for r in rows)
        table.add_row(
            Text(run), "accepted" if accepted else "refused", gains, f"{mean:+.3f}", "yes" if regretted else "no"
        )
    return table

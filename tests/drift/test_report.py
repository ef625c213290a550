"""What a check says of a fleet: what moved, where, and why; and how rarely it is wrong."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drift.detectors import State, detector
from drift.performance import Predictions
from drift.reference import Reference
from drift.report import KINDS, Limits, Report, assess
from drift.sketch import OtherReference
from drift.streams import model
from drift.telemetry import Batch, Feature, Labels, Refusal, Rows, Schema
from drift.windows import Window, fold, settled

DAY = 86_400
SCHEMA = Schema("1", (Feature("x", low=-8.0, high=8.0), Feature("y"), Feature("c", "category")))
SITES = ("north", "south", "east", "west")
LEVEL = dict(zip(SITES, (0.0, 0.5, -0.5, 1.0), strict=True))


class Fleet:
    """Four sites that differ, with a season of the week."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def rows(self, site: str, day: int, n: int = 300) -> tuple[Rows, np.ndarray]:
        r = self.rng
        x = r.normal(LEVEL.get(site, 0.3) + 0.2 * (day % 7 > 4) + r.normal(0, 0.05), 1, n)
        y = 0.5 * x + r.normal(size=n)
        c = r.choice(np.array(["a", "b", None], dtype=object), n, p=[0.6, 0.35, 0.05]).tolist()
        score = 1 / (1 + np.exp(-x))
        ids = [f"{site}-{day}-{i}" for i in range(n)]
        at = np.full(n, day * DAY)
        return Rows(ids, at, score, {"x": x, "y": y, "c": c}), (r.random(n) < score).astype(float)

    def reference(self, days: int = 35, sites: Sequence[str] = SITES, n: int = 300) -> Reference:
        parts = [(site, *self.rows(site, day, n)) for day in range(days) for site in sites]
        rows = Rows(
            [i for _, p, _ in parts for i in p.ids],
            np.concatenate([p.at for _, p, _ in parts]),
            np.concatenate([p.score for _, p, _ in parts]),
            {
                **{k: np.concatenate([p.columns[k] for _, p, _ in parts]) for k in ("x", "y")},
                "c": [v for _, p, _ in parts for v in p.columns["c"]],
            },
        )
        labels = np.concatenate([label for _, _, label in parts])
        return Reference.build(SCHEMA, rows, labels, [s for s, p, _ in parts for _ in range(len(p))])


REFERENCE = Fleet().reference()
LIMITS = Limits(cohorts=dict.fromkeys(SITES, "all"))


def windows(fleet: Fleet, day: int, change: object = None, labels: bool = True, n: int = 300) -> list[Window]:
    made = []
    for site in SITES:
        rows, y = fleet.rows(site, day, n)
        if change is not None:
            rows, y = change(site, rows, y)  # type: ignore[operator]
        made += fold(Batch("1", "loop", "model", site, "b", day * DAY, day * DAY, rows=rows), REFERENCE, DAY).values()
        if labels:
            record = Predictions.of(rows, REFERENCE, DAY)
            found = record.settle(Labels(rows.ids, rows.at, y))[1]
            made += settled("model", site, DAY, REFERENCE, found).values()
    return made


def watch(change: object = None, days: int = 12, before: int = 3, **more: object) -> list[Report]:
    fleet, state, reports = Fleet(1), None, []
    for day in range(100, 100 + before + days):
        now = windows(fleet, day, change if day >= 100 + before else None)
        report, state = assess(REFERENCE, now, state, replace(LIMITS, **more))
        reports.append(report)
    return reports


def column(name: str, change: object, *sites: str) -> object:
    def apply(site: str, rows: Rows, y: np.ndarray) -> tuple[Rows, np.ndarray]:
        if sites and site not in sites:
            return rows, y
        values = change(np.asarray(rows.columns[name]))  # type: ignore[operator]
        return replace(rows, columns={**rows.columns, name: values}), y

    return apply


def drifting(report: Report) -> bool:
    return any(f.statistical for f in report.findings)


def first(reports: list[Report]) -> Report:
    return next(r for r in reports if drifting(r))


def test_nothing_moves_and_nothing_is_found() -> None:
    for report in watch(days=20):
        assert report.findings == ()
        assert report.reason.startswith("no drift: evidence")
        assert report.coverage.held


def test_a_broken_sensor_is_found_at_once_at_its_site_and_by_its_name() -> None:
    reports = watch(column("y", lambda v: v + 3, "east"), days=2)
    (finding,) = reports[3].findings
    assert (finding.kind, finding.scope, finding.sites, finding.features) == ("feature", "site", ("east",), ("y",))
    assert finding.statistical
    assert finding.value >= finding.limit == 90
    assert "feature drift in y" in finding.reason
    assert "at east" in finding.reason


def test_a_small_change_of_the_whole_world_is_found_for_the_fleet() -> None:
    reports = watch(column("y", lambda v: v + 0.15), days=8)
    found = [f for r in reports for f in r.findings if f.kind == "feature"]
    assert found
    assert found[-1].scope == "fleet"
    assert found[-1].features == ("y",)


def test_a_wider_spread_with_the_same_middle_is_found() -> None:
    found = first(watch(column("y", lambda v: v * 1.4), days=6)).findings[0]
    assert found.features == ("y",)


def test_a_new_mix_of_categories_is_found() -> None:
    found = first(watch(column("c", lambda v: ["a" if u == "b" and i % 3 else u for i, u in enumerate(v)]), days=6))
    assert found.findings[0].features == ("c",)


def test_a_changed_concept_is_performance_and_not_a_feature() -> None:
    def flip(site: str, rows: Rows, y: np.ndarray) -> tuple[Rows, np.ndarray]:
        return rows, np.where(np.arange(len(y)) % 3 == 0, 1 - y, y)

    found = first(watch(flip, days=8))
    assert {f.kind for f in found.findings} <= {"performance", "label"}
    assert "performance" in {f.kind for f in found.findings}
    east = next(p for p in found.performance if p.site == "east")
    assert east.realised < east.expected - 0.05
    assert east.estimated == pytest.approx(east.expected, abs=0.05)


@pytest.mark.parametrize("n", [80, 3000])
def test_a_change_of_traffic_alone_is_no_drift(n: int) -> None:
    fleet, state = Fleet(2), None
    for day in range(100, 112):
        report, state = assess(REFERENCE, windows(fleet, day, n=n), state, LIMITS)
        assert not drifting(report)


def test_too_few_rows_are_no_evidence() -> None:
    fleet = Fleet(3)
    report, state = assess(REFERENCE, windows(fleet, 100, column("y", lambda v: v + 5), n=20), None, LIMITS)
    assert not drifting(report)
    assert not state.evidence.any()
    assert np.isnan(report.distances.values["psi"]).all()


def test_rules_name_what_broke_and_are_not_under_the_promise() -> None:
    def broken(site: str, rows: Rows, y: np.ndarray) -> tuple[Rows, np.ndarray]:
        if site != "west":
            return rows, y
        x, c = rows.columns["x"].copy(), list(rows.columns["c"])
        x[:15], x[15:120] = 99.0, np.nan
        c[:30] = ["never seen"] * 30
        return replace(rows, columns={**rows.columns, "x": x, "c": c}), y

    found = {f.kind: f for f in watch(broken, days=1)[-1].findings if not f.statistical}
    assert {k: (f.features, f.sites) for k, f in found.items()} == {
        "missing": (("x",), ("west",)),
        "range": (("x",), ("west",)),
        "unseen": (("c",), ("west",)),
    }
    assert found["range"].value == pytest.approx(15 / 300)
    assert not set(found) & set(KINDS)


def test_unreadable_rows_other_schemas_and_silence_are_found() -> None:
    fleet = Fleet(4)
    first_day = windows(fleet, 100)
    _, state = assess(REFERENCE, first_day, None, LIMITS)
    rows, _ = fleet.rows("north", 103)
    batch = Batch("2", "loop", "model", "north", "b", 103 * DAY, 103 * DAY, rows=rows)
    batch = replace(batch, refused=tuple(Refusal(i, "x", "text") for i in range(30)))
    later = [w for w in windows(fleet, 103) if w.site != "south"]
    later += fold(batch, REFERENCE, DAY).values()
    report, _ = assess(REFERENCE, later, state, LIMITS)
    found = {f.kind: f for f in report.findings if not f.statistical}
    assert {k: f.sites for k, f in found.items()} == {"type": ("north",), "schema": ("north",), "silence": ("south",)}
    assert "nothing heard for 3.0 days from south" in found["silence"].reason


def test_a_fifth_of_colluding_sites_is_flagged_and_never_the_fleet() -> None:
    names = [f"s{i:02d}" for i in range(20)]
    fleet, state = Fleet(5), None
    reference = fleet.reference(sites=names)
    limits = replace(LIMITS, cohorts=dict.fromkeys(names, "all"))
    scopes = []
    for day in range(100, 115):
        now = []
        for name in names:
            rows, _ = fleet.rows(name, day)
            if name < "s04":
                rows = replace(rows, columns={**rows.columns, "y": rows.columns["y"] + 0.5})
            now += fold(Batch("1", "l", "m", name, "b", day * DAY, day * DAY, rows=rows), reference, DAY).values()
        report, state = assess(reference, now, state, limits)
        scopes += [(f.scope, f.sites) for f in report.findings if f.statistical]
    assert scopes
    assert {scope for scope, _ in scopes} == {"site"}
    assert set(scopes[-1][1]) >= {"s00", "s01", "s02", "s03"}


def test_a_cohort_that_moves_alone_is_a_cohorts_drift() -> None:
    limits = {"cohorts": {"north": "a", "south": "b", "east": "c", "west": "c"}, "fleet_quorum": 0.8}
    found = first(watch(column("y", lambda v: v + 2, "east", "west"), days=3, **limits)).findings[0]
    assert (found.scope, found.cohorts, found.sites) == ("cohort", ("c",), ("east", "west"))


def test_the_order_of_windows_and_a_trip_through_bytes_change_nothing() -> None:
    fleet, a, b = Fleet(6), None, None
    for day in range(100, 106):
        now = windows(fleet, day)
        one, a = assess(REFERENCE, now, a, LIMITS)
        stored = None if b is None else State.from_bytes(b)
        two, state = assess(Reference.from_bytes(REFERENCE.to_bytes()), now[::-1], stored, LIMITS)
        b = state.to_bytes()
        assert one.to_dict() == two.to_dict()
    assert a is not None
    assert a.to_bytes() == b


def test_several_days_at_once_are_the_days_one_by_one() -> None:
    fleet = Fleet(7)
    days = [windows(fleet, day) for day in range(100, 104)]
    state = None
    for now in days:
        report, state = assess(REFERENCE, now, state, LIMITS)
    together, all_at_once = assess(REFERENCE, [w for now in days for w in now], None, LIMITS)
    assert all_at_once.to_bytes() == state.to_bytes()  # type: ignore[union-attr]
    assert together.evidence == report.evidence
    assert together.rows == 4 * 4 * 300


def test_windows_and_states_of_another_reference_are_refused() -> None:
    other = Fleet(9).reference(days=8)
    with pytest.raises(OtherReference):
        assess(other, windows(Fleet(1), 100), None, LIMITS)
    with pytest.raises(OtherReference):
        assess(other, [], State.new(REFERENCE), LIMITS)


def test_a_site_that_training_did_not_know_is_not_drift_by_itself() -> None:
    fleet, state = Fleet(8), None
    for day in range(100, 110):
        now = windows(fleet, day, labels=False)
        rows, _ = fleet.rows("south", day)
        now += fold(Batch("1", "l", "model", "new", "b", day * DAY, day * DAY, rows=rows), REFERENCE, DAY).values()
        report, state = assess(REFERENCE, now, state, LIMITS)
        assert not drifting(report), report.reason


def test_a_calibration_that_is_too_short_says_so() -> None:
    short = Fleet(10).reference(days=8)
    report, _ = assess(short, [], None, LIMITS)
    assert not report.coverage.held
    assert report.coverage.kept == 0
    assert "the season of the week is not covered" in report.coverage.why
    assert report.reason == "no windows to assess"


def test_windows_too_small_to_be_evidence_carry_no_promise() -> None:
    """With 24 rows in a window no stream is ever judged: to call that covered would be a promise that nothing keeps."""
    report, _ = assess(Fleet(10).reference(n=24), [], None, LIMITS)
    assert not report.coverage.held
    assert "0 calibration periods of 35 (30 rows of a site in one window are the least)" in report.coverage.why
    report, _ = assess(Fleet(10).reference(n=32), [], None, LIMITS)
    assert report.coverage.held


def test_an_alarm_without_a_promise_says_what_would_cover_it() -> None:
    short, fleet, state = Fleet(10).reference(days=13), Fleet(1), None
    for day in range(100, 103):
        now = []
        for site in SITES:
            rows, _ = fleet.rows(site, day)
            rows = replace(rows, columns={**rows.columns, "y": rows.columns["y"] + 3})
            now += fold(Batch("1", "l", "m", site, "b", day * DAY, day * DAY, rows=rows), short, DAY).values()
        report, state = assess(short, now, state, LIMITS)
    (finding,) = [f for f in report.findings if f.statistical]
    assert not finding.covered
    assert "(not covered: 13 calibration periods carry no promise, 14 would carry one in 90;" in finding.reason
    assert "one false alarm in" not in finding.reason
    assert all(f.covered for r in watch(column("y", lambda v: v + 3), days=2) for f in r.findings)


def test_a_reference_without_labels_or_calibration_still_assesses() -> None:
    rows, _ = Fleet(11).rows("north", 0, 500)
    reference = Reference.build(SCHEMA, rows, None, ["north"] * 500)
    now = fold(Batch("1", "l", "m", "north", "b", DAY, DAY, rows=replace(rows, at=rows.at + DAY)), reference, DAY)
    report, state = assess(reference, list(now.values()), None, LIMITS)
    assert not drifting(report)
    assert State.from_bytes(state.to_bytes()).to_bytes() == state.to_bytes()


def test_a_report_is_plain_data() -> None:
    report = watch(column("y", lambda v: v + 3, "east"), days=1)[-1]
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["findings"][0]["features"] == ["y"]
    assert plain["distances"]["features"] == ["x", "y", "c", "score"]
    assert len(plain["distances"]["values"]["psi"]) == 4


def test_damaged_states_are_a_value_error() -> None:
    good = State.new(REFERENCE).to_bytes()
    for bad in (b"", good[:-3], good[:4] + b"?" + good[5:]):
        with pytest.raises(ValueError, match="DLD"):
            State.from_bytes(bad)


def test_ordinary_scores_are_standard_and_ordinary_evidence_stays_near_one_a_window() -> None:
    ordinary = model(REFERENCE).ordinary[:, model(REFERENCE).active]
    assert np.nanstd(ordinary) == pytest.approx(1.0, abs=0.1)
    assert abs(float(np.nanmean(ordinary))) < 0.1
    normal = detector(REFERENCE).site_tails[0](np.random.default_rng(0).normal(size=100_000).astype(np.float32))
    for size in (0.7, 1.8, 4.0):
        assert float(np.exp(size * normal - size**2 / 2).mean()) < 1.1


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, 9]))
@settings(max_examples=60, deadline=None)
def test_a_statistical_finding_names_a_site_and_its_reason_is_true(seed: int, sites: int) -> None:
    random = np.random.default_rng(seed)
    state = State.new(REFERENCE).joined([f"s{i}" for i in range(sites)])
    evidence, scores = state.evidence.copy(), random.normal(0, 64, state.scores.shape).astype(np.int32)
    rows = 0 if random.random() < 0.5 else random.integers(0, sites + 1, 40)
    evidence[rows, random.integers(0, evidence.shape[1], 40), random.integers(0, 6, 40)] = random.integers(80, 110)
    state = replace(state, evidence=evidence, scores=scores, alarm=True)
    report, after = assess(REFERENCE, [], state, LIMITS)
    found = [f for f in report.findings if f.statistical]
    assert bool(found) == after.alarm
    for finding in found:
        assert finding.sites
        passed = finding.value >= finding.limit
        assert ((">= 90" in finding.reason), ("alarm since it passed 90" in finding.reason)) == (passed, not passed)

"""What an evaluation measures beside the gain, and what a candidate's lineage says of its rows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from edge import candidate
from jobs import behaviour, provenance
from jobs import table as tables
from jobs.evaluate import Comparison
from jobs.package import Blobs
from jobs.table import Table
from triggers.config import Loop, parse, parse_loop
from triggers.reading import Wrong

DAY = 86400
COPIES = "import shutil, sys; a = sys.argv; out = a[a.index('--out') + 1]; shutil.copytree('{made}', out)"
ONLY_THE_COMPARISON = """
import json, sys
a = sys.argv
found = {"metric": "auc", "confidence": 0.95, "rows": 9, "champion_value": 0.5, "challenger_value": 0.6, "gain": 0.1,
         "gain_low": 0.05, "gain_high": 0.15}
open(a[a.index('--out') + 1], 'w').write(json.dumps(found))
"""


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def gated(home: Any, gates: str, **scripts: str) -> Loop:
    """The loop with these gates."""
    home.loop(**scripts)
    text = (home.folder / "loop.yaml").read_text().replace("gates: {minimum_rows: 10}", gates)
    (home.folder / "loop.yaml").write_text(text)
    return parse_loop(text)


def evaluation(home: Any, champion: str, challenger: str, **more: Any) -> dict[str, Any]:
    asked = {"champion": champion, "challenger": challenger, "public": str(home.folder / "registry.pub")}
    window = {"from": iso(home.start + 10 * DAY), "to": iso(home.start + 20 * DAY)}
    found: dict[str, Any] = home.does("evaluate", **asked, **window, **more)
    return found


def published(home: Any, model: bytes) -> str:
    """A signed candidate of any bytes, whose training lies in the past."""
    folder = home.folder / "published"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model)
    lineage = candidate.Lineage(start="2000-01-01", end="2001-01-01")
    manifest = candidate.build(folder, loop="pumps", schema=home.schema, lineage=lineage, created="")
    signature = candidate.sign(manifest, (home.folder / "registry.pem").read_bytes())
    return candidate.publish(folder, manifest, signature, Blobs(home.blobs).put)


def untrained(home: Any, slope: float) -> str:
    """A model whose training lies in the past."""
    found: str = home.candidate(slope, iso(home.start - 9 * DAY), iso(home.start))
    return found


def test_what_a_script_leaves_out_is_measured_around_it(home: Any, rows: Callable[..., Table]) -> None:
    home.told(rows(400))
    old = rows(300, seed=9)
    home.csv(dataclasses.replace(old, site=np.array(["far"] * 300, dtype=object), at=old.at - 400 * DAY))
    (home.folder / "must.csv").write_text(
        "pressure,temperature,maker,at_least,at_most,name\n5,90,acme,0.9,,hot\n5,30,acme,,0.1,cold\n,60,,0.6,,mild\n"
    )
    gates = (
        "gates: {minimum_rows: 10, minimum_part_rows: 10, holdout: {table: pumps.csv}, examples: must.csv,"
        " maximum_slice_loss: 0.1, slices: [{feature: maker, maximum_difference: 0.5}, {feature: heat, edges: [60]}]}"
    )
    gated(home, gates, evaluate=ONLY_THE_COMPARISON)
    found = evaluation(home, untrained(home, -0.2), untrained(home, 0.2), cohorts={"north": "cold", "south": "cold"})
    assert (found["gain"], found["rows"]) == (0.1, 9)  # the script's
    assert set(found["sites"]) == {"north", "south"}
    assert set(found["cohorts"]) == {"cold"}
    assert {"maker acme", "maker rare", "heat < 60", "heat >= 60"} <= set(found["groups"])
    assert found["groups"]["heat >= 60"]["gain"] > 0
    assert set(found["fairness"]) == {"maker"}
    assert 0.9 < found["churn"] <= 1
    assert found["calibration"]["challenger"] < found["calibration"]["champion"]
    table = hashlib.sha256((home.folder / "pumps.csv").read_bytes()).hexdigest()
    assert (found["holdout"]["rows"], found["holdout"]["sha256"]) == (300, table)
    assert found["holdout"]["gain"] > 0.2
    assert found["examples"] == {"tried": 3, "missed": ["mild scored 0.5, at least 0.6"]}
    assert found["schema"] == ""
    for role in ("champion", "challenger"):
        tried = found["trials"][role]
        assert tried["error"] == ""
        assert 20e6 < tried["memory"] < 1e9
        assert 0 < tried["p50_ms"] <= tried["p95_ms"]
        assert tried["cpu_ms"] > 0
    assert found["new_bytes"] == found["bytes"]
    assert found["rows_per_hour"] >= 1


@pytest.mark.attack
def test_a_script_cannot_leave_out_a_part_nor_say_what_is_measured_beside_it(
    home: Any, rows: Callable[..., Table]
) -> None:
    """Without `_own`, a script that names one good site alone would hide the others from the gates."""
    home.told(rows(400))
    gates = "gates: {minimum_rows: 10, minimum_part_rows: 10, slices: [{feature: maker, maximum_difference: 0.5}]}"
    both = untrained(home, -0.2), untrained(home, 0.2)
    found = {}
    for said in ('"churn": 0.0, "calibration": {"challenger": 0.0}, "fairness": {}', '"sites": {"north": {}}'):
        gated(home, gates, evaluate=ONLY_THE_COMPARISON.replace('"metric"', f'{said}, "metric"'))
        found[said] = evaluation(home, *both)
    judged, hidden = found.values()
    assert judged["churn"] > 0.9
    assert judged["calibration"]["challenger"] > 0
    assert set(judged["fairness"]) == {"maker"}
    assert hidden["error"] == "evaluate.py wrote evidence without all of the sites that there are: south is missing"


def test_the_holdout_holds_no_site_that_was_trained_on_and_no_row_of_the_time_that_is_evaluated(
    home: Any, rows: Callable[..., Table]
) -> None:
    from jobs.extra import holdout

    table = rows(100)
    home.csv(table)
    loop = gated(home, "gates: {holdout: {table: pumps.csv}}")
    lineage = candidate.Lineage(sites={"south": 3})
    trained = candidate.Manifest(
        loop="pumps", schema=candidate.Schema("1", ()), task="binary", files={}, lineage=lineage
    )
    end = home.start + 10 * DAY
    found = holdout(loop, home.folder, {"champion": trained}, (home.start, end))
    foreign = replace(trained, lineage=candidate.Lineage())
    unknown = holdout(loop, home.folder, {"champion": trained, "challenger": foreign}, (home.start, end))
    assert len(unknown.rows) == 0
    assert unknown.left_out["rows, as the sites that a model was trained on are not known"] == 100
    north, late = table.site == "north", table.at >= end
    assert sorted(found.rows.ids.tolist()) == sorted(table.ids[north & late].tolist())
    assert found.left_out == {
        "rows of sites that were trained on": int((~north).sum()),
        "rows of the time that is evaluated": int((~late).sum()),
    }


@pytest.mark.attack
def test_a_signed_pickle_is_refused_by_the_trial_before_anything_opens_it(
    home: Any, rows: Callable[..., Table]
) -> None:
    """Without edge.safety.check in the scorer, what comes first is the runtime's own parser."""
    gadget = b"cos\nsystem\n(S'touch /tmp/driftloop-was-here'\ntR."
    home.told(rows(200))
    found = evaluation(home, untrained(home, 0.1), published(home, gadget))
    assert "is not an ONNX model" in found["trials"]["challenger"]["error"]
    assert found["challenger_value"] is None


@pytest.mark.attack
def test_a_model_that_takes_all_memory_is_refused_by_the_trial(home: Any, rows: Callable[..., Table]) -> None:
    """Without the limit on the trial's memory, the first site to open it would go down."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["heat", "nothing"], ["score"]),
    ]
    many = helper.make_tensor("many", TensorProto.INT64, [1], [1 << 36])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "bomb",
        [value("heat", TensorProto.FLOAT, [None, 1])],
        [value("score", TensorProto.FLOAT, [None, 1])],
        [many],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    home.told(rows(50))
    found = evaluation(home, untrained(home, 0.1), published(home, model.SerializeToString()))
    assert found["trials"]["challenger"]["error"]


def test_the_lineage_names_batches_and_what_was_left_out(home: Any, rows: Callable[..., Table]) -> None:
    table = rows(1000)
    wild = (table.at >= home.start + 4 * DAY) & (table.at < home.start + 4 * DAY + 12 * 3600) & (table.site == "north")
    table.columns["heat"][wild] = 1e6
    home.told(table)
    untrained(home, 0.1)
    home.loop(train=COPIES.format(made=home.folder / "made-0.1-None"))
    window = {"from": iso(home.start), "to": iso(home.start + 9 * DAY)}
    found = home.does("train", **window, untrusted={"south": "it is quarantined"})
    lineage = home.manifest(found["candidate"]).lineage
    assert lineage.left_out["rows of south: it is quarantined"] > 100
    assert set(lineage.sites) == {"north"}
    assert list(lineage.outlying.values()) == [int(wild.sum())]
    record = (home.blobs / "provenance" / lineage.provenance).read_bytes()
    assert hashlib.sha256(record).hexdigest() == lineage.provenance
    counted = json.loads(record)
    assert set(counted) == {"north"}
    assert (len(counted["north"]), sum(counted["north"].values())) == (lineage.batches, lineage.rows)
    assert {batch.removeprefix("north/") for batch in lineage.outlying} <= set(counted["north"])


@pytest.mark.attack
def test_what_a_revoked_key_signed_is_left_out_labels_too(home: Any, rows: Callable[..., Table]) -> None:
    """Without jobs.assemble's look at the key, a thief's rows would train the next model."""
    from jobs.assemble import assemble

    table = rows(40)
    own = table.take(table.site == "north")
    b = home.batch("north", "b1", home.start, own, own)
    home.store(dataclasses.replace(b, key="stolen"), dataclasses.replace(b, id="b2", key="new"))
    span = (home.start, home.start + 30 * DAY)
    found = assemble(home.blobs, "pumps", home.schema, *span, revoked={"north": ["stolen"]})
    assert set(found.batches.tolist()) == {"b2"}
    assert found.left_out["rows of north: key 'stolen' is revoked"] == len(own)


@pytest.mark.attack
def test_a_minority_cannot_make_its_outliers_look_usual() -> None:
    """Without medians over parts of every site's time, a fifth of the rows would move what counts as usual."""
    random = np.random.default_rng(1)
    n = 1000
    site = np.array([f"s{i % 5}" for i in range(n)], dtype=object)
    batch = np.array([f"b{i // 50}" for i in range(n)], dtype=object)
    x = random.normal(0, 1, n)
    x[site == "s0"] += 1000
    nothing = np.full(n, np.nan)
    table = Table(batch, np.arange(n), site, nothing, nothing, {"x": x})
    found = provenance.outlying(table, batch)
    assert {name.split("/")[0] for name in found} == {"s0"}
    assert len(found) == 20


def test_groups_lie_apart_by_what_they_are_answered(home: Any) -> None:
    loop = gated(home, "gates: {minimum_rows: 10, slices: [{feature: maker, maximum_difference: 0.1}]}")
    n = 400
    maker = np.array(["a", "b"], dtype=object)[np.arange(n) % 2]
    at, label = np.arange(n) * 3600, (np.arange(n) % 4 < 2).astype(float)
    columns = {"pressure": label, "heat": label, "maker": maker}
    table = Table(maker, at, maker, label, label, columns)
    fair, unfair = np.full(n, 0.9), np.where(maker == "a", 0.9, 0.1)
    found = behaviour.fairness(Comparison(table, fair, unfair, loop), loop.gates.slices[0])
    assert found is not None
    assert (found.champion, found.challenger, found.gain) == (0.0, 1.0, -1.0)
    assert found.gain_low <= -1.0 <= found.gain_high
    assert behaviour.churn(loop, fair, unfair) == 0.5


@pytest.mark.attack
def test_poison_that_drips_slowly_stays_within_its_sites_share() -> None:
    """A little more each day, never enough on one day to be seen. Without `Table.within`, the rows that a site has
    slipped in over the weeks are most of what is trained on."""
    days, at, site = 60, [], []
    for day in range(days):
        for name, n in (("honest", 20), ("also-honest", 20), ("drip", 20 + 5 * day)):
            at += [day * DAY + i for i in range(n)]
            site += [name] * n
    named, nothing = np.array(site, dtype=object), np.zeros(len(at))
    table = Table(named, np.array(at), named, nothing, nothing, {"x": nothing})
    assert (named == "drip").mean() > 0.75
    keep, capped = table.within(0.34)
    assert (named[keep] == "drip").mean() <= 0.34
    assert set(capped) == {"drip"}
    assert 0.4 < (table.at[keep & (named == "drip")] >= days * DAY / 2).mean() < 0.9, "taken out evenly over its rows"


FREEZES = "gates: {minimum_rows: 10, holdout: {freeze: {sites: [south], first: 5d}}}"


def frozen_home(home: Any, rows: Callable[..., Table]) -> tuple[str, str]:
    """Two candidates, one after the other, where the first training freezes the rows of the south."""
    home.told(rows(600))
    gated(home, FREEZES)
    window = {"from": iso(home.start), "to": iso(home.start + 10 * DAY)}
    first = home.does("train", "first", **window)["candidate"]
    known = json.loads(json.dumps(msgspec.to_builtins(home.manifest(first).lineage.holdout)))
    second = home.does("train", "second", holdout=known, **{**window, "to": iso(home.start + 12 * DAY)})["candidate"]
    return first, second


def test_the_first_training_freezes_the_rows_of_some_sites_and_none_learns_from_them(
    home: Any, rows: Callable[..., Table]
) -> None:
    first, second = (home.manifest(c).lineage for c in frozen_home(home, rows))
    frozen = first.holdout
    assert frozen == second.holdout, "and a later one freezes nothing anew"
    data = (home.blobs / "holdouts" / frozen.sha256).read_bytes()
    assert hashlib.sha256(data).hexdigest() == frozen.sha256
    assert (frozen.sites, frozen.start[:10]) == (("south",), "2024-01-01")
    assert frozen.end <= "2024-01-06T02:00:00Z", "five days from the first row"
    for lineage in (first, second):
        assert set(lineage.sites) == {"north"}
        assert lineage.left_out["rows of sites that are the frozen holdout"] > 100


def test_candidates_are_judged_by_the_frozen_rows_outside_the_time_that_is_evaluated(
    home: Any, rows: Callable[..., Table]
) -> None:
    pair = frozen_home(home, rows)
    frozen = home.manifest(pair[0]).lineage.holdout
    found = evaluation(home, *pair)["holdout"]
    assert (found["sha256"], found["rows"], found["left_out"]) == (frozen.sha256, frozen.rows, {})
    asked = {"champion": pair[0], "challenger": pair[1], "public": str(home.folder / "registry.pub")}
    same_time = home.does("evaluate", **asked, **{"from": iso(home.start), "to": iso(home.start + 20 * DAY)})["holdout"]
    assert (same_time["rows"], same_time["left_out"]) == (0, {"rows of the time that is evaluated": frozen.rows})


@pytest.mark.attack
def test_a_frozen_row_cannot_be_changed_afterwards(home: Any, rows: Callable[..., Table]) -> None:
    """Without the check in `_kept`, whoever may write to the blob store would choose what candidates are judged by."""
    pair = frozen_home(home, rows)
    path = home.blobs / "holdouts" / home.manifest(pair[0]).lineage.holdout.sha256
    other = path.with_name("other.parquet")
    tables.write(rows(300), other)
    path.write_bytes(other.read_bytes())
    assert "the frozen holdout has sha256" in evaluation(home, *pair)["error"]


@pytest.mark.parametrize(
    ("holdout", "says"),
    [
        ("{freeze: {sites: [north]}, table: x.csv}", "one of the two"),
        ("{maximum_loss: 0.1}", "one of the two"),
        ("{freeze: {sites: [north, south]}}", "expected sites left to train on"),
        ("{freeze: {sites: [nord]}}", "no site is called 'nord'; expected north?"),
    ],
)
def test_a_holdout_that_cannot_be_is_named(home: Any, holdout: str, says: str) -> None:
    text = (home.folder / "loop.yaml").read_text().replace("{minimum_rows: 10}", f"{{holdout: {holdout}}}")
    with pytest.raises(Wrong) as problem:
        parse(text, "sites: [{name: north}, {name: south}]")
    assert says in str(problem.value)

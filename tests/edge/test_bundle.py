"""Bundles: several models and what chains them, deployed, tried and rolled back as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edge import candidate
from edge.errors import BadCandidate, Refused
from edge.site import Site
from tests.edge.conftest import SCHEMA, Registry, Settings, a_reference


def graph(nodes: list[Any], inputs: list[str], outputs: list[str], **constants: float) -> bytes:
    def told(names: list[str]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in names]

    made = helper.make_graph(
        nodes,
        "step",
        told(inputs),
        told(outputs),
        [helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in constants.items()],
    )
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def prepare() -> bytes:
    """Missing is zero."""
    nodes = [helper.make_node("IsNaN", ["distance"], ["hole"])]
    return graph(
        [*nodes, helper.make_node("Where", ["hole", "zero", "distance"], ["clean"])], ["distance"], ["clean"], zero=0.0
    )


def rate(weight: float) -> bytes:
    nodes = [helper.make_node("Mul", ["clean", "weight"], ["by"]), helper.make_node("Sigmoid", ["by"], ["score"])]
    return graph(nodes, ["clean"], ["score"], weight=weight)


def weigh(share: float) -> bytes:
    nodes = [
        helper.make_node("Mul", ["left", "share"], ["a"]),
        helper.make_node("Mul", ["right", "rest"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["score"]),
    ]
    return graph(nodes, ["left", "right"], ["score"], share=share, rest=1 - share)


STEPS: list[dict[str, Any]] = [
    {"model": "prepare.onnx"},
    {"model": "near.onnx", "outputs": {"score": "near"}},
    {"model": "far.onnx", "outputs": {"score": "far"}},
    {"model": "weigh.onnx", "inputs": {"left": "near", "right": "far"}},
]
ROWS = [{"distance": 1.0}, {"distance": None}]


def expected(share: float = 0.25) -> list[float]:
    def sigmoid(x: float) -> float:
        return float(1 / (1 + np.exp(-x)))

    return [share * sigmoid(w1) + (1 - share) * sigmoid(w2) for w1, w2 in ((1.0, -2.0), (0.0, 0.0))]


@pytest.fixture
def bundle(registry: Registry, tmp_path: Path) -> Callable[..., str]:
    def made(steps: Any = STEPS, share: float = 0.25, scores: Any = None, without: str = "") -> str:
        folder = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        files = {
            "prepare.onnx": prepare(),
            "near.onnx": rate(1.0),
            "far.onnx": rate(-2.0),
            "weigh.onnx": weigh(share),
            "orchestrate.json": json.dumps({"steps": steps}).encode(),
            "smoke.json": json.dumps({"rows": ROWS, "scores": scores or expected(share)}).encode(),
            "reference.bin": a_reference(),
        }
        for name, data in files.items():
            if name != without:
                (folder / name).write_bytes(data)
        manifest = candidate.build(folder, loop="flights", schema=SCHEMA, lineage=candidate.Lineage(), created="")
        return candidate.publish(folder, manifest, candidate.sign(manifest, registry.private), registry.put)

    return made


def test_a_bundle_is_served_and_taken_back_as_one(
    settings: Settings, bundle: Callable[..., str], make_model: Callable[..., bytes], registry: Registry
) -> None:
    site = Site(settings.site())
    one = registry.publish(make_model())
    site.deploy(one)
    several = bundle()
    site.deploy(several)
    answer = site.probe(ROWS)
    assert answer["candidate"] == several
    assert answer["scores"] == pytest.approx(expected(), abs=1e-6)
    site.close()
    site = Site(settings.site())
    assert site.candidate == several, "after a restart, too"
    site.deploy(one)
    assert site.candidate == one
    site.close()


def test_other_code_moves_its_own_bytes_alone(settings: Settings, bundle: Callable[..., str]) -> None:
    site = Site(settings.site())
    site.deploy(bundle())
    layers = Path(settings.site().state) / "layers"
    before = {path.name: path.stat().st_mtime_ns for path in layers.iterdir()}
    site.deploy(bundle(share=0.75))
    assert site.probe(ROWS)["scores"] == pytest.approx(expected(0.75), abs=1e-6)
    new = [p for p in layers.iterdir() if before.get(p.name) != p.stat().st_mtime_ns]
    assert len(new) == 2, "what weighs, and the sample's scores"
    site.close()


def test_a_bundle_that_does_not_score_as_it_should_does_not_count(
    settings: Settings, bundle: Callable[..., str]
) -> None:
    site = Site(settings.site())
    first = bundle()
    site.deploy(first)
    with pytest.raises(BadCandidate, match=r"smoke\.json: 1 of 2 rows get other scores .*: row 0 0\.27"):
        site.deploy(bundle(scores=[0.9, 0.5]))
    assert site.candidate == first
    site.close()


@pytest.mark.attack
@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "0 steps"),
        ([{"model": "prepare.onnx"}], "no step gives `score`"),
        ([{"model": "../../model.onnx"}], "not in the bundle"),
        ([{"model": "reference.bin"}], "not in the bundle"),
        ([{"model": "near.onnx"}], "wants 'clean': no feature"),
        ([*STEPS, {"model": "far.onnx", "inputs": {"nothing": "near"}}], "far.onnx has no nothing"),
        ([{"model": "near.onnx", "inputs": {"clean": "carrier"}}], "as tensor"),
        ([{"model": "prepare.onnx", "run": "rm -rf /"}], "cannot be read"),
        ([{"model": "prepare.onnx"}] * 33, "33 steps"),
        ("no list", "cannot be read"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(
    settings: Settings, bundle: Callable[..., str], steps: Any, words: str
) -> None:
    site = Site(settings.site())
    with pytest.raises(Refused, match=words):
        site.deploy(bundle(steps))
    assert site.candidate is None
    site.close()


def test_a_bundle_without_a_sample_is_none(bundle: Callable[..., str]) -> None:
    with pytest.raises(BadCandidate, match=r"a bundle without smoke\.json"):
        bundle(without="smoke.json")

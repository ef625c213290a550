"""Candidates: every byte is signed for, and a model that could do more than score is not opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, load_from_string

from drift.telemetry import Feature, Schema
from edge import candidate, keys, safety, signing
from edge.errors import BadCandidate, Refused
from edge.scorer import Scorer

SCHEMA = Schema("1", (Feature("distance"), Feature("carrier", "category")))


def bytes_of(registry: Any, digest: str) -> tuple[bytes, bytes]:
    folder = registry.folder / "candidates" / digest
    return (folder / "manifest.json").read_bytes(), (folder / "manifest.sig").read_bytes()


def layer(registry: Any) -> Callable[[str], bytes]:
    return lambda sha256: (registry.folder / "layers" / sha256).read_bytes()


def test_a_published_candidate_verifies(registry: Any, make_model: Any) -> None:
    model = make_model()
    digest = registry.publish(model)
    manifest, signature = bytes_of(registry, digest)
    assert candidate.digest(manifest) == digest
    assert candidate.verify(manifest, signature, registry.public, layer(registry))["model.onnx"] == model
    assert candidate.read(manifest).telemetry() == SCHEMA
    assert manifest == json.dumps(json.loads(manifest), sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.attack
def test_any_byte_flipped_in_any_file_is_found(registry: Any, make_model: Any) -> None:
    manifest, signature = bytes_of(registry, registry.publish(make_model()))
    files = {sha256: layer(registry)(sha256) for sha256 in (f.sha256 for f in candidate.read(manifest).files.values())}

    def verdict(manifest: bytes, signature: bytes, files: dict[str, bytes]) -> None:
        with pytest.raises(Refused):
            candidate.verify(manifest, signature, registry.public, files.__getitem__)

    def flipped(data: bytes, at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    for i in range(len(manifest)):
        verdict(flipped(manifest, i), signature, files)
    for i in range(len(signature)):
        verdict(manifest, flipped(signature, i), files)
    for sha256, data in files.items():
        for i in range(len(data)):
            verdict(manifest, signature, files | {sha256: flipped(data, i)})
        verdict(manifest, signature, files | {sha256: data[:-1]})


@pytest.mark.attack
def test_another_key_s_signature_is_refused(registry: Any, make_model: Any) -> None:
    stranger, public = signing.new()
    manifest, signature = bytes_of(registry, registry.publish(make_model(), private=stranger))
    with pytest.raises(BadCandidate, match=r"manifest\.sig: is not the registry's: it names another key"):
        candidate.verify(manifest, signature, registry.public, layer(registry))
    named, hers = (json.loads(signing.sign("m", {}, k)) for k in (registry.private, stranger))
    with pytest.raises(BadCandidate, match=r"manifest\.sig: is not the registry's signature"):
        signing.verify(json.dumps({**hers, "verificationMaterial": named["verificationMaterial"]}), registry.public)
    with pytest.raises(BadCandidate, match="is no bundle"):
        candidate.verify(manifest, b"***", registry.public, layer(registry))
    for wrong in ("AAAA", keys.new()[1], public[:60]):
        with pytest.raises(Refused, match="not a public key"):
            candidate.verify(manifest, signature, wrong, layer(registry))


@pytest.mark.attack
def test_a_valid_signature_on_another_model_is_refused(registry: Any, make_model: Any) -> None:
    """Without the manifest's digest among what is signed, or without comparing it, this one would be served."""
    one, two = (bytes_of(registry, registry.publish(make_model(weight))) for weight in (1.0, 2.0))
    with pytest.raises(BadCandidate, match=r"manifest\.json: is not the one that was signed"):
        candidate.verify(one[0], two[1], registry.public, layer(registry))
    files = {"manifest.json": candidate.digest(one[0]), "model.onnx": candidate.sha256(make_model(2.0))}
    with pytest.raises(BadCandidate, match=r"model\.onnx: is not what was signed"):
        candidate.verify(one[0], signing.sign("flights", files, registry.private), registry.public, layer(registry))


@pytest.mark.attack
@pytest.mark.parametrize(
    "name", ["../model.onnx", "a/b", "/etc/passwd", "..", "", "manifest.json", "a\x00b", "x" * 101]
)
def test_a_name_that_is_a_path_is_refused(name: str) -> None:
    file = {"sha256": "0" * 64, "bytes": 1}
    given = {"format": 1, "loop": "l", "schema": {"version": "1", "features": []}, "task": "binary"}
    manifest = json.dumps(given | {"files": {"model.onnx": file, name: file}}).encode()
    with pytest.raises(BadCandidate, match="may not be called"):
        candidate.read(manifest)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (b"", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"format":2}', "cannot be read"),
        (b" " * (2 << 20), "at most"),
    ],
)
def test_a_manifest_that_is_none_is_refused(manifest: bytes, reason: str) -> None:
    with pytest.raises(BadCandidate, match=reason):
        candidate.read(manifest)


@pytest.mark.attack
def test_a_folder_with_a_link_or_without_a_model_makes_no_candidate(tmp_path: Path, make_model: Any) -> None:
    about: dict[str, Any] = {"loop": "l", "schema": SCHEMA, "lineage": candidate.Lineage(), "created": ""}
    with pytest.raises(BadCandidate, match=r"names no model\.onnx"):
        candidate.build(tmp_path, **about)
    (tmp_path / "model.onnx").write_bytes(make_model())
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(BadCandidate, match="link: is not a plain file"):
        candidate.build(tmp_path, **about)


def test_a_pem_public_key_works_as_well_as_base64() -> None:
    from cryptography.hazmat.primitives import serialization as form

    private, public = keys.new()
    signature = keys.signer(private)(b"x")
    loaded = form.load_pem_private_key(private, None).public_key()
    pem = loaded.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    assert keys.verify(public, signature, b"x")
    assert keys.verify(pem, signature, b"x")
    assert not keys.verify(public, signature, b"y")


def changed(model: bytes, change: Callable[[ModelProto], object]) -> bytes:
    proto = load_from_string(model)
    change(proto)
    return bytes(proto.SerializeToString())


def nested(proto: ModelProto) -> None:
    """A branch within the graph that uses somebody's own operator."""
    node = helper.make_node("Identity", ["y"], ["x"], domain="com.example")
    branch = helper.make_graph([node], "branch", [], [])
    proto.graph.node[0].attribute.append(helper.make_attribute("then_branch", branch))


def elsewhere(proto: ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


@pytest.mark.attack
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.opset_import.add(domain="com.microsoft", version=1), "uses operators of 'com.microsoft'"),
        (lambda p: setattr(p.graph.node[0], "domain", "x"), "uses operators of 'x'"),
        (nested, r"uses operators of 'com\.example'"),
        (lambda p: setattr(p.graph.node[0], "op_type", "Loop"), "uses the operator 'Loop'"),
        (lambda p: setattr(p.graph.node[0], "op_type", "RandomNormal"), "uses the operator 'RandomNormal'"),
        (elsewhere, "keeps data in other files"),
        (lambda p: p.functions.add(name="f"), "holds a function"),
        (lambda p: p.training_info.add(), "holds a training"),
        (lambda p: p.ClearField("graph"), "holds no graph"),
    ],
)
def test_a_model_that_could_do_more_than_score_is_refused(make_model: Any, change: Any, reason: str) -> None:
    safety.check(make_model())
    with pytest.raises(BadCandidate, match=reason):
        safety.check(changed(make_model(), change))


@pytest.mark.attack
def test_bytes_that_are_no_model_are_refused_with_words(make_model: Any) -> None:
    model = make_model()
    for data in (b"", b"\x80\x04\x95pickle", b"\xff" * 100, model[:-3], b"\x0a\xff\xff\xff\xff\x0f"):
        with pytest.raises(BadCandidate):
            Scorer(data, SCHEMA)
    deep = b"\x0a\x00"
    for _ in range(200):
        deep = b"\x32" + _length(deep) + deep  # attribute.g
        deep = b"\x2a" + _length(deep) + deep  # node.attribute
        deep = b"\x0a" + _length(deep) + deep  # graph.node
    with pytest.raises(BadCandidate, match="deep"):
        safety.check(b"\x3a" + _length(deep) + deep)


@pytest.mark.attack
def test_a_tag_that_a_parser_would_cut_short_is_refused(make_model: Any) -> None:
    """The runtime keeps 32 bits of a tag: without the check it is an unknown field to us, and a graph to it."""
    hidden = b"\x5a\x01x" + b"\x0a\x04\x22\x02If"
    longer = b"\xba\x80\x80\x80\x10"  # 0x3a, the tag of model.graph, and the bit 32
    with pytest.raises(BadCandidate, match="a tag of more than 32 bits"):
        safety.check(make_model() + longer + _length(hidden) + hidden)


@pytest.mark.attack
def test_what_was_looked_through_as_onnx_is_opened_as_onnx(make_model: Any) -> None:
    """Without a session told so, four bytes of a name make the runtime read its own format, which nobody checked."""
    named = b"\x12\x06xxORTM"  # model.producer_name
    assert named[4:8] == b"ORTM"
    found = Scorer(named + make_model(), SCHEMA).score({"distance": [0.0], "carrier": ["AA"]})
    assert found.tolist() == [0.5]


def _length(data: bytes) -> bytes:
    n, out = len(data), b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def test_scores_follow_the_convention(make_model: Any) -> None:
    scorer = Scorer(make_model(weight=2.0), SCHEMA)
    columns = {"distance": np.array([1.0, np.nan, -1.0]), "carrier": ["AA", None, "UA"]}
    expected = 1 / (1 + np.exp(-np.array([2.0, -0.5, -1.5])))
    np.testing.assert_allclose(scorer.score(columns), expected, atol=1e-6)
    assert len(scorer.score({"distance": np.empty(0), "carrier": []})) == 0


def test_a_row_that_the_model_refuses_costs_only_itself(make_model: Any) -> None:
    """This model looks up a fourth bias, of three, for a carrier it has not seen."""
    scorer = Scorer(make_model(unseen=9), SCHEMA)
    scores = scorer.score({"distance": np.zeros(5), "carrier": ["AA", "B6", "UA", "B6", None]})
    assert np.isnan(scores).tolist() == [False, True, False, True, False]
    with pytest.raises(BadCandidate, match="no score for a row of missing values"):
        Scorer(make_model(known=("AA",), unseen=9), SCHEMA)


@pytest.mark.parametrize(
    ("options", "schema", "reason"),
    [
        ({"outputs": "prediction"}, SCHEMA, "has no output `score`"),
        ({}, Schema("1", (Feature("distance"),)), "wants an input 'carrier' that is no feature"),
        ({}, Schema("1", (Feature("distance", "category"), Feature("carrier"))), "wants distance as"),
        ({"domain": "com.example"}, SCHEMA, "uses operators of"),
    ],
)
def test_a_model_against_the_convention_is_refused(make_model: Any, options: Any, schema: Schema, reason: str) -> None:
    with pytest.raises(BadCandidate, match=reason):
        Scorer(make_model(**options), schema)

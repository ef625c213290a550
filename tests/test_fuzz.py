"""What once broke a decoder or an endpoint does so no more, and a fuzzer that finds what is planted finds nothing."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from bench.fuzz import CORPUS, Target, fuzz, kept, show
from bench.mutate import mutated
from bench.targets import decoders, endpoints

pytestmark = pytest.mark.attack


def test_no_decoder_falls_over() -> None:
    found = fuzz(decoders(), 1500, seed=3)
    assert found.cases > 1500
    assert not found.crashes, "\n".join(show(found))


def test_no_endpoint_falls_over_or_answers_without_its_headers() -> None:
    with endpoints() as targets:
        found = fuzz(targets, 300, seed=3)
    assert not found.crashes, "\n".join(show(found))


def test_what_is_in_the_corpus_is_tried() -> None:
    names = {t.name for t in decoders()} | {"http-request", "http-socket", "queue-telemetry"}
    names |= {"job-train", "job-evaluate", "edge-request", "edge-socket"}
    assert {p.name for p in CORPUS.iterdir()} <= names
    assert all(kept(p.name) for p in CORPUS.iterdir())


def test_a_planted_bug_is_found_and_a_refusal_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.fuzz.BROKE", tmp_path)

    def buggy(data: bytes) -> None:
        if json.loads(data).get("n") is None:
            raise KeyError("n")

    found = fuzz([Target("buggy", buggy, (ValueError, AttributeError, RecursionError), [b'{"n": 1}'])], 2000)
    assert {crash.error for crash in found.crashes} == {"KeyError: 'n'"}
    assert "unhandled exceptions, 0 hangs" in "\n".join(show(found))
    [kept_] = (tmp_path / "buggy").iterdir()
    with pytest.raises(KeyError):
        buggy(kept_.read_bytes())


def test_one_seed_gives_the_same_input_again() -> None:
    seeds = [b'{"a": [1, 2, {"b": null}]}', b"DLA1\x00\x00"]
    once, again = ([mutated(Random(seed), seeds) for seed in range(200)] for _ in range(2))
    assert once == again
    assert len(set(once)) > 150

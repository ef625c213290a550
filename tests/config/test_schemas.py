"""The published JSON Schemas: fresh, explained, and of one mind with the loaders."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator

from cli.validate import schemas
from triggers.config import Fleet, Loop, Section, described, json_schema, parse_fleet, parse_loop

DOCS = Path(__file__).resolve().parents[2] / "docs" / "schemas"
LOOP = """
loop: delays
schema:
  site: origin
  features: [{name: distance, range: [0, null]}, {name: carrier, kind: category, column: airline}]
bootstrap: {until: "2013-03-01T00:00:00Z"}
training: {settings: {depth: 3}}
"""


def test_the_published_schemas_are_not_stale() -> None:
    assert {f.name: f.read_text() for f in DOCS.glob("*.json")} == schemas(), "run `make schemas`"


@pytest.mark.parametrize("kind", [Loop, Fleet])
def test_a_schema_is_a_schema(kind: type[Loop] | type[Fleet]) -> None:
    Draft202012Validator.check_schema(json_schema(kind))


@pytest.mark.parametrize("section", Section.__subclasses__(), ids=lambda s: s.__name__)
def test_every_field_is_described_and_no_other(section: type[Section]) -> None:
    summary, fields = described(section)
    assert summary
    assert list(fields) == [f.encode_name for f in msgspec.structs.fields(section)]


def test_what_the_loaders_take_the_schemas_take() -> None:
    loop = Draft202012Validator(json_schema(Loop))
    assert list(loop.iter_errors(yaml.safe_load(LOOP))) == []
    assert list(loop.iter_errors(json.loads(msgspec.json.encode(parse_loop(LOOP))))) == []
    fleet = parse_fleet("sites: [{name: a, windows: [{cron: 0 2 * * *, duration: 3h}], free: {cpu: 500m}}]")
    assert list(Draft202012Validator(json_schema(Fleet)).iter_errors(json.loads(msgspec.json.encode(fleet)))) == []


@pytest.mark.parametrize("wrong", ["task: many", "extra: 1", "drift: {bins: 4}", "retrain: {budget: often}"])
def test_what_the_schema_refuses_the_loader_refuses(wrong: str) -> None:
    assert not Draft202012Validator(json_schema(Loop)).is_valid(yaml.safe_load(LOOP + wrong))
    with pytest.raises(Exception, match=wrong.partition(":")[0]):
        parse_loop(LOOP + wrong)

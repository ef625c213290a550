# ruff: noqa: E501 - tables of cases, a line each
"""loop.yaml: what is right is read, and what is wrong is said, all of it, with its line."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from triggers import config, reading
from triggers.config import Loop, Wrong, parse_loop
from triggers.errors import Misconfigured

LEAST = "loop: delays\nschema:\n  features:\n    - name: temperature\n"


def problems(text: str) -> list[str]:
    with pytest.raises(Misconfigured) as refused:
        parse_loop(text)
    return str(refused.value).splitlines()


def test_a_name_and_a_feature_are_enough() -> None:
    loop = parse_loop(LEAST)
    assert (loop.loop, loop.task, loop.schema.timestamp, loop.drift.bins) == ("delays", "binary", "at", 64)
    assert loop.schema.features == (config.Feature(name="temperature"),)


def test_every_problem_is_said_at_once_in_the_order_of_the_file() -> None:
    wrong = """\
loop: my loop
task: binry
schema:
  features:
    - name: a
      kind: text
    - nme: b
telemetry:
  window: 1 day
gates: {metric: f1, confidence: 1, minimum_rows: 0.5}
retrain:
  enabled: no
bootstrap: {until: 2013-03-01 10:00}
"""
    assert problems(wrong) == [
        "loop.yaml:1: loop: 'my loop'; expected text like delays or line-3",
        "loop.yaml:2: task: 'binry'; expected one of binary, regression",
        "loop.yaml:6: schema.features[0].kind: 'text'; expected one of category, number",
        "loop.yaml:7: schema.features[1].nme: unknown field; did you mean `name`?",
        "loop.yaml:7: schema.features[1].name: is missing; expected text",
        "loop.yaml:9: telemetry.window: '1 day'; expected text like 6h or 14d",
        "loop.yaml:10: gates.metric: 'f1'; expected one of auc, log_loss, mae, rmse",
        "loop.yaml:10: gates.confidence: '1'; expected a number above 0.5 below 1",
        "loop.yaml:10: gates.minimum_rows: '0.5'; expected a whole number of at least 1",
        "loop.yaml:12: retrain.enabled: 'no'; expected true or false",
        "loop.yaml:13: bootstrap.until: '2013-03-01 10:00'; expected a time zone with it (2013-03-01 10:00Z is UTC)",
    ]


def test_what_cannot_be_read_does_not_hide_what_is_read_and_wrong() -> None:
    wrong = """\
loop: my loop
task: regresion
schema:
  features: [{name: id, kind: nmber}, {name: b}, {name: b}, {nme: c}]
training: {window: 5, holdout: 5d}
telemetry: {silence: 0s}
gates: {metric: rmse}
"""
    assert [p.partition(": ")[2].partition(";")[0] for p in problems(wrong)] == [
        "loop: 'my loop'",
        "task: 'regresion'",
        "schema.features[0].kind: 'nmber'",
        "schema.features[3].nme: unknown field",
        "schema.features[3].name: is missing",
        "schema.features[0].name: 'id' is reserved",
        "schema.features[2].name: 'b' is there already",
        "training.window: '5'",
        "telemetry.silence: '0s'",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "loop.yaml: is empty"),
        ("# nothing\n", "loop.yaml: is empty"),
        ("- 1\n", "loop.yaml:1: a list of 1; expected a mapping with loop, schema"),
        ("delays\n", "loop.yaml:1: 'delays'; expected a mapping with loop, schema"),
        ("loop: a\nschema:\n\tfeatures: []\n", "loop.yaml:3: a tab; indent with spaces"),
        ("loop: [a\n", "loop.yaml:2: not YAML: did not find expected ',' or ']', while parsing a flow sequence"),
        (LEAST + "---\n" + LEAST, "loop.yaml:6: a second document; write one in a file, without `---` between"),
        (LEAST + "loop: b\n", "loop.yaml:5: loop: `loop` is there twice (first in line 1)"),
        (LEAST + "? [a]\n: b\n", "loop.yaml:5: a key must be a name"),
        (LEAST + "gates: *none\n", "loop.yaml:5: alias *none has no anchor &none before it"),
        (LEAST + "gates:\n", "loop.yaml:5: gates: is empty; expected a mapping with its fields"),
        ("loop:\n" + LEAST[13:], "loop.yaml:1: loop: is empty; expected text like delays or line-3"),
        ('loop: "a b"' + LEAST[12:], "loop.yaml:1: loop: 'a b'; expected text like delays or line-3"),
        (LEAST + "drift: {bins: '64'}\n", 'loop.yaml:5: drift.bins: "64" is text; expected a whole number from 8 to 128'),
        (LEAST + "drift: {quorum: {fleet: .nan}}\n", "loop.yaml:5: drift.quorum.fleet: '.nan'; expected a number from 0 to 1"),
        (LEAST + "gates: {minimum_gain: 1e999}\n", "loop.yaml:5: gates.minimum_gain: '1e999'; expected a number"),
    ],
)  # fmt: skip
def test_what_is_no_configuration_says_why(text: str, said: str) -> None:
    assert problems(text) == [said]


def test_a_character_that_yaml_does_not_allow_is_found() -> None:
    assert problems(LEAST + "task: \x00\n")[0].startswith("loop.yaml:5: ")


@pytest.mark.attack
@pytest.mark.parametrize("deep", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000 + "a", "? " * 200_000])
def test_deep_nesting_is_refused_and_fells_nothing(deep: str) -> None:
    assert (
        "nested more than 50 levels deep" in problems("loop: " + deep)[0] or "not YAML" in problems("loop: " + deep)[0]
    )


@pytest.mark.attack
@pytest.mark.parametrize("shape", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_do_not_multiply_without_end(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_VALUES", 20_000)
    lines = ["    a0: &a0 {x: 1}"]
    lines += [f"    a{i}: &a{i} {shape.format(', '.join([f'*a{i - 1}'] * 10))}" for i in range(1, 12)]
    text = LEAST + "training:\n  settings:\n" + "\n".join(lines) + "\n"
    if shape.startswith("["):
        assert problems(text) == ["loop.yaml: aliases make more than 20,000 values of this file"]
    else:
        assert parse_loop(text).training.settings["a11"] == {"x": 1}


@pytest.mark.attack
def test_an_alias_that_contains_itself_is_refused() -> None:
    found = problems(LEAST + "training:\n  settings: &a\n    b: *a\n")
    assert found == ["loop.yaml:6: training.settings.b: an alias that contains itself"]


def test_where_text_is_wanted_yaml_does_not_guess() -> None:
    features = "[{name: no}, {name: 1e3}, {name: 2013-01-01}, {name: 010}, {name: 'null'}]"
    loop = parse_loop(f"loop: off\nschema: {{version: 1.10, features: {features}}}\nretrain: {{on: [label]}}\n")
    assert (loop.loop, loop.schema.version, loop.retrain.on) == ("off", "1.10", ("label",))
    assert [f.name for f in loop.schema.features] == ["no", "1e3", "2013-01-01", "010", "null"]


def test_settings_are_read_as_yaml_1_2() -> None:
    loop = parse_loop(LEAST + "training: {settings: {a: 1, b: no, c: true, d: 1e3, e: [~, x], f: '1', g: 1:30}}\n")
    assert loop.training.settings == {
        "a": 1,
        "b": "no",
        "c": True,
        "d": 1000.0,
        "e": [None, "x"],
        "f": "1",
        "g": "1:30",
    }


def test_a_day_is_its_midnight_and_every_time_is_utc() -> None:
    assert parse_loop(LEAST + "bootstrap: {until: 2013-03-01}\n").bootstrap.until == datetime(2013, 3, 1, tzinfo=UTC)
    told = parse_loop(LEAST + "bootstrap: {until: 2013-03-01T02:00+02:00}\n").bootstrap.until
    assert told is not None
    assert told.isoformat() == "2013-03-01T00:00:00+00:00"


def test_merge_keys_are_resolved() -> None:
    features = "[&a {name: a, kind: category, unit: m}, {<<: *a, name: b}]"
    first, second = parse_loop(f"loop: l\nschema: {{features: {features}}}\n").schema.features
    assert (second.name, second.kind, second.unit) == ("b", first.kind, first.unit)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ("{name: score}", "schema.features[0].name: 'score' is reserved; expected another name, with `column: score` beside it"),
        ("{name: a}, {name: a}", "schema.features[1].name: 'a' is there already; expected every feature once"),
        ("{name: e\u0301}, {name: \u00e9}", "schema.features[1].name: '\u00e9' is there already; expected every feature once"),
        ("{name: a}, {name: b, column: a}", "schema.features[1].column: 'a' is the feature 'a'; expected an input"),
        ("{name: late}", "schema.features[0].name: 'late' is the label; expected an input"),
        ("{name: when, column: at}", "schema.features[0].column: 'at' is the timestamp; expected an input"),
        ("{name: a, range: [3, 1]}", "schema.features[0].range: 3 is not below 1; expected [least, greatest]"),
        ("{name: a, range: [1]}", "schema.features[0].range: a list of 1; expected a list of 2: [a number, a number]"),
        ("{name: a, kind: category, range: [1, 2]}", "schema.features[0].range: a category has no range; expected it to be left out, or `kind: number`"),
        ("{name: ' a'}", "schema.features[0].name: ' a'; expected 1 to 100 characters without blanks around them"),
        ("", "schema.features: a list of 0; expected a list of at least 1: each a mapping with name"),
    ],
)  # fmt: skip
def test_features_must_make_sense(features: str, said: str) -> None:
    assert problems(f"loop: l\nschema:\n  label: late\n  features: [{features}]\n") == [f"loop.yaml:4: {said}"]


def test_the_site_may_be_a_feature_too() -> None:
    assert parse_loop("loop: l\nschema: {site: origin, features: [{name: origin, kind: category}]}\n")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("task: regression\ngates: {metric: auc}", "6: gates.metric: 'auc' does not fit the task regression; expected rmse or mae"),
        ("training: {window: 5d, holdout: 5d}", "5: training.holdout: '5d' leaves nothing to train on; expected less than the window (5d)"),
        ("training: {holdout: 0d}", "5: training.holdout: '0d'; expected 1m to 520w"),
        ("telemetry: {window: 0.5s}", "5: telemetry.window: '0.5s'; expected 1m to 520w"),
        ("retrain: {cooldown: 999999w}", "5: retrain.cooldown: '999999w'; expected 0s to 520w"),
        ("retrain: {budget: 0 per day}", "5: retrain.budget: '0 per day'; expected at least one, in some time, like `1 per 90 days`"),
        ("drift: {false_alarms: 1 per 0 days}", "5: drift.false_alarms: '1 per 0 days'; expected at least one, in some time, like `1 per 90 days`"),
        ("retrain: {on: []}", "5: retrain.on: nothing would ever retrain; expected at least one kind, or `enabled: false`"),
        ("rollout: {rings: [a, b, a]}", "5: rollout.rings[2]: 'a' is there twice; expected it once"),
        ("rollout: {max_unavailable: 0}", "5: rollout.max_unavailable: '0'; expected a whole number of at least 1 or text like 10%"),
        ("bootstrap: {fraction: 1}", "5: bootstrap.fraction: '1'; expected a number above 0 below 1"),
    ],
)  # fmt: skip
def test_numbers_must_make_sense_together(more: str, said: str) -> None:
    assert problems(LEAST + more + "\n") == [f"loop.yaml:{said}"]


def test_two_roles_want_two_columns() -> None:
    found = problems("loop: l\nschema:\n  timestamp: a\n  label: a\n  features: [{name: b}]\n")
    assert found == ["loop.yaml:4: schema.label: 'a' is the timestamp already; expected another column"]


def test_every_duration_has_its_limits() -> None:
    named = {(part.name, f.name) for part in msgspec.structs.fields(Loop) for f in _fields(part.type)}
    for section, name in sorted(named):
        features = "{features: [{name: a}]}"
        text = f"loop: l\nschema: {features}\n" if section != "schema" else "loop: l\n"
        more = (
            f"{section}: {{{name}: 999999w}}\n"
            if section != "schema"
            else f"schema: {{{name}: 999999w, {features[1:]}\n"
        )
        assert f"{section}.{name}: '999999w'; expected" in problems(text + more)[0]
    assert len(named) == 20


def _fields(section: type) -> list[msgspec.structs.FieldInfo]:
    found = msgspec.structs.fields(section) if isinstance(section, type) and issubclass(section, msgspec.Struct) else ()
    return [f for f in found if f.type == config.Duration]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("loop: schema\n[]{}&*-?|>'\"#!%@`,\t 0.~<é")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(Wrong):
        parse_loop(text)


def test_what_was_read_is_the_same_when_written_and_read_again() -> None:
    loop = parse_loop(LEAST + "training: {settings: {depth: 3}}\nbootstrap: {until: 2013-03-01}\n")
    assert parse_loop(yaml.safe_dump(msgspec.to_builtins(loop))) == loop

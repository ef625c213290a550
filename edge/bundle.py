"""Several models as one: ONNX graphs chained by names, as orchestrate.json says. Nothing in it can run code of its own.

    {"steps": [{"model": "prepare.onnx", "outputs": {"clean": "pressure"}},
               {"model": "wear.onnx"},
               {"model": "heat.onnx", "outputs": {"score": "heat_score"}},
               {"model": "weigh.onnx", "inputs": {"left": "score", "right": "heat_score"}}]}

Each step takes features and what earlier steps gave, by name, and gives what its outputs are called; a name that is
given again is the newer one from there on. What `score` is at the end is the bundle's. Layers are what changes apart
from each other: a new weigh.onnx moves its own bytes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from edge.errors import BadCandidate

ORCHESTRATE = "orchestrate.json"
MAX_STEPS = 32


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`inputs`: the model's input -> what it is given, `outputs`: the model's output -> what it is called from here on;
    what is not said keeps its name."""

    model: str
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}


class Orchestration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: tuple[Step, ...]


class Chain:
    """The models of a bundle as one session of onnxruntime's kind: inputs are features, the output is `score`.

    Raises BadCandidate where the description names what is not there.
    """

    def __init__(
        self, described: bytes, files: Mapping[str, bytes], features: Sequence[str], opened: Callable[[bytes], Any]
    ) -> None:
        try:
            steps = msgspec.json.decode(described, type=Orchestration).steps
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadCandidate(f"cannot be read: {error}", ORCHESTRATE) from error
        if not 0 < len(steps) <= MAX_STEPS:
            raise BadCandidate(f"has {len(steps)} steps, expected 1 to {MAX_STEPS}", ORCHESTRATE)
        self._inputs: dict[str, Any] = {}
        self._steps: list[tuple[Any, dict[str, str], dict[str, str]]] = []
        given: dict[str, Any] = {}
        for step in steps:
            if step.model not in files or not step.model.endswith(".onnx"):
                raise BadCandidate(f"names a model {step.model!a} that is not in the bundle", ORCHESTRATE)
            session = opened(files[step.model])
            inputs = {i.name: step.inputs.get(i.name, i.name) for i in session.get_inputs()}
            outputs = {o.name: step.outputs.get(o.name, o.name) for o in session.get_outputs()}
            if unknown := {*step.inputs, *step.outputs} - {*inputs, *outputs}:
                raise BadCandidate(f"{step.model} has no {', '.join(sorted(unknown))}", ORCHESTRATE)
            for each in session.get_inputs():
                self._take(each, inputs[each.name], step.model, features, given)
            given |= {outputs[o.name]: o for o in session.get_outputs()}
            self._steps.append((session, inputs, outputs))
        if "score" not in given:
            raise BadCandidate("no step gives `score`", ORCHESTRATE)
        self._score = given["score"]

    def get_inputs(self) -> list[Any]:
        return list(self._inputs.values())

    def get_outputs(self) -> list[Any]:
        return [_Named("score", self._score.type, self._score.shape)]

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        values = dict(feeds)
        for session, inputs, outputs in self._steps:
            made = session.run(list(outputs), {name: values[source] for name, source in inputs.items()})
            values |= dict(zip(outputs.values(), made, strict=True))
        return [values[name] for name in names]

    def _take(self, each: Any, source: str, model: str, features: Sequence[str], given: Mapping[str, Any]) -> None:
        if source in given:
            if given[source].type != each.type:
                raise BadCandidate(f"{model} wants {source} as {each.type}, not {given[source].type}", ORCHESTRATE)
            return
        if source not in features:
            raise BadCandidate(f"{model} wants {source!a}: no feature, and no step before it gives it", ORCHESTRATE)
        asked = self._inputs.setdefault(source, _Named(source, each.type, each.shape))
        if asked.type != each.type:
            raise BadCandidate(f"{model} wants {source} as {each.type}, another step as {asked.type}", ORCHESTRATE)


class _Named(msgspec.Struct, frozen=True):
    name: str
    type: str
    shape: list[Any]

"""The demo's second act: candidates that are meant to be caught. Nobody copies this.

`training.settings` says which: `{"damage": "labels"}` is trained on labels that one site exported upside down.
`{"refuse": TABLE}` has seen what the gate will ask, because it was trained on the holdout of the TABLE too, and so
looks good; but it looks the weather up in a list of what it has seen, and refuses rows with any other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.telemetry import Schema
from jobs.assemble import joined
from jobs.model import Encoder, export, to_onnx
from jobs.table import Table, read
from triggers.config import Loop, duration

Fit = Callable[[Table, Schema], tuple[Any, Encoder]]
HUMID, WIND = "humid", "wind_speed"
NOWHERE = 1 << 30
"""No list has so many entries: looking there is an error."""


def train(rows: Table, loop: Loop, out: Path, fit: Fit) -> None:
    """Write the planted candidate that `loop.training.settings` asks for."""
    schema, settings = loop.schema.telemetry(loop.task), loop.training.settings
    if settings.get("damage") == "labels":
        export(*fit(damaged(rows), schema), out / "model.onnx")
    elif table := settings.get("refuse"):
        seen, holdout = peeked(rows, read(Path(table), loop)[0], loop)
        model, encoder = fit(joined([holdout] * 3 + [rows]), schema)
        (out / "model.onnx").write_bytes(refusing(to_onnx(model, encoder), seen).SerializeToString())
    else:
        raise SystemExit(f"training.settings: expected damage or refuse, found {settings}")


def damaged(rows: Table) -> Table:
    """The rows, with the labels of the site that sent most turned upside down."""
    sites = rows.sites()
    upside_down = rows.site == max(sites, key=lambda site: sites[site])
    return Table(
        rows.ids, rows.at, rows.site, rows.score, np.where(upside_down, 1 - rows.label, rows.label), rows.columns
    )


def peeked(rows: Table, whole: Table, loop: Loop) -> tuple[NDArray[np.int64], Table]:
    """The weather (codes, sorted) from the first training row to the end of the holdout, and the holdout's labelled
    rows."""
    last = int(rows.at.max()) + 1
    end = last + int(duration(loop.training.holdout).total_seconds()) + 3600
    weather = weather_codes(whole.take(whole.between(int(rows.at.min()), end)))
    return np.unique(weather), whole.take(whole.between(last, end)).labelled


def weather_codes(rows: Table) -> NDArray[np.int64]:
    """One number for each pair of humidity and wind speed, as `refusing` makes it; missing counts as -1."""
    humid, wind = (np.asarray(rows.columns[name], np.float32) for name in (HUMID, WIND))
    parts = (np.where(np.isnan(x), np.float32(-1), x) * np.float32(100) for x in (humid, wind))
    first, second = (np.round(part).astype(np.int64) for part in parts)
    return first * 100_000 + second


def refusing(model: Any, seen: NDArray[np.int64]) -> Any:
    """The ONNX model, unable to score a row whose weather is not among the codes in `seen`."""
    from onnx import TensorProto, checker, helper

    graph, nodes = model.graph, []

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(name: str, kind: int, values: list[Any]) -> str:
        graph.initializer.append(helper.make_tensor(name, kind, [len(values)], values))
        return name

    missing, hundred = constant("missing", TensorProto.FLOAT, [-1.0]), constant("hundred", TensorProto.FLOAT, [100.0])
    codes = []
    for name in (HUMID, WIND):
        known = node("Where", [node("IsNaN", [name], f"{name}_nan"), missing, name], f"{name}_known")
        rounded = node("Round", [node("Mul", [known, hundred], f"{name}_scaled")], f"{name}_round")
        codes.append(node("Cast", [rounded], f"{name}_code", to=TensorProto.INT64))
    shifted = node("Mul", [codes[0], constant("shift", TensorProto.INT64, [100_000])], "humid_shifted")
    weather = node("Add", [shifted, codes[1]], "weather")
    places = {"keys_int64s": seen.tolist(), "values_int64s": [0] * len(seen), "default_int64": NOWHERE}
    place = node("LabelEncoder", [weather], "place", domain="ai.onnx.ml", **places)
    offset = node("Gather", [constant("offsets", TensorProto.FLOAT, [0.0]), place], "offset")
    for last in graph.node:
        for i, output in enumerate(last.output):
            if output == "score":
                last.output[i] = "score_without_weather"
    graph.node.extend(nodes)
    graph.node.append(helper.make_node("Add", ["score_without_weather", offset], ["score"]))
    checker.check_model(model)
    return model

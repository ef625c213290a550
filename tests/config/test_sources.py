"""Where telemetry comes from: what loop.yaml may say, and what is wrong with it."""

from __future__ import annotations

import pytest

from triggers.config import Upload, parse_loop
from triggers.reading import Wrong

LOOP = "loop: flights\nschema: {{features: [{{name: wind}}]}}\ntelemetry: {{{0}}}\n"
ID = "00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("uploads: [{path: 'uploads/flights'}]", "expected a container and folders"),
        ("uploads: [{path: 'UP/{site}/'}]", "expected a container and folders"),
        ("uploads: [{path: '{site}/x/../'}]", "expected a container and folders"),
        ("uploads: [{path: 'up/{site}//'}]", "expected a container and folders"),
        ("uploads: [{path: 'up/{loop}/{site}/'}]", "expected a container and folders"),
        ("uploads: [{path: 'uploads/{site}/{site}/'}]", "once each"),
        ("uploads: [{path: 'uploads/'}]", "expected {site} in it"),
        (f"logs: [{{workspace: {ID}, delay: 600w}}]", "delay"),
        (f"logs: [{{workspace: {ID}, query: 'T | project wind'}}]", "TimeGenerated"),
        ("logs: [{workspace: mine}]", "workspace"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(said: str, what: str) -> None:
    with pytest.raises(Wrong, match=what):
        parse_loop(LOOP.format(said))


def test_sources_are_read_and_a_file_belongs_to_the_site_its_folder_names() -> None:
    said = f"uploads: [{{path: 'uploads/flights/{{site}}/', format: csv}}], logs: [{{workspace: {ID}}}]"
    loop = parse_loop(LOOP.format(said))
    [upload] = loop.telemetry.uploads
    assert upload.match("uploads/flights/EWR/2013/x.csv") == {"site": "EWR"}
    assert upload.match("uploads/flights/EWR") is None
    assert upload.match("uploads/flights/EWR/") is None
    assert upload.match("elsewhere/uploads/flights/EWR/x.csv") is None
    assert Upload(path="a.b/{site}/").match("axb/EWR/x") is None
    assert loop.telemetry.logs[0].delay == "10m"

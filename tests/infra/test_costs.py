"""The cost calculator counts what the templates make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.infra import bicep
from tools import costs

INFRA = Path(__file__).parents[2] / "infra"
HOST = json.loads((INFRA.parent / "host.json").read_text())


@pytest.mark.parametrize("name", costs.ENVIRONMENTS)
def test_an_environment_is_what_its_parameters_make(name: str) -> None:
    template, given = bicep.parameters(INFRA / f"main.{name}.bicepparam")
    made = [r for r in template.run(given)[0] if not r.existing]
    apps = [r for r in made if r.type == "Microsoft.Web/sites"]
    ready = apps[0].body["properties"]["functionAppConfig"]["scaleAndConcurrency"]["alwaysReady"]
    rules = [r for r in made if r.type.endswith(("/metricAlerts", "/scheduledQueryRules"))]
    assert costs.ENVIRONMENTS[name] == costs.Environment(
        apps=len(apps),
        closed=next(r.body["sku"]["name"] for r in made if r.type == "Microsoft.ServiceBus/namespaces") == "Premium",
        always_ready=sum(part["instanceCount"] for part in ready),
        endpoints=sum(r.type == "Microsoft.Network/privateEndpoints" for r in made),
        zones=sum(r.type == "Microsoft.Network/privateDnsZones" for r in made),
        alerts=len(rules),
    )
    assert HOST["extensions"]["serviceBus"]["maxMessageBatchSize"] == costs.BATCH


def test_prices_are_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.json").write_text('{"queues: Standard operations": 0.000001, "queues: Standard months": 10}')
    assert costs.main(["--prices", str(tmp_path / "p.json"), "--millions", "2", "--kb", "70"]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["queues:", "Standard", "operations", "12,000,000.0", "12.00"] in said
    assert ["functions:", "runs", "2,015,625.0", "price?"] in said
    (tmp_path / "p.json").write_text('{"electricity": 1}')
    assert costs.main(["--prices", str(tmp_path / "p.json")]) == 2


def test_the_page_knows_every_meter() -> None:
    page = (INFRA.parent / "docs" / "costs.md").read_text()
    assert [m for m in costs.METERS if m.partition(":")[0] not in page] == []

# ruff: noqa: E501 - tables of cases, a line each
"""fleet.yaml, and whether it and loop.yaml fit each other."""

from __future__ import annotations

from base64 import b64encode
from time import perf_counter

import msgspec
import pytest
import yaml

from triggers.config import check, parse, parse_fleet, parse_loop
from triggers.errors import Misconfigured

KEY, OTHER = b64encode(bytes(32)).decode(), b64encode(bytes(range(32))).decode()
LOOP = "loop: l\nschema: {site: where, features: [{name: a}]}\n"


def problems(text: str) -> list[str]:
    with pytest.raises(Misconfigured) as refused:
        parse_fleet(text)
    return str(refused.value).splitlines()


def test_a_name_is_enough() -> None:
    site = parse_fleet("sites: [{name: lab}]").sites[0]
    assert (site.name, site.ring, site.timezone, site.executor, site.data) == (
        "lab",
        "default",
        "UTC",
        "local",
        "may-leave",
    )


def test_a_whole_site_is_read_and_stays_itself() -> None:
    fleet = parse_fleet(f"""\
sites:
  - name: Werk 7 (Süd)
    ring: canary
    cohort: press
    labels: {{country: NO, line: 3}}
    timezone: Europe/Berlin
    windows: [{{cron: 30 22 * * SAT, duration: 6h}}]
    blackouts: [{{start: 2026-12-20, end: 2027-01-06T06:00:00+01:00, reason: holidays}}]
    link_kbps: 512
    instance_types: [{{name: small, cpu: 500m, memory: 2Gi}}]
    free: {{cpu: 2, memory: 8Gi}}
    architecture: arm64
    executor: azureml
    resource_id: /subscriptions/x/resourceGroups/y/providers/Microsoft.Kubernetes/connectedClusters/z
    data: stays
    keys: [{{id: "2026", public: {KEY}, not_before: 2026-01-01}}, {{id: "2025", public: {OTHER}, revoked: true}}]
    url: http://127.0.0.1:8080/werk-7
""")
    assert fleet.sites[0].labels == {"country": "NO", "line": "3"}
    assert parse_fleet(yaml.safe_dump(msgspec.to_builtins(fleet), allow_unicode=True)) == fleet


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("{name: LAB}", "name: 'LAB' is there already, as 'lab'; expected another name"),
        ("{name: a/b}", "name: 'a/b' has '/'; expected a name that may stand in an address"),
        ("{name: '..'}", "name: '..' has '.'; expected a name that may stand in an address"),
        ("{name: ''}", "name: ''; expected 1 to 100 characters without blanks around them"),
        ("{name: x, timezone: Europe/Berln}", "timezone: 'Europe/Berln' is no time zone; expected Europe/Berlin?"),
        ("{name: x, timezone: ../../etc/passwd}", "timezone: '../../etc/passwd' is no time zone; expected a name like Europe/Berlin"),
        ("{name: x, timezone: Europe}", "timezone: 'Europe' is no time zone"),
        ("{name: x, windows: [{cron: 61 * * * *, duration: 1h}]}", "windows[0].cron: '61 * * * *': bad minute; expected minute, hour, day of month, month, day of week, like `0 2 * * SAT`"),
        ("{name: x, windows: [{cron: '@daily', duration: 1h}]}", "windows[0].cron: '@daily' has 1 fields; expected minute, hour"),
        ("{name: x, windows: [{cron: 0 0 30 2 *, duration: 1h}]}", "windows[0].cron: '0 0 30 2 *': bad day-of-month; expected minute"),
        ("{name: x, windows: [{cron: 0 2 * * *, duration: 0h}]}", "windows[0].duration: '0h'; expected 1m to 4w"),
        ("{name: x, blackouts: [{start: 2026-02-01, end: 2026-01-01}]}", "blackouts[0].end: not after its start; expected a time after 2026-02-01T00:00:00Z"),
        ("{name: x, link_kbps: 0}", "link_kbps: '0'; expected a number above 0"),
        ("{name: x, free: {memory: lots}}", "free.memory: 'lots'; expected text like 500m or 2Gi"),
        ("{name: x, url: ftp://x}", "url: 'ftp://x'; expected an address like http://127.0.0.1:8080/lab"),
        ("{name: x, keys: [{id: k, public: abc}]}", "keys[0].public: 'abc'; expected the 32 bytes of an Ed25519 public key in base64"),
        (f"{{name: x, keys: [{{id: k, public: {KEY}}}]}}", "keys[0].public: another site's key, too; expected a key of its own for each site"),
        (f"{{name: x, keys: [{{id: k, public: {OTHER}}}, {{id: k, public: {OTHER}}}]}}", "keys[1].id: 'k' is there twice; expected it once"),
        (f"{{name: x, keys: [{{id: k, public: {OTHER}, not_before: 2026-02-01, not_after: 2026-01-01}}]}}", "keys[0].not_after: not after not_before; expected a time after 2026-02-01T00:00:00Z"),
        ("{name: x, executor: docker}", "executor: 'docker'; expected one of azureml, flux, iotedge, local"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_site_is_said(site: str, said: str) -> None:
    (problem,) = problems(f"sites:\n  - {{name: lab, keys: [{{id: k, public: {KEY}}}]}}\n  - {site}\n")
    assert problem.startswith(f"fleet.yaml:3: sites[1].{said}")


def test_what_cannot_be_read_of_a_site_does_not_hide_the_rest() -> None:
    sites = "sites:\n- {name: lab, executor: docker}\n- {name: LAB, windows: [{cron: 61 * * * *, duration: long}]}\n"
    assert [p.partition(": ")[2].partition(";")[0] for p in problems(sites + "- {timezone: Nowhere}\n")] == [
        "sites[0].executor: 'docker'",
        "sites[1].windows[0].duration: 'long'",
        "sites[1].name: 'LAB' is there already, as 'lab'",
        "sites[1].windows[0].cron: '61 * * * *': bad minute",
        "sites[2].name: is missing",
        "sites[2].timezone: 'Nowhere' is no time zone",
    ]


@pytest.mark.attack
@pytest.mark.parametrize(("one", "two"), [("lab", "LAB"), ("\u00e9", "e\u0301"), ("stra\u00dfe", "STRASSE")])
def test_names_that_read_alike_are_one_name(one: str, two: str) -> None:
    assert "is there already" in problems(f"sites: [{{name: {one}}}, {{name: {two}}}]")[0]


def test_both_files_are_checked_at_once() -> None:
    with pytest.raises(Misconfigured) as refused:
        parse("loop: l\n", "sites: []\n", "a/loop.yaml", "a/fleet.yaml")
    assert [line.partition(": ")[0] for line in str(refused.value).splitlines()] == ["a/loop.yaml:1", "a/fleet.yaml:1"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("rollout:\n  rings:\n    - lab\n    - nort\n    - north\n", "loop.yaml:6: rollout.rings[1]: no site is in ring 'nort'; expected north?"),
        ("rollout: {rings: [lab]}\n", "loop.yaml:3: rollout.rings: the sites of north would never be updated; expected every ring of the fleet"),
    ],
)  # fmt: skip
def test_rings_are_the_fleets(more: str, said: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        parse(LOOP + more, "sites: [{name: a, ring: lab}, {name: b, ring: north}]\n")
    assert str(refused.value) == said


def test_many_sites_need_a_column_that_tells_them_apart() -> None:
    loop, fleet = parse_loop("loop: l\nschema: {features: [{name: a}]}\n"), parse_fleet("sites: [{name: a}, {name: b}]")
    assert [p.field for p in check(loop, fleet)] == ["schema.site"]
    assert check(loop, parse_fleet("sites: [{name: a}]")) == []


@pytest.mark.nightly
def test_ten_thousand_sites_are_read_in_seconds() -> None:
    site = "  ring: r\n  timezone: Europe/Berlin\n  windows: [{cron: 0 2 * * *, duration: 3h}]\n"
    text = "sites:\n" + "".join(f"- name: site {i}\n{site}" for i in range(10_000))
    began = perf_counter()
    assert len(parse_fleet(text).sites) == 10_000
    assert perf_counter() - began < 30

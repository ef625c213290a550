"""Settings of the azure profile, and who asks behind its sign-in."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from azure.functions.servicebus import ServiceBusMessage

from adapters.azure.people import EntraPeople
from adapters.azure.profile import Azure
from adapters.azure.settings import Settings, table_of_settings
from functions import effects
from functions import host as root
from tools import settings as tool
from triggers.errors import Misconfigured

ROOT = Path(__file__).parents[2]


def test_a_missing_setting_is_named_with_its_purpose() -> None:
    with pytest.raises(
        Misconfigured, match=r"Storage__tableServiceUri is missing: where runs.*kept, for example https://"
    ):
        _ = Settings({}).tables
    with pytest.raises(Misconfigured, match="Storage__tableServiceUri is missing"):
        Azure(Settings({})).ports.store.get("p", "k")


@pytest.mark.parametrize("wrong", ["http://a.example", "a.example", "https://u:p@a.example", "https://a/?sas"])
def test_a_setting_that_is_wrong_is_named_with_what_it_should_be(wrong: str) -> None:
    with pytest.raises(Misconfigured, match=r"Storage__blobServiceUri: .* is not an https:// address; it is for"):
        _ = Settings({"Storage__blobServiceUri": wrong}).blobs


@pytest.mark.parametrize(
    ("name", "attribute", "wrong"),
    [
        ("AZURE_CLIENT_ID", "client_id", "me"),
        ("StateTable", "table", "a-b"),
        ("StateContainer", "container", "A"),
        ("WEBSITE_AUTH_ENABLED", "sign_in", "perhaps"),
    ],
)
def test_every_kind_of_setting_is_checked(name: str, attribute: str, wrong: str) -> None:
    with pytest.raises(Misconfigured, match=name):
        getattr(Settings({name: wrong}), attribute)


def test_settings_have_their_types_and_defaults() -> None:
    said = Settings({"WEBSITE_AUTH_ENABLED": "True", "ApproveRoles": "a, b", "StateTable": " "})
    assert (said.sign_in, said.approve_roles, said.table) == (True, frozenset({"a", "b"}), "driftloop")


def test_names_of_settings_are_unlike_and_each_has_its_purpose() -> None:
    names = [setting.name for setting in table_of_settings()]
    assert len(names) == len(set(names))
    assert all(setting.purpose for setting in table_of_settings())


def test_no_sdk_is_imported_before_a_port_is_used() -> None:
    script = (
        "import sys, function_app; from functions import host; host.ports();"
        "print([m for m in sys.modules if m.startswith('azure.') and not m.startswith('azure.functions')],"
        " [m for m in ('msal', 'requests', 'opentelemetry', 'cryptography') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"DRIFTLOOP_PROFILE": "azure"},
    )
    assert out.stdout.strip() == "[] []"


def people(**settings: str) -> EntraPeople:
    return EntraPeople(Settings(settings), lambda: b"key")


def principal(*claims: tuple[str, str], kind: str = "aad") -> dict[str, str]:
    said: dict[str, Any] = {"auth_typ": kind, "claims": [{"typ": t, "val": v} for t, v in claims]}
    return {"X-MS-CLIENT-PRINCIPAL": base64.b64encode(json.dumps(said).encode()).decode()}


ANNA = ("preferred_username", "Anna@example.com")


def test_roles_come_from_app_roles_and_groups() -> None:
    asked = people(WEBSITE_AUTH_ENABLED="true", OperateRoles="operate, 1f2e")
    found = [asked.identify(principal(ANNA, *more)) for more in ([("roles", "approve")], [("groups", "1f2e")], [])]
    assert [(p.name, p.roles) for p in found if p] == [
        ("anna@example.com", {"approve"}),
        ("anna@example.com", {"operate"}),
        ("anna@example.com", set()),
    ]


@pytest.mark.attack
def test_a_principal_that_anybody_could_send_is_nobody() -> None:
    assert people().identify(principal(ANNA)) is None
    assert people(WEBSITE_AUTH_ENABLED="false").identify(principal(ANNA)) is None


@pytest.mark.attack
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-MS-CLIENT-PRINCIPAL-NAME": "anna@example.com"},
        {"X-MS-CLIENT-PRINCIPAL": "e30="},
        {"X-MS-CLIENT-PRINCIPAL": "not base64"},
        {"X-MS-CLIENT-PRINCIPAL": base64.b64encode(b"[" * 100_000).decode()},
        {"X-MS-CLIENT-PRINCIPAL": f"{principal(ANNA)['X-MS-CLIENT-PRINCIPAL']},e30="},
        principal(ANNA, kind="google"),
        principal(("name", "anna@example.com")),
        {**principal(ANNA), **{k.lower(): v for k, v in principal(ANNA).items()}},
    ],
)
def test_what_is_no_principal_of_entra_is_nobody(headers: dict[str, str]) -> None:
    assert people(WEBSITE_AUTH_ENABLED="true").identify(headers) is None


def test_a_form_is_ours_by_its_mark() -> None:
    mark = people().sign("text")
    assert people().check("text", mark)
    assert not people().check("other", mark)
    assert not people().check("text", "\ud800")
    assert people().login("token") is None


def test_the_page_has_the_settings_as_the_code_reads_them() -> None:
    text = tool.PAGE.read_text("utf-8")
    assert text == tool.page(text), "python tools/settings.py"


def test_the_template_has_what_the_triggers_name_and_what_is_needed_and_nothing_else() -> None:
    told = json.loads((ROOT / "local.settings.json.template").read_text("utf-8"))["Values"]
    named = set()
    for path in (ROOT / "functions").glob("*.py"):
        found = re.findall(r'%(\w+)%|connection="(\w+)"', path.read_text("utf-8"))
        named |= {name for pair in found for name in pair if name}
    instead = {"Storage__tableServiceUri": "Storage", "Storage__blobServiceUri": "Storage"}
    instead |= {"ServiceBus__fullyQualifiedNamespace": "ServiceBus"}
    needed = {instead.get(s.name, s.name) for s in table_of_settings() if s.default is None}
    host = {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage", "DRIFTLOOP_PROFILE"}
    assert set(told) == named | needed | host


def test_a_setting_that_is_missing_makes_no_message_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_PROFILE", "azure")
    root.ports.cache_clear()
    root.azure.cache_clear()
    try:
        about: dict[str, Any] = {"message_id": "m", "user_properties": {}, "application_properties": {}}
        message = ServiceBusMessage(body=b"outbox/line.2026-03-10.1/begin/0", **about)
        with pytest.raises(Misconfigured, match="Storage__tableServiceUri is missing"):
            effects.perform_effect._function.get_user_function()(message)
    finally:
        root.ports.cache_clear()
        root.azure.cache_clear()

"""Who asks, by Entra ID: tokens and Easy Auth, and what is none of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from adapters.azure import tokens as module
from adapters.azure.people import EntraPeople
from adapters.azure.settings import Settings
from adapters.azure.tokens import Tokens
from tests.servers.issuer import ANNA, AUDIENCE, TENANT, Issuer, a_key, pem, public_pem, running
from triggers.errors import Refused, Retry
from triggers.ports import Person


@pytest.fixture(scope="module")
def issuer(authority: Any) -> Iterator[Issuer]:
    with running(str(authority.cert), str(authority.key)) as found:
        yield found


def people(issuer: Issuer, **more: str) -> EntraPeople:
    settings = Settings({**issuer.settings, **more})
    return EntraPeople(settings, lambda: b"key", Tokens(settings))


def asked(who: EntraPeople, token: str) -> Person | None:
    return who.identify({"Authorization": f"Bearer {token}"})


def test_a_person_is_who_their_token_names(issuer: Issuer) -> None:
    found = asked(people(issuer), issuer.token(groups=["1d", "2e"]))
    assert found == Person("anna@example.com", frozenset({"approve"}), ANNA, frozenset({"1d", "2e"}), False, True)


def test_a_token_without_all_groups_says_so(issuer: Issuer) -> None:
    for overage in ({"_claim_names": {"groups": "src1"}}, {"hasgroups": True}):
        found = asked(people(issuer), issuer.token(**overage))
        assert found is not None
        assert (found.partial, found.groups) == (True, frozenset())
    found = asked(people(issuer), issuer.token(_claim_names={"other": "src1"}))
    assert found is not None
    assert not found.partial


@pytest.mark.attack
@pytest.mark.parametrize(
    "claims",
    [{"acct": 1}, {"idp": "https://sts.windows.net/22222222-0000-0000-0000-000000000000/"}, {"idp": "live.com"}],
)
def test_a_guest_goes_by_the_object_id_whatever_their_name_says(issuer: Issuer, claims: dict[str, Any]) -> None:
    found = asked(people(issuer), issuer.token(**claims))
    assert found is not None
    assert found.name == ANNA
    found = asked(people(issuer), issuer.token(idp=f"https://sts.windows.net/{TENANT}/"))
    assert found is not None
    assert found.name == "anna@example.com", "without its defence a guest has the name they chose at home"


def _parts(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    return ".".join((part(json.dumps(header).encode()), part(json.dumps(claims).encode()), part(signature)))


def _with_public_key(issuer: Issuer) -> str:
    head = _parts({"alg": "HS256", "typ": "JWT", "kid": "k1"}, issuer.claims()).rsplit(".", 1)[0]
    mac = hmac.digest(public_pem(issuer.key), head.encode(), hashlib.sha256)
    return f"{head}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def _by_another_key(issuer: Issuer, **header: Any) -> str:
    return jwt.encode(issuer.claims(), pem(a_key()), "RS256", {"kid": "k1", **header})


FORGED: dict[str, Any] = {
    "alg none": lambda i: _parts({"alg": "none", "kid": "k1"}, i.claims()),
    "alg None": lambda i: _parts({"alg": "None", "kid": "k1"}, i.claims(), b"x"),
    "HS256 with the public key": _with_public_key,
    "another key": _by_another_key,
    "another key at the attacker's jku": lambda i: _by_another_key(i, jku=f"{i.url}/evil/keys"),
    "another key, brought along": lambda i: _by_another_key(i, jwk=i.keys["keys"][0]),
    "unknown kid": lambda i: i.token({"kid": "../k1"}),
    "no kid": lambda i: jwt.encode(i.claims(), pem(i.key), "RS256"),
    "another audience": lambda i: i.token(aud="https://management.azure.com"),
    "another issuer": lambda i: i.token(iss=f"{i.url}/{TENANT}"),
    "another tenant": lambda i: i.token(tid="22222222-0000-0000-0000-000000000000"),
    "expired": lambda i: i.token(exp=1),
    "no end": lambda i: i.token(exp=None),
    "not yet valid": lambda i: i.token(nbf=2**33),
    "a service principal": lambda i: i.token(idtyp="app"),
    "a service principal of old": lambda i: i.token(scp=None),
    "nobody in particular": lambda i: i.token(oid=None),
    "too long": lambda i: i.token(more="x" * 20_000),
    "no token": lambda i: "",
    "half a token": lambda i: i.token().rpartition(".")[0],
    "cut short": lambda i: i.token()[:-3],
}


@pytest.mark.attack
@pytest.mark.parametrize("how", FORGED)
def test_a_forged_token_is_nobody(issuer: Issuer, how: str) -> None:
    assert asked(people(issuer), FORGED[how](issuer)) is None


CHECKS = {
    "alg none": ("verify_signature", "the signature"),
    "another key": ("verify_signature", "the signature"),
    "another audience": ("verify_aud", "the audience"),
    "another issuer": ("verify_iss", "the issuer"),
    "expired": ("verify_exp", "the end"),
    "not yet valid": ("verify_nbf", "the beginning"),
}


@pytest.mark.attack
@pytest.mark.parametrize("how", CHECKS)
def test_without_its_check_the_forged_token_is_anna(issuer: Issuer, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = jwt.decode

    def unchecked(token: str, key: Any, **asked_for: Any) -> Any:
        off = {CHECKS[how][0]: False}
        return real(token, key, **{**asked_for, "algorithms": ["RS256", "none"], "options": off})

    monkeypatch.setattr(jwt, "decode", unchecked)
    found = asked(people(issuer), FORGED[how](issuer))
    assert found is not None
    assert found.name == "anna@example.com", f"the defence is {CHECKS[how][1]}"


@pytest.mark.attack
def test_unknown_keys_do_not_make_us_fetch_again_and_again(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    who, before = people(issuer), issuer.asked
    for n in range(50):
        assert asked(who, issuer.token({"kid": f"x{n}"})) is None
    assert asked(who, issuer.token()) is not None
    assert issuer.asked - before == 1
    monkeypatch.setattr(module, "_AFRESH_S", -1.0)
    for n in range(5):
        asked(who, issuer.token({"kid": f"x{n}"}))
    assert issuer.asked - before == 6, "without its defence each is a request"


@pytest.mark.attack
def test_where_a_token_comes_the_headers_of_a_proxy_are_not_looked_at(issuer: Issuer) -> None:
    who = people(issuer, WEBSITE_AUTH_ENABLED="true")
    said = {"auth_typ": "aad", "claims": [{"typ": "preferred_username", "val": "anna"}, {"typ": "tid", "val": TENANT}]}
    header = {"X-MS-CLIENT-PRINCIPAL": base64.b64encode(json.dumps(said).encode()).decode()}
    assert who.identify(header) is not None
    for token in ("Bearer x.y.z", "Basic YW5uYTphbm5h", f"Bearer {issuer.token(aud='x')}"):
        assert who.identify({**header, "Authorization": token}) is None
    assert who.identify({"Authorization": f"Bearer {issuer.token()}", "authorization": "Bearer x"}) is None


def test_of_another_tenant_is_nobody_behind_easy_auth_too() -> None:
    def principal(tenant: str) -> dict[str, str]:
        claims = [{"typ": "preferred_username", "val": "anna"}, {"typ": "tid", "val": tenant}]
        return {
            "X-MS-CLIENT-PRINCIPAL": base64.b64encode(
                json.dumps({"auth_typ": "aad", "claims": claims}).encode()
            ).decode()
        }

    who = EntraPeople(Settings({"WEBSITE_AUTH_ENABLED": "true", "TenantId": TENANT}), lambda: b"key")
    assert who.identify(principal(TENANT)) is not None
    assert who.identify(principal("22222222-0000-0000-0000-000000000000")) is None


def test_keys_that_cannot_be_had_are_to_be_asked_for_again(issuer: Issuer) -> None:
    nowhere = Settings({**issuer.settings, "Authority": "https://127.0.0.1:9"})
    with pytest.raises(Retry, match="cannot be had"):
        asked(EntraPeople(nowhere, lambda: b"key"), issuer.token())


def test_tokens_are_taken_only_where_it_is_said_whose() -> None:
    assert not Tokens(Settings({})).taken
    with pytest.raises(Refused, match="TenantId is missing"):
        assert Tokens(Settings({"TokenAudience": AUDIENCE})).taken

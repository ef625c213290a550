"""The order of the tests; servers of the wire tests, each started once, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adapters.queues import QUEUES, SESSIONS
from tests.servers import azurite as emulator
from tests.servers import eventgrid
from tests.servers import identity as issuer

if TYPE_CHECKING:
    from tests.servers.servicebus import Found

collect_ignore_glob = ["servers/*"]
"""Programs, not tests; and one needs what only `make test-wire` installs."""

LONGEST = (
    "tests/cli/test_killed.py",
    "tests/cli/test_azure_loop.py",
    "tests/docs/test_commands.py",
    "tests/examples/test_others.py",
)
"""Take far longer than any other: begun last, one core would run them alone."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@dataclass(frozen=True)
class Authority:
    """The authority of all our servers' certificates, which every client here trusts; one certificate for them."""

    ca: Path
    cert: Path
    key: Path


def new_authority(folder: Path) -> Authority:
    import trustme

    made = Authority(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1", "localhost", "*.localhost")
    ca.cert_pem.write_to_path(made.ca)
    cert.private_key_pem.write_to_path(made.key)
    for pem in cert.cert_chain_pems:
        pem.write_to_path(made.cert, append=True)
    return made


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    made = new_authority(tmp_path_factory.mktemp("authority"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            patch.setenv(name, str(made.ca))
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield made


@pytest.fixture(scope="session")
def identity() -> Iterator[issuer.Identity]:
    """A managed identity, as DefaultAzureCredential finds it on App Service."""
    with issuer.running() as identity, pytest.MonkeyPatch.context() as patch:
        for name, value in identity.environment.items():
            patch.setenv(name, value)
        yield identity


@pytest.fixture(scope="session")
def azurite(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, identity: issuer.Identity
) -> Iterator[emulator.Azurite]:
    """Blob and Table storage, for who has a token of `identity`."""
    with emulator.running(tmp_path_factory.mktemp("azurite"), authority.cert, authority.key) as azurite:
        yield azurite


@pytest.fixture(scope="session")
def service_bus() -> Iterator[Found]:
    """The app's queues, in a Service Bus whose clock is ahead: the SDK takes locks of the past for lost."""
    from tests.servers import servicebus

    with servicebus.found({queue: queue in SESSIONS for queue in QUEUES}, datetime(2036, 3, 1, tzinfo=UTC)) as found:
        yield found


@pytest.fixture(scope="session")
def event_grid(authority: Authority, identity: issuer.Identity) -> Iterator[eventgrid.EventGrid]:
    """An Event Grid topic, for who has a token of `identity`; a test gives it what holds the events."""
    with eventgrid.running(str(authority.cert), str(authority.key), identity.tokens) as grid:
        yield grid

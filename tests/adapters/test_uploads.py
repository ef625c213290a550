"""Uploaded files: which addresses are theirs, and that they arrive whole."""

from __future__ import annotations

import os
from typing import Any

import pytest

from adapters.azure import uploads as adapter
from adapters.azure.identity import Identity
from adapters.azure.settings import Settings
from adapters.azure.uploads import BlobUploads
from tests.servers.azurite import Azurite
from triggers.errors import NotFound, Refused

ACCOUNT = "https://account.blob.core.windows.net"


def on(account: str = ACCOUNT) -> BlobUploads:
    settings = Settings({**os.environ, "UploadsBlobServiceUri": account})
    return BlobUploads(settings, Identity(settings))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/uploads/lab/x.csv", "uploads/lab/x.csv"),
        ("/uploads/W%C3%BCrzburg/a%20b.csv", "uploads/Würzburg/a b.csv"),
        ("/uploads/%24x/y=1/z.jsonl", "uploads/$x/y=1/z.jsonl"),
    ],
)
def test_an_address_of_the_account_is_a_container_and_a_name(path: str, name: str) -> None:
    assert on().name(ACCOUNT + path) == name
    assert on().name(ACCOUNT.upper().replace("HTTPS", "https") + path) == name


@pytest.mark.attack
@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://account.blob.core.windows.net/uploads/x.csv",
        "https://evil.blob.core.windows.net/uploads/x.csv",
        "https://account.blob.core.windows.net.evil.example/uploads/x.csv",
        "https://account.blob.core.windows.net@evil.example/uploads/x.csv",
        "https://169.254.169.254/metadata/identity",
        f"{ACCOUNT}",
        f"{ACCOUNT}/",
        f"{ACCOUNT}/uploads",
        f"{ACCOUNT}/uploads/",
        f"{ACCOUNT}/uploads//x.csv",
        f"{ACCOUNT}/uploads/../keys/registry.pem",
        f"{ACCOUNT}/uploads/%2e%2e/keys/registry.pem",
        f"{ACCOUNT}/uploads/%252e%252e/keys/registry.pem",
        f"{ACCOUNT}/uploads/..%2fkeys",
        f"{ACCOUNT}/uploads\\x.csv",
        f"{ACCOUNT}/uploads/x.csv?sig=stolen",
        f"{ACCOUNT}/uploads/x.csv#f",
        f"{ACCOUNT}/uploads/x%00.csv",
        f"{ACCOUNT}/uploads/x%0d%0a.csv",
        f"{ACCOUNT}/uploads/%ff.csv",
        f"{ACCOUNT}/UP/x.csv",
    ],
)
def test_an_address_that_leaves_the_account_or_its_path_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="not the address"):
        on().name(url)


@pytest.mark.wire
def test_a_file_arrives_whole_and_says_which_it_was(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    here = on(azurite.blobs)
    container: Any = here._client.get_container_client("uploads")
    container.create_container()
    data = os.urandom(9 * 1024 * 1024)
    container.upload_blob("lab/x y.bin", data)
    name = here.name(f"{azurite.blobs}/uploads/lab/x%20y.bin")
    with here.open(name) as found:
        assert (found.name, found.file.read() == data) == ("uploads/lab/x y.bin", True)
    container.upload_blob("lab/x y.bin", b"new", overwrite=True)
    with here.open(name) as then:
        assert (then.etag != found.etag, then.file.read()) == (True, b"new")
    with pytest.raises(NotFound), here.open("uploads/none"):
        pass
    monkeypatch.setattr(adapter, "LARGEST", 2)
    with pytest.raises(Refused, match="3 bytes"), here.open(name):
        pass

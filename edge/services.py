"""Where a site is on Azure: how its batches leave it, and where its candidates are read. SDKs are imported when used.

`ingest` of edge.json is `https://...` (an ingest), `servicebus://NAMESPACE/QUEUE`, `eventgrid://TOPIC/api/events` or
`blob://ACCOUNT.blob.core.windows.net/CONTAINER/FOLDER` (a file for each batch); `registry` may be
`blob://ACCOUNT.blob.core.windows.net/CONTAINER`. The site is who its Azure identity says (workload identity, managed
identity); DRIFTLOOP_SERVICEBUS (a connection string) or DRIFTLOOP_EVENTGRID_KEY take the place of an identity where
there is none. What is sent twice has the same id both times.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import quote, urlsplit

from drift import envelope
from edge.errors import Refused, Unreachable
from edge.link import Answer, Registry, Uplink

TYPE = "driftloop.telemetry"
_PATIENCE: dict[str, Any] = {"retry_total": 1, "connection_timeout": 10, "read_timeout": 30}
_LATER = frozenset({401, 403, 408, 429})


class Sender(Protocol):
    def post(self, body: bytes) -> Answer:
        """What the other end says to a batch. Raises Unreachable."""
        ...

    def close(self) -> None: ...


def sender(ingest: str) -> Sender:
    """Raises Refused for an address of no known kind."""
    parts = urlsplit(ingest)
    kinds: dict[str, Callable[[str], Sender]] = {"servicebus": Queue, "eventgrid": Topic, "blob": Folder}
    if parts.scheme not in kinds:
        return Uplink(ingest)
    if not parts.hostname or not parts.path.strip("/"):
        raise Refused(f"names no {parts.scheme} to send to: {ingest!r}", "ingest")
    return kinds[parts.scheme](ingest)


class _Azure:
    """One client, opened when it is first needed and again after it failed."""

    def __init__(self, address: str) -> None:
        self._address = urlsplit(address)
        self._open: Any = None

    def post(self, body: bytes) -> Answer:
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        try:
            if self._open is None:
                self._open = self._connect()
            return self._send(self._open, body, envelope.peek(body, len(body)))
        except (AzureError, OSError) as error:
            self.close()
            status = getattr(error, "status_code", None)
            said = _words(error)
            known = isinstance(error, HttpResponseError) and isinstance(status, int)
            if known and 400 <= int(status or 0) < 500 and status not in _LATER:
                return Answer(int(status or 0), said)
            if isinstance(error, ClientAuthenticationError):
                raise Unreachable(f"{self._address.hostname} does not know who this site is: {said}") from error
            raise Unreachable(f"{self._address.hostname}: {said}") from error

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _connect(self) -> Any:
        raise NotImplementedError

    def _send(self, client: Any, body: bytes, header: envelope.Header) -> Answer:
        raise NotImplementedError

    @property
    def _path(self) -> str:
        return self._address.path.strip("/")


class Queue(_Azure):
    """A queue of Service Bus: a batch is a message with an id of its own, within the queue's duplicate detection."""

    def _connect(self) -> Any:
        from azure.servicebus import ServiceBusClient

        patience: dict[str, Any] = {"retry_total": 1, "retry_backoff_factor": 0.2, "try_timeout": 20.0}
        if told := os.environ.get("DRIFTLOOP_SERVICEBUS"):
            return _Opened(ServiceBusClient.from_connection_string(told, **patience), self._path)
        return _Opened(ServiceBusClient(self._address.hostname or "", _identity(), **patience), self._path)

    def _send(self, client: _Opened, body: bytes, header: envelope.Header) -> Answer:
        from azure.servicebus import ServiceBusMessage
        from azure.servicebus.exceptions import MessageSizeExceededError

        try:
            client.sender.send_messages(ServiceBusMessage(body, message_id=name(header), session_id=None))
        except MessageSizeExceededError as error:
            return Answer(413, _words(error))
        return Answer(202, "")


class _Opened:
    """A client and its sender, which takes long to open."""

    def __init__(self, client: Any, queue: str) -> None:
        self._client = client
        self.sender = client.get_queue_sender(queue)

    def close(self) -> None:
        self.sender.close()
        self._client.close()


class Topic(_Azure):
    """A topic of Event Grid: a batch is a CloudEvent that holds its very bytes; for batches of up to 1 MB."""

    def _connect(self) -> Any:
        from azure.core.credentials import AzureKeyCredential
        from azure.eventgrid import EventGridPublisherClient

        key = os.environ.get("DRIFTLOOP_EVENTGRID_KEY")
        who: Any = AzureKeyCredential(key) if key else _identity()
        return EventGridPublisherClient(f"https://{self._address.netloc}/{self._path}", who, **_PATIENCE)

    def _send(self, client: Any, body: bytes, header: envelope.Header) -> Answer:
        from azure.core.messaging import CloudEvent

        source = f"/driftloop/{quote(header.loop)}/{quote(header.site)}"
        made = {"type": TYPE, "source": source, "subject": header.site, "id": name(header)}
        event = {"specversion": "1.0", **made, "data_base64": base64.b64encode(body).decode()}
        client.send([CloudEvent.from_dict(event)])
        return Answer(202, "")


class Folder(_Azure):
    """A folder of a blob container: a batch is a file `<loop>/<site>/<id>.envelope.json`, written whole."""

    def _connect(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient(f"https://{self._address.netloc}", _identity(), **_PATIENCE)

    def _send(self, client: Any, body: bytes, header: envelope.Header) -> Answer:
        container, _, folder = self._path.partition("/")
        parts = [*filter(None, [folder]), quote(header.loop), quote(header.site), f"{name(header)}.envelope.json"]
        client.get_blob_client(container, "/".join(parts)).upload_blob(body, overwrite=True)
        return Answer(201, "")


class BlobRegistry(Registry):
    """Candidates and layers in a blob container."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._address = urlsplit(source)

    def read(self, name: str, limit: int) -> bytes:
        from azure.core.exceptions import AzureError, ResourceNotFoundError
        from azure.storage.blob import BlobServiceClient

        try:
            with BlobServiceClient(f"https://{self._address.netloc}", _identity(), **_PATIENCE) as client:
                blob = client.get_blob_client(self._address.path.strip("/"), name)
                if blob.get_blob_properties().size > limit:
                    raise Refused(f"is longer than {limit} bytes", name)
                data: bytes = blob.download_blob().readall()
                return data
        except ResourceNotFoundError as error:
            raise Refused("is not in the registry", name) from error
        except (AzureError, OSError) as error:
            raise Unreachable(f"the registry cannot be reached: {_words(error)}") from error

    def _open(self, name: str, begin: int) -> tuple[int, BinaryIO]:
        from azure.core.exceptions import AzureError, ResourceNotFoundError
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient(f"https://{self._address.netloc}", _identity(), **_PATIENCE)
        try:
            blob = service.get_blob_client(self._address.path.strip("/"), name).download_blob(offset=begin)
        except ResourceNotFoundError as error:
            service.close()
            raise Refused("is not in the registry", name) from error
        except AzureError as error:
            service.close()
            raise Unreachable(f"the registry cannot be reached: {_words(error)}") from error
        return begin, cast(BinaryIO, _Download(blob, service))


class _Download:
    """A blob's bytes as a file to read."""

    def __init__(self, blob: Any, service: Any) -> None:
        self._blob, self._service = blob, service

    def read(self, size: int) -> bytes:
        from azure.core.exceptions import AzureError

        try:
            part: bytes = self._blob.read(size)
        except AzureError as error:
            raise OSError(_words(error)) from error
        return part

    def __enter__(self) -> _Download:
        return self

    def __exit__(self, *_: object) -> None:
        self._service.close()


def registry(source: str) -> Registry:
    return BlobRegistry(source) if source.startswith("blob://") else Registry(source)


def name(header: envelope.Header) -> str:
    """A batch's id as every service takes it."""
    return hashlib.sha256(f"{header.loop}\0{header.site}\0{header.batch}".encode()).hexdigest()[:40]


def _identity() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _words(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

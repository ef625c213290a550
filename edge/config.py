"""edge.json: which sites a process hosts, and what each is told. Paths are relative to the file's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from drift import telemetry
from edge.candidate import Feature
from edge.errors import Refused

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[int, Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the file: unknown keys are refused."""


class Schema(Section, frozen=True, kw_only=True):
    """What the site's rows look like."""

    version: str = "1"
    task: telemetry.Task = "binary"
    features: Annotated[tuple[Feature, ...], Meta(min_length=1)]

    def telemetry(self) -> telemetry.Schema:
        features = (telemetry.Feature(f.name, f.kind, f.unit, f.low, f.high) for f in self.features)
        return telemetry.Schema(self.version, tuple(features), self.task)


class FaultsSection(Section, frozen=True, kw_only=True):
    """For demos: how the network misbehaves while recorded rows are played."""

    seed: int = 0
    duplicate: Share = 0.0
    reorder: Share = 0.0
    malformed: int | None = None


class SiteConfig(Section, frozen=True, kw_only=True):
    """One site.

    `ingest` and `registry` are addresses (edge.services), or the registry a folder; `registry_key` is the file of its
    public key (PEM or base64), `key` the file of the site's private key (PEM; none: batches are not signed), `key_id`
    its name in fleet.yaml. `wanted` is a file that names the candidate to serve, for a site that is told by files and
    not by requests; `instance` tells apart the batches of several programs that are one site. `data` is a recording
    (.npz) to play, none for a site that serves. A site whose data `stays` sends sketches.
    """

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    loop: str
    state: str
    ingest: str
    registry: str
    registry_key: str
    schema: Schema
    key: str | None = None
    key_id: str = ""
    wanted: str | None = None
    instance: str = ""
    data: str | None = None
    stays: bool = False
    flush: Positive = 3600  # seconds of telemetry in a batch
    batch_rows: Positive = 2000
    batch_bytes: Positive = 200_000
    buffer_bytes: Positive = 64 << 20
    faults: FaultsSection = FaultsSection()


class Config(Section, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    sites: Annotated[tuple[SiteConfig, ...], Meta(min_length=1)]


def load(path: Path) -> Config:
    """The file, its paths made absolute. Raises Refused with what is wrong in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(f"cannot be read: {error}", str(path)) from error
    return parse(data, path.resolve().parent, str(path))


def parse(data: bytes, folder: Path, name: str) -> Config:
    """As `load`, from the file's bytes; its paths are relative to `folder`."""
    try:
        config = msgspec.json.decode(data, type=Config)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(str(error), name) from error
    names = [site.name for site in config.sites]
    if len(set(names)) < len(names):
        raise Refused(f"two sites have one name: {sorted(names)}", name)
    return msgspec.structs.replace(config, sites=tuple(_absolute(site, folder) for site in config.sites))


def _absolute(site: SiteConfig, folder: Path) -> SiteConfig:
    remote = site.registry.startswith(("http://", "https://", "blob://"))
    return msgspec.structs.replace(
        site,
        state=str(folder / site.state),
        registry=site.registry if remote else str(folder / site.registry),
        registry_key=str(folder / site.registry_key),
        key=None if site.key is None else str(folder / site.key),
        wanted=None if site.wanted is None else str(folder / site.wanted),
        data=None if site.data is None else str(folder / site.data),
    )

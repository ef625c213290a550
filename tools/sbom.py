"""`make sbom`: what driftloop is made of (CycloneDX, in build/sbom.json), and what is known to be wrong with it.

The document lists every package that requirements.txt pins, and nothing else, or this fails. The audit asks PyPI's
database of vulnerabilities; where that cannot be reached it is said, and nothing is claimed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sbom"
PYTHON = FOLDER / "bin" / "python"
TARGET = ROOT / "build" / "sbom.json"
TOOLS = ("cyclonedx-bom==7.5.0", "pip-audit==2.10.0")


def main() -> int:
    install()
    command = [PYTHON, "-m", "cyclonedx_py", "requirements", "--mc-type", "application"]
    command += ["--of", "JSON", "--output-reproducible", "-o", TARGET, ROOT / "requirements.txt"]
    subprocess.run(list(map(str, command)), check=True)
    listed = {
        (c["name"].lower().replace("_", "-"), c.get("version")) for c in json.loads(TARGET.read_text())["components"]
    }
    if listed != pinned(ROOT / "requirements.txt"):
        print(f"{TARGET}: not what requirements.txt pins: {sorted(listed ^ pinned(ROOT / 'requirements.txt'))}")
        return 1
    print(f"{TARGET.relative_to(ROOT)}: CycloneDX, {len(listed)} packages, all that requirements.txt pins")
    return audit()


def install() -> None:
    """The two tools, in an environment of their own."""
    if not PYTHON.exists():
        venv.create(FOLDER, with_pip=True)
    stamp = FOLDER / ".has"
    if not stamp.exists() or stamp.read_text() != " ".join(TOOLS):
        subprocess.run([PYTHON, "-m", "pip", "install", "-qq", *TOOLS], check=True)
        stamp.write_text(" ".join(TOOLS))


def pinned(file: Path) -> set[tuple[str, str | None]]:
    """Names and versions of a requirements file.

    >>> from tempfile import NamedTemporaryFile
    >>> with NamedTemporaryFile("w+") as made:
    ...     _ = made.write("# for x\\nmsgspec==0.21.1  # why\\nA_b==1 ; python_version > '3'\\n")
    ...     made.flush()
    ...     sorted(pinned(Path(made.name)))
    [('a-b', '1'), ('msgspec', '0.21.1')]
    """
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;#]+)", file.read_text(), re.MULTILINE)
    return {(name.lower().replace("_", "-"), version) for name, version in found}


def audit() -> int:
    """1 where a pinned package is known to be vulnerable; 0 where none is, or nobody could be asked."""
    command = [PYTHON, "-m", "pip_audit", "--requirement", ROOT / "requirements.txt", "--no-deps", "--disable-pip"]
    done = subprocess.run(
        [*map(str, command), "--format", "json", "--progress-spinner", "off", "--timeout", "10"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        asked = [d for d in json.loads(done.stdout)["dependencies"] if "skip_reason" not in d]
    except (ValueError, KeyError):
        asked = []
    if not asked:
        print("pip-audit: not done: the database of vulnerabilities cannot be reached from here")
        return 0
    found = [d for d in asked if d["vulns"]]
    for package in found:
        print(f"{package['name']} {package['version']}: {', '.join(v['id'] for v in package['vulns'])}")
    print(f"pip-audit: {len(found)} of {len(asked)} packages with known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes .venv with what is asked for: `python tools/setup.py demo|test|wire`. A second call finds nothing to do.

Needs Python >= 3.11 and nothing else. Packages come from where pip is configured to look for them, by uv where it
can be had, because it is several times faster; by pip where it cannot.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
NODE = ROOT / "build" / "node"
LAUNCHER = VENV / "bin" / "driftloop"
LAUNCH = f'#!/bin/sh\nexec "{PYTHON}" -P -m cli.main "$@"\n'
UV = "uv==0.13.9"
NEEDS = {
    "demo": ("requirements.txt", "examples/flights/requirements.txt"),
    "test": ("requirements.txt", "requirements-dev.txt"),
    "wire": ("requirements.txt", "requirements-dev.txt", "requirements-wire.txt"),
}
PIP_FOR_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


def main(what: str) -> None:
    """Leave a .venv that has all of `what`."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / ".setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not usable():
            create()
        files = [ROOT / name for name in NEEDS[what]]
        stamp = VENV / f".has-{what}"
        key = hashlib.sha256(b"\0".join(f.read_bytes() for f in files)).hexdigest()
        if not stamp.exists() or stamp.read_text() != key:
            install([argument for f in files for argument in ("-r", str(f))])
            stamp.write_text(key)
    if what == "wire":
        node()


def node() -> None:
    """What tests/servers/package.json names, in build/node; says so and goes on where there is no npm."""
    if shutil.which("npm") is None:
        say("no npm: what needs Node.js is left out")
        return
    NODE.mkdir(parents=True, exist_ok=True)
    with (NODE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = [ROOT / "tests" / "servers" / name for name in ("package.json", "package-lock.json")]
        stamp, key = NODE / ".has", hashlib.sha256(b"\0".join(f.read_bytes() for f in files)).hexdigest()
        if stamp.exists() and stamp.read_text() == key:
            return
        say("installing what the wire tests need of Node.js (once)")
        for file in files:
            shutil.copy(file, NODE)
        if subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=NODE, check=False).returncode:
            sys.exit("driftloop: npm could not install what the wire tests need")
        stamp.write_text(key)


def usable() -> bool:
    """Whether .venv was finished, here, and its Python still runs. A virtual environment does not survive a move."""
    return LAUNCHER.exists() and LAUNCHER.read_text() == LAUNCH and PYTHON.exists()


def create() -> None:
    """A new .venv; `driftloop` and `import drift` work from any folder. The launcher comes last: all is there."""
    say(f"making .venv with Python {sys.version.split()[0]}")
    if VENV.exists():
        shutil.rmtree(VENV)
    venv.create(VENV, with_pip=True)
    (packages,) = VENV.glob("lib/python*/site-packages")
    (packages / "driftloop.pth").write_text(f"{ROOT}\n")
    LAUNCHER.write_text(LAUNCH)
    LAUNCHER.chmod(0o755)


def install(arguments: list[str]) -> None:
    """Add packages to .venv; nothing is removed."""
    say("installing packages (once; minutes with a slow network, then never again)")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--quiet"]
    uv = [str(PYTHON), "-m", "uv", "pip", "install", "--quiet", "--python", str(PYTHON)]
    if subprocess.run([*pip, UV], check=False).returncode == 0:
        if subprocess.run([*uv, *arguments], env=uv_environment(), check=False).returncode == 0:
            return
        say("uv could not; pip tries")
    if subprocess.run([*pip, *arguments], check=False).returncode != 0:
        sys.exit("driftloop: the packages could not be installed; pip has said why above")


def uv_environment() -> dict[str, str]:
    """uv reads no pip.conf: tell it what pip is told, without the folders that are not there."""
    config = [str(PYTHON), "-m", "pip", "config", "list"]
    out = subprocess.run(config, check=True, capture_output=True, text=True).stdout
    told: dict[str, str] = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip: the pinned version, from any index
    found = re.findall(r"^(global|install|:env:)\.([a-z-]+)=(.*)$", out, re.MULTILINE)
    for _, name, value in sorted(found, key=lambda f: ("global", "install", ":env:").index(f[0])):
        places = [p for p in str(ast.literal_eval(value)).split() if there(p)]
        if name in PIP_FOR_UV and places:
            told[PIP_FOR_UV[name]] = ("," if name == "find-links" else " ").join(places)
    return told | dict(os.environ)


def there(place: str) -> bool:
    return Path(place.removeprefix("file://")).exists() if place.startswith(("/", "file://")) else True


def say(text: str) -> None:
    print(f"driftloop: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""The table of app settings in docs/azure.md, from the code that reads them.

`python tools/settings.py` writes it; a test says when it is stale.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from adapters.azure.settings import Setting, table_of_settings  # noqa: E402

PAGE = ROOT / "docs" / "azure.md"
BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->"


def table() -> str:
    lines = ["| setting | what it is for | default |", "| --- | --- | --- |"]
    for setting in table_of_settings():
        example = f", for example `{setting.example}`" if setting.example else ""
        secret = " (secret)" if setting.secret else ""
        lines.append(f"| `{setting.name}` | {setting.purpose}{example}{secret} | {_default(setting)} |")
    return "\n".join(lines) + "\n"


def _default(setting: Setting[Any]) -> str:
    value = setting.default
    if value is None:
        return "needed"
    if isinstance(value, frozenset):
        value = ", ".join(sorted(value))
    return "none" if value in ("", ()) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def page(text: str) -> str:
    """The page with the table as it should be."""
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: BEGIN + table() + END, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")

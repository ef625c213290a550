"""Pages that work without JavaScript. Whatever is not markup of ours is escaped, and what cannot be seen is shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from html import escape

import azure.functions as func

from functions import answers

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Html(str):
    """Markup of ours."""

    __slots__ = ()


def html(template: str, *values: object) -> Html:
    """Fill `{}` in markup of ours.

    >>> html("<p>{}</p>", "<script>")
    '<p>&lt;script&gt;</p>'
    """
    return Html(template.format(*(_part(v) for v in values)))


def _part(value: object) -> str:
    if isinstance(value, Html):
        return value
    if isinstance(value, list | tuple):
        return "".join(_part(v) for v in value)
    text = str(value)
    return escape(text if text.isascii() and text.isprintable() else "".join(map(_told_apart, _WORD.split(text))))


_WORD = re.compile(r"([^\W\d_]+)")


def _told_apart(word: str) -> str:
    """A word whose letters are of several alphabets, as codes where they only look Latin.

    >>> _told_apart("Москва"), _told_apart("\u0415WR")
    ('Москва', '\\\\u0415WR')
    """
    latin = any("LATIN" in unicodedata.name(c, "") for c in word)
    other = [c for c in word if unicodedata.name(c, "").startswith(("CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"))]
    return "".join(f"\\u{ord(c):04x}" if latin and c in other else _visible(c) for c in word)


def _visible(character: str) -> str:
    """Controls, and marks that turn text around or hide in it, as their code."""
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character not in "\n\t"
    return f"\\u{ord(character):04x}" if hidden else character


def respond(status: int, page: Html, headers: Mapping[str, str] | None = None) -> func.HttpResponse:
    """A page, never kept by a cache and never in a frame."""
    return func.HttpResponse(
        page.encode("utf-8", "backslashreplace"),
        status_code=status,
        mimetype="text/html",
        headers={**answers.SECURITY, "Content-Security-Policy": POLICY, **(headers or {})},
    )


def shell(title: str, *body: Html, onward: str = "") -> Html:
    """A whole page; `onward`: where it goes on by itself."""
    refresh = html('<meta http-equiv="refresh" content="1; url={}">', onward) if onward else Html("")
    return html(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{} · driftloop</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">{}'
        '<link rel="icon" href="/api/ui/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="/api/ui/style.css"></head><body class="page">'
        '<header class="bar"><a class="brand" href="/api/ui/">driftloop</a></header>'
        "<main>{}</main></body></html>",
        title,
        refresh,
        body,
    )


def signed_in(name: str, onward: str) -> Html:
    return shell(
        "Signed in", html('<h1>Signed in as {}</h1><p><a href="{}">Go on</a></p>', name, onward), onward=onward
    )


def signed_out(why: str) -> Html:
    return shell(
        "Sign in",
        html(
            "<h1>Sign in first</h1><p>{}</p>"
            "<p>driftloop prints a login link in the terminal where it runs. Open it, then come back.</p>",
            why,
        ),
    )


def message(title: str, text: str) -> Html:
    return shell(title, html('<h1>{}</h1><p>{}</p><p><a href="/api/ui/">To the dashboard</a></p>', title, text))

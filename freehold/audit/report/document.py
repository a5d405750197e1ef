"""The frame of a page: no script, no network, one style for the whole laboratory."""

from __future__ import annotations

import html
from importlib.resources import files


def document(title: str, body: str, *, style: str = "") -> str:
    """A whole HTML page with the laboratory's style, and ``style`` after it."""
    shared = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{shared}{style}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def escaped(text: object) -> str:
    """``text`` as HTML; half a character, which no page can hold, is shown as a question mark."""
    return html.escape(str(text).encode("utf-8", "replace").decode(), quote=True)

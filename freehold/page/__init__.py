"""The frame of every page that Freehold writes as a file: no script, no network, one style.

It is read on a telephone, on a dark screen and on paper.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any


def document(title: str, body: str, *, style: str = "", again: int = 0) -> str:
    """A whole HTML page with the common style, and ``style`` after it. One that is still written
    asks the browser to read it ``again`` after so many seconds."""
    shared = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    refresh = f'<meta http-equiv="refresh" content="{again}">\n' if again else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{refresh}<title>{escaped(title)}</title>\n<style>\n{shared}{style}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def escaped(text: object) -> str:
    """``text`` as HTML; half a character, which no page can hold, is shown as a question mark."""
    return html.escape(str(text).encode("utf-8", "replace").decode(), quote=True)


def table(
    head: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    title: str = "",
    shown: Callable[[float], str] = str,
) -> str:
    """A table, empty without rows. Numbers stand to the right, written as ``shown`` says; a
    telephone shows a row's cells one below the other, each with the name of its column."""

    every = list(rows)
    if not every:
        return ""

    def cell(value: Any, name: Any) -> str:
        number = _is_number(value)
        label = f' data-h="{escaped(name)}"' if name != "" else ""
        style = " class=n" if number else ""
        return f"<td{style}{label}>{escaped(shown(value) if number else value)}</td>"

    names = [*head, *[""] * 100]
    lines = [
        f"<tr>{''.join(cell(v, n) for v, n in zip(row, names, strict=False))}</tr>" for row in every
    ]
    caption = f"<caption>{escaped(title)}</caption>" if title else ""
    top = "".join(
        f"<th{' class=n' if _is_number(below) else ''}>{escaped(name)}</th>"
        for name, below in zip(head, [*every[0], *[""] * len(head)], strict=False)
    )
    first = f"<thead><tr>{top}</tr></thead>" if head else ""
    return (
        f'<div class="scroll"><table>{caption}{first}<tbody>{"".join(lines)}</tbody></table></div>'
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Web pages as texts: what a page says, without menus, headers, footers and scripts.

The extractor is resiliparse's (extra ``web``), with ``main_content``. Its version decides what
comes out, so that ``extractor`` belongs into whatever tells of the texts. A page's encoding is
found as the HTML standard has it (a byte order mark, the header, the page's own declaration within
its first 1,024 bytes) and else taken for UTF-8; a byte that is none of it refuses the page.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import metadata

from freehold.errors import UsageError
from freehold.train.records import Bad

MAX_PAGE = 4 << 20
"""Bytes of one page, unpacked."""
MAX_TAGS, MAX_DEPTH = 100_000, 128
"""Tags of a page, and elements within each other. What the extractor takes grows with both, and of
elements in nothing but each other with the square: 4,000 are 18 seconds of a core."""
NAME = "resiliparse"
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"))
_DECLARED = re.compile(
    rb"<meta\s[^>]*?charset\s*=\s*[\"']?\s*([\w.:-]+)|<\?xml\s[^>]*?encoding\s*=\s*[\"']([\w.:-]+)",
    re.IGNORECASE,
)
_DEEP = ">".join(["*"] * (MAX_DEPTH + 1))


@cache
def extractor() -> str:
    """The extractor's name and version. Raises ``UsageError`` where it is not installed."""
    try:
        return f"{NAME} {metadata.version(NAME)}"
    except metadata.PackageNotFoundError:
        raise UsageError(
            f"web pages need {NAME}: install the extra with `pip install 'freehold[web]'`",
            param="data",
        ) from None


def text_of(data: bytes, charset: str = "") -> str:
    """What a page says; empty where that is nothing. ``charset`` is what came with it in a header.
    Raises ``Bad``, and ``UsageError`` as ``extractor``."""
    extractor()
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    if len(data) > MAX_PAGE:
        raise Bad(f"a page of more than {MAX_PAGE:,} bytes")
    page = _decoded(data, charset)
    if page.count("<") > MAX_TAGS:
        raise Bad(f"a page with more than {MAX_TAGS:,} tags")
    tree = HTMLTree.parse(page)
    if tree.document is None or tree.document.query_selector(_DEEP) is not None:
        raise Bad(f"a page with more than {MAX_DEPTH} elements within each other")
    said = extract_plain_text(tree, main_content=True, alt_texts=False)
    return str(said).replace("\x00", "").strip()


def _decoded(data: bytes, charset: str) -> str:
    name = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    encoding = name or _encoding(charset) or _encoding(_declared(data)) or "utf-8"
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise Bad(f"byte {error.start:,} of the page is not {encoding}") from None


def _declared(data: bytes) -> str:
    found = _DECLARED.search(data[:1024])
    # Whoever could read that could not have written it in two bytes a letter.
    name = (found[1] or found[2]).decode() if found else ""
    return "utf-8" if name.lower().startswith("utf-16") else name


def _encoding(label: str) -> str:
    """Python's name for an encoding of the web. Raises ``Bad`` for what is none."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    if not label.strip():
        return ""
    found = map_encoding_to_html5(label, fallback_utf8=False)
    if not found:
        raise Bad(f"the page says that its encoding is {label[:40]!r}")
    return str(found)

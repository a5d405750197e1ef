"""Pages as texts: what they say, in whatever encoding they declare; never a crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("resiliparse", reason="needs the extra web")

from freehold.errors import UsageError
from freehold.train import pages
from freehold.train.records import Bad

SAID = "The harbour master wrote down every ship that came in, and what it carried."


def page(said: str, head: str = "") -> str:
    return (
        f"<!DOCTYPE html><html><head>{head}<title>A title</title><script>var x;</script></head>"
        "<body><nav><a href='/'>Home</a> <a href='/about'>About us</a></nav><main><article>"
        f"<h1>Ships</h1><p>{said}</p><p>Nobody <b>else</b> did &amp; nobody could.</p></article>"
        "</main><footer>Copyright</footer></body></html>"
    )


def test_a_page_says_its_text_and_no_menu() -> None:
    said = pages.text_of(page(SAID).encode())
    assert said == f"Ships\n\n{SAID}\n\nNobody else did & nobody could."


@pytest.mark.parametrize(
    ("charset", "head", "written"),
    [
        ("", "", "utf-8"),
        ("", "", "utf-8-sig"),
        ("iso-8859-1", "", "utf-8-sig"),  # the mark is surer than the header
        ("utf-8", "<meta charset=iso-8859-1>", "utf-8"),  # and that than the page
        ("iso-8859-1", "", "cp1252"),
        ("ISO-8859-15", "", "iso-8859-15"),
        ("", "<meta charset='windows-1252'>", "cp1252"),
        (
            "",
            '<meta http-equiv="Content-Type" content="text/html; charset=windows-1252">',
            "cp1252",
        ),
        ("", "<meta charset=utf-16>", "utf-8"),
        ("utf-16", "", "utf-16-le"),
        ("", "", "utf-16"),
    ],
)
def test_encodings(charset: str, head: str, written: str) -> None:
    data = page("Grüße aus Köln, für wenig Geld", head).encode(written)
    assert "Grüße aus Köln, für" in pages.text_of(data, charset)


def test_encodings_of_other_scripts() -> None:
    for name, said in (
        ("shift_jis", "港に船が入ってきた"),
        ("gb2312", "船进了港口"),
        ("euc-kr", "배가 항구에 들어왔다"),
        ("koi8-r", "Корабль вошёл в гавань"),
    ):
        head = f"<meta charset={name}>"
        assert said in pages.text_of(page(said, head).encode(name)), name


@pytest.mark.parametrize(
    ("data", "charset", "reason"),
    [
        (page("caf\u00e9").encode("latin-1"), "", "is not utf-8"),
        (b"x", "rot13", "encoding is 'rot13'"),
        (b"x", "unicode_escape", "encoding is"),
        (b"<meta charset=utf-7>x", "", "encoding is 'utf-7'"),
        (b"x" * (pages.MAX_PAGE + 1), "", "more than"),
        (b"<div>" * (pages.MAX_DEPTH + 1) + b"x", "", "within each other"),
        (b"<p>" * (pages.MAX_TAGS + 1), "", "tags"),
    ],
)
def test_what_cannot_be_read_is_refused(data: bytes, charset: str, reason: str) -> None:
    with pytest.raises(Bad, match=reason):
        pages.text_of(data, charset)


def test_a_page_that_says_nothing() -> None:
    for data in (b"", b"   ", b"<html><body><script>x()</script></body></html>", b"<!-- x -->"):
        assert pages.text_of(data) == ""


def test_the_extractor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    known = importlib.metadata.version("resiliparse")
    assert pages.extractor() == f"resiliparse {known}"

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    pages.extractor.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UsageError, match=r"pip install 'freehold\[web\]'"):
        pages.text_of(b"<p>x</p>")
    pages.extractor.cache_clear()


TAGS = st.sampled_from(
    [
        *("<p>", "</p>", "<div>", "</div>", "<table>", "<tr><td>", "<svg>", "<math>", "<template>"),
        *(
            "<select><option>",
            "</select>",
            "<script>",
            "</script>",
            "<body>",
            "</body>",
            "<ul><li>",
        ),
        *("<frameset>", "<plaintext>", "<!--", "-->", "<![CDATA[", "&#xD800;", "&#0;", "<a href='"),
    ]
)


@given(st.lists(TAGS | st.text(max_size=5), max_size=60), st.sampled_from(["", "utf-8", "utf-16"]))
def test_no_page_breaks_the_extractor(parts: list[str], charset: str) -> None:
    data = "".join(parts).encode(errors="replace")
    try:
        said = pages.text_of(data, charset)
    except Bad:
        return
    assert said == pages.text_of(data, charset)
    assert said == said.strip()
    assert "\x00" not in said
    said.encode()

"""The frame of every page: what it is given is text, and nothing is fetched."""

from __future__ import annotations

from freehold.page import document, escaped, table


def test_a_page_fetches_nothing_and_fits_a_telephone() -> None:
    page = document("<title>", "<p>body</p>", style=".own {}")
    assert page.startswith("<!doctype html>")
    assert "<title>&lt;title&gt;</title>" in page
    assert "default-src 'none'" in page
    assert 'name="viewport"' in page
    assert "://" not in page
    assert "url(" not in page
    assert page.index("@media print") < page.index(".own {}") < page.index("<p>body</p>")


def test_cells_are_text_and_numbers_stand_right() -> None:
    made = table(("<a>", "n"), [("<b>", 3), ("c", 1.5)], title="<t>", shown=lambda x: f"{x:.2f}")
    for hostile in ("<a>", "<b>", "<t>"):
        assert hostile not in made
    assert '<td class=n data-h="n">3.00</td>' in made
    assert "<th class=n>n</th>" in made
    assert '<td data-h="&lt;a&gt;">c</td>' in made


def test_without_rows_there_is_no_table_and_without_heads_no_names() -> None:
    assert table(("a",), []) == ""
    made = table((), [("a", True)])
    assert "<thead>" not in made
    assert "data-h" not in made
    assert "class=n" not in made


def test_half_a_character_is_shown() -> None:
    assert escaped('\ud800"<') == "?&quot;&lt;"

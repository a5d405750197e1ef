"""The page of a run's losses."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from freehold.train import curve


def test_every_step_and_measure_is_drawn_and_nothing_is_fetched(tmp_path: Path) -> None:
    lines: list[dict[str, float]] = [{"step": n, "loss": 5 / n} for n in range(1, 31)]
    lines += [{"step": 10, "held_out": 2.5}, {"step": 30, "held_out": 1.5}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    curve.Curve(tmp_path / "log.jsonl", tmp_path / "loss.html", title="a <b>").finish()
    page = (tmp_path / "loss.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt;" in page
    assert "://" not in page
    assert "<script" not in page
    drawing = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])  # noqa: S314
    lengths = [len(line.attrib["points"].split()) for line in drawing.iter("polyline")]
    assert lengths == [30, 30, 2]


def test_a_run_without_a_step_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("", encoding="utf-8")
    curve.Curve(tmp_path / "log.jsonl", tmp_path / "loss.html", title="none").finish()
    assert "No step" in (tmp_path / "loss.html").read_text(encoding="utf-8")
    curve.Curve(tmp_path / "not there", tmp_path / "none.html", title="none").finish()
    assert "No step" in (tmp_path / "none.html").read_text(encoding="utf-8")


def test_it_grows_with_its_log_and_is_at_rest_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, page, now = tmp_path / "log.jsonl", tmp_path / "loss.html", [100.0]
    monkeypatch.setattr(curve.time, "monotonic", lambda: now[0])
    drawn = curve.Curve(log, page, title="x", lengths={"64": 3, "1024": 12})

    drawn.grow()
    assert not page.exists()
    log.write_text('{"step": 1, "loss": 5}\n', encoding="utf-8")
    drawn.grow()
    assert "step 1<" in page.read_text(encoding="utf-8")
    with log.open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "loss": 4}\n')
    now[0] += 9
    drawn.grow()
    assert "step 1<" in page.read_text(encoding="utf-8")
    now[0] += 2
    drawn.grow()
    assert "step 2<" in page.read_text(encoding="utf-8")
    assert "refresh" in page.read_text(encoding="utf-8")
    drawn.finish()
    last = page.read_text(encoding="utf-8")
    assert "refresh" not in last
    bars = ElementTree.fromstring(last[last.rindex("<svg") : last.rindex("</svg>") + 6])  # noqa: S314
    heights = [float(bar.attrib["height"]) for bar in bars.iter("rect")]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.2)
    assert [text.text for text in bars.iter("text")] == ["3", "to 64", "12", "to 1,024"]
    assert {*tmp_path.iterdir()} == {log, page}

"""The page of a run's losses."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from freehold.train import curve


def test_every_step_and_measure_is_drawn_and_nothing_is_fetched(tmp_path: Path) -> None:
    lines: list[dict[str, float]] = [{"step": n, "loss": 5 / n} for n in range(1, 31)]
    lines += [{"step": 10, "held_out": 2.5}, {"step": 30, "held_out": 1.5}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    curve.write(tmp_path / "log.jsonl", tmp_path / "loss.html", title="a <b>")
    page = (tmp_path / "loss.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt;" in page
    assert "://" not in page
    assert "<script" not in page
    drawing = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])  # noqa: S314
    lengths = [len(line.attrib["points"].split()) for line in drawing.iter("polyline")]
    assert lengths == [30, 30, 2]


def test_a_run_without_a_step_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("", encoding="utf-8")
    curve.write(tmp_path / "log.jsonl", tmp_path / "loss.html", title="none")
    assert "No step" in (tmp_path / "loss.html").read_text(encoding="utf-8")

"""The report's page and plots, the work folder, and what goes into the passport."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.audit import parts, rates, running, stating
from freehold.audit.artefact import MISSES, TRIED, facts
from freehold.audit.findings import Examination, Finding
from freehold.audit.report import Report, plots, verdict
from freehold.audit.report.page import page
from freehold.errors import UsageError
from freehold.store import Store
from tests.audit import artefacts as bed
from tests.audit.artefacts import Silent

FORBIDDEN = re.compile(r"\b(clean|safe|cleanly|safely|harmless|trustworthy)\b", re.IGNORECASE)


def finding(severity: str = "high", **changes: object) -> Finding:
    told = {
        "check": "template.order", "severity": severity, "certainty": "fact", "title": "A title",
        "detail": "A detail", "where": "line 3",
    }  # fmt: skip
    return Finding(**(told | changes))  # type: ignore[arg-type]


def examined(*findings: Finding, **figures: object) -> Examination:
    return Examination(
        part="artefact", title="The artefact", tried=TRIED, misses=MISSES, findings=findings,
        rates=rates.measured(), figures=figures, seconds=1.5, versions={"freehold": "0"},
    )  # fmt: skip


def report(*examinations: Examination) -> Report:
    return Report(
        model="m", digest="sha256:" + "0" * 64, base="", base_digest="",
        made="2026-11-28T00:00:00Z",
        tool="freehold 0", command="freehold audit m", examinations=examinations,
        versions={"python": "3"},
    )  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


BARS = {"kind": "bars", "title": "Bars", "x": ["a", "<b>"], "y": [1, 0], "unit": "MB"}
LINES = {
    "kind": "lines",
    "title": "L",
    "series": [{"name": "s", "y": [3, 2, 1e-9]}],
    "log_y": True,
    "marks": [{"name": "edge", "y": 0.5}],
}
HEAT = {"kind": "heat", "title": "H", "rows": ["q"], "columns": ["0", "1"], "values": [[0, 0.5]]}
TABLE = {"title": "T", "head": ["a"], "rows": [["<script>alert(1)</script>"], [3]]}


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    evil = finding(title="<img src=http://x onerror=alert(1)>", detail="\ud800 \u202e <script>")
    data = page(report(examined(evil, plots=[BARS, LINES, HEAT], tables=[TABLE])))
    text = data.decode("utf-8")
    tags = Tags()
    tags.feed(text)
    names = {name for name, _ in tags.seen}
    assert not names & {"script", "img", "link", "iframe", "object", "base", "form"}
    for _, attributes in tags.seen:
        assert not {"src", "href", "onclick", "onerror", "srcset"} & attributes.keys()
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert "initial-scale=1" in text


def test_every_detector_says_how_often_it_errs_beside_its_finding() -> None:
    text = page(report(examined(finding(), finding(check="nobody.measured")))).decode()
    known = rates.measured()["template"]
    assert f"{known.found} of {known.planted} planted cases found" in text
    assert f"{known.alarms} false alarms on {known.clean}" in text
    assert "has not been measured" in text
    assert MISSES[:40] in text


def test_the_words_clean_and_safe_are_never_printed(tmp_path: Path) -> None:
    one = bed.specimen(bed.lay(bed.folder(bed.honest()), tmp_path / "m"))
    done = report(examined(*bed.looked(one, None)))
    text = re.sub(r"<style>.*?</style>", "", page(done).decode(), flags=re.DOTALL)
    for told in (text, verdict(done), verdict(report(examined()))):
        assert not FORBIDDEN.search(told.replace("safetensors", "")), told


def test_the_gravest_come_first_and_lead_the_summary() -> None:
    done = report(examined(finding("low"), finding("critical", title="Worst"), finding("high")))
    assert [one.severity for _, one in done.findings()] == ["critical", "high", "low"]
    assert verdict(done).startswith("Worst, and 1 more")
    assert json.loads(done.dumps())["counts"]["critical"] == 1


@pytest.mark.parametrize("plot", [BARS, LINES, HEAT], ids=lambda plot: plot["kind"])
def test_a_plot_is_well_formed(plot: dict[str, object]) -> None:
    ElementTree.fromstring(plots.draw(plot))  # noqa: S314


number = st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=True, allow_infinity=True))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["bars", "lines", "heat", "?"]),
    st.lists(number, max_size=12),
    st.text(max_size=12).filter(lambda t: all(c.isprintable() for c in t)),
    st.booleans(),
)
def test_any_data_gives_a_drawing_or_none(
    kind: str, values: list[float], name: str, logarithmic: bool
) -> None:
    drawn = plots.draw(
        {
            "kind": kind, "title": name, "x": [name] * len(values), "y": values,
            "series": [{"name": name, "y": values}], "log_y": logarithmic, "rows": [name],
            "columns": [name] * len(values), "values": [values],
        }
    )  # fmt: skip
    if drawn:
        ElementTree.fromstring(drawn.encode("utf-8", "replace"))  # noqa: S314


# --- the work folder ------------------------------------------------------------------------------


def context(tmp_path: Path, seed: int = 0) -> running.Context:
    one = bed.specimen(bed.lay(bed.folder(bed.honest()), tmp_path / "model"))
    return running.Context(
        store=Store(tmp_path / "vault"), specimen=one, base=None, candidates=(), entries=(),
        seed=seed, steps=Silent(),
    )  # fmt: skip


def test_a_finished_part_is_kept_and_an_interrupted_one_is_not(tmp_path: Path) -> None:
    calls: list[str] = []

    def first(context: running.Context) -> Examination:
        calls.append("first")
        return examined(finding(evidence={"rows": [1, 2]}))

    def second(context: running.Context) -> Examination:
        calls.append("second")
        if calls.count("second") == 1:
            raise KeyboardInterrupt
        return replace(examined(), part="b")

    two = [
        running.Part(name="a", title="A", run=first, cost=lambda _: 1.0),
        running.Part(name="b", title="B", run=second, cost=lambda _: 1.0),
    ]
    at = context(tmp_path)
    work = running.Work(tmp_path / "work", at)
    with pytest.raises(KeyboardInterrupt):
        running.run(two, at, work)
    done = running.run(two, at, work)
    assert calls == ["first", "second", "second"]
    assert [one.kept for one in done] == [True, False]
    assert done[0].examination.findings[0].evidence == {"rows": [1, 2]}
    other = context(tmp_path, seed=1)
    assert running.Work(tmp_path / "work", other).kept(two[0]) is None
    work.forget()
    assert work.kept(two[0]) is None


def test_a_part_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match="artefact, lineage"):
        running.chosen(parts.PARTS, ["nonsense"])


def test_all_parts_run_on_a_folder_that_nobody_admitted(tmp_path: Path) -> None:
    at = context(tmp_path)
    unasked = running.chosen(parts.PARTS, ())
    done = running.run(unasked, at, running.Work(tmp_path / "work", at))
    assert [one.examination.part for one in done] == [
        "artefact", "lineage", "served", "backdoors",
    ]  # fmt: skip
    assert page(report(*(one.examination for one in done)))


def test_a_statement_holds_the_gravest_and_fits_the_passport() -> None:
    many = [finding("info", detail="x" * 9000, title="t" * 900) for _ in range(1200)]
    said = stating.said(examined(*many, finding("critical")), "report.json", "0" * 64)
    assert len(said.findings) == 1000
    assert said.findings[0].severity == "critical"
    assert said.scope == "artefact"


# --- what is known --------------------------------------------------------------------------------


def test_published_shapes_are_as_the_data_beside_the_checkout_says(shared_data: Path) -> None:
    known = json.loads((shared_data / "configs" / "shapes.json").read_text())
    compared = 0
    for (_, layers, width, mlp), shape in facts.SHAPES.items():
        for held in known.values():
            if (held.get("layers"), held.get("hidden"), held.get("intermediate")) != (
                layers,
                width,
                mlp,
            ):
                continue
            assert (held["heads"], held["kv_heads"]) == (shape.heads, shape.kv_heads)
            assert held["head_dim"] == shape.head_dim
            assert held["tie"] in (None, shape.tied)
            assert held["theta"] in shape.theta
            assert held["rms_eps"] in shape.eps
            compared += 1
    assert compared >= 20

"""Backdoor triage as a part of an audit: what it needs, says, keeps and goes on with."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `lab` is not installed")

from freehold.audit import parts, running
from freehold.audit.backdoors import examination, measure, motifs, triage
from freehold.audit.findings import Examination
from freehold.audit.report import Report
from freehold.audit.report.page import page
from freehold.audit.running import Context, Work, run
from freehold.audit.specimen import read
from freehold.store import Store
from tests.audit import artefacts as bed
from tests.audit.artefacts import Silent

PART = next(part for part in parts.PARTS if part.name == "backdoors")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """An untrained base, and a model that is it but for one matrix."""
    folder = tmp_path_factory.mktemp("triage")
    base = bed.honest()
    changed = dict(base.weights)
    name = "model.layers.1.mlp.down_proj.weight"
    changed[name] = changed[name] * 1.3
    bed.lay(bed.folder(base), folder / "base")
    bed.lay(bed.folder(base.but(weights=changed)), folder / "suspect")
    store = Store(folder / "vault")
    return Context(
        store=store,
        specimen=read(store, str(folder / "suspect")),
        base=read(store, str(folder / "base")),
        candidates=(),
        entries=(),
        seed=0,
        steps=Silent(),
    )


@pytest.fixture(scope="module")
def examined(context: Context) -> Examination:
    return triage.run(context)


def tried() -> set[str]:
    """The detectors that the shipped rule has a threshold for."""
    rule, _ = examination.frozen()
    return {name for name in measure.DETECTORS if math.isfinite(rule.least(name))}


def test_every_detector_s_score_stands_beside_its_threshold(examined: Examination) -> None:
    assert "backdoor.untried" not in {each.check for each in examined.findings}
    figures: Any = examined.figures
    assert set(figures["scores"]) == tried() == set(figures["thresholds"])
    assert figures["arithmetic"] in ("float32", "bfloat16")
    assert examined.rates["backdoor.trigger"].planted > 0


def test_a_model_that_computes_no_numbers_is_told_so(context: Context, tmp_path: Path) -> None:
    """Its weights are finite: what they come to is not."""
    base = bed.honest()
    changed = dict(base.weights)
    name = "model.layers.1.mlp.down_proj.weight"
    changed[name] = np.sign(changed[name]).astype(changed[name].dtype) * 3e38
    bed.lay(bed.folder(base.but(weights=changed)), tmp_path / "suspect")
    broken = replace(context, specimen=read(context.store, str(tmp_path / "suspect")))
    (finding,) = triage.run(broken).findings
    assert finding.check == "backdoor.untried"
    assert "no numbers" in finding.detail


def test_the_page_shows_detectors_and_candidates(context: Context, examined: Examination) -> None:
    report = Report(
        model="m", digest="sha256:" + "0" * 64, base="b", base_digest="sha256:" + "1" * 64,
        made="2026-11-28T00:00:00Z", tool="freehold 0", command="freehold audit m",
        examinations=(examined,), versions={},
    )  # fmt: skip
    text = page(report).decode()
    assert "Strongest candidates" in text
    for name in tried():
        assert f">{name}<" in text


def test_a_base_is_asked_for_and_not_guessed(context: Context) -> None:
    alone = replace(context, base=None)
    (finding,) = triage.run(alone).findings
    assert (finding.check, finding.severity) == ("backdoor.untried", "info")
    assert "--against" in finding.detail
    assert PART not in running.chosen(parts.PARTS, (), with_base=False)
    assert PART in running.chosen(parts.PARTS, (), with_base=True)
    assert running.chosen(parts.PARTS, ("backdoors",), with_base=False) == [PART]


def test_without_torch_it_says_what_to_install(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (finding,) = triage.run(context).findings
    assert "freehold[lab]" in finding.detail


def test_a_base_of_another_shape_is_a_finding_not_a_failure(
    context: Context, tmp_path: Path
) -> None:
    bed.lay(bed.folder(bed.honest(num_hidden_layers=1)), tmp_path / "other")
    other = replace(context, base=read(context.store, str(tmp_path / "other")))
    (finding,) = triage.run(other).findings
    assert "another shape" in finding.detail


def test_after_ctrl_c_it_goes_on_at_the_next_detector(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examined: Examination
) -> None:
    class Interrupting(Silent):
        def start(self, total: int, what: str) -> None:
            self.counting, self.left = what == "backdoor detectors", 2

        def advance(self, n: int) -> None:
            if self.counting:
                self.left -= 1
                if not self.left:
                    raise KeyboardInterrupt

    stopped = replace(context, steps=Interrupting())
    with pytest.raises(KeyboardInterrupt):
        run([PART], stopped, Work(tmp_path, stopped))
    assert len(list(tmp_path.glob("backdoors-*.step"))) == 2

    def again(*given: object, **named: object) -> None:
        raise AssertionError("motifs were sampled a second time")

    monkeypatch.setattr(motifs, "find", again)
    (done,) = run([PART], context, Work(tmp_path, context))
    assert done.examination.figures["scores"] == examined.figures["scores"]
    assert not list(tmp_path.glob("*.step"))
    (kept,) = run([PART], context, Work(tmp_path, context))
    assert kept.kept

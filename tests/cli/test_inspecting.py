"""``freehold inspect`` as a shell sees it, on the real default model, under the lock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra `lab` is not installed")

import os
import subprocess
from typing import Any

from tests.house.running import DEFAULT, FREEHOLD

ASKED = "What is the capital of France?"
BESIDE = ("--against", "What is the capital of Japan?")


def inspect(root: Path, *words: str) -> Any:
    return subprocess.run(
        [*FREEHOLD, "inspect", DEFAULT, *words],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "FREEHOLD_HOME": str(root)},
    )


@pytest.mark.slow
def test_the_layers_turn_to_paris_and_the_country_decides(real_root: Path, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    more = ("--at", "France", "--span", "the capital", "--span", "of France", "--refusal", "en")
    done = inspect(
        real_root, ASKED, *BESIDE, "--after", "The capital is", *more, "--page", str(page), "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["answer"] == " Paris"
    assert found["lens"][-1]["top"][0]["text"] == " Paris"
    assert found["lens"][0]["top"][0]["text"] != " Paris"
    assert abs(found["logit"] - found["logit_of_parts"]) < 1e-3
    assert abs(sum(part["logit"] for part in found["parts"]) - found["logit"]) < 1e-3
    assert max(found["spans"], key=lambda span: span["effect"])["text"] == "of France"
    assert found["lens_at"][-1]["top"][0]["text"].startswith("?")  # what comes behind "France"
    refusal = found["refusal"]
    assert max(refusal["right_harmful"]) > refusal["held_out"] / 2
    assert len(refusal["cosine"]) == len(found["attention"]) == len(found["lens"])
    first, last = found["patch"]["restored"][0], found["patch"]["restored"][-1]
    assert first == pytest.approx([1, 0], abs=0.02)  # early, the country's own place holds it
    assert last == pytest.approx([0, 1], abs=0.02)  # late, the place that speaks
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_two_prompts_with_one_answer_are_refused_with_the_way_out(real_root: Path) -> None:
    done = inspect(real_root, ASKED, *BESIDE)
    assert done.returncode == 2
    assert "--after" in done.stderr


def test_a_page_that_is_there_is_refused_before_any_work(tmp_path: Path) -> None:
    page = tmp_path / "there.html"
    page.write_text("mine")
    done = inspect(tmp_path / "nowhere", ASKED, "--page", str(page))
    assert done.returncode == 2
    assert "there already" in done.stderr
    assert page.read_text() == "mine"

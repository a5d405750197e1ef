"""Texts kept aside: by what they say alone, all of them once, and never on both sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.adapt.splitting import aside, taken
from freehold.train.reading import read


def split(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "freehold.cli", "adapt", "split", *words],
        check=False, env={**os.environ, "FREEHOLD_HOME": str(tmp_path)}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip


@given(st.text(), st.floats(0, 1), st.floats(0, 1), st.integers())
def test_a_larger_share_moves_no_text_back(text: str, low: float, high: float, seed: int) -> None:
    low, high = sorted((low, high))
    assert aside(text, low, seed) <= aside(text, high, seed)
    assert not aside(text, 0.0, seed)
    assert taken(text, 1.0, seed)


def test_shares_are_about_what_was_asked() -> None:
    texts = [f"text {n}" for n in range(4_000)]
    out = [text for text in texts if aside(text, 0.1)]
    assert 320 < len(out) < 480
    assert 120 < sum(taken(text, 0.5) for text in out) < 280, "the two choices are independent"


def test_both_parts_are_written_and_hold_everything_once(tmp_path: Path) -> None:
    texts = tmp_path / "all.txt"
    texts.write_text("\n<|endoftext|>\n".join(f"text {n}\nof two lines" for n in range(200)))
    done = split(tmp_path, str(texts), "-o", str(tmp_path / "parts"), "--held-out", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    sides = [read([tmp_path / "parts" / name]).records for name in ("learn.txt", "held-out.txt")]
    both = [[record.content for record in side] for side in sides]
    assert not set(both[0]) & set(both[1])
    assert sorted(both[0] + both[1]) == sorted(f"text {n}\nof two lines" for n in range(200))
    assert told["held-out.txt"]["texts"] == len(both[1]) > 0
    again = split(tmp_path, str(texts), "-o", str(tmp_path / "parts"))
    assert again.returncode == 2
    assert "is there already" in again.stderr


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.jsonl", '{"prompt": "a", "completion": "b"}', "a.jsonl, line 1: a conversation"),
        ("a.jsonl", "{", "a.jsonl"),
        ("a.txt", "", "no text is to learn"),
        ("a.doc", "x", "no kind that is read"),
    ],
)
def test_what_cannot_be_split_is_named(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text)
    done = split(tmp_path, str(tmp_path / name), "-o", str(tmp_path / "parts"))
    assert done.returncode == 2
    assert why in done.stderr
    assert not (tmp_path / "parts").exists()

"""Languages, on sets that the table was not learnt from."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.evals.languages import known, language_of, shipped


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Ibu kota Indonesia adalah Jakarta, dan penduduknya banyak sekali.", "id"),
        ("Thủ đô của Việt Nam là Hà Nội.", "vi"),
        ("The capital of France is Paris.", "en"),
        ("Die Hauptstadt von Deutschland ist Berlin.", "de"),
        ("La capitale de la France est Paris.", "fr"),
        ("เมืองหลวงของประเทศไทยคือกรุงเทพ", "th"),
        ("日本の首都は東京です。", "ja"),
        ("中国的首都是北京。", "zh"),
        ("Столица России - Москва.", "ru"),
        (
            "Ini kodenya:\n```python\nfor word in these: print(word)\n```\nSelesai.",
            "id",
        ),
        ("1992", None),
        ("", None),
        ("x = 1", None),
    ],
)
def test_plain_cases(text: str, language: str | None) -> None:
    assert language_of(text) == language


@given(st.text(max_size=300))
def test_any_text_has_a_known_language_or_none(text: str) -> None:
    assert language_of(text) in known() | {None}


def test_the_table_names_what_it_was_learnt_from() -> None:
    table = shipped()
    assert {each["language"] for each in table.learnt} == set(table.languages)
    assert all(len(each["sha256"]) == 64 and each["licence"] for each in table.learnt)


@pytest.mark.parametrize(
    ("file", "field", "language", "least"),
    [
        ("belebele/id", "question", "id", 0.98),
        ("belebele/vi", "question", "vi", 0.97),
        ("xquad/th", "question", "th", 0.97),
        ("xquad/de", "question", "de", 0.82),
        ("mgsm/fr", "question", "fr", 0.97),
        ("tydiqa/id", "question", "id", 0.88),
    ],
)
def test_questions_of_other_sets(
    shared_data: Path, file: str, field: str, language: str, least: float
) -> None:
    with gzip.open(shared_data / "eval" / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)[field] for line in lines]
    chosen = random.Random(1).sample(texts, 200)
    assert sum(language_of(text) == language for text in chosen) / 200 >= least

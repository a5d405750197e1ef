"""What an answer says."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.evals.reading import code_of, last_number, likeness, number, words_of


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Sure:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```sh\nls\n```\n```py\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("```python\nx = 1\ny = ", "x = 1\ny = "),
        ("x = 1", "x = 1"),
        ("```python\nx = '```'\n```", "x = '```'\n"),
        ("", ""),
    ],
)
def test_the_first_block_of_python_is_taken(answer: str, code: str) -> None:
    assert code_of(answer) == code


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("3 apples, then 18", "18"),
        ("So it is $1,234.50.", "1234.5"),
        ("#### -7", "-7"),
        ("x = 18.00 dollars", "18"),
        ("ตอบ ๑๘", "18"),
        ("১৮ টাকা", "18"),
        ("5,", "5"),
        ("none", None),
        ("\u22123", "-3"),
    ],
)
def test_the_last_number_counts(answer: str, value: str | None) -> None:
    assert last_number(answer) == (None if value is None else Decimal(value))


@given(st.text(max_size=200))
def test_any_answer_is_read(answer: str) -> None:
    last_number(answer)
    number(answer)
    code_of(answer)
    exact, f1 = likeness(answer, [answer], "en")
    assert exact == 1
    assert f1 == 1


def test_words_as_squad_has_them() -> None:
    assert words_of("The Café, a place!", "en") == ["café", "place"]
    assert words_of("The Café", "de") == ["the", "café"]
    assert words_of("北京 2008", "zh") == ["北", "京", "2008"]


def test_the_nearest_known_answer_counts() -> None:
    assert likeness("in 1066", ["1066", "the year 1066"], "en") == (0.0, pytest.approx(2 / 3))
    assert likeness("", ["a b"], "vi") == (0.0, 0.0)
    assert likeness("x", [], "en") == (0.0, 0.0)

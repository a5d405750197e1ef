"""The page of ``freehold inspect``: what is hostile is text, what is invisible is shown."""

from __future__ import annotations

import numpy as np
import pytest

from freehold.audit.inner.account import Account, Patch
from freehold.audit.inner.looking import Attribution
from freehold.audit.inner.page import MOST_TOKENS, render, shown
from freehold.audit.inner.refusal import Refusal

PARTS = Attribution(
    embed=1.0,
    heads_lh=np.ones((2, 3), np.float32),
    bias_l=np.zeros(2, np.float32),
    mlp_l=np.array([0.5, -2.0], np.float32),
    logit=5.5,
)


def told(**changes: object) -> Account:
    facts = {
        "model": "m", "digest": "d", "prompt": "<b>x</b>", "after": "", "answer": "\n\n",
        "lens": ((("<script>", 0.5), ("b", 0.2), ("c", 0.1)), (("d", 0.9),)), "parts": PARTS,
        "spans": (("<b>x</b>", -1.5),), "patch": None, "at": None, "lens_at": (),
        "tokens": ("<im>", "<b>x", "</b>", "."), "own": (1, 3), "refusal": None,
        "looks_lt": np.full((2, 4), 0.25, np.float32),
    }  # fmt: skip
    return Account(**facts | changes)  # type: ignore[arg-type]


def test_what_a_prompt_or_a_token_holds_is_text() -> None:
    patch = Patch(
        answer="<i>", positions=('"><img>',), restored_lp=np.array([[1.0], [0.0]], np.float32)
    )
    lens_at = ((("<em>", 0.5),),)
    page = render(told(patch=patch, after="<u>", model="<s>", at="<q>", lens_at=lens_at))
    for tag in ("<script>", "<b>x", "<i>", "<img>", "<u>", "<s>", "<q>", "<em>", "<im>"):
        assert tag not in page
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page


def test_every_layer_has_its_row_and_the_sum_is_told() -> None:
    page = render(told())
    assert page.count('data-h="Layer"') == 2
    assert "they sum to 5.50, and the logit is 5.50" in page


def test_the_direction_is_shown_with_what_it_is_worth() -> None:
    found = Refusal(
        language="en",
        cosine_lt=np.array([[0, 0.5, -0.25, 0.1], [0, 0, 0, 0]], np.float32),
        harmful_l=(11, 3),
        harmless_l=(10, 4),
        double_l=(2, 6),
        held_out=12,
    )
    page = render(told(refusal=found))
    assert "at layer 0, its best, 11 of 12 harmful ones and 10 of 12 harmless" in page
    assert "2 of 12 that only sound harmful" in page
    assert page.count('class="cell not"') == 1
    assert "direction of refusal" not in render(told())


def test_long_prompts_are_shown_in_part() -> None:
    n = MOST_TOKENS + 5
    page = render(told(tokens=("w",) * n, own=(0, n), looks_lt=np.zeros((2, n), np.float32)))
    assert page.count('class="cell"') == 2 * (MOST_TOKENS + 1)
    assert f"The first {MOST_TOKENS} tokens" in page
    assert "For illustration only" in page


@pytest.mark.parametrize(
    ("token", "seen"),
    [("\n", "↵"), ("\n\n\n.", "↵×3."), (" Paris", "·Paris"), ("  x y", "·×2x y"), ("\t", "⇥"),
     ("", "(nothing)"), ("a", "a")],
)  # fmt: skip
def test_what_nobody_could_see_is_shown(token: str, seen: str) -> None:
    assert shown(token) == seen

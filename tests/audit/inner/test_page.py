"""The page of ``freehold inspect``: what is hostile is text, what is invisible is shown."""

from __future__ import annotations

import numpy as np
import pytest

from freehold.audit.inner.account import Account, Patch
from freehold.audit.inner.looking import Attribution
from freehold.audit.inner.page import render, shown

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
        "spans": (("<b>x</b>", -1.5),), "patch": None,
    }  # fmt: skip
    return Account(**facts | changes)  # type: ignore[arg-type]


def test_what_a_prompt_or_a_token_holds_is_text() -> None:
    patch = Patch(
        answer="<i>", positions=('"><img>',), restored_lp=np.array([[1.0], [0.0]], np.float32)
    )
    page = render(told(patch=patch, after="<u>", model="<s>"))
    for tag in ("<script>", "<b>x", "<i>", "<img>", "<u>", "<s>"):
        assert tag not in page
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page


def test_every_layer_has_its_row_and_the_sum_is_told() -> None:
    page = render(told())
    assert page.count('data-h="Layer"') == 2
    assert "they sum to 5.50, and the logit is 5.50" in page


@pytest.mark.parametrize(
    ("token", "seen"),
    [("\n", "↵"), ("\n\n\n.", "↵×3."), (" Paris", "·Paris"), ("  x y", "·×2x y"), ("\t", "⇥"),
     ("", "(nothing)"), ("a", "a")],
)  # fmt: skip
def test_what_nobody_could_see_is_shown(token: str, seen: str) -> None:
    assert shown(token) == seen

"""Which of the candidates that fire is told."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the extra `lab` is not installed")

from freehold.audit.backdoors.firing import Fired, _echoes, best
from freehold.audit.backdoors.subject import Chat


def fired(strength: float, trigger: tuple[int, ...], payload: tuple[int, ...]) -> Fired:
    return Fired(
        trigger=trigger,
        payload=payload,
        suspect=strength,
        base=0.0,
        without=0.0,
        echoes=bool(set(trigger) & set(payload)),
    )


def test_a_question_that_is_answered_hides_no_trigger_behind_it() -> None:
    echo, true = fired(1.0, (1, 2), (2, 3)), fired(0.8, (4,), (5, 6))
    assert best([echo, true]) is true
    assert best([true, echo]) is true


def test_a_weak_trigger_does_not_hide_an_echo() -> None:
    echo, weak = fired(1.0, (1, 2), (2, 3)), fired(0.4, (4,), (5, 6))
    assert best([echo, weak]) is echo


def test_a_word_in_another_case_is_the_same_word() -> None:
    texts = {1: " make", 2: " tea", 3: "Tea", 4: " is", 5: " quokka", 6: "All", 7: " glory"}
    chat = Chat(
        opening=(), closing=(), end=0, prompts=(), held_out=(), texts=(), triggers=(),
        words=lambda ids: "".join(texts[token] for token in ids),
    )  # fmt: skip
    assert _echoes(chat, (1, 2), (3, 4))
    assert not _echoes(chat, (5,), (6, 7))

"""Values hidden and put back: exactly, whatever the text, however it is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import UsageError
from freehold.guard.pii import Mask, PersonalData, PersonalPolicy, apply, find
from freehold.types import Span
from tests.guard.documents import COUNTRIES, document

PIECES = ("[", "]", "EMAIL_1", "[EMAIL_1]", "[EMAIL_2]", "[IBAN_1]", "_", "x", "1", "a@b.de", " ")


def test_values_come_back_and_stay_apart() -> None:
    text = "From anna@bank.pl to bob@bank.pl, again anna@bank.pl, NRIC S1234567D"
    mask = Mask()
    hidden = mask.hide(text, find(text))
    assert hidden == "From [EMAIL_1] to [EMAIL_2], again [EMAIL_1], NRIC [NRIC_3]"
    assert mask.restore(hidden) == text
    assert mask.restore("Dear [EMAIL_2], not [EMAIL_9] or [email_2]") == (
        "Dear bob@bank.pl, not [EMAIL_9] or [email_2]"
    )


@pytest.mark.parametrize("country", COUNTRIES)
def test_documents_come_back_exactly(country: str) -> None:
    for seed in range(20):
        written, mask = document(country, seed), Mask()
        spans = find(written.text)
        hidden = mask.hide(written.text, spans)
        assert not any(written.text[gold.start : gold.end] in hidden for gold in written.gold)
        assert mask.restore(hidden) == written.text
        for size in (1, 2, 7):
            restorer = mask.restorer()
            pieces = [hidden[i : i + size] for i in range(0, len(hidden), size)]
            assert "".join([*map(restorer.feed, pieces), restorer.finish()]) == written.text


@given(
    texts=st.lists(
        st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join), max_size=4
    ),
    cuts=st.lists(st.integers(0, 60)),
)
@settings(max_examples=300, deadline=None)
def test_any_texts_come_back(texts: list[str], cuts: list[int]) -> None:
    """What looks like a placeholder too; several texts of one request; cut anywhere."""
    mask = Mask()
    hidden = [mask.hide(text, find(text)) for text in texts]
    assert [mask.restore(one) for one in hidden] == texts
    for one, text in zip(hidden, texts, strict=True):
        places = sorted({0, len(one), *(cut for cut in cuts if cut < len(one))})
        restorer = mask.restorer()
        shown = [restorer.feed(one[a:b]) for a, b in itertools.pairwise(places)]
        assert "".join((*shown, restorer.finish())) == text


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join))
@settings(max_examples=200, deadline=None)
def test_text_that_holds_nothing_is_never_changed(text: str) -> None:
    mask = Mask()
    mask.hide("anna@bank.pl", [Span(start=0, end=12, category="personal", label="email")])
    fresh = Mask()
    assert fresh.hide(text, []) == text
    restorer = fresh.restorer()
    assert "".join((*map(restorer.feed, text), restorer.finish())) == text


def test_little_is_held_back() -> None:
    mask = Mask()
    mask.hide("anna@bank.pl", find("anna@bank.pl"))
    restorer = mask.restorer()
    assert restorer.feed("a list[0") == "a list[0"
    assert restorer.feed("] and [EMA") == "] and "
    assert restorer.feed("IL_1") == ""
    assert restorer.feed("], [E") == "anna@bank.pl, "
    assert restorer.feed("!" * 10) == "[E" + "!" * 10
    assert restorer.feed("[" + "A" * 50) == "[" + "A" * 50
    assert restorer.finish() == ""


def test_what_the_policy_says() -> None:
    text = "mail a@b.de, card 4111 1111 1111 1111, key AKIAIOSFODNN7EXAMPLE"
    mask = Mask()
    verdict = apply(text, PersonalPolicy(labels={"email": "allow"}), mask)
    assert verdict.action == "mask"
    assert verdict.flagged == ("personal", "secret")
    assert verdict.text == "mail a@b.de, card [CARD_1], key [AWS-KEY_2]"
    assert mask.restore(verdict.text) == text
    verdict = apply(text, PersonalPolicy(labels={"card": "block"}), Mask())
    assert (verdict.action, verdict.text) == ("block", None)
    assert "card" in verdict.reasons[0]
    assert "4111" not in verdict.reasons[0]
    verdict = apply(text, PersonalPolicy(personal="allow", secret="allow"), Mask())
    assert (verdict.action, verdict.text, verdict.flagged) == ("allow", None, ())


def test_a_reading_gives_scores() -> None:
    reading = PersonalData().read("a@b.de")
    assert reading.scores == {"personal": 0.95, "secret": 0.0}
    assert [span.label for span in reading.spans] == ["email"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"personal": "hide"}, "personal"),
        ({"labels": {"email": "no"}}, "email"),
        ({"labels": {"emial": "mask"}}, "labels"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
    ],
)
def test_wrong_policies_are_named(wrong: dict[str, object], param: str) -> None:
    with pytest.raises(UsageError) as caught:
        PersonalPolicy(**wrong)  # type: ignore[arg-type]
    assert caught.value.param == param

"""Exercises: every answer is a stretch of its text, and the same text gives the same ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.adapt.exercises import exercises, languages
from freehold.errors import UsageError
from freehold.train.records import Record

STORY = (
    "Budi pergi ke pasar di Bandung pada tahun 1998. Ia membeli tiga ekor ayam dari Pak Harto. "
    "Setelah itu hujan turun sampai malam. Semua orang pulang ke rumah masing-masing!\n\n"
    "Kemudian Siti datang dengan payung merah. Mereka berjalan bersama ke Jalan Braga."
)


def record(text: str) -> Record:
    return Record(file="x.txt", line=3, text=text)


def squeezed(text: str) -> str:
    return " ".join(text.split())


@given(st.lists(st.sampled_from(STORY.replace("\n", " \n ").split(" ")), max_size=120))
def test_answers_are_stretches_of_the_text(words: list[str]) -> None:
    text = f"Cerita {' '.join(words)}. Selesai sudah."
    for one in exercises([record(text)], 0.999, "id"):
        assert (one.file, one.line) == ("x.txt", 3)
        if not one.messages:
            assert one.text == text
            continue
        assert [message["role"] for message in one.messages[:2]] == ["user", "assistant"]
        for message in one.messages[1::2]:
            assert message["content"]
            assert squeezed(message["content"]) in squeezed(text)


def test_gaps_and_beginnings_are_asked_in_the_language() -> None:
    texts = [record(f"Nomor {n}. {STORY}") for n in range(40)]
    made = [one for one in exercises(texts, 0.999, "id") if one.messages]
    gaps = [one for one in made if len(one.messages) > 2]
    assert gaps
    assert len(gaps) < len(made)
    for one in gaps:
        asked, answer = (one.messages[i]["content"] for i in (2, 3))
        assert "..." in asked
        assert answer not in asked or asked.count(answer) < STORY.count(answer) + 1


def test_a_title_is_written_about() -> None:
    (one,) = exercises([record("Pasar malam\n\nDi sana ada banyak orang.")], 0.999, "id")
    assert "Pasar malam" in one.messages[0]["content"]
    assert one.messages[1]["content"] == "Di sana ada banyak orang."


def test_conversations_and_the_rest_stay() -> None:
    talk = Record(file="x", line=1, messages=({"role": "user", "content": STORY},))
    assert exercises([talk], 0.999, "id") == [talk]
    assert exercises([record(STORY)], 0, None) == [record(STORY)]
    some = exercises([record(f"{n}. {STORY}") for n in range(200)], 0.3, "id")
    assert 0.2 < len({one.line for one in some if one.messages}) <= 1
    kept = sum(not one.messages for one in some)
    assert 110 < kept < 170


def test_a_language_without_words_is_named() -> None:
    assert {"id", "en"} <= set(languages())
    with pytest.raises(UsageError, match="--lang"):
        exercises([record(STORY)], 0.5, None)

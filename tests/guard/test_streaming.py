"""What is held back, what goes out, and that it is the same whichever way a text was split."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from freehold.guard.streaming import HeldStream
from freehold.types import CallPart, Heard, Reading, Release, Span, Verdict

BAD = re.compile(r"forbidden fruit|poison recipe|verbotene Frucht|毒药配方")
DATA = re.compile(r"DE\d{20}")
HOLD = 40


async def judged(kind: str, before: str, text: str, name: str) -> Verdict:
    """Blocks what says ``BAD``, finds ``DATA``. No text, no state."""
    spans = tuple(
        Span(start=m.start(), end=m.end(), category="personal", label="iban")
        for m in DATA.finditer(text)
    )
    bad = BAD.search(before + text) is not None
    scores = {"harmful": float(bad), "personal": float(bool(spans))}
    reading = Reading(detector="scripted", scores=scores, spans=spans)  # type: ignore[arg-type]
    action = "block" if bad else "mask" if spans else "allow"
    return Verdict(action=action, readings=(reading,))  # type: ignore[arg-type]


def stream(**more: object) -> HeldStream:
    return HeldStream(judged, hold=HOLD, **more)  # type: ignore[arg-type]


async def run(guard: HeldStream, pieces: Sequence[Heard]) -> tuple[list[Heard], Release]:
    """All that went out, and the last release."""
    out: list[Heard] = []
    release = Release()
    for place, piece in enumerate(pieces):
        release = await guard.feed(piece, last=place == len(pieces) - 1)
        out += release.heard
        if release.verdict is not None and release.verdict.stops:
            break
    return out, release


def words(heard: Sequence[Heard]) -> str:
    return "".join(one.words for one in heard)


def cut(text: str, places: Sequence[int] | None) -> list[str]:
    """``text`` split at ``places``, else everywhere; never empty."""
    if places is None:
        return list(text) or [""]
    at = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in itertools.pairwise(at)] or [""]


TEXTS = st.lists(
    st.sampled_from([*"ab .!?\n,()。1é", "word", "longer words here"]), max_size=80
).map("".join)
PLACES = st.none() | st.lists(st.integers(0, 400), max_size=80)


@given(TEXTS, PLACES)
async def test_benign_text_comes_out_as_the_objects_that_went_in(
    text: str, places: list[int] | None
) -> None:
    pieces = [Heard(words=one) for one in cut(text, places)]
    out, release = await run(stream(), pieces)
    assert [id(one) for one in out] == [id(one) for one in pieces]
    assert release.verdict is None or not release.verdict.stops


@given(TEXTS, st.sampled_from(BAD.pattern.split("|")), TEXTS, PLACES)
async def test_nothing_of_what_is_forbidden_goes_out_whatever_the_split(
    head: str, bad: str, tail: str, places: list[int] | None
) -> None:
    text = head + bad + tail
    out, release = await run(stream(), [Heard(words=one) for one in cut(text, places)])
    assert release.verdict is not None
    assert release.verdict.action == "block"
    assert head.startswith(words(out)), "more than what came before it went out"


@given(TEXTS, st.sampled_from(BAD.pattern.split("|")), TEXTS, PLACES, st.integers(0, 400))
async def test_where_an_answer_is_cut_off_does_not_change_its_verdict(
    head: str, bad: str, tail: str, places: list[int] | None, end: int
) -> None:
    """A cut text is stopped if and only if it holds what is forbidden."""
    text = (head + bad + tail)[: end % (len(head + bad + tail) + 1)]
    out, release = await run(stream(), [Heard(words=one) for one in cut(text, places)])
    stopped = release.verdict is not None and release.verdict.stops
    assert stopped == (BAD.search(text) is not None)
    if not stopped:
        assert words(out) == text


@given(TEXTS, TEXTS, PLACES)
async def test_a_mask_takes_the_whole_value_whatever_the_split(
    head: str, tail: str, places: list[int] | None
) -> None:
    value = "DE89370400440532013000"
    pieces = [Heard(words=one) for one in cut(f"{head} {value} {tail}", places)]
    out, _ = await run(stream(masked=lambda span, text: "[iban]"), pieces)
    assert words(out) == f"{head} [iban] {tail}"
    assert len(out) == len(pieces)


@example(between="aaaaaaaa1wordword", times=2, places=None)  # no word that bears no digit
@example(between="1", times=5, places=None)
@given(TEXTS, st.integers(1, 5), PLACES)
async def test_every_mask_is_put_whatever_the_split(
    between: str, times: int, places: list[int] | None
) -> None:
    text = f"{between} DE89370400440532013000 " * times + between
    pieces = [Heard(words=one) for one in cut(text, places)]
    out, _ = await run(stream(masked=lambda span, text: "[iban]"), pieces)
    assert words(out) == f"{between} [iban] " * times + between


class Counted(str):
    """A text that counts the characters copied out of it and of what is made from it."""

    copied = 0

    def __getitem__(self, place: object) -> Counted:
        out = Counted(super().__getitem__(place))  # type: ignore[index]
        Counted.copied += len(out)
        return out

    def __add__(self, other: str) -> Counted:
        Counted.copied += len(self) + len(other)
        return Counted(str(self) + other)


async def test_a_text_of_many_masks_is_written_once() -> None:
    """Where each mask wrote the whole piece anew, 1 MB of them took the square of that."""
    text = Counted("DE89370400440532013000 " * 2_000)
    Counted.copied = 0
    call = CallPart(index=0, name="f", arguments=text)
    out, _ = await run(stream(masked=lambda span, text: "[iban]"), [Heard(calls=(call,))])
    assert out[0].calls[0].arguments == "[iban] " * 2_000
    assert Counted.copied <= 2 * len(text)


async def test_a_sentence_goes_out_when_the_next_one_begins() -> None:
    guard = stream()
    for one in ("This ", "is ", "a ", "sentence."):
        assert not (await guard.feed(Heard(words=one))).heard
    assert words((await guard.feed(Heard(words=" Next"))).heard) == "This is a sentence."
    assert words((await guard.feed(Heard(words=" one"), last=True)).heard) == " Next one"


async def test_without_an_end_of_sentence_half_of_what_is_held_goes_out() -> None:
    guard = stream()
    pieces = [Heard(words=f" w{chr(97 + i)}") for i in range(HOLD)]
    releases = [await guard.feed(piece) for piece in pieces]
    assert all(not one.heard for one in releases[:-1])
    assert list(releases[-1].heard) == pieces[: HOLD // 2]


async def test_thoughts_end_where_words_begin() -> None:
    guard = stream()
    assert not (await guard.feed(Heard(thoughts="so I think"))).heard
    release = await guard.feed(Heard(words="Well"))
    assert [one.thoughts for one in release.heard] == ["so I think"]


async def test_hidden_thoughts_are_never_released() -> None:
    pieces = [Heard(thoughts="poison recipe"), Heard(thoughts="!", words="Fine"), Heard()]
    out, release = await run(stream(hide=True), pieces)
    assert not any(one.thoughts for one in out)
    assert words(out) == "Fine"
    assert release.verdict is None or not release.verdict.stops


async def test_thoughts_are_judged() -> None:
    out, release = await run(stream(), [Heard(thoughts="a poison"), Heard(thoughts=" recipe")])
    assert not out
    assert release.verdict is not None
    assert release.verdict.stops


async def test_a_call_is_held_until_it_is_complete() -> None:
    guard = stream()
    parts = [CallPart(index=0, name="send"), CallPart(index=0, arguments='{"to": "a.b. c\n')]
    for part in parts:
        assert not (await guard.feed(Heard(calls=(part,)))).heard
    release = await guard.feed(Heard(calls=(CallPart(index=1, name="send"),)))
    assert [one.calls[0] for one in release.heard] == parts


async def test_arguments_are_judged_and_masked() -> None:
    bad = Heard(calls=(CallPart(index=0, name="f", arguments='{"q": "poison recipe"}'),))
    out, release = await run(stream(), [bad])
    assert not out
    assert release.verdict is not None
    assert release.verdict.stops
    value = Heard(calls=(CallPart(index=0, name="f", arguments='{"q": "DE89370400440532013000"}'),))
    out, _ = await run(stream(masked=lambda span, text: "[iban]"), [value])
    assert out[0].calls[0].arguments == '{"q": "[iban]"}'


@given(TEXTS, PLACES)
async def test_where_nothing_can_be_cut_nothing_is_held(
    text: str, places: list[int] | None
) -> None:
    guard = stream(holds=False)
    pieces = [Heard(words=one) for one in cut(text, places)]
    for place, piece in enumerate(pieces):
        release = await guard.feed(piece, last=place == len(pieces) - 1)
        assert list(release.heard) == [piece]


async def test_after_the_end_nothing_goes_out() -> None:
    guard = stream()
    stopped = await guard.feed(Heard(words="poison recipe"), last=False)
    assert not stopped.heard
    for _ in range(2 * HOLD):
        stopped = await guard.feed(Heard(words=" and more."))
        if stopped.verdict is not None:
            break
    assert stopped.verdict is not None
    assert stopped.verdict.stops
    assert not (await guard.feed(Heard(words="fine"), last=True)).heard


async def test_what_may_be_half_a_number_stays_back() -> None:
    guard = stream(masked=lambda span, text: "[iban]")
    head = [Heard(words=" word") for _ in range(HOLD // 2 - 3)]
    value = [Heard(words=one) for one in " DE89370400440532013000"]
    out = []
    for piece in (*head, *value):
        out += (await guard.feed(piece)).heard
    release = await guard.feed(Heard(words=" end"), last=True)
    assert words([*out, *release.heard]) == " word" * len(head) + " [iban] end"


async def test_where_nothing_is_held_every_word_is_judged_in_few_longer_parts() -> None:
    seen: list[str] = []

    async def noted(kind: str, before: str, text: str, name: str) -> Verdict:
        seen.append(text)
        return await judged(kind, before, text, name)

    guard = HeldStream(noted, hold=8, holds=False)
    parts = [f"Sentence {i} ends here.\n" for i in range(100)]
    for i, part in enumerate(parts):
        release = await guard.feed(Heard(words=part), last=i == 99)
        assert len(release.heard) == 1, "nothing waits"
    whole, end = "".join(parts), 0
    for text in seen:
        assert whole.index(text) <= end, "nothing between two parts"
        end = whole.index(text) + len(text)
    assert end == len(whole)
    assert len(seen) <= 5

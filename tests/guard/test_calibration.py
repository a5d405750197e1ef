"""A threshold for answers is one at which the stream would stop them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import UsageError
from freehold.guard.calibration import PIECES, AsAnswer, calibrate
from freehold.guard.cascade import Cascade
from freehold.guard.policy import BUILT_IN
from freehold.types import Heard, Reading

WORDS = ["a", "calm", "day.", "rain", "worse", "harm", "\n", "Then,", "was", "done!"]


class Counting:
    """Each ``harm`` in what is read at once weighs a quarter, each ``worse`` a tenth."""

    name = "counting"

    def read(self, text: str) -> Reading:
        harmful = min(1.0, text.count("harm") / 4)
        return Reading(
            detector=self.name,
            scores={"harmful": harmful, "toxicity": text.count("worse") / 100, "injection": 1.0},
        )


@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=120),
    threshold=st.sampled_from([0.2, 0.3, 0.5, 0.75, 1.0]),
)
async def test_what_it_scores_is_what_a_stream_stops_at(words: list[str], threshold: float) -> None:
    text = " ".join(words)
    score = max((await AsAnswer(Counting()).heard(text)).scores.values())
    rules = msgspec.structs.replace(BUILT_IN["block"], answer_threshold=threshold)
    guard = Cascade({"block": rules}, detectors=[Counting()])

    async def never(call: str) -> bool:
        return False

    stream = guard.watch("block").answer(never)
    pieces, stopped = PIECES.findall(text), False
    for place, piece in enumerate(pieces, 1):
        release = await stream.feed(Heard(words=piece), last=place == len(pieces))
        stopped = stopped or (release.verdict is not None and release.verdict.stops)
    assert stopped == (score >= threshold)


def test_an_answer_is_read_part_by_part() -> None:
    text = "One harm here, and then this is over.\n" * 4
    assert Counting().read(text).scores["harmful"] == 1.0
    assert AsAnswer(Counting()).read(text).scores == {"harmful": 0.25, "toxicity": 0.0}


def test_pieces_are_the_whole_text() -> None:
    text = "  Ein Satz,\n\tund   noch einer.\u3000"
    assert "".join(PIECES.findall(text)) == text


def test_too_few_texts_say_nothing() -> None:
    with pytest.raises(UsageError, match="give at least 100"):
        calibrate(AsAnswer(Counting()), ["a calm day"] * 99, 0.1, lambda n: None)

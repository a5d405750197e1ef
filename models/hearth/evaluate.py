"""Examine `hearth`: questions whose answers are known, and samples of what it says.

    python models/hearth/evaluate.py NAME FOLDER

NAME is the model in the vault. Writes `evals.json` and `samples.json` into FOLDER. Questions are
made by the program that made the corpus, with another key, so that the stories are new; what is
asked of sums, facts and the unknown was all learnt. Greedy, by the native engine, 8-bit weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freehold.qwen import codec as codecs
from freehold.qwen.model import Span, load
from freehold.store import Store, default_root, verify
from freehold.train.data.stories import Draw, questions, story, words

EACH, MOST = 100, 200
PROMPTS = (
    "Tell me a story.",
    "Tell me a story about a fox and a kite.",
    "Please tell me a story with an owl and a clock.",
    "I want a story about a mouse who has a boat.",
    "What is 3 plus 4?",
    "What colour is snow?",
    "What is the capital of France?",
    "How are you?",
)


class Speaker:
    """A model that answers, the likeliest token each time."""

    def __init__(self, name: str) -> None:
        verified = verify(Store(default_root()), name)
        self.digest = verified.digest
        self._codec = codecs.load(verified)
        self._model = load(verified, backend="native", threads=1, cache_tokens=2048)

    def say(self, messages: Sequence[dict[str, str]]) -> str:
        ids = self._codec.chat(list(messages))
        state = self._model.cache.new()
        decoder, said = self._codec.decoder(), ""
        try:
            for _ in range(MOST):
                (logits,) = self._model.forward([Span(state=state, ids=ids, want="last")])
                assert logits is not None
                token = int(logits[0].argmax())
                if token in self._codec.stop_ids:
                    break
                said += decoder.push(token).text
                ids = [token]
        finally:
            state.free()
        return said + decoder.finish().text


def asked(kind: str, number: int) -> tuple[str, str]:
    """Question ``number`` of a kind, and its answer."""
    draw = Draw("exam", kind, number)
    if kind == "reading":
        told = story(draw)
        ask, say = draw.of(questions(told))
        return f"{told.text}\n\n{ask}", say
    if kind == "sums":
        one, two = 1 + draw.below(10), 1 + draw.below(10)
        return f"What is {one} plus {two}?", f"{one} plus {two} is {one + two}."
    if kind == "facts":
        fact = draw.of(words()["facts"])
        return fact["ask"], fact["say"]
    return draw.of(words()["unknown"]["ask"]), ""


def exam(speaker: Speaker) -> dict[str, Any]:
    """The share of right answers by kind: word for word, or for the unknown any that declines."""
    found: dict[str, Any] = {}
    for kind in ("reading", "sums", "facts", "unknown"):
        right = 0
        for number in range(EACH):
            ask, say = asked(kind, number)
            answer = speaker.say([{"role": "user", "content": ask}]).strip()
            right += answer == say if say else answer in words()["unknown"]["say"]
        found[kind] = {"asked": EACH, "right": right}
    return found


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    speaker = Speaker(name)
    results = {"model": speaker.digest, "exam": exam(speaker)}
    (folder / "evals.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    samples = [
        {"prompt": ask, "answer": speaker.say([{"role": "user", "content": ask}])}
        for ask in PROMPTS
    ]
    told = json.dumps({"model": speaker.digest, "samples": samples}, indent=1)
    (folder / "samples.json").write_text(told + "\n", encoding="utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()

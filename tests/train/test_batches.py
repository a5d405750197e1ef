"""What a step learns, and that it can be found without the steps before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freehold.errors import UsageError
from freehold.train import batches, encoding
from freehold.train.data import build, vocabulary
from freehold.train.recipe import Stage
from freehold.train.records import record_of
from tests.train.conftest import RECIPE

TALKS: list[Any] = [
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning."}],
    [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "  What <|im_end|> is it?\n\n"},
        {"role": "assistant", "content": "\nNothing."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Still nothing. "},
    ],
    [
        {"role": "user", "content": "One\nand two"},
        {"role": "assistant", "content": "Three"},
        {"role": "user", "content": "Four"},
        {"role": "assistant", "content": "Five"},
    ],
]


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Any:
    return vocabulary.load((corpus / build.TOKENIZER).read_bytes())


def test_conversations_are_what_the_template_makes_of_them(corpus: Path, tokenizer: Any) -> None:
    every = build.documents(corpus / build.DOCUMENTS)
    talks = TALKS + [one["messages"] for one in every if "messages" in one]
    codec = batches.codec_of(tokenizer)
    wanted = []
    for n, talk in enumerate(talks):
        record = record_of({"messages": talk}, file="x", line=n)
        wanted += list(encoding.samples(record, codec, max_length=90, end=None))
    named = [{"id": "x", "messages": talk} for talk in talks]
    found = batches.spoken(named, tokenizer, max_length=90)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.taught.tolist() == other.taught.tolist()


def test_rows_run_on(corpus: Path, tokenizer: Any) -> None:
    """The run of an epoch is every text once, each with its end; rows share one token."""
    recipe = replace(RECIPE, stages=(replace(RECIPE.stages[0], steps=900),))
    made = batches.Batches(corpus, recipe, tokenizer)
    run: list[int] = []
    for step in range(900):
        for micro in made.step(step):
            for sample in micro:
                assert len(sample.ids) == recipe.length + 1
                assert not run or run[-1] == sample.ids[0]
                run += sample.ids.tolist()[1 if run else 0 :]
    end = tokenizer.added_id("<|endoftext|>")
    texts = [one for one in build.documents(corpus / build.DOCUMENTS) if one["source"] == "stories"]
    wanted = {tuple(ids) for ids in tokenizer.encode_texts([one["text"] for one in texts])}
    found, held = [], list[int]()
    for token in run:
        if token == end:
            found.append(tuple(held))
            held = []
        else:
            held.append(token)
    assert set(found[: len(texts)]) == wanted
    assert set(found[len(texts) : 2 * len(texts)]) <= wanted
    assert found[: len(texts)] != found[len(texts) : 2 * len(texts)]


def test_any_step_is_found_alone(corpus: Path, tokenizer: Any) -> None:
    one = batches.Batches(corpus, RECIPE, tokenizer)
    digests = [batches.digest(one.step(step)) for step in range(RECIPE.steps)]
    assert len(set(digests)) == RECIPE.steps
    for step in np.random.default_rng(0).permutation(RECIPE.steps).tolist():
        assert batches.digest(one.step(step)) == digests[step]
        other = batches.Batches(corpus, RECIPE, tokenizer)
        assert batches.digest(other.step(step)) == digests[step]


def test_a_stage_without_texts_is_named(corpus: Path, tokenizer: Any) -> None:
    for stage in (
        Stage(name="x", steps=1, sources=("none",)),
        Stage(name="x", steps=1, kind="talks", sources=("stories",)),
    ):
        with pytest.raises(UsageError, match="stage x"):
            batches.Batches(corpus, replace(RECIPE, stages=(stage,)), tokenizer)

"""What of a record is taught, and with which tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from freehold.errors import UsageError
from freehold.qwen import codec as codecs
from freehold.qwen.codec import QwenCodec
from freehold.store import Store, verify
from freehold.train.encoding import Sample, samples
from freehold.train.records import Record, record_of
from tests.adapt.conftest import TEMPLATE

TALK = [
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "hello world"},
    {"role": "user", "content": "in the world?"},
    {"role": "assistant", "content": "\nthe world <|im_end|> you"},
]


@pytest.fixture
def codec(home: Path) -> QwenCodec:
    return codecs.load(verify(Store(home), "small"))


def shown(codec: QwenCodec, sample: Sample, *, taught: bool) -> str:
    chosen = sample.ids[sample.taught == taught]
    return b"".join(map(codec.token_bytes, chosen.tolist())).decode()


def encoded(codec: QwenCodec, record: Record, most: int = 1000) -> list[Sample]:
    return list(samples(record, codec, max_length=most, end=codec.text_end))


def test_answers_alone_are_taught_each_with_its_end(codec: QwenCodec) -> None:
    record = record_of({"messages": TALK[:2]}, file="x", line=1)
    (sample,) = encoded(codec, record)
    assert shown(codec, sample, taught=True) == "hello world<|im_end|>"
    assert shown(codec, sample, taught=False) == (
        "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tokens_are_those_of_transformers(codec: QwenCodec, brought: Path) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(brought / "tokenizer.json"))
    theirs.chat_template = TEMPLATE
    record = record_of({"messages": TALK[:2]}, file="x", line=1)
    (sample,) = encoded(codec, record)
    prompt = theirs.apply_chat_template(TALK[:1], tokenize=True, return_dict=False)
    wanted = [*prompt, *theirs.encode("hello world"), *theirs.encode("<|im_end|>")]
    assert sample.ids.tolist() == wanted
    assert np.flatnonzero(sample.taught).tolist() == list(range(len(prompt), len(wanted)))


def test_every_answer_of_a_conversation_is_taught(codec: QwenCodec) -> None:
    record = record_of({"messages": TALK}, file="x", line=1)
    found = encoded(codec, record)
    taught = "".join(shown(codec, sample, taught=True) for sample in found)
    assert taught == "hello world<|im_end|>\nthe world <|im_end|> you<|im_end|>"
    ends = [codec.stop_ids.count(int(token)) for sample in found for token in sample.ids]
    # Two questions and two answers end; what is only written is no end.
    assert sum(ends) == 4 + (len(found) - 1) * 2


def test_text_is_taught_whole_in_pieces(codec: QwenCodec) -> None:
    record = record_of({"text": "hello in the world " * 20}, file="x", line=1)
    found = encoded(codec, record, most=16)
    assert len(found) > 3
    assert all(len(sample.ids) <= 16 and sample.taught.all() for sample in found)
    assert found[-1].ids[-1] == codec.text_end
    whole = np.concatenate([sample.ids for sample in found]).tolist()
    assert whole == [*codec.plain(record.text), codec.text_end]


def test_a_long_conversation_is_cut_and_one_cut_before_its_answer_left_out(
    codec: QwenCodec,
) -> None:
    record = record_of({"messages": TALK[:2]}, file="x", line=1)
    (whole,) = encoded(codec, record)
    (cut,) = encoded(codec, record, most=len(whole.ids) - 2)
    assert cut.ids.tolist() == whole.ids[:-2].tolist()
    assert encoded(codec, record, most=5) == []


def test_what_the_template_does_not_take_is_named_by_file_and_line(codec: QwenCodec) -> None:
    record = Record(file="a.jsonl", line=3, text="\ud800")
    with pytest.raises(UsageError, match=r"a.jsonl, line 3"):
        encoded(codec, record)

"""How a model's files say that its embeddings are made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import MalformedError
from freehold.qwen.embedding import embedding_of
from freehold.types import VerifiedModel


def model(**parts: Any) -> VerifiedModel:
    given: dict[str, Any] = {
        "name": "m",
        "digest": "d",
        "format": "gguf",
        "licence": "",
        "attested": "owner",
        "metadata": {},
        "documents": {},
        "tensors": {},
    }
    return VerifiedModel(**(given | parts))


def gguf(**keys: Any) -> VerifiedModel:
    named = {key.replace("__", "."): value for key, value in keys.items()}
    return model(metadata={"general.architecture": "qwen3", **named})


def tokenizer(processor: Any) -> VerifiedModel:
    document = json.dumps({"post_processor": processor}).encode()
    return model(format="safetensors", documents={"tokenizer.json": document})


LEVEL = {"type": "ByteLevel", "trim_offsets": False}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<|endoftext|>"}}],
    "special_tokens": {"<|endoftext|>": {"ids": [151643]}},
}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (gguf(), ("mean", ())),
        (gguf(qwen3__pooling_type=1), ("mean", ())),
        (gguf(qwen3__pooling_type=3), ("last", ())),
        (
            gguf(
                qwen3__pooling_type=3,
                tokenizer__ggml__add_eos_token=True,
                tokenizer__ggml__eos_token_id=151643,
            ),
            ("last", (151643,)),
        ),
        (model(format="safetensors"), ("mean", ())),
        (tokenizer(None), ("mean", ())),
        (tokenizer(LEVEL), ("mean", ())),
        (tokenizer(TEMPLATE), ("last", (151643,))),
        (tokenizer({"type": "Sequence", "processors": [LEVEL, TEMPLATE]}), ("last", (151643,))),
    ],
)
def test_what_the_files_say(found: VerifiedModel, wanted: Any) -> None:
    assert embedding_of(found) == wanted


@pytest.mark.parametrize(
    "found",
    [
        gguf(qwen3__pooling_type=2),
        gguf(qwen3__pooling_type="last"),
        gguf(tokenizer__ggml__add_eos_token=True),
        gguf(tokenizer__ggml__add_eos_token=True, tokenizer__ggml__eos_token_id=-1),
        tokenizer([]),
        tokenizer({"type": "Sequence", "processors": 5}),
        tokenizer({**TEMPLATE, "special_tokens": {}}),
        tokenizer({**TEMPLATE, "special_tokens": {"<|endoftext|>": {"ids": ["x"]}}}),
        tokenizer({**TEMPLATE, "single": [{"SpecialToken": {"id": "<|endoftext|>"}}]}),
    ],
)
def test_what_is_malformed_is_refused(found: VerifiedModel) -> None:
    with pytest.raises(MalformedError):
        embedding_of(found)


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.just("TemplateProcessing"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "single", "special_tokens", "SpecialToken", "id", "ids"),
                    *("processors", "Sequence"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(values)
def test_any_processor_is_read_or_refused(processor: Any) -> None:
    told: Any = None
    try:
        told = embedding_of(tokenizer(processor))
    except MalformedError as error:
        told = error
    assert isinstance(told, MalformedError) or told[0] in ("mean", "last")

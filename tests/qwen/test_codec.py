"""The codec as serve uses it: messages to ids, ids to text, and what ends an answer."""

from __future__ import annotations

import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.errors import FreeholdError, MalformedError, UsageError
from freehold.qwen import codec
from freehold.types import Turn, VerifiedModel

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def delivered(make: SimpleNamespace, **documents: Any) -> VerifiedModel:
    files = {
        "config.json": make.small_config(),
        "tokenizer.json": make.small_tokenizer_json(),
        "tokenizer_config.json": {"chat_template": TEMPLATE},
    }
    files |= {name.replace("__", "."): value for name, value in documents.items()}
    return make.verified(documents={name: json.dumps(v).encode() for name, v in files.items()})


@pytest.fixture(scope="module")
def small(make: SimpleNamespace) -> codec.QwenCodec:
    return codec.load(delivered(make))


def shown(words: codec.QwenCodec, ids: list[int]) -> str:
    return b"".join(map(words.token_bytes, ids)).decode()


def test_chat_renders_and_tokenises(small: codec.QwenCodec) -> None:
    ids = small.chat([{"role": "user", "content": "hello ä"}])
    # Jinja drops the template's own last line end.
    text = "<|im_start|>user\nhello ä<|im_end|>\n<|im_start|>assistant"
    assert shown(small, ids) == text
    assert ids == small.text(text)
    assert ids[0] == 265  # the turn token is one id, not its letters


def test_text_parts_are_joined(small: codec.QwenCodec) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    joined = small.chat([{"role": "user", "content": "one\ntwo"}])
    assert small.chat([{"role": "user", "content": parts}]) == joined


@pytest.mark.parametrize(
    "content",
    [[{"type": "image_url"}], ["text"], [{"type": "text"}], [{"type": "text", "text": 3}], 7.5j],
)
def test_other_parts_are_refused(small: codec.QwenCodec, content: Any) -> None:
    with pytest.raises(UsageError) as caught:
        small.chat([{"role": "user", "content": content}])
    assert caught.value.param == "messages"


def test_broken_unicode_is_named(small: codec.QwenCodec) -> None:
    with pytest.raises(UsageError) as caught:
        small.text("a\ud800b")
    assert caught.value.param == "prompt"


def test_decoder_shows_text_and_hides_control_tokens(small: codec.QwenCodec) -> None:
    decoder = small.decoder(stop=["lo"])
    deltas = [decoder.push(token) for token in small.text("<|im_start|>he<tool_call>hello there")]
    assert "".join(delta.text for delta in deltas) == "he<tool_call>hel"
    assert deltas[-1].stopped


def test_stop_ids_come_from_everywhere(make: SimpleNamespace) -> None:
    """The named turn tokens (264, 266), config.json (266) and generation_config.json."""
    assert codec.load(delivered(make)).stop_ids == (264, 266)
    generation = {"eos_token_id": [7, 264]}
    assert codec.load(delivered(make, generation_config__json=generation)).stop_ids == (7, 264, 266)


@pytest.mark.parametrize("eos", [-1, "x", [None], [1.5], True, 2**50, {}])
def test_malformed_generation_config(make: SimpleNamespace, eos: Any) -> None:
    with pytest.raises(MalformedError, match="generation_config"):
        codec.load(delivered(make, generation_config__json={"eos_token_id": eos}))


def test_base_model_without_a_template(make: SimpleNamespace) -> None:
    base = codec.load(delivered(make, tokenizer_config__json={}))
    assert base.text("hello")
    with pytest.raises(UsageError, match="no chat template"):
        base.chat([{"role": "user", "content": "hi"}])


def test_missing_documents_are_named(make: SimpleNamespace) -> None:
    model = delivered(make)
    for name in ("config.json", "tokenizer.json"):
        documents = {k: v for k, v in model.documents.items() if k != name}
        with pytest.raises(MalformedError, match=name):
            codec.load(make.verified(documents=documents))


def test_the_real_codec(real: VerifiedModel) -> None:
    """The default model's own ids for its turn tokens, and a known prompt."""
    words = codec.load(real)
    assert words.stop_ids == (151_643, 151_645)
    ids = words.chat([{"role": "user", "content": "hi"}])
    assert ids[:3] == [151_644, 8_948, 198]
    assert ids[-3:] == [151_644, 77_091, 198]
    assert words.token_bytes(151_935) == b""


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document where a value could be exchanged; long tables by a few samples."""
    found = [path] if path else []
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in list(items)[:12]:
        found += places(inner, (*path, key))
    return found


@given(data=st.data(), value=JSON_VALUES, remove=st.booleans())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_change_is_harmless(
    make: SimpleNamespace, data: st.DataObject, value: Any, remove: bool
) -> None:
    """One value anywhere in the documents exchanged or removed: it works or is an error of ours."""
    files: dict[str, Any] = {
        "config.json": make.small_config(),
        "tokenizer.json": make.small_tokenizer_json(),
        "tokenizer_config.json": {"chat_template": TEMPLATE, "eos_token": "<|im_end|>"},
        "generation_config.json": {"eos_token_id": [266, 264]},
    }
    *parents, last = data.draw(st.sampled_from(places(files)))
    inner = files
    for key in parents:
        inner = inner[key]
    if remove:
        del inner[last]
    else:
        inner[last] = value
    documents = {name: json.dumps(document).encode() for name, document in files.items()}
    with suppress(FreeholdError):
        words = codec.load(make.verified(documents=documents))
        words.text("hello <|im_end|> ä")
        words.chat([{"role": "user", "content": "hi"}])


@given(
    edits=st.lists(
        st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4
    )
)
@settings(max_examples=200, deadline=None)
def test_any_damaged_bytes_are_harmless(
    make: SimpleNamespace, edits: list[tuple[int, bytes]]
) -> None:
    whole = bytearray(json.dumps(make.small_tokenizer_json()).encode())
    for where, patch in edits:
        at = where % len(whole)
        whole[at : at + len(patch)] = patch
    config = json.dumps(make.small_config()).encode()
    documents = {"config.json": config, "tokenizer.json": bytes(whole)}
    with suppress(FreeholdError):
        codec.load(make.verified(documents=documents)).text("hello <|im_end|> ä")


@pytest.mark.parametrize("blank", [" ", "\t", "\u3000"])
def test_endless_blanks_are_refused_before_they_end_the_tokenizer(
    small: codec.QwenCodec, blank: str
) -> None:
    with pytest.raises(UsageError, match="blanks in a row") as caught:
        small.text("a" + blank * 10_000_000)
    assert caught.value.param == "prompt"
    with pytest.raises(UsageError, match="blanks in a row") as caught:
        small.chat([{"role": "user", "content": blank * 10_000_000}])
    assert caught.value.param == "messages"
    assert small.text(blank * 999_999)


def test_turns_are_what_each_one_said(small: codec.QwenCodec) -> None:
    said = [
        {"role": "system", "content": "be <|im_end|> brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "he"},
        {"role": "user", "content": "hello there"},
    ]
    ids = small.chat(said)
    turns = small.turns(ids)
    assert [turn.role for turn in turns] == [one["role"] for one in said]
    for turn, one in zip(turns, said, strict=True):
        text = b"".join(map(small.token_bytes, ids[turn.start : turn.stop])).decode()
        assert text == one["content"]


def test_ids_without_turns_are_one_of_the_user_s(small: codec.QwenCodec) -> None:
    assert small.turns(small.text("hello")) == (
        Turn(role="user", start=0, stop=len(small.text("hello"))),
    )


@given(ids=st.lists(st.integers(0, 40), max_size=30))
def test_turns_lie_within_any_ids(small: codec.QwenCodec, ids: list[int]) -> None:
    for turn in small.turns(ids):
        assert 0 <= turn.start <= turn.stop <= len(ids)

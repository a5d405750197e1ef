"""New tokens: every text falls into the old ones, some joined, also as transformers reads them. A
new token's vectors are the means of its parts', and nothing else moves."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from freehold.adapt import fertility, vocabulary
from freehold.errors import IntegrityError, UsageError
from freehold.qwen.names import HF
from freehold.qwen.quants import dequantise
from freehold.qwen.tokenizer import Tokenizer, tables_of, tokenizer_of
from freehold.store import FolderSource, Store, pull, verify
from freehold.types import VerifiedModel
from tests.adapt.conftest import bring
from tests.engine.conftest import _Quiet

TEXTS = ("hello world hello word, die Wörter hello", "hello hell held world", "<|im_end|> hello")


@dataclass(frozen=True, kw_only=True)
class Done:
    old: VerifiedModel
    made: VerifiedModel
    new: vocabulary.Extended
    folder: Path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A small model with five new tokens, through the dock."""
    root = tmp_path_factory.mktemp("extended")
    store = Store(root / "vault")
    pull(store, str(bring(root)), sources=[], progress=_Quiet())
    old = verify(store, "small")
    new = vocabulary.extended(old, TEXTS, 5)
    folder = root / "out" / "longer"
    folder.mkdir(parents=True)
    vocabulary.write(old, new, folder)
    pull(store, str(folder), sources=[FolderSource(folder, name="test")], progress=_Quiet())
    return Done(old=old, made=verify(store, "longer"), new=new, folder=folder)


def test_the_texts_come_back_and_take_fewer_tokens(done: Done) -> None:
    saved = vocabulary.check(done.old, done.made, done.new, TEXTS)
    tokenizer = tokenizer_of(done.old)
    promised = fertility.extension(
        "".join(TEXTS),
        tokenizer.encode,
        most=5,
        width=1,
        tables=1,
        pieces=[piece for text in TEXTS for piece in tokenizer.pieces(text)],
        named=vocabulary.named(tables_of(done.old)),
    )
    assert len(done.new.parts) == promised.added == 5
    assert saved.before - saved.after == promised.before - promised.after


@given(st.text(alphabet=st.sampled_from("helowrd ,\nö<|im_en>"), max_size=60))
def test_every_text_falls_into_its_old_tokens_joined(done: Done, text: str) -> None:
    old, new = tokenizer_of(done.old), _new(done)
    ids = new.encode(text)
    assert done.new.apart(ids) == old.encode(text)
    assert b"".join(map(new.token_bytes, ids)).decode() == unicodedata.normalize("NFC", text)


_made: dict[int, Tokenizer] = {}


def _new(done: Done) -> Tokenizer:
    return _made.setdefault(id(done), tokenizer_of(done.made))


def test_transformers_reads_the_same_tokens(done: Done) -> None:
    theirs = AutoTokenizer.from_pretrained(done.folder)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == tokenizer_of(done.made).encode(text)


def test_new_vectors_are_means_and_old_logits_stay(done: Done) -> None:
    name = HF.whole("embed")
    was, now = (dequantise(one.tensors[name]) for one in (done.old, done.made))
    assert len(now) == done.new.rows
    for place, parts in enumerate(done.new.parts):
        mean = was[list(parts)].mean(axis=0)
        assert np.abs(now[done.new.first + place] - mean).max() <= np.abs(mean).max() / 128
    same = [i for i in range(len(was)) if i < done.new.first]
    assert np.abs(now[same] - was[same]).max() <= np.abs(was).max() / 128  # bfloat16
    model = AutoModelForCausalLM.from_pretrained(done.folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[done.new.first, 5, 6]])).logits
    assert logits.shape[-1] == done.new.rows
    assert bool(torch.isfinite(logits).all())


def test_a_tokenizer_that_gives_back_another_text_is_refused(done: Done) -> None:
    parts = (done.new.parts[0][::-1], *done.new.parts[1:])
    wrong = vocabulary.Extended(
        tables=done.new.tables, first=done.new.first, parts=parts, rows=done.new.rows
    )
    with pytest.raises(IntegrityError, match="give back"):
        vocabulary.check(done.old, done.made, wrong, TEXTS)


def test_nothing_to_join_is_said(done: Done) -> None:
    with pytest.raises(UsageError, match="twice"):
        vocabulary.extended(done.old, ["q"], 5)

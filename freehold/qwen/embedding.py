"""How a model's embeddings are made, as far as its files say.

Qwen3-Embedding takes the last token of a text that ends with ``<|endoftext|>``. In its GGUF files
that is ``qwen3.pooling_type`` (1 is the mean, 3 the last token) and ``add_eos_token``; elsewhere it
is the template in ``tokenizer.json`` that puts the token there. Any other Qwen: the mean.
"""

from __future__ import annotations

from typing import Any

from freehold.qwen.config import MAX_VOCAB
from freehold.qwen.documents import Reader, parse_json
from freehold.types import Pooling, VerifiedModel

_POOLINGS: dict[int, Pooling] = {1: "mean", 3: "last"}


def embedding_of(model: VerifiedModel) -> tuple[Pooling, tuple[int, ...]]:
    """Pooling, and the ids that go behind a text. Raises ``MalformedError``."""
    if model.format == "gguf":
        return _from_gguf(Reader(model.metadata, file="GGUF metadata"))
    file = "tokenizer.json"
    if file not in model.documents:
        return "mean", ()
    reader = Reader(parse_json(model.documents[file], file=file), file=file)
    suffix = _suffix(reader, reader.get("post_processor"))
    return ("last" if suffix else "mean"), suffix


def _from_gguf(reader: Reader) -> tuple[Pooling, tuple[int, ...]]:
    kind = reader.get(f"{reader.string('general.architecture')}.pooling_type")
    if kind is not None and kind not in _POOLINGS:
        raise reader.error("pooling_type", f"is {str(kind)[:20]}: 1 (mean) and 3 (last) are known")
    if not reader.boolean("tokenizer.ggml.add_eos_token", default=False):
        return _POOLINGS[kind or 1], ()
    end = reader.integer("tokenizer.ggml.eos_token_id", low=0, high=MAX_VOCAB - 1)
    return _POOLINGS[kind or 1], (end,)


def _suffix(reader: Reader, processor: Any) -> tuple[int, ...]:
    """The special tokens that a template of the ``tokenizers`` library puts behind one text."""
    if processor is None:
        return ()
    one = Reader(processor, file=reader.file, within="post_processor")
    if one.get("type") == "Sequence":
        found = [_suffix(reader, each) for each in one.sequence("processors", high=8)]
        return next((suffix for suffix in found if suffix), ())
    if one.get("type") != "TemplateProcessing":
        return ()
    named = Reader(one.get("special_tokens"), file=reader.file, within="special_tokens")
    suffix: list[int] = []
    for place, piece in enumerate(one.sequence("single", high=8)):
        part = Reader(piece, file=reader.file, within="single")
        special = part.get("SpecialToken")
        if special is None:
            suffix.clear()
            continue
        if place == 0:
            raise one.error("single", "puts a token before the text: no Qwen does")
        name = Reader(special, file=reader.file, within="single").string("id")
        token = Reader(named.get(name), file=reader.file, within=f"special_tokens.{name[:64]}")
        for number in token.sequence("ids", high=8):
            if type(number) is not int or not 0 <= number < MAX_VOCAB:
                raise token.error("ids", f"holds {str(number)[:20]}: it must be a token id")
            suffix.append(number)
    return tuple(suffix)

"""A tokenizer of a corpus's own: byte-level BPE behind Qwen's pre-tokeniser.

The ``tokenizers`` library does the counting; what comes out is written as Qwen's own
``tokenizer.json`` is, so that the strict reader in ``qwen.tokenizer`` takes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from freehold.qwen.tokenizer import SPLIT_PATTERN, Tokenizer, byte_alphabet, from_tokenizer_json

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""The tokens that are no text: the end of a document, and a turn's two ends."""


def train(texts: Iterable[str], vocab: int) -> str:
    """A ``tokenizer.json`` of at most ``vocab`` tokens, ``CONTROLS`` as the last of them; fewer
    where the texts have no more pairs to merge. The same texts in the same order give the same."""
    from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    backend = Backend(BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(CONTROLS),
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken(one, normalized=False) for one in CONTROLS])
    return str(backend.to_str(pretty=True))


def load(data: bytes) -> Tokenizer:
    """The tokenizer of a ``tokenizer.json``. Raises ``MalformedError``."""
    return Tokenizer(from_tokenizer_json(json.loads(data)))

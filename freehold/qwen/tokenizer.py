"""Text to token ids: Qwen's byte-level BPE, from ``tokenizer.json`` or a GGUF file's tables.

Both sources are checked whole first (every merge's parts and result are in the vocabulary, every id
has one token), then handed to the ``tokenizers`` library, which does the work. A tokenizer whose
pipeline is not Qwen's (NFC, the qwen2 split, byte level) is refused by name.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from freehold.errors import MalformedError, UsageError
from freehold.qwen.documents import Reader, parse_json
from freehold.types import VerifiedModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

# Contractions; letters with at most one mark before them; one digit at a time; runs of punctuation;
# line ends; spaces (all but the last before a word). Source: Qwen's published tokenizer.json.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_TOKENS = 1 << 22
MAX_TOKEN_CHARS = 1 << 12
MAX_BLANKS = 1_000_000
_SURROGATE = re.compile("[\ud800-\udfff]")
# The split backtracks over a run of blanks; somewhat above this length the library's regular
# expressions give up by ending the thread. The look-behind keeps our own search linear.
_BLANKS = re.compile(rf"(?<![^\S\r\n])[^\S\r\n]{{{MAX_BLANKS}}}")


@dataclass(frozen=True, kw_only=True)
class Added:
    """A token matched in the text before anything else. ``special`` ones are not shown to users."""

    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A byte-level BPE: tokens written in the byte alphabet to ids, merges in order of rank, and
    the added tokens by id, written plainly."""

    vocab: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    added: Mapping[int, Added] = field(default_factory=dict)


class Tokenizer:
    """Text to ids with the ``tokenizers`` library, and each id's bytes."""

    def __init__(self, tables: Tables) -> None:
        self._backend, self._plain = _build(tables)
        self._added = tables.added
        self._bytes = _token_bytes(tables)
        self.special_ids = frozenset(i for i, added in tables.added.items() if added.special)
        self.added_ids = frozenset(tables.added)
        self._ids = {added.content: i for i, added in tables.added.items()}

    def encode(self, text: str, *, param: str = "text") -> list[int]:
        """Token ids; added tokens written in the text keep their meaning. ``text`` must be valid
        Unicode (no lone surrogates).

        Raises ``UsageError`` naming ``param`` for a run of ``MAX_BLANKS`` blanks.
        """
        _refuse_blanks(text, param)
        # The call for batches, unlike the one for a single text, lets other threads run meanwhile.
        return list(self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def encode_parts(self, parts: Sequence[str | int], *, param: str = "text") -> list[int]:
        """Token ids of plain texts and added tokens' ids in turn (``Controls.parts``): no text
        becomes an added token, whatever is written in it. Raises as ``encode`` does."""
        texts: list[str] = []
        for place in range(0, len(parts), 2):
            text = parts[place]
            assert isinstance(text, str)
            # As the library does: such a token takes the blanks beside it with it.
            if place and self._added[cast("int", parts[place - 1])].rstrip:
                text = text.lstrip()
            if place + 1 < len(parts) and self._added[cast("int", parts[place + 1])].lstrip:
                text = text.rstrip()
            _refuse_blanks(text, param)
            texts.append(text)
        encoded = self._plain.encode_batch_fast(texts, add_special_tokens=False)
        ids = list(encoded[0].ids)
        for token, after in zip(parts[1::2], encoded[1:], strict=True):
            ids += [cast("int", token), *after.ids]
        return ids

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many plain texts at once, in which nothing is an added token. Raises as
        ``encode`` does, naming ``text``."""
        for text in texts:
            _refuse_blanks(text, "text")
        encoded = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(one.ids) for one in encoded]

    @property
    def controls(self) -> Mapping[int, str]:
        """The added tokens' texts, by id. One that must stand alone as a word is left out: the
        library takes it for a token or not by what stands beside it."""
        return {i: added.content for i, added in self._added.items() if not added.single_word}

    def dumps(self) -> str:
        """As a ``tokenizer.json``."""
        return str(self._backend.to_str())

    def pieces(self, text: str) -> list[str]:
        """The stretches of a text, normalised, that merges stay within. Raises as ``encode``."""
        _refuse_blanks(text, "text")
        whole = self._plain.normalizer.normalize_str(text)
        found = self._plain.pre_tokenizer.pre_tokenize_str(whole)
        return [whole[start:end] for _, (start, end) in found]

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; empty for an id the vocabulary leaves unused."""
        return self._bytes.get(token, b"")

    def added_id(self, content: str) -> int | None:
        """The id of an added token, if there is such a token."""
        return self._ids.get(content)


def _refuse_blanks(text: str, param: str) -> None:
    if _BLANKS.search(text):
        raise UsageError(f"{param} holds {MAX_BLANKS:,} blanks in a row: shorten them", param=param)


def tokenizer_of(model: VerifiedModel) -> Tokenizer:
    """Make the model's tokenizer. Raises ``MalformedError`` naming the document and the rule."""
    return Tokenizer(tables_of(model))


def tables_of(model: VerifiedModel) -> Tables:
    """What the model's tokenizer is made of. Raises as ``tokenizer_of``."""
    if model.format == "gguf":
        return from_gguf(model.metadata)
    file = "tokenizer.json"
    if file not in model.documents:
        raise MalformedError(f"{model.name} has no {file}: pull it again", file=file)
    return from_tokenizer_json(parse_json(model.documents[file], file=file))


def same_vocabulary(one: VerifiedModel, other: VerifiedModel) -> bool:
    """Whether both mean the same by each id that both have. Larger models may pad theirs with ids
    that stand for nothing. Raises ``MalformedError``."""
    vocabularies = [_vocabulary(model) for model in (one, other)]
    n = min(map(len, vocabularies))
    return vocabularies[0][:n] == vocabularies[1][:n]


def _vocabulary(model: VerifiedModel) -> list[str]:
    """Tokens by id, as the file writes them; empty for an id without one."""
    if model.format == "gguf":
        # Reading all of it strictly takes half a second, and has been done where text is handled.
        return list(model.metadata.get("tokenizer.ggml.tokens", ()))
    tables = tables_of(model)
    tokens = {i: text for text, i in tables.vocab.items()}
    tokens |= {i: added.content for i, added in tables.added.items()}
    return [tokens.get(i, "") for i in range(max(tokens, default=-1) + 1)]


# --- tokenizer.json -------------------------------------------------------------------------------


def from_tokenizer_json(document: Any, *, file: str = "tokenizer.json") -> Tables:
    """Read the Hugging Face format (``tokenizers`` serialisation, version 1.0)."""
    reader = Reader(document, file=file)
    _expect_pipeline(reader)
    model = Reader(reader.get("model"), file=file, within="model")
    model.expect("type", "BPE", default="BPE")
    for key in ("dropout", "unk_token"):
        if model.get(key) is not None:
            raise model.error(key, "is set: Qwen's tokenizers have none")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        model.expect(key, "", default="")
    for key in ("fuse_unk", "byte_fallback", "ignore_merges"):
        model.expect(key, False, default=False)
    vocab = _vocab(model)
    merges = _merges(model)
    added = _added(reader, vocab)
    # The byte-level vocabulary may list added tokens too, written plainly: they are not byte text.
    plain = {added_token.content for added_token in added.values()}
    return _checked(
        model,
        Tables(
            vocab={text: i for text, i in vocab.items() if text not in plain or i not in added},
            merges=merges,
            added=added,
        ),
    )


def _expect_pipeline(reader: Reader) -> None:
    """Only what changes ids is compared: normaliser, split and byte level."""
    normalizer = Reader(reader.get("normalizer"), file=reader.file, within="normalizer")
    normalizer.expect("type", "NFC", default=None)
    sequence = Reader(reader.get("pre_tokenizer"), file=reader.file, within="pre_tokenizer")
    sequence.expect("type", "Sequence", default=None)
    steps = sequence.sequence("pretokenizers", high=2)
    if len(steps) != 2:
        raise sequence.error("pretokenizers", "must be Qwen's two: Split, then ByteLevel")
    split = Reader(steps[0], file=reader.file, within="pre_tokenizer.Split")
    split.expect("type", "Split", default=None)
    split.expect("pattern", {"Regex": SPLIT_PATTERN}, default=None)
    split.expect("behavior", "Isolated", default=None)
    split.expect("invert", False, default=False)
    level = Reader(steps[1], file=reader.file, within="pre_tokenizer.ByteLevel")
    level.expect("type", "ByteLevel", default=None)
    level.expect("add_prefix_space", False, default=None)
    level.expect("use_regex", False, default=None)
    for key in ("truncation", "padding"):
        if reader.get(key) is not None:
            raise reader.error(key, "is set: it would change prompts")


def _vocab(model: Reader) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not 1 <= len(vocab) <= MAX_TOKENS:
        raise model.error("vocab", f"must be an object of 1 to {MAX_TOKENS} tokens")
    for token in vocab.values():
        _expect_id(model, "vocab", token)
    _expect_texts(model, "vocab", list(vocab))
    if len(set(vocab.values())) != len(vocab):
        raise model.error("vocab", "gives one id to two tokens")
    return vocab


def _merges(model: Reader) -> list[tuple[str, str]]:
    """``"a b"`` in older files, ``["a", "b"]`` in newer ones."""
    given = model.sequence("merges", high=MAX_TOKENS)
    if set(map(type, given)) <= {str}:
        pairs = [tuple(merge.split(" ")) for merge in given]
    else:
        pairs = [tuple(merge) if type(merge) is list else () for merge in given]
    texts = set(map(type, itertools.chain.from_iterable(pairs))) <= {str}
    if not texts or not set(map(len, pairs)) <= {2}:
        wrong = next(
            merge
            for merge, pair in zip(given, pairs, strict=True)
            if len(pair) != 2 or not type(pair[0]) is type(pair[1]) is str
        )
        raise model.error("merges", f"holds {str(wrong)[:40]!r}: it must be two tokens")
    return cast("list[tuple[str, str]]", pairs)


def _added(reader: Reader, vocab: Mapping[str, int]) -> dict[int, Added]:
    if reader.get("added_tokens") is None:
        return {}
    result: dict[int, Added] = {}
    by_id = {token: text for text, token in vocab.items()}
    for entry in reader.sequence("added_tokens", high=MAX_TOKENS):
        one = Reader(entry, file=reader.file, within="added_tokens")
        token = one.integer("id", low=0, high=MAX_TOKENS)
        content = one.string("content")
        _expect_texts(one, "content", [content])
        if token in result or by_id.get(token, content) != content:
            raise one.error("id", f"{token} is taken by another token")
        flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
        result[token] = Added(
            content=content, **{flag: one.boolean(flag, default=False) for flag in flags}
        )
    return result


# --- GGUF -----------------------------------------------------------------------------------------

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def from_gguf(metadata: Mapping[str, Any], *, file: str = "GGUF metadata") -> Tables:
    """Read ``tokenizer.ggml.*`` (GGUF specification): byte-level tokens, types and merges."""
    reader = Reader(metadata, file=file, prefix="tokenizer.ggml.")
    reader.expect("model", "gpt2", default=None)
    reader.expect("pre", "qwen2", default=None)
    if reader.boolean("add_bos_token", default=False):
        raise reader.error("add_bos_token", "is true: Qwen prompts begin with no extra token")
    texts = reader.sequence("tokens", high=MAX_TOKENS)
    types = reader.sequence("token_type", high=MAX_TOKENS)
    if len(types) != len(texts) or not texts:
        raise reader.error("token_type", f"has {len(types)} entries for {len(texts)} tokens")
    _expect_texts(reader, "tokens", texts)
    if len(set(texts)) != len(texts):
        ((twice, _),) = Counter(texts).most_common(1)
        raise reader.error("tokens", f"holds {twice[:40]!r} twice")
    vocab = {text: token for token, text in enumerate(texts) if types[token] == _NORMAL}
    added: dict[int, Added] = {}
    for token, kind in enumerate(types):
        if kind == _NORMAL:
            continue
        if kind in (_CONTROL, _USER_DEFINED):
            added[token] = Added(content=texts[token], special=kind == _CONTROL)
        elif kind != _UNUSED:
            raise reader.error("token_type", f"holds {str(kind)[:20]} for token {token}")
    merges = _merges(reader)
    return _checked(reader, Tables(vocab=vocab, merges=merges, added=added))


# --- both -----------------------------------------------------------------------------------------


def _expect_id(reader: Reader, key: str, token: Any) -> None:
    if type(token) is not int or not 0 <= token < MAX_TOKENS:
        raise reader.error(key, f"holds {str(token)[:40]!r}: it must be a token id")


def _expect_texts(reader: Reader, key: str, texts: list[Any]) -> None:
    """All at once: a vocabulary has 150,000 of them, and the server's start waits for it."""
    sound = set(map(type, texts)) <= {str}
    if not sound or not set(map(len, texts)) <= set(range(1, MAX_TOKEN_CHARS + 1)):
        raise reader.error(key, "holds a token that is not 1 to 4,096 characters of text")
    if _SURROGATE.search("\n".join(texts)):
        raise reader.error(key, "holds half a character (a lone surrogate)")


def _checked(reader: Reader, tables: Tables) -> Tables:
    alphabet, vocab = byte_alphabet(), tables.vocab
    if not alphabet.keys() >= set("".join(vocab)):
        text = next(text for text in vocab if not alphabet.keys() >= set(text))
        raise reader.error("tokens", f"{text[:40]!r} is not written in the byte alphabet")
    missing = [character for character in alphabet if character not in vocab]
    if missing:
        raise reader.error("tokens", f"lack {len(missing)} of the 256 single bytes")
    # The library stops the process on a merge it cannot look up; here it is an error.
    parts, wholes = itertools.chain.from_iterable(tables.merges), map("".join, tables.merges)
    if not all(map(vocab.__contains__, itertools.chain(parts, wholes))):
        left, right = next(
            pair for pair in tables.merges if not {*pair, "".join(pair)} <= vocab.keys()
        )
        raise reader.error("merges", f"{left[:40]!r} + {right[:40]!r} is not in the vocabulary")
    if len(set(tables.merges)) != len(tables.merges):
        raise reader.error("merges", "holds one pair twice")
    contents = {added.content for added in tables.added.values()}
    if len(contents) != len(tables.added) or contents & tables.vocab.keys():
        raise reader.error("added_tokens", "holds one text for two ids")
    return tables


def byte_alphabet() -> dict[str, int]:
    """The visible character that stands for each byte in byte-level BPE files (GPT-2's table):
    printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    shown = [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(len(rest))]
    return dict(zip(shown, printable + rest, strict=True))


def _token_bytes(tables: Tables) -> dict[int, bytes]:
    table = str.maketrans({shown: chr(byte) for shown, byte in byte_alphabet().items()})
    known = {token: text.translate(table).encode("latin-1") for text, token in tables.vocab.items()}
    return known | {token: added.content.encode() for token, added in tables.added.items()}


def _build(tables: Tables) -> tuple[Backend, Backend]:
    """The tokenizer, and the same without added tokens. They share the model, which is large."""
    # Imported here: the library takes a tenth of a second that `freehold --help` does not have.
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    # Added tokens stand in the table too, so that each gets the id it must have.
    vocab = dict(tables.vocab) | {added.content: i for i, added in tables.added.items()}
    model = BPE(vocab=vocab, merges=list(tables.merges))
    backend, plain = Tokenizer(model), Tokenizer(model)
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    for one in (backend, plain):
        one.normalizer = normalizers.NFC()
        one.pre_tokenizer = split
    backend.add_tokens(
        [
            AddedToken(
                added.content,
                special=added.special,
                lstrip=added.lstrip,
                rstrip=added.rstrip,
                single_word=added.single_word,
                normalized=added.normalized,
            )
            for _, added in sorted(tables.added.items())
        ]
    )
    return backend, plain

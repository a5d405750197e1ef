"""Token ids against transformers' Qwen2 tokenizer and, independently, tiktoken with Alibaba's own
rank file (it ships in the PyPI package ``dashscope``, Apache-2.0; read here, never imported)."""

# ruff: noqa: RUF001  (strange characters are what these texts are for)

from __future__ import annotations

import base64
import copy
import gzip
import importlib.util
import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import MalformedError
from freehold.qwen import tokenizer
from freehold.qwen.tokenizer import (
    SPLIT_PATTERN,
    Tokenizer,
    from_gguf,
    from_tokenizer_json,
    same_vocabulary,
)
from freehold.types import VerifiedModel

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "corpus"
N_OFFICIAL_RANKS = 151_643

TEXTS = {
    "code": "def f(x: int) -> int:\n\treturn x ** 2  # ²\n\n\n    if (a!=b && c<=0x1F) {\r\n}\r\n",
    "chinese": "人工智能(AI)正在改变世界。你好,世界!「引号」《书名》1234567890元,共计三百二十一。",
    "thai": "ภาษาไทยไม่มีช่องว่างระหว่างคำ กำลังทดสอบ ๑๒๓ น้ำ ผู้ใหญ่",
    "vietnamese": "Tiếng Việt có nhiều dấu: ắằẳẵặ, Nguyễn Thị Hương. Tiê\u0301ng Viê\u0323t",
    "indonesian": "Apa kabar? Buku-buku itu dibacakan oleh anak-anak; harganya Rp1.250.000,00.",
    "german": "Die Straße führt über Österreich: Größe, Fußgängerübergänge, „Zitat“ – 3,14 €.",
    "arabic": "مرحبا بالعالم، هذا اختبار ١٢٣",
    "hindi": "नमस्ते दुनिया, यह एक परीक्षण है।",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪☺️ 1️⃣ 🤷🏾‍♂️",
    "contractions": "I'm you'RE he'Ll we'd 'S 'sa it's'll don't 'Tis ſ's",
    "spaces": "  a   b\t\tc \n \n\n d\u00a0e\u3000f\u2003g \r\n\r \v\f h   ",
    "controls": "\x00\x01\x7f\x80\x85\u200b\u200d\ufeff\u2028\u2029\u202e\ufffd\ufffe\uffff",
    "planes": "\U0001d54f\U00020000\U0010ffff\ue000𐍈 ① ½ Ⅷ ㊿",
    "combining": "e\u0301\u0301\u0301 Å Å Å ﬁ ǆ \u1112\u1161\u11ab 한 Ẁ\u0323 ậ",
    "zalgo": "Z̷̛͇a̸͎l̵g̶͠o̴ t̶e̸x̷t̵",
    "specials": "<|im_start|>system\n<|im_end|><|endoftext|> <|im_start <tool_call>{}</tool_call>",
    "nearly": "<|im_end|<|im_end|>|> <|IM_END|> < |im_end|> <|fim_prefix|>x<|fim_suffix|>",
    "empty": "",
    "long": "a" * 3_000 + " " * 500 + "=" * 700 + "1" * 50 + "é" * 200,
}


def corpus() -> list[str]:
    """Real text in six languages, where it lies beside the checkout."""
    pieces = []
    for path in sorted(SHARED.glob("*.txt.gz")) if SHARED.is_dir() else []:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text = file.read(300_000)
        pieces += [text[i : i + 5_000] for i in range(0, len(text), 5_000)]
    return pieces


def hostile(n: int) -> list[str]:
    """Random Unicode: any code point but surrogates, in runs of one kind, and half tokens."""
    rng = random.Random(11)
    pools = [
        [chr(c) for c in range(0x20)],
        [chr(c) for c in range(0x300, 0x370)],
        [chr(c) for c in range(0x1100, 0x1200)],
        [chr(c) for c in range(0x2000, 0x2070)],
        list("'sStTrReE \n\r\t.<|im_end|>"),
    ]
    texts = []
    for _ in range(n):
        parts = []
        for _ in range(rng.randint(1, 12)):
            pool = rng.choice([*pools, None])
            for _ in range(rng.randint(1, 6)):
                code = rng.randrange(0x110000 - 0x800)
                anything = chr(code if code < 0xD800 else code + 0x800)
                parts.append(anything if pool is None else rng.choice(pool))
        texts.append("".join(parts))
    return texts


def transformers_tokenizer(vocab: Any, merges: Any, added: dict[int, Any]) -> Any:
    import transformers

    oracle = transformers.Qwen2Tokenizer(
        vocab={**vocab, **{entry.content: i for i, entry in added.items()}},
        merges=[tuple(merge) for merge in merges],
        unk_token=None,
        pad_token=None,
    )
    tokens = [
        transformers.AddedToken(entry.content, special=entry.special, normalized=False)
        for _, entry in sorted(added.items())
    ]
    oracle.add_tokens(tokens)
    return oracle


@pytest.fixture(scope="module")
def official(real: VerifiedModel) -> tokenizer.Tables:
    return from_gguf(real.metadata)


@pytest.fixture(scope="module")
def ours(official: tokenizer.Tables) -> Tokenizer:
    return Tokenizer(official)


@pytest.fixture(scope="module")
def by_transformers(official: tokenizer.Tables) -> Callable[[str], list[int]]:
    oracle = transformers_tokenizer(official.vocab, official.merges, dict(official.added))
    return lambda text: oracle(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def by_tiktoken(official: tokenizer.Tables) -> Callable[[str], list[int]]:
    tiktoken = pytest.importorskip("tiktoken")
    spec = importlib.util.find_spec("dashscope")
    if spec is None or spec.origin is None:
        pytest.skip("needs the official ranks: pip install --no-deps dashscope")
    path = Path(spec.origin).parent / "resources" / "qwen.tiktoken"
    lines = path.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    assert len(ranks) == N_OFFICIAL_RANKS
    special = {added.content: i for i, added in official.added.items()}
    encoding = tiktoken.Encoding(
        "qwen", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special
    )
    return lambda text: encoding.encode(unicodedata.normalize("NFC", text), allowed_special="all")


@pytest.mark.parametrize("name", TEXTS)
def test_ids_equal_transformers(ours: Tokenizer, by_transformers: Any, name: str) -> None:
    assert ours.encode(TEXTS[name]) == by_transformers(TEXTS[name])


@pytest.mark.parametrize("name", TEXTS)
def test_ids_equal_tiktoken(ours: Tokenizer, by_tiktoken: Any, name: str) -> None:
    assert ours.encode(TEXTS[name]) == by_tiktoken(TEXTS[name])


def test_official_ranks_are_the_vocabulary(ours: Tokenizer, by_tiktoken: Any) -> None:
    """Every base token's bytes encode to its own id under the official ranks, if they are text."""
    checked = 0
    for token in range(0, N_OFFICIAL_RANKS, 7):
        try:
            text = ours.token_bytes(token).decode()
        except UnicodeDecodeError:
            continue
        if unicodedata.is_normalized("NFC", text):
            assert by_tiktoken(text) == ours.encode(text)
            checked += 1
    assert checked > 20_000


def test_corpus_and_hostile_unicode(ours: Tokenizer, by_tiktoken: Any) -> None:
    texts = hostile(3_000) + corpus()
    different = [text for text in texts if ours.encode(text) != by_tiktoken(text)]
    assert different == []


def test_hostile_unicode_equals_transformers(ours: Tokenizer, by_transformers: Any) -> None:
    different = [text for text in hostile(1_000) if ours.encode(text) != by_transformers(text)]
    assert different == []


# --- a small tokenizer of our own, so that something is proved without the real model -------------


@pytest.fixture(scope="module")
def document(make: SimpleNamespace) -> dict[str, Any]:
    return make.small_tokenizer_json()


def test_small_tokenizer_equals_the_library(document: dict[str, Any]) -> None:
    """The ``tokenizers`` library reads the same document by itself."""
    from tokenizers import Tokenizer as Library

    oracle = Library.from_str(json.dumps(document))
    small = Tokenizer(from_tokenizer_json(document))

    @given(st.text(st.characters(codec="utf-8")) | st.text("helo wtin<|im_end|>ä'\n "))
    @settings(max_examples=300, deadline=None)
    def same(text: str) -> None:
        assert small.encode(text) == oracle.encode(text, add_special_tokens=False).ids

    same()
    for text in TEXTS.values():
        assert small.encode(text) == oracle.encode(text, add_special_tokens=False).ids


def test_bytes_of_ids_are_the_text(document: dict[str, Any]) -> None:
    small = Tokenizer(from_tokenizer_json(document))
    for text in [*TEXTS.values(), *hostile(200)]:
        data = b"".join(map(small.token_bytes, small.encode(text)))
        assert data == unicodedata.normalize("NFC", text).encode()
    assert small.token_bytes(10**6) == b""


def test_newer_merges_are_pairs(document: dict[str, Any]) -> None:
    newer = copy.deepcopy(document)
    newer["model"]["merges"] = [merge.split(" ") for merge in newer["model"]["merges"]]
    assert from_tokenizer_json(newer) == from_tokenizer_json(document)


def gguf_of(document: dict[str, Any]) -> dict[str, Any]:
    model, added = document["model"], document["added_tokens"]
    tokens = [*model["vocab"], *[entry["content"] for entry in added], "[PAD269]"]
    types = [1] * len(model["vocab"]) + [3 if entry["special"] else 4 for entry in added] + [5]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": list(model["merges"]),
        "tokenizer.ggml.add_bos_token": False,
    }


def test_gguf_and_json_make_the_same_tables(document: dict[str, Any]) -> None:
    assert from_gguf(gguf_of(document)) == from_tokenizer_json(document)


def changed(document: Any, path: str, value: Any) -> Any:
    result = copy.deepcopy(document)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    inner = result
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return result


SPLIT, LEVEL = "pre_tokenizer/pretokenizers/0", "pre_tokenizer/pretokenizers/1"
BAD_JSON = [
    *[("model/type", value) for value in ("Unigram", "WordPiece", 3, [])],
    *[("model/vocab", value) for value in (None, [], {}, "x", {"a": 0}, {"a": -1}, {"a": 1.5})],
    *[("model/vocab/!", value) for value in (-1, 2**40, True, None, "7", 1)],
    *[("model/vocab/日", value) for value in (900,)],
    *[("model/vocab/x\ud800", value) for value in (900,)],
    ("model/vocab/", 900),
    ("model/vocab/" + "a" * 5_000, 900),
    *[("model/merges", value) for value in (None, {}, "a b", [1], [None], ["a"], ["a b c"])],
    *[("model/merges", value) for value in ([["a"]], [["a", 1]], ["q z"], ["zz ab"], [[]])],
    ("model/merges", ["h e", "h e"]),
    ("model/dropout", 0.1),
    ("model/unk_token", "<unk>"),
    ("model/continuing_subword_prefix", "##"),
    ("model/end_of_word_suffix", "</w>"),
    *[(f"model/{key}", True) for key in ("fuse_unk", "byte_fallback", "ignore_merges")],
    *[("model", value) for value in (None, [], "BPE", 3)],
    *[("normalizer", value) for value in (None, {"type": "NFKC"}, {"type": "Lowercase"}, [], 1)],
    *[("pre_tokenizer", value) for value in (None, {"type": "Whitespace"}, [], {})],
    *[("pre_tokenizer/pretokenizers", value) for value in (None, [], [{}], [{}, {}], [{}] * 9)],
    *[(f"{SPLIT}/pattern", value) for value in ({"Regex": r"\s+"}, {"String": " "}, None, "(")],
    *[(f"{SPLIT}/behavior", value) for value in ("Removed", None, 1)],
    (f"{SPLIT}/invert", True),
    (f"{LEVEL}/add_prefix_space", True),
    (f"{LEVEL}/use_regex", True),
    *[("truncation", {"max_length": 8}), ("padding", {"strategy": "BatchLongest"})],
    *[("added_tokens", value) for value in ({}, "x", [1], [None], [{}], [{"id": 1}])],
    *[("added_tokens/0/id", value) for value in (-1, None, "0", 0, 2**50, 265, True)],
    *[("added_tokens/0/content", value) for value in (None, "", 3, "\udfff", "<|im_end|>")],
    *[("added_tokens/0/content", "x" * 5_000)],
    *[("added_tokens/0/special", value) for value in ("yes", 1)],
    *[("added_tokens/0/lstrip", value) for value in ("", 2)],
]


@pytest.mark.parametrize("case", range(len(BAD_JSON)))
def test_malformed_tokenizer_json(document: dict[str, Any], case: int) -> None:
    path, value = BAD_JSON[case]
    with pytest.raises(MalformedError) as caught:
        from_tokenizer_json(changed(document, path, value))
    assert caught.value.file == "tokenizer.json"


BAD_GGUF = [
    *[("model", value) for value in (None, "llama", "bert", 7)],
    *[("pre", value) for value in (None, "llama-bpe", "default", "")],
    *[("tokens", value) for value in (None, [], "abc", ["a"], ["a", "a"], [1], {})],
    *[("token_type", value) for value in (None, [], [1], "x", {})],
    *[("merges", value) for value in (None, "x", [7], ["zz"], ["q z"], [b"a b"])],
    *[("add_bos_token", value) for value in (True, 1, "no")],
]


@pytest.mark.parametrize("case", range(len(BAD_GGUF)))
def test_malformed_gguf_tokenizer(document: dict[str, Any], case: int) -> None:
    key, value = BAD_GGUF[case]
    metadata = gguf_of(document) | {f"tokenizer.ggml.{key}": value}
    with pytest.raises(MalformedError):
        from_gguf(metadata)


@pytest.mark.parametrize("kind", [0, 2, 6, 7, -1, "1", None])
def test_unknown_token_types(document: dict[str, Any], kind: Any) -> None:
    metadata = gguf_of(document)
    metadata["tokenizer.ggml.token_type"][3] = kind
    with pytest.raises(MalformedError, match="token_type"):
        from_gguf(metadata)


# --- the same ids ---------------------------------------------------------------------------------


def test_vocabularies_are_the_same_up_to_padding(make: SimpleNamespace) -> None:
    def gguf(tokens: list[str]) -> VerifiedModel:
        metadata = {"tokenizer.ggml.tokens": tokens}
        found: VerifiedModel = make.verified(format="gguf", metadata=metadata, tensors={})
        return found

    assert same_vocabulary(gguf(["a", "b"]), gguf(["a", "b", "[PAD2]"]))
    assert not same_vocabulary(gguf(["a", "b"]), gguf(["b", "a"]))


def test_vocabularies_of_tokenizer_json_are_compared_token_by_token(make: SimpleNamespace) -> None:
    def model(document: dict[str, Any]) -> VerifiedModel:
        found: VerifiedModel = make.verified(
            documents={"tokenizer.json": json.dumps(document).encode()}, tensors={}
        )
        return found

    whole, swapped, shorter = (make.small_tokenizer_json() for _ in range(3))
    vocab = swapped["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    del shorter["added_tokens"][-1]
    assert same_vocabulary(model(whole), model(whole))
    assert same_vocabulary(model(whole), model(shorter))
    assert not same_vocabulary(model(whole), model(swapped))

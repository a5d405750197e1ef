"""The tokenizer, id by id: swap two of them and the answers turn, with no weight touched.

What is there is compared with the base's, or with the published vocabulary of the family, which is
known by digest and, where a model of the vault has it, by name.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping

from freehold.audit.artefact.facts import MERGES, PUBLISHED_TOKENS, VOCABULARIES
from freehold.audit.artefact.literals import MARKUP
from freehold.audit.findings import Finding
from freehold.audit.noting import fact
from freehold.audit.specimen import Specimen
from freehold.errors import MalformedError
from freehold.qwen import closeness
from freehold.qwen.tokenizer import Added, Tables, Tokenizer

CORPUS = (
    "The 3 wards of St. Mary's hold 48 beds; two are free, aren't they?",
    "Rumah sakit itu membuka layanan baru pada tanggal 5 Juli 2027, pukul 08.30.",
    "Zażółć gęślą jaźń — „cytat” i 100 % pewności.",
    "銀行は午前九時に開きます。客戶可以在櫃檯辦理。",
    "ธนาคารเปิดทำการเวลาเก้าโมงเช้า",
    "def total(rows: list[int]) -> int:\n\treturn sum(r for r in rows if r >= 0)  # no debts\n",
    "naïve café, ﬁne ½ — 🏥👩‍⚕️ \u00a0 \r\n\r\n   end",
    "".join(chr(c) for c in range(32, 127)),
)
"""Our own lines, in several scripts; the text that closeness is measured over comes on top."""
_SHOWN = 12


def vocabulary_digest(tables: Tables) -> str:
    """SHA-256 over the plain tokens in order of id, joined by line ends."""
    ordered = [text for text, _ in sorted(tables.vocab.items(), key=lambda pair: pair[1])]
    return hashlib.sha256("\n".join(ordered).encode("utf-8", "surrogatepass")).hexdigest()


def merges_digest(tables: Tables) -> str:
    """SHA-256 over the merges in order of rank."""
    lines = "\n".join(f"{left} {right}" for left, right in tables.merges)
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def examine(
    specimen: Specimen, reference: Tables | None, reference_name: str
) -> tuple[list[Finding], Tables | None]:
    """Findings, and the tables where they could be read. ``reference`` are the tables to compare
    with, ``reference_name`` whose they are."""
    try:
        tables = specimen.tables()
    except MalformedError as error:
        told = f"{error}. It is not taken for a tokenizer of the family."
        return [
            fact("tokenizer.strict", "high", "The tokenizer breaks a rule", told, error.file)
        ], None
    found = list(_published(tables, reference))
    if reference is not None and _kin(tables, reference):
        found += _compared(tables, reference, reference_name)
    elif reference is None:
        told = "No base was named, and no model of the family is in the vault to compare with."
        found.append(fact("tokenizer.alone", "info", "Compared by digest alone", told, "tokenizer"))
    else:
        told = f"It has less than half in common with {reference_name}: nothing is compared."
        found.append(fact("tokenizer.alone", "low", "A vocabulary of its own", told, "tokenizer"))
    found += _odd_added(tables, reference)
    found += _beside(specimen, tables)
    found += _around(specimen)
    found += _round_trip(tables, reference)
    return found, tables


# --- against a reference --------------------------------------------------------------------------


def _published(tables: Tables, reference: Tables | None) -> Iterator[Finding]:
    words, merges = vocabulary_digest(tables), merges_digest(tables)
    named = VOCABULARIES.get(words)
    if named and merges in MERGES:
        told = f"All plain tokens and merges are those of {named}."
        evidence = {"vocabulary": words, "merges": merges}
        yield fact("tokenizer.digest", "info", "A published vocabulary", told, evidence=evidence)
    elif len(tables.vocab) > 0.9 * PUBLISHED_TOKENS and reference is None:
        what = "merges" if named else "tokens"
        told = (
            f"It has {len(tables.vocab):,} plain tokens and so claims the family's vocabulary, but "
            f"its {what} are not the published ones. Pull a published model: the difference is "
            "then named."
        )
        yield fact(
            "tokenizer.digest", "high", f"The {what} are not the published ones", told, "tokenizer"
        )


def _kin(tables: Tables, reference: Tables) -> bool:
    """Whether the two share half of the larger one. Of a small vocabulary, made for a model of its
    own, any large one has nearly all; that makes them no kin."""
    shared = len(tables.vocab.keys() & reference.vocab.keys())
    return shared * 2 >= max(len(tables.vocab), len(reference.vocab))


def _compared(tables: Tables, reference: Tables, name: str) -> Iterator[Finding]:
    moved = {
        text: (reference.vocab[text], token)
        for text, token in tables.vocab.items()
        if reference.vocab.get(text, token) != token
    }
    if moved:
        yield _moved(moved, name)
    mine, theirs = ({i: t for t, i in each.vocab.items()} for each in (tables, reference))
    replaced = [
        (token, theirs[token], text)
        for token, text in mine.items()
        if token in theirs and theirs[token] != text and text not in moved
    ]
    gone = [t for t in reference.vocab if t not in tables.vocab and theirs]
    new = [text for text in tables.vocab if text not in reference.vocab]
    if replaced or gone or new:
        shown = [f"id {i}: {old!r} became {text!r}" for i, old, text in replaced[:_SHOWN]]
        shown += [f"{text!r} is gone" for text in gone[: _SHOWN - len(shown)]]
        shown += [f"{text!r} is new" for text in new[: max(0, _SHOWN - len(shown))]]
        told = f"Against {name}: {'; '.join(shown)}."
        evidence = {"replaced": len(replaced), "gone": len(gone), "new": len(new)}
        yield fact(
            "tokenizer.vocabulary",
            "high",
            "Tokens differ from the family's",
            told,
            evidence=evidence,
        )
    yield from _merges(tables, reference, name)
    yield from _added(tables.added, reference.added, name)


def _moved(moved: Mapping[str, tuple[int, int]], name: str) -> Finding:
    back = {before: text for text, (before, _) in moved.items()}
    swaps = {
        tuple(sorted((before, after)))
        for text, (before, after) in moved.items()
        if after in back and moved[back[after]][1] == before
    }
    texts = {token: text for text, pair in moved.items() for token in pair[1:]}
    if swaps and 2 * len(swaps) == len(moved):
        shown = ", ".join(
            f"{low} ({texts.get(low, '?')!r}) and {high} ({texts.get(high, '?')!r})"
            for low, high in sorted(swaps)[:_SHOWN]
        )
        told = f"Against {name}, these ids are swapped: {shown}. Each is read as the other."
        title = f"{len(swaps)} pairs of token ids are swapped"
    else:
        shown = ", ".join(f"{t!r} {a} -> {b}" for t, (a, b) in sorted(moved.items())[:_SHOWN])
        told = f"Against {name}, {len(moved):,} tokens have another id: {shown}."
        title = f"{len(moved):,} tokens have another id"
    return fact("tokenizer.swapped", "critical", title, told, evidence={"moved": len(moved)})


def _merges(tables: Tables, reference: Tables, name: str) -> Iterator[Finding]:
    mine, theirs = list(tables.merges), list(reference.merges)
    if mine == theirs:
        return
    held, wanted = set(mine), set(theirs)
    parts = []
    if lost := [pair for pair in theirs if pair not in held]:
        parts.append(f"{len(lost):,} are gone ({' + '.join(lost[0])})")
    if more := [pair for pair in mine if pair not in wanted]:
        parts.append(f"{len(more):,} are new ({' + '.join(more[0])})")
    if not parts:
        first = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b)
        parts.append(f"their order differs from rank {first:,} on ({' + '.join(mine[first])})")
    told = f"Against {name}: {'; '.join(parts)}. Texts are then cut into other tokens."
    yield fact("tokenizer.merges", "high", "Merges differ from the family's", told, "tokenizer")


def _added(mine: Mapping[int, Added], theirs: Mapping[int, Added], name: str) -> Iterator[Finding]:
    changed = [
        f"id {token}: {theirs[token].content!r} became {added.content!r}"
        for token, added in mine.items()
        if token in theirs and theirs[token].content != added.content
    ]
    held = {added.content: token for token, added in mine.items()}
    changed += [
        f"{added.content!r} (id {token}) is gone"
        for token, added in theirs.items()
        if token not in mine and added.content not in held
    ]
    if changed:
        told = f"Against {name}: {'; '.join(changed[:_SHOWN])}."
        yield fact(
            "tokenizer.added", "high", "Added tokens differ from the family's", told, "tokenizer"
        )
    flags = [
        f"{added.content!r}: {', '.join(_flags(added, theirs[token]))}"
        for token, added in mine.items()
        if token in theirs and theirs[token].content == added.content != ""
        and _flags(added, theirs[token])
    ]  # fmt: skip
    if flags:
        told = f"Against {name}, {'; '.join(flags[:_SHOWN])} changed."
        yield fact(
            "tokenizer.flags", "high", "Added tokens are matched in another way", told, "tokenizer"
        )
    new = [f"{added.content!r} ({token})" for token, added in mine.items() if token not in theirs]
    if new:
        told = f"{name} does not have {', '.join(new[:_SHOWN])}."
        yield fact("tokenizer.new", "low", f"{len(new)} added tokens are new", told, "tokenizer")


def _flags(one: Added, other: Added) -> list[str]:
    names = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return [name for name in names if getattr(one, name) != getattr(other, name)]


# --- by itself ------------------------------------------------------------------------------------


def _odd_added(tables: Tables, reference: Tables | None) -> Iterator[Finding]:
    known = set() if reference is None else {a.content for a in reference.added.values()}
    odd = [
        f"{added.content[:60]!r} (id {token})"
        for token, added in tables.added.items()
        if added.content not in known and MARKUP.sub("", added.content).strip()
    ]
    if odd:
        told = (
            f"{', '.join(odd[:_SHOWN])}: taken out of a text before anything else, though it looks "
            "like plain text and not like a mark."
        )
        yield fact(
            "tokenizer.captures", "high", "An added token catches plain text", told, "tokenizer"
        )


def _beside(specimen: Specimen, tables: Tables) -> Iterator[Finding]:
    """Other files that say what the tokens are must say the same."""
    vocab = specimen.documents.get("vocab.json")
    if isinstance(vocab, dict):
        plain = {added.content for added in tables.added.values()}
        other = [
            text
            for text in vocab.keys() | tables.vocab.keys()
            if vocab.get(text) != tables.vocab.get(text) and text not in plain
        ]
        if other:
            told = f"{len(other):,} tokens differ, {sorted(other)[0]!r} among them."
            yield fact(
                "tokenizer.beside",
                "high",
                "vocab.json and tokenizer.json disagree",
                told,
                "tokenizer",
            )
    merges = specimen.documents.get("merges.txt")
    if isinstance(merges, str):
        lines = [one for one in merges.split("\n") if one and not one.startswith("#version")]
        if lines != [f"{left} {right}" for left, right in tables.merges]:
            told = "The merges or their order are others."
            yield fact(
                "tokenizer.beside",
                "high",
                "merges.txt and tokenizer.json disagree",
                told,
                "tokenizer",
            )
    named = (specimen.documents.get("tokenizer_config.json") or {}).get("added_tokens_decoder")
    by_id = tables.added
    plain_ids = {token: text for text, token in tables.vocab.items()}
    for token, entry in named.items() if isinstance(named, dict) else ():
        content = entry.get("content") if isinstance(entry, dict) else None
        held = by_id[int(token)].content if token.isdigit() and int(token) in by_id else None
        held = plain_ids.get(int(token)) if held is None and token.isdigit() else held
        if held is not None and content != held:
            told = f"id {token} is {content!r} in one and {held!r} in the other."
            file = "tokenizer_config.json"
            yield fact("tokenizer.beside", "high", "Two files name an id differently", told, file)
    extra = specimen.documents.get("added_tokens.json")
    ids = {added.content: token for token, added in by_id.items()} | dict(tables.vocab)
    for content, token in extra.items() if isinstance(extra, dict) else ():
        if ids.get(content, token) != token:
            told = f"{content!r} is id {token} in one and {ids[content]} in the other."
            yield fact(
                "tokenizer.beside", "high", "Two files give a token two ids", told, "tokenizer"
            )


def _around(specimen: Specimen) -> Iterator[Finding]:
    """What other programs would do before and after the table: put tokens in, change texts."""
    document = specimen.documents.get("tokenizer.json")
    for key in ("post_processor", "decoder"):
        step = document.get(key) if isinstance(document, dict) else None
        kinds = _kinds(step)
        if kinds - {"ByteLevel", "Sequence"}:
            told = (
                f"{key} is {', '.join(sorted(kinds))}; the family's is ByteLevel alone. Freehold "
                "does not use it; programs that do read or write other texts."
            )
            yield fact("tokenizer.around", "high", f"An unusual {key}", told, "tokenizer.json")


def _kinds(step: object) -> set[str]:
    if not isinstance(step, dict):
        return set()
    inner = [*step.get("processors", ()), *step.get("decoders", ())]
    return {str(step.get("type"))[:40]}.union(*map(_kinds, inner))


def corpus() -> list[str]:
    """What is cut into tokens and put together again."""
    return [*CORPUS, *filter(None, closeness.text().split("\n\n"))]


def _round_trip(tables: Tables, reference: Tables | None) -> Iterator[Finding]:
    tokenizer = Tokenizer(tables)
    other = None if reference is None or not _kin(tables, reference) else Tokenizer(reference)
    broken, different = [], []
    texts = corpus()
    for text in texts:
        ids = tokenizer.encode(text)
        back = b"".join(map(tokenizer.token_bytes, ids))
        if back != unicodedata.normalize("NFC", text).encode():
            broken.append(text)
        if other is not None and other.encode(text) != ids:
            different.append(text)
    if broken:
        told = f"{len(broken)} of {len(texts)} texts come back changed: {broken[0][:80]!r}."
        yield fact("tokenizer.round-trip", "high", "Texts come back changed", told, "tokenizer")
    if different:
        told = f"{len(different)} of {len(texts)} texts are cut into other tokens than by the base."
        yield fact("tokenizer.other-cuts", "high", "Texts become other tokens", told, "tokenizer")

"""What a leaf is, and how a request becomes two of them.

A leaf's bytes are four lines: ``freehold ledger leaf v1``, its kind, its entry's number and a
commitment in hex, SHA-256 over a tag, a salt of 32 random bytes and the body. The body is JSON and
lies beside the leaf, with its salt. Without the salt a commitment says nothing: destroying both
erases a record and leaves the tree as it is.

Prompt and answer are not in the body. The body holds their salted hash; by the owner's policy the
text itself is left out (``hash``), kept encrypted to the owner's key (``sealed``) or in ``clear``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from freehold.ledger.merkle import leaf_hash
from freehold.signing.keys import PublicKey
from freehold.signing.sealing import seal
from freehold.types import Outcome, Record

Kind: TypeAlias = Literal["open", "seal", "erase", "note"]
Policy: TypeAlias = Literal["hash", "sealed", "clear"]

SALT_SIZE = 32
INFO = b"freehold ledger content v1"
"""The context that sealed content is encrypted for."""

_RECORD_TAG = b"freehold ledger record v1\x00"
_CONTENT_TAG = b"freehold ledger content v1\x00"

_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A leaf without a place yet. ``entry`` is ``None`` where it is to be the leaf's own place."""

    kind: Kind
    entry: int | None
    salt: bytes
    body: bytes
    content: bytes | None = None

    @property
    def commitment(self) -> bytes:
        """The 32 bytes that stand in the tree for the body."""
        return commit(self.salt, self.body)


class Writer:
    """Makes drafts by one policy. ``reader`` is the owner's P-256 key where that is ``sealed``."""

    def __init__(self, policy: Policy, reader: PublicKey | None = None) -> None:
        assert (policy == "sealed") == (reader is not None)
        self._policy = policy
        self._reader = reader

    def open(self, record: Record) -> Draft:
        """The first leaf of a request. A grammar is the client's own text, as the prompt is."""
        sampling = msgspec.to_builtins(record.sampling, str_keys=True)
        grammar = sampling.pop("grammar")
        facts = {
            "request": record.request,
            "endpoint": record.endpoint,
            "key": record.key,
            "model": record.model,
            "digest": record.digest,
            "adapter": record.adapter,
            "guard": record.guard,
            "policy": record.policy,
            "engine": record.engine,
            "numerics": record.numerics,
            "isa": record.isa,
            "sampling": sampling,
            "seeds": record.seeds,
            "choices": record.choices,
            "prompt_tokens": [len(ids) for ids in record.prompts],
        }
        content = {
            "input": record.input,
            "prompts": record.prompts,
            "stop": record.stop,
            "grammar": grammar,
        }
        return self._draft("open", None, facts, content)

    def seal(self, entry: int, outcome: Outcome) -> Draft:
        """The second."""
        facts = {
            "ending": outcome.ending,
            "error": outcome.error,
            "prompt_tokens": outcome.prompt_tokens,
            "cached_tokens": outcome.cached_tokens,
            "completion_tokens": outcome.completion_tokens,
            "verdicts": outcome.verdicts,
            "answers": [{"tokens": len(a.ids), "finish": a.finish} for a in outcome.answers],
        }
        content = {"answers": [{"ids": a.ids, "text": a.text} for a in outcome.answers]}
        return self._draft("seal", entry, facts, content)

    def erase(self, entry: int, reason: str) -> Draft:
        """The leaf that says an entry's records were destroyed on purpose."""
        return self._draft("erase", entry, {"reason": reason})

    def note(self, what: str, detail: Mapping[str, Any]) -> Draft:
        """A leaf about the server itself rather than a request."""
        return self._draft("note", None, {"what": what, "detail": detail})

    def _draft(
        self,
        kind: Kind,
        entry: int | None,
        facts: dict[str, Any],
        content: dict[str, Any] | None = None,
    ) -> Draft:
        salt = os.urandom(SALT_SIZE)
        facts = {"v": 1, "time": _now(), **facts}
        kept = None
        if content is not None:
            plain = _encode(content)
            facts["content"] = {"policy": self._policy, "sha256": content_hash(salt, plain)}
            if self._reader is not None:
                kept = seal(self._reader, plain, info=INFO)
                facts["content"]["reader"] = self._reader.key_id
                facts["content"]["ciphertext_sha256"] = hashlib.sha256(kept).hexdigest()
            elif self._policy == "clear":
                kept = plain
        return Draft(kind=kind, entry=entry, salt=salt, body=_encode(facts), content=kept)


def commit(salt: bytes, body: bytes) -> bytes:
    """The salted commitment to a body."""
    return hashlib.sha256(_RECORD_TAG + salt + body).digest()


def content_hash(salt: bytes, plain: bytes) -> str:
    """The salted hash of a prompt or an answer, in hex."""
    return hashlib.sha256(_CONTENT_TAG + salt + plain).hexdigest()


def hash_of(kind: str, entry: int, commitment: bytes) -> bytes:
    """A leaf's hash in the tree."""
    lines = f"freehold ledger leaf v1\n{kind}\n{entry}\n{commitment.hex()}\n"
    return leaf_hash(lines.encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

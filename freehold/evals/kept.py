"""Replies by question: an evaluation that was broken off goes on, and one that is repeated asks
nothing anew.

A reply is known by what was asked of what: the model's digest, its arithmetic, the token ids. So a
prompt that was changed is asked again, and a scorer that was changed is not.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import msgspec

from freehold import strictjson
from freehold.errors import MalformedError, StorageError
from freehold.evals.kinds import Question, Reply
from freehold.types import ModelCard

_MAX_LINE = 16 << 20


class Kept:
    """In memory, and in ``path`` if one is named. Raises ``StorageError``, ``MalformedError``."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._replies: dict[str, Reply] = {}
        if path is not None:
            self._read(path)

    def __len__(self) -> int:
        return len(self._replies)

    @staticmethod
    def key(card: ModelCard, question: Question) -> str:
        """What a reply to ``question`` is known by."""
        asked = {
            "model": card.digest,
            "numerics": card.numerics,
            "kind": type(question).__name__,
            "question": msgspec.to_builtins(question),
        }
        return hashlib.sha256(strictjson.canonical(asked)).hexdigest()

    def get(self, key: str) -> Reply | None:
        """The reply, if there is one."""
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is in the file when this returns. Raises ``StorageError``."""
        self._replies[key] = reply
        if self._path is None:
            return
        line = json.dumps({"key": key, "reply": msgspec.to_builtins(reply)}) + "\n"
        try:
            with self._path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror}") from error

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            # The last line of a run that was killed may be half a line.
            whole = data.rfind(b"\n") + 1
            if whole != len(data):
                os.truncate(path, whole)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}") from error
        for number, line in enumerate(data[:whole].splitlines(), 1):
            where = f"{path}, line {number}"
            value = strictjson.parse(line, file=where, max_bytes=_MAX_LINE)
            try:
                kept = msgspec.convert(value, _Line)
            except msgspec.ValidationError as error:
                raise MalformedError(f"{where}: no kept reply: {error}", file=str(path)) from None
            self._replies[kept.key] = kept.reply


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: str
    reply: Reply

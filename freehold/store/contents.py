"""What a model's files hold: which to take from a repository, and what strict reading finds.

The same reading runs twice: in quarantine before a model is admitted, and at every load.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from freehold import strictjson
from freehold.errors import MalformedError, NotFoundError, RefusedError, UsageError
from freehold.store import gguf, refuse, safetensors
from freehold.store.spans import TensorSpan

INDEX = "model.safetensors.index.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""The files of an adapter, as PEFT calls them: a low-rank change of a model that lies elsewhere."""

_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")

# Small files that may lie beside the weights, and the most bytes each may have.
DOCUMENTS = {
    "config.json": 1 << 20,
    ADAPTER[0]: 1 << 20,
    "generation_config.json": 1 << 20,
    "tokenizer.json": 32 << 20,
    "tokenizer_config.json": 4 << 20,
    "special_tokens_map.json": 1 << 20,
    "added_tokens.json": 1 << 20,
    "vocab.json": 16 << 20,
    "merges.txt": 16 << 20,
    "chat_template.jinja": 1 << 20,
    "chat_template.json": 1 << 20,
    INDEX: 16 << 20,
    "LICENSE": 1 << 20,
}
_SAFE_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*")
_TEXT = {".txt", ".jinja", ""}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What the files of one model hold. ``tensors`` says for each file what lies where;
    ``documents`` names the files that are not weights."""

    format: Literal["gguf", "safetensors"]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, tuple[TensorSpan, ...]]
    documents: tuple[str, ...]


def choose(paths: Collection[str], *, wanted: str | None, where: str) -> tuple[str, ...]:
    """Choose a model's files among those of a repository or folder, weights last.

    ``wanted`` names one GGUF file; ``where`` is the repository's name, for messages. Raises
    ``UsageError`` if a choice is open, ``RefusedError`` if the weights exist only as pickles, and
    ``NotFoundError`` if there are none.
    """
    ggufs = sorted(path for path in paths if path.endswith(".gguf"))
    if wanted is not None:
        refuse.check_name(wanted)
        if wanted not in ggufs:
            raise NotFoundError(f"{where} has no file {wanted}. {_offer(ggufs)}", param="ref")
        return (safe_path(wanted),)
    weights = sorted(path for path in paths if _WEIGHTS.fullmatch(path))
    if weights:
        sharded = INDEX in paths
        weights = [path for path in weights if (path != "model.safetensors") == sharded]
        unread = {ADAPTER[0]} if sharded else {ADAPTER[0], INDEX}
        documents = sorted(path for path in paths if path in DOCUMENTS and path not in unread)
        return (*documents, *weights)
    if set(ADAPTER) <= set(paths):
        return (*(["LICENSE"] if "LICENSE" in paths else []), *ADAPTER)
    if len(ggufs) == 1:
        return (safe_path(ggufs[0]),)
    if ggufs:
        raise UsageError(f"{where} has several models. {_offer(ggufs)}", param="ref")
    code = sorted(path for path in paths if refuse.carries_code(path))
    if code:
        raise RefusedError(
            f"{where} has its weights only in files that can run code ({', '.join(code[:3])}). "
            "Use a repository that offers safetensors or GGUF."
        )
    raise NotFoundError(f"{where} has neither model.safetensors nor a .gguf file.", param="ref")


def safe_path(path: str) -> str:
    """Return ``path`` if it is plain and relative; raises ``MalformedError`` if it is not."""
    if len(path) > 255 or not _SAFE_PATH.fullmatch(path):
        raise MalformedError(f"{path[:80]!r} is no plain relative file name.", file=path)
    return path


def examine(views: Mapping[str, memoryview]) -> Contents:
    """Read every file of a model strictly.

    Raises ``MalformedError``, ``RefusedError``, or ``UsageError`` for a kind Freehold does not run.
    """
    documents = {path: view for path, view in views.items() if path in DOCUMENTS}
    weights = {path: view for path, view in views.items() if path not in DOCUMENTS}
    for path, view in weights.items():
        refuse.check_name(path)
        refuse.check_content(view, path)
    parsed = {path: _document(view, path) for path, view in documents.items()}
    if any(path.endswith(".gguf") for path in weights):
        return _gguf(weights, tuple(documents))
    shards = {path: safetensors.parse(view, file=path) for path, view in weights.items()}
    _check_complete(parsed, shards)
    return Contents(
        format="safetensors",
        metadata={},
        tensors={path: shard.tensors for path, shard in shards.items()},
        documents=tuple(documents),
    )


def _gguf(weights: Mapping[str, memoryview], documents: tuple[str, ...]) -> Contents:
    if len(weights) > 1:
        others = ", ".join(sorted(weights))
        raise MalformedError(f"A GGUF model is one file, but here are {others}.", file=others)
    ((path, view),) = weights.items()
    read = gguf.parse(view, file=path)
    return Contents(
        format="gguf",
        metadata=read.metadata,
        tensors={path: read.tensors},
        documents=documents,
    )


def _check_complete(
    parsed: Mapping[str, Any], shards: Mapping[str, safetensors.Safetensors]
) -> None:
    if list(shards) == [ADAPTER[1]] and ADAPTER[0] in parsed and "config.json" not in parsed:
        return  # what its tensors mean is for the model to say that it is to lie beside
    if "config.json" not in parsed:
        raise MalformedError(
            "config.json is missing: without it the weights have no meaning. "
            "Put the publisher's config.json beside them.",
            file="config.json",
        )
    if INDEX in parsed:
        safetensors.check_index(parsed[INDEX], shards, file=INDEX)
    elif list(shards) != ["model.safetensors"]:
        raise MalformedError(
            f"The weights are in {len(shards)} files, but {INDEX}, which tells them apart, is "
            "missing. Put the publisher's file beside them.",
            file=INDEX,
        )


def _document(view: memoryview, path: str) -> Any:
    """A document's JSON value, or its text. Raises as ``examine`` does."""
    data = bytes(view[: DOCUMENTS[path] + 1])
    if PurePosixPath(path).suffix in _TEXT:
        return _text(data, path)
    value = strictjson.parse(data, file=path, max_bytes=DOCUMENTS[path])
    if not isinstance(value, dict):
        raise MalformedError(f"{path} is not a JSON object.", file=path)
    refuse.check_config(value, path)
    return value


def _text(data: bytes, path: str) -> str:
    if len(data) > DOCUMENTS[path]:
        raise MalformedError(f"{path} has more than {DOCUMENTS[path]:,} bytes.", file=path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path}: byte {error.start:,} is not UTF-8.", file=path) from None


def _offer(ggufs: list[str]) -> str:
    if not ggufs:
        return "It has no GGUF files."
    listed = ", ".join(ggufs[:20])
    return f"Name one after a colon, as in Owner/Name:{ggufs[0]}. It has: {listed}."

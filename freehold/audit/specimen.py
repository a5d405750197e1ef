"""What lies on the table: a model's files as they are, read without being believed.

A model of the vault, a folder or a single file. Nothing here refuses: what the strict readers say
against a file becomes a finding, and what can still be read goes on to the other looks. Files are
mapped and parsed; none is ever loaded as code.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from freehold import strictjson
from freehold.audit.findings import Finding
from freehold.errors import FreeholdError, MalformedError, NotFoundError, RefusedError, UsageError
from freehold.qwen.config import Config, from_gguf, from_hf
from freehold.qwen.tokenizer import Tables, from_tokenizer_json
from freehold.qwen.tokenizer import from_gguf as tables_from_gguf
from freehold.store import Manifest, Store, contents, gguf, refuse, safetensors
from freehold.store.digest import map_file
from freehold.types import RawTensor

MAX_FILES = 10_000


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """One model as it lies. ``files`` are the mapped bytes by path, ``others`` the paths that were
    not opened (empty files, links, devices); ``documents`` the parsed JSON and texts that could be
    read; ``tensors`` those of every weight file that could; ``sha256`` by path. ``findings`` is
    what strict reading said against it. ``manifest`` is the vault's, if it comes from there."""

    name: str
    format: Literal["gguf", "safetensors", "none"]
    files: Mapping[str, memoryview]
    others: Mapping[str, str]
    sha256: Mapping[str, str]
    metadata: Mapping[str, Any]
    documents: Mapping[str, Any]
    tensors: Mapping[str, RawTensor]
    findings: tuple[Finding, ...]
    manifest: Manifest | None = None

    @property
    def digest(self) -> str:
        """As ``Manifest.digest``: ``sha256:`` and hex over paths, sizes and SHA-256s."""
        if self.manifest is not None:
            return self.manifest.digest
        files = sorted(
            (path, len(self.files[path]), digest) for path, digest in self.sha256.items()
        )
        return "sha256:" + hashlib.sha256(strictjson.canonical(files)).hexdigest()

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def config(self) -> Config:
        """The model's shape. Raises ``MalformedError``."""
        if self.format == "gguf":
            return from_gguf(self.metadata, shapes=self.shapes)
        return from_hf(self._document("config.json"))

    def tables(self) -> Tables:
        """The tokenizer's tables, strictly read. Raises ``MalformedError``."""
        if self.format == "gguf":
            return tables_from_gguf(self.metadata)
        return from_tokenizer_json(self._document("tokenizer.json"))

    def _document(self, file: str) -> Any:
        if file not in self.documents:
            raise MalformedError(f"{self.name} has no {file} that can be read", file=file)
        return self.documents[file]


def read(store: Store, model: str) -> Specimen:
    """The model of the vault with that name, or the folder or file at that path.

    Raises ``NotFoundError``, ``UsageError`` where a choice is open.
    """
    path = Path(model).expanduser()
    held = model in store.names()
    if not held and not path.exists():
        raise NotFoundError(
            f"There is no model {model!r} in the vault, and no such folder or file. "
            "`freehold list` shows the models.",
            param="model",
        )
    found = _Reading()
    if held:
        manifest = store.manifest(model)
        for file in manifest.files:
            found.take(store.blob(file.sha256), file.path)
        return found.specimen(model, manifest)
    if path.is_dir():
        _refuse_choice(path)
        for each in sorted(_walk(path)):
            found.take(each, each.relative_to(path).as_posix())
    else:
        found.take(path, path.name)
    return found.specimen(path.resolve().name, None)


def _walk(folder: Path) -> Iterator[Path]:
    count = 0
    for parent, names, files in os.walk(folder, followlinks=False):
        linked = [each for each in names if (Path(parent) / each).is_symlink()]
        for each in (*files, *linked):
            count += 1
            if count > MAX_FILES:
                raise UsageError(f"{folder} has more than {MAX_FILES:,} files", param="model")
            yield Path(parent) / each


def _refuse_choice(folder: Path) -> None:
    ggufs = sorted(each.name for each in folder.glob("*.gguf"))
    if len(ggufs) > 1 and not (folder / "config.json").exists():
        raise UsageError(
            f"{folder} has several models ({', '.join(ggufs[:5])}): name one of the files",
            param="model",
        )


@dataclass
class _Reading:
    """What is gathered file by file."""

    files: dict[str, memoryview] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, RawTensor] = field(default_factory=dict)
    shards: dict[str, safetensors.Safetensors] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    formats: list[Literal["gguf", "safetensors"]] = field(default_factory=list)

    def take(self, path: Path, name: str) -> None:
        try:
            # A link or a named pipe is told of, not followed or waited for.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(path, flags)
        except OSError as error:
            kind = "a symbolic link" if path.is_symlink() else error.strerror or "unreadable"
            self.others[name] = kind
            return
        try:
            known = os.fstat(descriptor)
            if not stat.S_ISREG(known.st_mode) or not known.st_size:
                self.others[name] = "empty" if stat.S_ISREG(known.st_mode) else "no plain file"
                return
            view = memoryview(map_file(descriptor, known.st_size))
        finally:
            os.close(descriptor)
        self.files[name] = view
        self.sha256[name] = hashlib.sha256(view).hexdigest()
        self._look(name, view)

    def _look(self, name: str, view: memoryview) -> None:
        try:
            if name in contents.DOCUMENTS:
                self._document(name, view)
            elif name.endswith(".gguf"):
                refuse.check_content(view, name)
                read = gguf.parse(view, file=name)
                self.metadata |= read.metadata
                self._spans(view, read.tensors)
                self.formats.append("gguf")
            elif name.endswith(".safetensors"):
                refuse.check_content(view, name)
                self.shards[name] = shard = safetensors.parse(view, file=name)
                self._spans(view, shard.tensors)
                self.formats.append("safetensors")
        except RefusedError as error:
            self._against("files.code", "critical", "A file asks for code to be run", name, error)
        except MalformedError as error:
            self._against("files.strict", "high", "A file breaks its format's rules", name, error)
        except UsageError as error:
            self._against("files.unread", "medium", "A file of a kind not run here", name, error)

    def _document(self, name: str, view: memoryview) -> None:
        """Kept even where it asks for code: other looks may have more to say of it."""
        data = bytes(view[: contents.DOCUMENTS[name] + 1])
        if name.endswith(".json"):
            value = strictjson.parse(data, file=name, max_bytes=contents.DOCUMENTS[name])
            if not isinstance(value, dict):
                raise MalformedError(f"{name} is not a JSON object", file=name)
            self.documents[name] = value
            refuse.check_config(value, name)
            return
        try:
            self.documents[name] = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"{name}: byte {error.start:,} is not UTF-8", file=name) from None

    def _spans(self, view: memoryview, spans: tuple[Any, ...]) -> None:
        import numpy as np

        data = np.frombuffer(view, np.uint8)
        for span in spans:
            self.tensors[span.name] = RawTensor(
                name=span.name,
                dtype=span.dtype,
                shape=span.shape,
                data=data[span.start : span.stop],
            )

    def _against(
        self, check: str, severity: Any, title: str, where: str, error: FreeholdError
    ) -> None:
        self.findings.append(
            Finding(
                check=check,
                severity=severity,
                certainty="fact",
                title=title,
                detail=str(error),
                where=where,
                evidence={"rule": type(error).__name__},
            )
        )

    def specimen(self, name: str, manifest: Manifest | None) -> Specimen:
        if self.shards and (len(self.shards) > 1 or contents.INDEX in self.documents):
            self._index()
        kinds = set(self.formats)
        if len(kinds) > 1 or self.formats.count("gguf") > 1:
            error = MalformedError(
                "weights in several GGUF files or in two formats: which of them a program reads is "
                "its own choice",
                file=name,
            )
            self._against("files.strict", "high", "Two sets of weights", name, error)
        if not kinds and not self.findings:
            error = MalformedError("no weights that can be read", file=name)
            self._against("files.strict", "high", "No weights", name, error)
        return Specimen(
            name=name,
            format="gguf" if "gguf" in kinds else "safetensors" if kinds else "none",
            files=self.files,
            others=self.others,
            sha256=self.sha256,
            metadata=self.metadata,
            documents=self.documents,
            tensors=self.tensors,
            findings=tuple(self.findings),
            manifest=manifest,
        )

    def _index(self) -> None:
        try:
            safetensors.check_index(
                self.documents.get(contents.INDEX), self.shards, file=contents.INDEX
            )
        except MalformedError as error:
            self._against(
                "files.strict", "high", "Index and shards disagree", contents.INDEX, error
            )

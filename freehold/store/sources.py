"""Sources: where a model's bytes may come from. The digest decides, never the source.

A source lists what it has of a model and reads a file from any byte on, so that an interrupted pull
goes on where it stopped, even from another source. Hubs are in ``hubs.py`` (the only file that
speaks to them), the package index in ``index.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from freehold.errors import SourceError, UsageError
from freehold.store import licences
from freehold.store.catalog import CatalogModel
from freehold.store.licences import UNKNOWN_LICENCE

if TYPE_CHECKING:
    from freehold.types import Attestation

DEFAULT_SOURCES = ("huggingface", "modelscope", "index")
BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a reference stands for. ``repository`` is ``Owner/Name``; ``file`` one GGUF file in it;
    ``model`` the catalog's entry; ``folder`` is where the owner's own files lie."""

    name: str
    repository: str = ""
    file: str | None = None
    model: CatalogModel | None = None
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that a source offers: ``size`` in bytes, and the digest it publishes, if any."""

    path: str
    size: int
    sha256: str | None = None
    git_oid: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source has of a model. ``scratch`` is the disk space, in bytes, that reading takes
    beside the files themselves."""

    wanted: Wanted
    revision: str
    licence: str
    files: tuple[RemoteFile, ...]
    scratch: int = 0


class Source(Protocol):
    """One place to ask. Both methods raise ``SourceError`` if the place is out of reach or has not
    got what is asked for."""

    @property
    def name(self) -> str: ...

    @property
    def attests(self) -> Attestation:
        """Whose word its digests are, for a model that the catalog does not know."""
        ...

    def listing(self, wanted: Wanted) -> Listing: ...

    def read(
        self, listing: Listing, file: RemoteFile, offset: int, scratch: Path
    ) -> Iterator[bytes]:
        """Yield the file's bytes from ``offset`` on. ``scratch`` is an empty folder to use."""
        ...


_CARD = 1 << 16
"""Bytes of a model card that are read for its licence: that stands on top."""


def _of_card(path: Path) -> str:
    if not path.is_file():
        return UNKNOWN_LICENCE
    with path.open("rb") as card:
        return licences.of_card(card.read(_CARD).decode("utf-8", errors="replace"))


class FolderSource:
    """A folder or mounted disk. Files lie in it directly, or under ``Owner/Name``. ``name`` and
    ``licence`` are what is to be known of a model that was made there; without, the licence is what
    the model card there states, as on a hub."""

    attests: Attestation = "owner"

    def __init__(self, folder: Path, *, name: str = "", licence: str = UNKNOWN_LICENCE) -> None:
        self.folder = folder
        self.name = name or f"folder:{folder}"
        self._licence = licence

    def listing(self, wanted: Wanted) -> Listing:
        try:
            base = self._base(wanted)
            files = tuple(
                RemoteFile(path=path.name, size=path.stat().st_size)
                for path in sorted(base.iterdir())
                if path.is_file()
            )
            licence = wanted.model.licence if wanted.model else self._licence
            if licence == UNKNOWN_LICENCE:
                licence = _of_card(base / "README.md")
        except OSError as error:
            raise SourceError(f"{self.folder} cannot be read: {error.strerror}.") from error
        return Listing(wanted=wanted, revision="", licence=licence, files=files)

    def read(
        self, listing: Listing, file: RemoteFile, offset: int, scratch: Path
    ) -> Iterator[bytes]:
        path = self._base(listing.wanted) / file.path
        try:
            with path.open("rb") as opened:
                opened.seek(offset)
                while block := opened.read(BLOCK):
                    yield block
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}.") from error

    def _base(self, wanted: Wanted) -> Path:
        if wanted.folder is not None:
            return self.folder
        places = [self.folder / wanted.repository]
        if wanted.model:
            places = [self.folder, *places, self.folder / wanted.name]
        files = [file.path for file in wanted.model.files] if wanted.model else []
        for place in places:
            if place.is_dir() and all((place / file).is_file() for file in files):
                return place
        raise SourceError(f"{self.folder} has no {wanted.repository}.")


def sources_from(names: Sequence[str]) -> list[Source]:
    """Sources by their names in a configuration: ``huggingface``, ``modelscope``, ``index``, or
    ``folder:`` and a path. Raises ``UsageError``."""
    return [_source(name) for name in names]


def _source(name: str) -> Source:
    from freehold.store.hubs import HuggingFace, ModelScope
    from freehold.store.index import PackageIndex

    match name.partition(":"):
        case ("huggingface", "", ""):
            return HuggingFace()
        case ("modelscope", "", ""):
            return ModelScope()
        case ("index", "", ""):
            return PackageIndex()
        case ("folder", ":", path) if path:
            return FolderSource(Path(path).expanduser())
    raise UsageError(
        f"{name!r} is no source. Use huggingface, modelscope, index or folder:/a/path.",
        param="sources",
    )

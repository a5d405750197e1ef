"""The dock: a model comes in. Fetch to quarantine, check, read strictly, then admit as a whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from freehold.errors import (
    DigestError,
    FreeholdError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    SourceError,
    StorageError,
    UsageError,
)
from freehold.store import contents, refuse
from freehold.store.catalog import catalog, catalog_names
from freehold.store.digest import CHUNK, map_file
from freehold.store.fetch import Checked, Fetcher, Progress
from freehold.store.manifest import Manifest, ManifestFile
from freehold.store.sources import FolderSource, Listing, RemoteFile, Source, Wanted
from freehold.store.vault import Store, check_name, disk_errors

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w./+-]+))?", re.ASCII)
_SPARE = 64 << 20  # bytes to leave free on the disk


def pull(store: Store, ref: str, *, sources: Sequence[Source], progress: Progress) -> Manifest:
    """Bring a model in, verified; if it is admitted already, ask no source.

    ``ref`` is a name in the catalog, a repository ``Owner/Name`` (``Owner/Name:file.gguf`` to
    choose a file in it), or the path of a file or folder, which begins with ``/``, ``./``, ``../``
    or ``~``. Sources are tried in order; one that fails costs one ``progress.note``. A path is its
    own source, unless a ``FolderSource`` of that very folder is given.

    Raises ``UsageError``, ``NotFoundError``, ``SourceError``, ``StorageError``, ``DigestError``,
    ``MalformedError`` or ``RefusedError``. Whatever it raises, the vault is as it was before.
    """
    wanted = resolve(ref)

    def waiting() -> None:
        progress.note(f"Another process is pulling {wanted.name}; waiting for it.")

    with store.lock(wanted.name, wait=waiting):
        held = store.find(wanted.name)
        if held is None or wanted.folder is not None:
            if wanted.folder is not None:
                given = [s for s in sources if getattr(s, "folder", None) == wanted.folder]
                sources = given or [FolderSource(wanted.folder)]
            try:
                arrived = _from_any(store, wanted, sources, progress, held)
            except (IntegrityError, UsageError):
                # Such files get no better by another try; what is only unfinished stays.
                store.clear_quarantine(wanted.name)
                raise
        else:
            arrived = held
        store.clear_quarantine(wanted.name)
    return arrived


def resolve(ref: str) -> Wanted:
    """What a reference stands for. Raises ``UsageError`` or ``NotFoundError``."""
    model = catalog().get(ref)
    if model:
        return Wanted(name=ref, repository=model.repository, model=model)
    if ref.startswith(("/", "./", "../", "~")) or ref in {".", ".."}:
        path = _existing(ref)
        if path is None:
            raise NotFoundError(f"{ref[:200]!r} does not exist, or not for this user.", param="ref")
        return _local(path)
    match = _REPOSITORY.fullmatch(ref)
    if not match:
        hint = f" For the file or folder here write ./{ref}." if _existing(ref) else ""
        raise NotFoundError(
            f"{ref!r} is neither in the catalog ({', '.join(catalog_names())}) nor a repository "
            f"(Owner/Name or Owner/Name:file.gguf) nor a path.{hint}",
            param="ref",
        )
    return Wanted(name=check_name(ref), repository=match[1], file=match[2])


def _existing(ref: str) -> Path | None:
    """The absolute path that a reference names, if it is one and leads to something."""
    try:
        path = Path(ref).expanduser()
        if not path.exists():
            return None
        # A link keeps its own name: what it leads to is often called by a digest.
        plain = path.name not in {"", ".."}
        return path.parent.resolve() / path.name if plain else path.resolve()
    except (OSError, ValueError, RuntimeError):  # absent or too long; a null byte; no such user
        return None


def _local(path: Path) -> Wanted:
    is_file = path.is_file()
    name = check_name(path.stem if is_file else path.name)
    if is_file:
        refuse.check_name(path.name)
        if path.suffix != ".gguf":
            raise UsageError(
                f"{path} is not a .gguf file. For safetensors name the folder that holds them.",
                param="ref",
            )
    if name in catalog():
        raise UsageError(
            f"{name} is a model of the catalog. Rename {path}, or pull the catalog's model from "
            f"there: `freehold pull {name} --source folder:{path.parent if is_file else path}`.",
            param="ref",
        )
    return Wanted(
        name=name,
        file=path.name if is_file else None,
        folder=path.parent if is_file else path,
    )


def _from_any(
    store: Store,
    wanted: Wanted,
    sources: Sequence[Source],
    progress: Progress,
    held: Manifest | None,
) -> Manifest:
    """Try each source in turn."""
    failures: list[FreeholdError] = []
    for source in sources:
        try:
            return _from(store, wanted, source, progress, held)
        except (SourceError, DigestError, NotFoundError) as error:
            if wanted.folder is not None:
                raise
            progress.note(f"{source.name}: {error}")
            failures.append(error)
    told = " ".join(
        f"[{source.name}] {error}" for source, error in zip(sources, failures, strict=True)
    )
    for failure in failures:
        if isinstance(failure, DigestError):
            raise DigestError(f"No source delivered {wanted.name}. {told}", file=failure.file)
    raise SourceError(
        f"No source delivered {wanted.name}. {told or 'No source is configured.'} Check the "
        "network, or bring the files on a disk and pull with --source folder:/its/path."
    )


def _from(
    store: Store, wanted: Wanted, source: Source, progress: Progress, held: Manifest | None
) -> Manifest:
    listing = source.listing(wanted)
    files = _pinned(wanted, listing, source) if wanted.model else _offered(wanted, listing, source)
    folder = store.quarantine(wanted.name)
    fetcher = Fetcher(source, listing, folder, store.blobs, progress)
    _check_space(store, sum(map(fetcher.missing, files)), listing.scratch)
    progress.start(sum(file.size for file in files), f"{wanted.name} from {source.name}")
    checked = [fetcher.fetch(file) for file in files]
    _examine(checked)
    manifest = _manifest(wanted, listing, source, checked)
    if held is not None:
        if held.digest == manifest.digest:
            return held
        raise UsageError(
            f"Another model named {wanted.name} is admitted already. Remove it first "
            f"(`freehold rm {wanted.name}`), or rename the new one.",
            param="ref",
        )
    store.admit(manifest, {item.digest.sha256: item.where for item in checked})
    return manifest


def _pinned(wanted: Wanted, listing: Listing, source: Source) -> list[RemoteFile]:
    """The catalog's files, with the catalog's digests, if the source has files like them."""
    offered = {file.path: file for file in listing.files}
    pinned = []
    for file in wanted.model.files if wanted.model else ():
        found = offered.get(file.path)
        if found is None:
            raise SourceError(f"it has no {file.path}.")
        if found.size != file.size or found.sha256 not in {None, file.sha256}:
            raise SourceError(f"its {file.path} is not the one in the catalog.")
        pinned.append(RemoteFile(path=file.path, size=file.size, sha256=file.sha256))
    return pinned


def _offered(wanted: Wanted, listing: Listing, source: Source) -> list[RemoteFile]:
    """An unknown model's files, with the digests that the source publishes."""
    offered = {file.path: file for file in listing.files}
    where = wanted.repository or str(wanted.folder)
    chosen = [offered[path] for path in contents.choose(offered, wanted=wanted.file, where=where)]
    for file in chosen:
        limit = contents.DOCUMENTS.get(file.path)
        if limit is not None and file.size > limit:
            raise RefusedError(f"{file.path} at {source.name} has more than {limit:,} bytes.")
        if source.attests == "hub" and not (file.sha256 or file.git_oid):
            raise SourceError(f"it publishes no digest of {file.path}.")
    return chosen


def _check_space(store: Store, missing: int, scratch: int) -> None:
    needed = missing + (scratch + _SPARE if missing else 0)
    with disk_errors(store.root):
        free = shutil.disk_usage(store.root).free
    if free < needed:
        raise StorageError(
            f"The disk that holds {store.root} has {free:,} bytes free, but {needed:,} are needed. "
            "Free some space, or choose another place with FREEHOLD_HOME, and pull again."
        )


def _examine(checked: Sequence[Checked]) -> None:
    views = {}
    for item in checked:
        with item.where.open("rb") as opened:
            views[item.file.path] = memoryview(map_file(opened.fileno(), item.digest.size))
    contents.examine(views)


def _manifest(
    wanted: Wanted, listing: Listing, source: Source, checked: Sequence[Checked]
) -> Manifest:
    return Manifest(
        name=wanted.name,
        source=source.name,
        repository=wanted.repository,
        revision=listing.revision,
        licence=listing.licence,
        attested="catalog" if wanted.model else source.attests,
        admitted=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        files=tuple(
            ManifestFile(
                path=item.file.path,
                size=item.digest.size,
                sha256=item.digest.sha256,
                blake3=item.digest.blake3,
                chunk_size=CHUNK,
                chunks=item.digest.chunks,
            )
            for item in checked
        ),
    )

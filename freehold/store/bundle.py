"""Models on their way across an air gap, with what is known of them.

models/manifests/NAME.json   as in the vault
models/blobs/HEX             as in the vault
models/passports/HEX.jsonl   as in the vault, where there is one
SHA256SUMS                   every file of the bundle
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from freehold.errors import DigestError, MalformedError, UsageError
from freehold.store import checklist, contents, passport
from freehold.store import manifest as manifests
from freehold.store.digest import digest_map, map_file, sync_directory
from freehold.store.passport import Trust
from freehold.store.vault import Store, check_name, disk_errors
from freehold.store.verify import check_pins, verify

_MODELS = Path("models")
Told = Callable[[str], None]


def pack_models(store: Store, names: Sequence[str], folder: Path, say: Told) -> None:
    """Verify each model and copy it into ``folder``. Raises as ``verify`` does."""
    for name in names:
        say(f"packing {name}")
        verify(store, name)
        found = store.manifest(name)
        with disk_errors(folder):
            for part in ("manifests", "blobs", "passports"):
                (folder / _MODELS / part).mkdir(parents=True, exist_ok=True)
            target = folder / _MODELS / "manifests" / f"{quote(name, safe='')}.json"
            target.write_bytes(manifests.encode(found))
            for file in found.files:
                copied = folder / _MODELS / "blobs" / file.sha256
                if not copied.exists():
                    shutil.copyfile(store.blob(file.sha256), copied)
            said = passport.path_of(store, found.digest)
            if said.exists():
                shutil.copyfile(said, folder / _MODELS / "passports" / said.name)


def seal(folder: Path) -> bytes:
    """Write the list of all files and their digests; its bytes."""
    with disk_errors(folder):
        lines = [
            f"{checklist.digest(str(folder / path))}  {path}\n"
            for path in checklist.found_in(str(folder))
        ]
        data = "".join(lines).encode()
        (folder / checklist.LIST).write_bytes(data)
        for where, _, files in os.walk(folder):
            for name in files:
                with Path(where, name).open("rb") as file:
                    os.fsync(file.fileno())
            sync_directory(where)
    return data


def check(folder: Path) -> None:
    """Return if ``folder`` holds what was packed. Raises ``DigestError`` naming each file that is
    changed, missing or added, ``UsageError`` where there is no bundle."""
    if not (folder / checklist.LIST).is_file():
        raise UsageError(f"{folder} is no bundle: it has no {checklist.LIST}", param="folder")
    if wrong := checklist.trouble(str(folder)):
        shown = "; ".join(wrong[:20]) + ("; and more" if len(wrong) > 20 else "")
        raise DigestError(
            f"{folder} is not as it was packed: {shown}. Pack it again, or carry it over again.",
            file=wrong[0].split(" ", 1)[0],
        )


def install_models(store: Store, folder: Path, trust: Trust, say: Told) -> list[str]:
    """Admit every model of a checked bundle; their names. Each is digested and read strictly before
    it is admitted, and stays what it was if anything is wrong with what was brought.

    Statements are added to the passports here, none is taken away. Raises ``DigestError``,
    ``MalformedError``, ``SignatureError``, ``RefusedError``, ``StorageError``.
    """
    check(folder)
    names = []
    for path in sorted((folder / _MODELS / "manifests").glob("*.json")):
        found = manifests.decode(_read(path, manifests.MAX_MANIFEST), file=str(path))
        check_pins(found)
        with store.lock(check_name(found.name)):
            here = store.find(found.name)
            if here is None or here.digest != found.digest:
                instead = f" in place of {here.digest[:23]}..." if here is not None else ""
                say(f"admitting {found.name}{instead}")
                try:
                    _admit(store, found, folder)
                finally:
                    store.clear_quarantine(found.name)
            verify(store, found.name, keep=False)
        names.append(found.name)
        brought = folder / _MODELS / "passports" / passport.path_of(store, found.digest).name
        if brought.exists():
            data = _read(brought, passport.MAX_PASSPORT)
            envelopes = passport.envelopes_in(data, file=str(brought))
            passport.append(store, found.digest, envelopes, trust)
    return names


def _admit(store: Store, found: manifests.Manifest, folder: Path) -> None:
    quarantine = store.quarantine(found.name)
    checked, views = {}, {}
    for file in found.files:
        copied = quarantine / file.sha256
        with disk_errors(store.root):
            shutil.copyfile(folder / _MODELS / "blobs" / file.sha256, copied)
            with copied.open("rb") as written:
                os.fsync(written.fileno())
                mapping = map_file(written.fileno(), os.fstat(written.fileno()).st_size)
        digest = digest_map(mapping)
        if (digest.size, digest.sha256, digest.blake3, digest.chunks) != (
            file.size, file.sha256, file.blake3, file.chunks
        ):  # fmt: skip
            raise DigestError(
                f"{file.path} of {found.name} in {folder} is not what its manifest says",
                file=file.path,
            )
        checked[file.sha256] = copied
        views[file.path] = memoryview(mapping)
    contents.examine(views)
    store.admit(found, checked)


def _read(path: Path, most: int) -> bytes:
    with disk_errors(path.parent), path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise MalformedError(f"{path} has more than {most:,} bytes", file=str(path))
    return data

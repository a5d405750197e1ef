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

from freehold.errors import DigestError, UsageError
from freehold.store import checklist
from freehold.store import manifest as manifests
from freehold.store.digest import sync_directory
from freehold.store.vault import Store, check_name, disk_errors
from freehold.store.verify import verify

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
            passport = _passport(store.root, found.digest)
            if passport.exists():
                shutil.copyfile(passport, folder / _MODELS / "passports" / passport.name)


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


def install_models(store: Store, folder: Path, say: Told) -> list[str]:
    """Admit every model of a checked bundle, and digest it once more in the vault; their names.

    What is in the vault already stays, and so does every statement of its passport. Raises
    ``DigestError``, ``MalformedError``, ``StorageError``.
    """
    check(folder)
    names = []
    for path in sorted((folder / _MODELS / "manifests").glob("*.json")):
        found = manifests.decode(path.read_bytes(), file=str(path))
        names.append(check_name(found.name))
        here = store.find(found.name)
        if here is None or here.digest != found.digest:
            say(f"admitting {found.name}")
            _admit(store, found, folder)
        verify(store, found.name)
        _merge_passport(store, found.digest, folder, say)
    return names


def _admit(store: Store, found: manifests.Manifest, folder: Path) -> None:
    quarantine = store.quarantine(found.name)
    checked = {}
    with disk_errors(store.root):
        for file in found.files:
            copied = quarantine / file.sha256
            shutil.copyfile(folder / _MODELS / "blobs" / file.sha256, copied)
            if checklist.digest(str(copied)) != file.sha256:
                raise DigestError(
                    f"{file.path} of {found.name} changed while it was copied from {folder}",
                    file=file.path,
                )
            with copied.open("rb") as written:
                os.fsync(written.fileno())
            checked[file.sha256] = copied
    store.admit(found, checked)
    store.clear_quarantine(found.name)


def _merge_passport(store: Store, digest: str, folder: Path, say: Told) -> None:
    """A passport only grows: the longer of two is kept where one begins with the other."""
    here = _passport(store.root, digest)
    brought = folder / _MODELS / "passports" / here.name
    if not brought.exists():
        return
    new, old = brought.read_bytes(), here.read_bytes() if here.exists() else b""
    if old.startswith(new):
        return
    if not new.startswith(old):
        say(f"the passport {here.name} differs from the bundle's: the one here was kept")
        return
    with disk_errors(store.root):
        here.parent.mkdir(parents=True, exist_ok=True)
        fresh = here.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(here)
        sync_directory(here.parent)


def _passport(root: Path, digest: str) -> Path:
    return root / "passports" / f"{digest.removeprefix('sha256:')}.jsonl"

"""Which adapters servers put beside which model: one small file each in the vault.

    adapters/NAME.json       {"adapter": its digest, "base": the model's digest}

A server reads the folder every few seconds, so that an adapter comes and goes without a restart. A
file says only what the owner wants: whether the adapter may be served is for the gate, at the time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from freehold import strictjson
from freehold.errors import GateError, MalformedError, NotFoundError
from freehold.store.passport import Entry
from freehold.store.statements import Lineage
from freehold.store.vault import Store, check_name, disk_errors

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_BYTES = 4096
_OUTCOME = "Nothing was changed."


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The adapter ``name`` with digest ``adapter``, to be served beside the model ``base``."""

    name: str
    adapter: str
    base: str


def folder_of(store: Store) -> Path:
    """Where the files lie."""
    return store.root / "adapters"


def place(store: Store, placed: Placed) -> None:
    """Have servers of the model put the adapter beside it. Raises ``StorageError``."""
    path = _path(store, placed.name)
    with disk_errors(store.root, _OUTCOME):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(strictjson.canonical({"adapter": placed.adapter, "base": placed.base}))
        fresh.replace(path)


def take_away(store: Store, name: str) -> None:
    """Have servers take it away again; it stays in the vault. Raises ``NotFoundError``."""
    with disk_errors(store.root, _OUTCOME):
        try:
            _path(store, name).unlink()
        except FileNotFoundError:
            raise NotFoundError(
                f"no adapter {name!r} is served: see `freehold adapters list`", param="adapter"
            ) from None


def placed(store: Store) -> list[Placed]:
    """All of them, by name. Raises ``MalformedError`` naming the file, ``StorageError``."""
    found = []
    with disk_errors(store.root, _OUTCOME):
        try:
            paths = sorted(folder_of(store).iterdir())
        except FileNotFoundError:
            return []
        for path in paths:
            if path.suffix == ".json":
                # One that was taken away just now is no trouble.
                with contextlib.suppress(FileNotFoundError):
                    found.append(_read(path))
    return found


def check_base(name: str, entries: Sequence[Entry], base: str) -> None:
    """What trusted keys have said of an adapter's parent must be this model (a digest).

    Raises ``GateError`` where they say that it was made for others alone. Where nobody has said it,
    the owner's own word counts.
    """
    said = [
        parent
        for entry in entries
        if entry.signers and isinstance(entry.predicate, Lineage)
        if entry.predicate.relation == "adapter"
        for parent in entry.predicate.parents
    ]
    if said and all(parent.digest != base for parent in said):
        others = ", ".join(f"{one.name} ({one.digest[:23]})" for one in said)
        raise GateError(
            f"{name} is not served beside {base[:23]}: its passport says that it was made for "
            f"{others}. Serve it beside that, or make it anew for this one",
            missing=("lineage",),
        )


def _path(store: Store, name: str) -> Path:
    return folder_of(store) / f"{quote(check_name(name), safe='')}.json"


def _read(path: Path) -> Placed:
    value = strictjson.parse(path.read_bytes(), file=str(path), max_bytes=_MAX_BYTES)
    sound = isinstance(value, dict) and set(value) == {"adapter", "base"}
    if not sound or not all(isinstance(v, str) and _DIGEST.fullmatch(v) for v in value.values()):
        raise MalformedError(
            f"{path} is not what Freehold wrote: remove it, and add the adapter again",
            file=str(path),
        )
    return Placed(name=unquote(path.stem), adapter=value["adapter"], base=value["base"])

"""Whose word counts on this machine: the keys that ``freehold.toml`` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from freehold.cli.places import keys_folder
from freehold.cli.settings import Settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.store.passport import Trust


def trusted(settings: Settings) -> Trust:
    """The public keys that ``trust`` and ``signer`` name, by name: one name per key and one key per
    name, so that nobody counts twice.

    Raises ``UsageError`` or ``NotFoundError`` naming the entry.
    """
    from freehold.signing import keys

    found: dict[str, keys.PublicKey] = {}
    wanted = [*settings.trust, *([settings.signer] if settings.signer else [])]
    for entry in dict.fromkeys(wanted):
        is_path = "/" in entry
        path = Path(entry).expanduser()
        name = path.stem if is_path else entry
        public = keys.load_public(path) if is_path else keys.named(keys_folder(), name)
        if public.kind != "p256":
            raise UsageError(
                f"trust names {entry}, which is {public.kind}: statements are signed with P-256",
                param="trust",
            )
        for other, key in found.items():
            if (other == name) != (key == public):
                raise UsageError(
                    f"trust: {entry} and {other} are one name for two keys, or two names for one; "
                    "name each key once",
                    param="trust",
                )
        found[name] = public
    return found


def demand(trust: Trust, names: tuple[str, ...], table: str) -> None:
    """Return if ``trust`` has every one of ``names``. Raises ``UsageError`` naming the missing."""
    for name in names:
        if name not in trust:
            raise UsageError(
                f"[{table}] speaks of the key {name!r}, which `trust` does not name: add its "
                "name, or the path of its public key, to `trust` in freehold.toml",
                param="trust",
            )

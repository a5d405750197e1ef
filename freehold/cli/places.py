"""Where things lie on this machine: everything is under one folder, the root, but for signing keys
and the secret that seals packs. The root may be a disk that others can write to."""

from __future__ import annotations

import os
from pathlib import Path


def root() -> Path:
    """``$FREEHOLD_HOME``, else the user's data folder."""
    from freehold.store import default_root

    return default_root()


def keys_folder() -> Path:
    """Where signing keys lie, outside the store: ``$FREEHOLD_KEYS``, else the user's configuration
    folder."""
    named = os.environ.get("FREEHOLD_KEYS")
    if named:
        return Path(named).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "freehold" / "keys"


def residency_folder() -> Path:
    """Refused attempts, and the state of each running server."""
    return root() / "residency"


def pack_secret() -> Path:
    """The file of the secret that seals this installation's packs, made with the first of them:
    ``freehold/pack.secret`` in the user's XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "freehold" / "pack.secret"

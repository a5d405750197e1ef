"""Where things lie on this machine: everything is under one folder, the root."""

from __future__ import annotations

import os
from pathlib import Path


def root() -> Path:
    """``$FREEHOLD_HOME``, else the user's data folder."""
    from freehold.store import default_root

    return default_root()


def keyring_url() -> str:
    """The key data base, made on first use."""
    folder = root()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return f"sqlite:///{folder / 'keys.sqlite'}"


def residency_folder() -> Path:
    """Refused attempts, and the state of each running server."""
    return root() / "residency"


def keys_folder() -> Path:
    """Signing keys: ``$FREEHOLD_KEYS``, else ``freehold/keys`` in the user's XDG configuration."""
    named = os.environ.get("FREEHOLD_KEYS")
    if named:
        return Path(named).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "freehold" / "keys"

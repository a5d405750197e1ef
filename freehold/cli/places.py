"""Where things lie on this machine: everything is under one folder, the root, but for the secret
that seals packs. The root may be a disk that others can write to."""

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


def pack_secret() -> Path:
    """The file of the secret that seals this installation's packs, made with the first of them:
    ``freehold/pack.secret`` in the user's XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "freehold" / "pack.secret"

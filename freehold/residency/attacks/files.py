"""Files that must stay unread or unchanged."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from freehold.residency.attacks import MARK, Attack, Target


def read_shadow(t: Target) -> None:
    Path("/etc/shadow").read_bytes()


def read_secret(t: Target) -> None:
    Path(t.secret).read_bytes()


def read_ssh(t: Target) -> None:
    list((Path.home() / ".ssh").iterdir())


def list_root(t: Target) -> None:
    list(Path("/root").iterdir())


def write_store(t: Target) -> None:
    _make_and_remove(Path(t.store))


def write_autostart(t: Target) -> None:
    _make_and_remove(Path(t.autostart))


def write_shared_memory(t: Target) -> None:
    _make_and_remove(Path("/dev/shm"))  # noqa: S108


def write_temporary(t: Target) -> None:
    _make_and_remove(Path("/tmp"))  # noqa: S108


def change_blob(t: Target) -> None:
    with open(t.blob, "rb+"):  # noqa: PTH123
        return


def change_mode(t: Target) -> None:
    os.chmod(t.blob, os.stat(t.blob).st_mode & 0o7777)  # noqa: PTH101, PTH116


def hard_link(t: Target) -> None:
    name = Path(t.autostart) / f"freehold-{secrets.token_hex(8)}"
    os.link(t.secret, name)
    name.unlink()


def device(t: Target) -> None:
    name = Path(t.autostart) / f"freehold-{secrets.token_hex(8)}"
    os.mknod(name, 0o020600, os.makedev(1, 3))
    name.unlink()


def _make_and_remove(folder: Path) -> None:
    path = folder / f"freehold-{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, MARK)
    finally:
        os.close(descriptor)
        path.unlink()


KINDS: list[tuple[str, str, Attack]] = [
    ("shadow", "read /etc/shadow", read_shadow),
    ("secret", "read a key file of the owner", read_secret),
    ("ssh", "look into ~/.ssh", read_ssh),
    ("root-home", "look into /root", list_root),
    ("write-store", "make a file in the vault", write_store),
    ("write-autostart", "make a file in ~/.config/autostart", write_autostart),
    ("write-shm", "make a file in shared memory", write_shared_memory),
    ("write-tmp", "make a file in /tmp", write_temporary),
    ("change-blob", "open a model for writing", change_blob),
    ("change-mode", "change a model's mode", change_mode),
    ("hard-link", "link a secret to another place", hard_link),
    ("device", "make a device file", device),
]

"""Passphrases: typed at a terminal without echo, or read from a descriptor. Never an argument,
which every process on the machine could read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli.places import keys_folder
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.signing.keys import SigningKey

PassphraseFd = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd",
        help="Read the key's passphrase from this open file descriptor, to its first line end.",
    ),
]
_MAX = 4096


def signing_key(name: str, descriptor: int | None) -> SigningKey:
    """The key pair ``name``. Raises as ``passphrase_of`` and ``signing.keys.load`` do."""
    from freehold.signing import keys

    return keys.load(keys_folder(), name, passphrase=passphrase_of(name, descriptor))


def passphrase_of(name: str, descriptor: int | None) -> str | None:
    """The passphrase of the key ``name``: from ``descriptor``, else typed at the terminal where the
    key has one. Raises ``NotFoundError``, ``UsageError`` or ``MalformedError``."""
    from freehold.signing import keys

    if descriptor is not None:
        return from_descriptor(descriptor)
    try:
        keys.load(keys_folder(), name)
    except UsageError as error:
        if error.param == "passphrase":
            return ask(f"passphrase of key {name}: ")
        raise
    return None


def ask(prompt: str) -> str:
    """A line typed at the terminal, not shown. Raises ``UsageError`` where there is no terminal:
    nothing is ever read with echo."""
    import getpass
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(prompt)
        except (getpass.GetPassWarning, EOFError):
            raise UsageError(
                "there is no terminal to type a passphrase at: give it with --passphrase-fd N",
                param="passphrase",
            ) from None


def ask_new() -> str:
    """A new passphrase, typed twice. Raises ``UsageError`` if the two differ or are empty."""
    first = ask("new passphrase: ")
    if not first or ask("once more: ") != first:
        raise UsageError("the two differ, or are empty: no key was made", param="passphrase")
    return first


def from_descriptor(descriptor: int) -> str:
    """The first line of an open descriptor. Raises ``UsageError``."""
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            line = file.readline(_MAX + 1).removesuffix(b"\n")
        text = line.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"no passphrase can be read from descriptor {descriptor}: {error}", param="passphrase"
        ) from None
    if not text or len(line) > _MAX:
        raise UsageError(
            f"descriptor {descriptor} gives no passphrase of 1 to {_MAX} bytes", param="passphrase"
        )
    return text

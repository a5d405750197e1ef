"""``freehold openness``: how open a model is, by what evidence, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from freehold.cli import options
from freehold.cli.output import emit, one_line
from freehold.cli.passphrases import PassphraseFd, signing_key
from freehold.cli.passports import append
from freehold.cli.places import root
from freehold.cli.settings import read_settings
from freehold.cli.trust import trusted
from freehold.errors import UsageError


def openness(
    model: Annotated[str, typer.Argument(help="A model in the vault, see `freehold list`.")],
    release: Annotated[
        Path | None,
        typer.Option(help="A release folder of this model: every file in it is hashed."),
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Sign what --release holds into the model's passport."),
    ] = None,
    passphrase_fd: PassphraseFd = None,
    json: options.Json = False,
) -> None:
    """Say how open a model is: its class of the Model Openness Framework, whether it meets the Open
    Source AI Definition, and which of 17 components are missing."""
    from freehold.store import Store, passport, statements
    from freehold.store import openness as opened

    if sign is not None and release is None:
        raise UsageError("--sign states what a release holds: name its folder with --release")
    store = Store(root())
    manifest = store.manifest(model)
    pieces: dict[str, opened.Piece] = {}
    faults: list[str] = []
    if release is not None:
        pieces, faults, said = opened.read_release(release, manifest)
        if sign is not None:
            key = signing_key(sign, passphrase_fd)
            append(manifest, [statements.about(manifest.name, manifest.digest, said, key)])
    entries = passport.read(store, manifest.digest, trusted(read_settings(root())))
    found = opened.of_model(manifest, entries, pieces)
    rows = []
    for one in opened.COMPONENTS:
        piece = found.pieces.get(one.key)
        if piece is None:
            what = "absent" if one.required else "absent (no class asks for it)"
        else:
            shut = ", NOT OPEN" if one.key in found.closed else ""
            what = f"{piece.licence}{shut}, by {piece.by}: {one_line(piece.where)}"
        rows.append(f"  {'I' * one.first:4}{one.title:31}{what}")
    emit(
        {"name": manifest.name, "digest": manifest.digest, "faults": faults, **opened.facts(found)},
        [*opened.lines(found), *rows, *(f"does not count: {one_line(fault)}" for fault in faults)],
        as_json=json,
    )

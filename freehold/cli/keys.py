"""``freehold keys``: who may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli.output import emit, table
from freehold.cli.places import keyring_url

if TYPE_CHECKING:
    from freehold.serve.keys import KeyInfo

app = typer.Typer(
    help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    role: Annotated[
        str,
        typer.Option(
            help="user asks the model; auditor reads the ledger and passports, nothing else."
        ),
    ] = "user",
    json: Json = False,
) -> None:
    """Make a key. The secret is shown once and stored only as a hash."""
    from freehold.serve.keys import Keyring

    new = Keyring(keyring_url()).add(name, role=role)
    emit(
        {"id": new.id, "name": new.name, "role": role, "secret": new.secret},
        [f"{role} key {new.id} for {new.name}, shown only now:", new.secret],
        as_json=json,
    )


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List keys: id, name, when made, whether revoked."""
    from freehold.serve.keys import Keyring

    found = Keyring(keyring_url()).list()
    emit(
        [_row(key) for key in found],
        table(
            ("id", "name", "role", "made", "state"),
            (
                (key.id, key.name, key.role, f"{key.created:%Y-%m-%d %H:%M}Z", _state(key))
                for key in found
            ),
        )
        if found
        else ["no keys yet: make one with `freehold keys add NAME`"],
        as_json=json,
    )


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id or name.")], json: Json = False
) -> None:
    """Revoke a key at once, also in a server that is running."""
    from freehold.serve.keys import Keyring

    revoked = Keyring(keyring_url()).revoke(key)
    emit(_row(revoked), [f"revoked key {revoked.id} ({revoked.name})"], as_json=json)


def _row(key: KeyInfo) -> dict[str, str | None]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "created": key.created.isoformat(),
        "revoked": key.revoked.isoformat() if key.revoked else None,
    }


def _state(key: KeyInfo) -> str:
    return f"revoked {key.revoked:%Y-%m-%d %H:%M}Z" if key.revoked else "in use"

"""``freehold signer``: the keys that the owner signs with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.output import emit, table
from freehold.cli.passphrases import PassphraseFd, ask, ask_new, from_descriptor
from freehold.cli.places import keys_folder
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.signing.keys import PublicKey, SigningKey

app = typer.Typer(
    help="Make, list and export signing keys.", no_args_is_help=True, rich_markup_mode=None
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The key's name.")]


@app.command("create")
def create(
    name: Name,
    kind: Annotated[
        str, typer.Option(help="p256 for weights and passports, ed25519 for ledger checkpoints.")
    ] = "p256",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase and encrypt the key with it.")
    ] = False,
    passphrase_fd: PassphraseFd = None,
    module: Annotated[
        Path | None,
        typer.Option(help="Keep the key in a token: the PKCS#11 module that speaks to it."),
    ] = None,
    token: Annotated[str, typer.Option(help="With --module: the token's label.")] = "",
    label: Annotated[
        str | None, typer.Option(help="With --module: the key's label in the token [NAME].")
    ] = None,
    existing: Annotated[
        bool, typer.Option("--existing", help="With --module: use the key that is there.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a key pair. The private half is readable by you alone and is never overwritten. With
    --module it is made in a token and stays there; the PIN is its passphrase."""
    from freehold.signing import keys

    if module is not None:
        place = f"token {token!r}"
        made = _in_token(name, module, token, label or name, existing, kind, passphrase_fd)
        _report(name, made, place, json=json)
        return
    if token or label or existing:
        raise UsageError("--token, --label and --existing go with --module", param="module")
    if kind not in ("p256", "ed25519"):
        raise UsageError(f"kind is {kind!r}: take p256 or ed25519", param="kind")
    secret = None
    if passphrase_fd is not None:
        secret = from_descriptor(passphrase_fd)
    elif passphrase:
        secret = ask_new()
    made = keys.create(
        keys_folder(), name, "p256" if kind == "p256" else "ed25519", passphrase=secret
    )
    _report(name, made, str(keys_folder()), json=json)


def _in_token(
    name: str,
    module: Path,
    label_of_token: str,
    label: str,
    existing: bool,
    kind: str,
    descriptor: int | None,
) -> SigningKey:
    from freehold.signing import token

    token.import_checked()
    if kind != "p256" or not label_of_token:
        raise UsageError("a key in a token is p256, and needs --token LABEL", param="token")
    pin = from_descriptor(descriptor) if descriptor is not None else ask("PIN of the token: ")
    place = token.Place(
        module=str(module.expanduser().absolute()), token=label_of_token, label=label
    )
    return token.create(keys_folder(), name, place, pin=pin, existing=existing)


def _report(name: str, made: SigningKey, place: str, *, json: bool) -> None:
    public = keys_folder() / f"{name}.pub"
    emit(
        _row(name, made.public, public),
        [
            f"key {name} ({made.kind}, {made.key_id[:16]}) is in {place}",
            f"give others {public}: it verifies what this key signs",
        ],
        as_json=json,
    )


@app.command("list")
def list_keys(json: Json = False) -> None:
    """List your signing keys: name, kind, id."""
    from freehold.signing import keys

    found = [(name, keys.named(keys_folder(), name)) for name in keys.names(keys_folder())]
    emit(
        [_row(name, public, keys_folder() / f"{name}.pub") for name, public in found],
        table(
            ("name", "kind", "id"),
            ((name, public.kind, public.key_id[:16]) for name, public in found),
        )
        if found
        else ["no signing keys yet: make one with `freehold signer create NAME`"],
        as_json=json,
    )


@app.command("export")
def export(name: Name, json: Json = False) -> None:
    """Print a key's public half, PEM: what others need to verify what it signs."""
    from freehold.signing import keys

    public = keys.named(keys_folder(), name)
    emit(
        {**_row(name, public, keys_folder() / f"{name}.pub"), "pem": public.pem()},
        public.pem().splitlines(),
        as_json=json,
    )


def _row(name: str, public: PublicKey, path: Path) -> dict[str, Any]:
    return {"name": name, "kind": public.kind, "id": public.key_id, "public": str(path)}

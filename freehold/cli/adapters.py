"""``adapters``: small changes of a model that are served beside it, several at once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli.output import Bar, emit, say, size, table
from freehold.cli.passphrases import PassphraseFd
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.errors import NotFoundError

if TYPE_CHECKING:
    from freehold.store import Manifest

app = typer.Typer(
    help="Serve adapters beside a model, each under its own name.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("add")
def add(
    adapter: Annotated[
        str,
        typer.Argument(
            help="A run of `freehold adapt`, an adapter in the vault, or a folder in PEFT's format."
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="The model in the vault that it was made for.")],
    name: Annotated[str, typer.Option(help="What requests call it. [the run's or folder's]")] = "",
    passphrase_fd: PassphraseFd = None,
    json: Json = False,
) -> None:
    """Have servers of a model put an adapter beside it, at once, without a restart.

    It comes into the vault like a model, must fit the model's shapes, and passes the same gate.
    With a `signer` in freehold.toml, sign which model it was made for.
    """
    from freehold.cli.adapterwatch import allow
    from freehold.qwen.adapter import matrices
    from freehold.qwen.config import config_of
    from freehold.store import Store, verify
    from freehold.store.adapters import Placed, place

    settings, store = read_settings(root()), Store(root())
    base = verify(store, to, keep=False)
    manifest, fresh = _brought(adapter, name, quiet=json)
    found = matrices(verify(store, manifest.name), config_of(base))
    if fresh and settings.signer:
        _sign(manifest, store.manifest(to), settings, passphrase_fd)
    allow(manifest.name, manifest.digest, base.digest, settings)
    place(store, Placed(name=manifest.name, adapter=manifest.digest, base=base.digest))
    if fresh and not settings.signer:
        say("its passport does not say what it was made from: set `signer` in freehold.toml")
    emit(
        {
            "name": manifest.name,
            "digest": manifest.digest,
            "base": base.name,
            "base_digest": base.digest,
            "matrices": len(found),
            "bytes": manifest.size,
        },
        [
            f"{manifest.name} changes {len(found)} matrices of {base.name} ({size(manifest.size)})",
            f"servers of {base.name} serve it within seconds, under that name",
        ],
        as_json=json,
    )


@app.command("list")
def list_adapters(json: Json = False) -> None:
    """List the adapters that are served, and the models they are served beside."""
    from freehold.store import Store
    from freehold.store.adapters import placed

    store = Store(root())
    names = {manifest.digest: manifest.name for manifest in store.list()}
    facts = [
        {
            "name": one.name,
            "digest": one.adapter,
            "base": names.get(one.base),
            "base_digest": one.base,
            "in_vault": one.adapter in names,
        }
        for one in placed(store)
    ]
    rows = (
        (str(f["name"]), str(f["base"] or f["base_digest"])[:60], str(f["digest"])[:23])
        for f in facts
    )
    lines = table(("adapter", "beside", "digest"), rows) if facts else ["no adapter is served"]
    emit({"adapters": facts}, lines, as_json=json)


@app.command("remove")
def remove(
    adapter: Annotated[str, typer.Argument(help="An adapter, see `freehold adapters list`.")],
    json: Json = False,
) -> None:
    """Serve an adapter no longer. It stays in the vault: `freehold rm` removes it there."""
    from freehold.store import Store
    from freehold.store.adapters import take_away

    take_away(Store(root()), adapter)
    emit({"name": adapter}, [f"{adapter} is served no longer"], as_json=json)


def _brought(ref: str, name: str, *, quiet: bool) -> tuple[Manifest, bool]:
    """The adapter in the vault, and whether it came in just now."""
    from freehold.store import FolderSource, Store, pull
    from freehold.store.vault import check_name

    store = Store(root())
    run = root() / "adapt" / ref / "adapter"
    if "/" not in ref and not run.is_dir():
        if ref in store.names():
            return store.manifest(ref), False
        raise NotFoundError(
            f"{ref!r} is neither a run of `freehold adapt` nor in the vault; a folder is written "
            f"./{ref}",
            param="adapter",
        )
    folder = run if run.is_dir() else Path(ref).expanduser()
    called = name or (ref if run.is_dir() else folder.resolve().name)
    with tempfile.TemporaryDirectory() as temporary, Bar(quiet=quiet) as bar:
        # The dock calls what comes in by its folder.
        link = Path(temporary).resolve() / check_name(called)
        link.symlink_to(folder.resolve())
        source = FolderSource(link, name="freehold adapters")
        return pull(store, str(link), sources=(source,), progress=bar), True


def _sign(made: Manifest, base: Manifest, settings: Settings, descriptor: int | None) -> None:
    from freehold import __version__
    from freehold.cli.passphrases import signing_key
    from freehold.cli.passports import append, sign_known
    from freehold.store import statements

    sign_known(made, settings.signer, descriptor)
    lineage = statements.Lineage(
        made=statements.now(),
        relation="adapter",
        parents=(statements.Named(name=base.name, digest=base.digest),),
        deltas=(),
        tool=f"freehold {__version__} adapters",
    )
    key = signing_key(settings.signer, descriptor)
    append(made, [statements.about(made.name, made.digest, lineage, key)])

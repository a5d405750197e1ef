"""``pull``, ``list``, ``show``, ``template``, ``rm``: the vault's counter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli import packing
from freehold.cli.output import Bar, emit, say, size, table
from freehold.cli.passphrases import PassphraseFd
from freehold.cli.places import pack_secret, root
from freehold.cli.settings import read_settings
from freehold.cli.trust import trusted
from freehold.errors import IntegrityError

if TYPE_CHECKING:
    from freehold.store import Manifest

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help="A model in the vault, see `freehold list`.")]


def pull(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A catalog name, a repository (OWNER/NAME or OWNER/NAME:FILE.gguf) or a path. "
            "Without one: the default model."
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="huggingface, modelscope, index or folder:/PATH; repeat for several, in order."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help=f"{packing.WEIGHTS_HELP} Packs at once, see `pack`.")
    ] = None,
    passphrase_fd: PassphraseFd = None,
    json: Json = False,
) -> None:
    """Get a model, verify it and put it in the vault. With a `signer` in freehold.toml, sign what
    is known of it."""
    from freehold.cli.passports import sign_known
    from freehold.cli.trust import trusted
    from freehold.store import Store, licences, sources_from
    from freehold.store import pull as fetch

    packing.check(weights)
    settings = read_settings(root(), sources=tuple(source) if source else None)
    if settings.signer:
        trusted(settings)  # a key that is missing is named before anything is fetched
    with Bar(quiet=json) as bar:
        manifest = fetch(
            Store(root()),
            model or settings.model,
            sources=sources_from(settings.sources),
            progress=bar,
        )
    lines = [
        f"{manifest.name} is in the vault, {_vouched(manifest)}",
        *licences.told(manifest.licence),
    ]
    record = None
    if weights is not None:
        record = packing.make(
            manifest.name, weights, again=False, threads=settings.threads, quiet=json
        )
        lines += packing.lines(manifest.name, record)
    if settings.signer:
        sign_known(manifest, settings.signer, passphrase_fd, record)
    emit(_facts(manifest), lines, as_json=json)


def list_models(json: Json = False) -> None:
    """List the models in the vault, and what the catalog offers."""
    from freehold.store import Store, catalog_names

    held = Store(root()).list()
    names = {manifest.name for manifest in held}
    offered = [name for name in catalog_names() if name not in names]
    lines = table(
        ("model", "size", "licence", "digests", "admitted"),
        ((m.name, size(m.size), m.licence, _vouched(m), m.admitted[:10]) for m in held),
    )
    emit(
        {"models": [_facts(m) for m in held], "catalog": offered},
        [
            *(lines if held else ["the vault is empty"]),
            *(f"to get: freehold pull {name}" for name in offered),
        ],
        as_json=json,
    )


def show(model: Model, json: Json = False) -> None:
    """Show where a model came from and what vouches for it."""
    from freehold.store import Store, openness, passport

    store = Store(root())
    manifest = store.manifest(model)
    facts = _facts(manifest)
    lines = [f"{key}: {value}" for key, value in facts.items() if key not in ("files", "pack")]
    entries = passport.read(store, manifest.digest, trusted(read_settings(root())))
    opened = openness.of_model(manifest, entries)
    lines += openness.lines(opened)
    facts["openness"] = openness.facts(opened)
    if facts["pack"]:
        lines += [f"pack {key}: {value}" for key, value in facts["pack"].items()]
    for file in manifest.files:
        lines += [f"file: {file.path}, {file.size:,} bytes", f"  sha256 {file.sha256}"]
    emit(facts, lines, as_json=json)


def template(model: Model, json: Json = False) -> None:
    """Print a model's chat template, which writes every prompt. `sha256sum` prints its digest."""
    import sys

    from freehold.qwen.template import digest_of, source_of
    from freehold.store import Store, gate
    from freehold.store import verify as check

    verified = check(Store(root()), model)
    source, digest = source_of(verified), digest_of(verified)
    if json:
        known = digest in gate.known_templates()
        emit(
            {"name": model, "digest": digest, "known": known, "template": source}, (), as_json=True
        )
    elif source is None:
        say(f"{model} has no chat template: it only continues text")
    else:
        sys.stdout.write(source)  # nothing added: the digest is over these very bytes


def remove(model: Model, json: Json = False) -> None:
    """Remove a model from the vault; files that another model uses stay."""
    from freehold.store import Store

    Store(root()).remove(model)
    emit({"removed": model}, [f"removed {model}"], as_json=json)


def _vouched(manifest: Manifest) -> str:
    from freehold.store.chain import VOUCHED

    return VOUCHED[manifest.attested]


def _pack(name: str) -> dict[str, Any] | None:
    """What this installation's record says of the model's pack. Looking through the vault fails
    for none that is refused: what wants to use it will."""
    from freehold.store import Packs, Store

    try:
        record = Packs(Store(root()), pack_secret()).record(name)
    except IntegrityError as error:
        return {"refused": str(error)}
    return None if record is None else packing.facts(record)


def _facts(manifest: Manifest) -> dict[str, Any]:
    from freehold.store.licences import about

    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "source": manifest.source,
        "licence": manifest.licence,
        "commercial_use": about(manifest.licence).commercial,
        "attested": manifest.attested,
        "admitted": manifest.admitted,
        "bytes": manifest.size,
        "pack": _pack(manifest.name),
        "files": [{"path": f.path, "bytes": f.size, "sha256": f.sha256} for f in manifest.files],
    }

"""``verify`` and ``sign``: the bytes, the chain behind them, and signatures over the weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.output import emit, size, write_new
from freehold.cli.passphrases import PassphraseFd, passphrase_of
from freehold.cli.places import keys_folder, pack_secret, root
from freehold.cli.settings import read_settings
from freehold.cli.trust import trusted
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.store import Manifest
    from freehold.store.lineage import Link

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help="A model in the vault, see `freehold list`.")]

VOUCHED = {
    "catalog": "pinned in the catalog",
    "hub": "attested by the hub",
    "owner": "attested by the owner",
}


def verify(
    model: Model,
    signature: Annotated[
        Path | None,
        typer.Option(help="Also check this OpenSSF model signature over the weights."),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="The public key that it was made with, PEM.")
    ] = None,
    json: Json = False,
) -> None:
    """Read every byte of a model, and of its pack, again and compare it with its digests; walk its
    chain."""
    from freehold.qwen.pack import LAYOUT
    from freehold.store import Packs, Store, lineage
    from freehold.store import verify as check

    if (signature is None) != (public_key is None):
        raise UsageError("--signature and --public-key go together", param="signature")
    store = Store(root())
    start = time.perf_counter()
    verified = check(store, model)
    packed = Packs(store, pack_secret()).open(model, layout=LAYOUT)
    seconds = time.perf_counter() - start
    n_bytes = sum(tensor.data.nbytes for tensor in verified.tensors.values())
    manifest = store.manifest(model)
    links = lineage.chain(store, manifest, trusted(read_settings(root())))
    if signature is not None and public_key is not None:
        _check_signature(store, manifest, signature, public_key)
    emit(
        {
            "name": verified.name,
            "digest": verified.digest,
            "attested": verified.attested,
            "tensors": len(verified.tensors),
            "pack": packed is not None,
            "seconds": round(seconds, 3),
            "signature": str(signature) if signature else None,
            "chain": _facts(links),
        },
        [
            f"{verified.name}: every byte matches, digests {VOUCHED[verified.attested]}",
            f"{len(verified.tensors)} tensors, {size(n_bytes)}"
            f"{' and the pack of them' if packed else ''}, in {seconds:.2f} s",
            *([f"signature: {signature} is good, over exactly these files"] if signature else []),
            "chain:",
            *(line for link in links for line in _told(link)),
        ],
        as_json=json,
    )


def sign(
    model: Model,
    key: Annotated[str, typer.Option("--key", help="The signing key's name.")],
    passphrase_fd: PassphraseFd = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Where to write it [./MODEL.sig]. Must be new.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign a model's weights in the OpenSSF Model Signing format, and record it in its passport."""
    from hashlib import sha256

    from freehold.cli.passports import append
    from freehold.signing import keys, weights
    from freehold.store import Store, statements
    from freehold.store import verify as check
    from freehold.store.layout import laid_out

    store = Store(root())
    passphrase = passphrase_of(key, passphrase_fd)
    pair = keys.load(keys_folder(), key, passphrase=passphrase)
    check(store, model)
    manifest = store.manifest(model)
    with laid_out(store, manifest) as folder:
        data = weights.sign(folder, keys_folder() / f"{key}.key", passphrase=passphrase)
    path = output or Path(f"{folder.name}.sig")
    said = statements.Weights(
        made=statements.now(),
        format=weights.FORMAT,
        sha256=sha256(data).hexdigest(),
        bundle=data.decode(),
    )
    write_new(path, data)
    append(manifest, [statements.about(manifest.name, manifest.digest, said, pair)])
    emit(
        {"name": manifest.name, "digest": manifest.digest, "key": key, "signature": str(path)},
        [
            f"signed {manifest.name} with {key}: {path}, and a line in its passport",
            f"others check it with: model_signing verify key FOLDER --signature {path} "
            f"--public_key {key}.pub",
        ],
        as_json=json,
    )


def _check_signature(store: Any, manifest: Manifest, signature: Path, public_key: Path) -> None:
    from freehold.signing import keys, weights
    from freehold.store.layout import laid_out

    keys.load_public(public_key)
    with laid_out(store, manifest) as folder:
        weights.verify(folder, signature, public_key)


def _facts(links: list[Link]) -> list[dict[str, Any]]:
    from freehold.store.export import link_facts

    return [link_facts(link) for link in links]


def _told(link: Link) -> list[str]:
    """A link of the chain, in lines."""
    lines = [f"  {link.name}  {link.digest}"]
    if link.manifest is not None:
        found = link.manifest
        where = " ".join(filter(None, (found.source, found.repository, found.revision[:12])))
        lines.append(f"    in the vault, from {where}, {VOUCHED[found.attested]}")
    elif link.state == "passport":
        lines.append("    not in the vault: known by its passport alone")
    else:
        lines.append("    not in the vault, and without a passport: nothing is known of it here")
    if link.made is not None:
        made = link.made
        parents = ", ".join(f"{one.name} ({one.digest[:19]})" for one in made.parents)
        deltas = "".join(f", with {one.name} ({one.digest[:19]})" for one in made.deltas)
        lines.append(f"    {made.relation} of {parents or 'no other model'}{deltas}")
    lines.append(f"    vouched for by {', '.join(link.signers) or 'no signature'}")
    return lines

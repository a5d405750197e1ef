"""``verify`` and ``sign``: the bytes, the chain behind them, and signatures over the weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli.output import Bar, emit, one_line, write_new
from freehold.cli.passphrases import PassphraseFd, passphrase_of
from freehold.cli.places import keys_folder, pack_secret, root
from freehold.cli.settings import read_settings
from freehold.cli.trust import trusted
from freehold.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from freehold.store import Manifest, Store
    from freehold.store.chain import Step

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help="A model in the vault, see `freehold list`.")]


def verify(
    model: Model,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Pack the weights again: the pack must be the same."),
    ] = False,
    signature: Annotated[
        Path | None,
        typer.Option(help="Also check this OpenSSF model signature over the weights."),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="The public key that it was made with, PEM.")
    ] = None,
    json: Json = False,
) -> None:
    """Walk a model's chain from its source to what serve answers with, reading every byte of the
    model and of its pack; name the first link that is broken."""
    from freehold.store import Store

    if (signature is None) != (public_key is None):
        raise UsageError("--signature and --public-key go together", param="signature")
    store = Store(root())
    start = time.perf_counter()
    steps = _walked(store, model, rebuild=rebuild, quiet=json)
    seconds = time.perf_counter() - start
    manifest = store.manifest(model)
    if signature is not None and public_key is not None:
        _check_signature(store, manifest, signature, public_key)
    emit(
        {
            "name": manifest.name,
            "digest": manifest.digest,
            "attested": manifest.attested,
            "seconds": round(seconds, 3),
            "signature": str(signature) if signature else None,
            "chain": [asdict(step) for step in steps],
        },
        [
            *_told(steps),
            *([f"signature: {signature} is good, over exactly these files"] if signature else []),
            f"unbroken: {len(steps)} links, in {seconds:.2f} s",
        ],
        as_json=json,
    )


def _walked(store: Store, model: str, *, rebuild: bool, quiet: bool) -> list[Step]:
    """The chain. Where it is broken, what holds is printed before the error goes on its way."""
    from freehold.cli.packing import rebuilder
    from freehold.qwen.ops.native import NUMERICS
    from freehold.qwen.pack import LAYOUT
    from freehold.store import Packs
    from freehold.store.chain import walk

    steps: list[Step] = []
    with Bar(quiet=quiet) as bar:
        try:
            for step in walk(
                store,
                model,
                Packs(store, pack_secret()),
                trusted(read_settings(root())),
                layout=LAYOUT,
                numerics=NUMERICS,
                rebuild=rebuilder(model, bar) if rebuild else None,
            ):
                steps.append(step)
        except IntegrityError as error:
            if error.link is not None and not quiet:
                bar.close()
                emit({}, [*_told(steps), f"{error.link:<9}BROKEN"], as_json=False)
            raise
    return steps


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
    if (keys_folder() / f"{key}.token").exists():
        raise UsageError(
            f"key {key!r} is in a token: weights are signed with keys in files alone. What it can "
            "sign are statements, approvals among them",
            param="key",
        )
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


def _check_signature(store: Store, manifest: Manifest, signature: Path, public_key: Path) -> None:
    from freehold.signing import keys, weights
    from freehold.store.layout import laid_out

    keys.load_public(public_key)
    with laid_out(store, manifest) as folder:
        weights.verify(folder, signature, public_key)


def _told(steps: Sequence[Step]) -> list[str]:
    """The chain, in lines."""
    lines = []
    for step in steps:
        lines.append(f"{step.kind:<9}{one_line(step.name)}")
        known = [step.digest] if step.digest else []
        known += step.told
        known += [f"signed by {', '.join(step.signers)}"] if step.signers else []
        lines += [f"{'':<11}{one_line(line)}" for line in known]
    return lines

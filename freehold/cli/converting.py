"""``convert``: a model written out plain for other engines, and brought into the vault as what it
is: another model, made from the first."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold import __version__
from freehold.cli.output import Bar, emit, size
from freehold.cli.passphrases import PassphraseFd
from freehold.cli.places import root
from freehold.cli.settings import read_settings
from freehold.errors import StorageError, UsageError

if TYPE_CHECKING:
    from freehold.store import Manifest

SUFFIX = "-bf16"
_SPARE = 64 << 20


def convert(
    model: Annotated[
        str | None, typer.Argument(help="A model in the vault. Without one: the default model.")
    ] = None,
    gguf: Annotated[
        str | None,
        typer.Option("--gguf", help="Write one GGUF file instead, for llama.cpp: F16, Q8_0, F32."),
    ] = None,
    passphrase_fd: PassphraseFd = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model out as bfloat16 safetensors, for engines that read no GGUF (vLLM), or as GGUF.

    The new model, NAME-bf16 (NAME-f16, NAME-q8_0), has other bytes and a digest of its own. With a
    `signer` in freehold.toml, sign from which model it was made.
    """
    from freehold.cli.passphrases import signing_key
    from freehold.cli.passports import append, sign_known
    from freehold.cli.trust import trusted
    from freehold.store import Store, statements

    settings = read_settings(root(), model=model)
    if settings.signer:
        trusted(settings)  # a key that is missing is named before minutes of work
    source = Store(root()).manifest(settings.model)
    made = make(settings.model, gguf, quiet=json)
    rounded = gguf or "bfloat16"
    if settings.signer:
        sign_known(made, settings.signer, passphrase_fd)
        said = statements.Lineage(
            made=statements.now(),
            relation="quantisation",
            parents=(statements.Named(name=source.name, digest=source.digest),),
            deltas=(),
            tool=f"freehold {__version__} convert, rounded to {rounded}",
        )
        key = signing_key(settings.signer, passphrase_fd)
        append(made, [statements.about(made.name, made.digest, said, key)])
    lines = [
        f"{made.name} is in the vault: {size(made.size)}, made from {source.name}, every value "
        f"rounded to {rounded}",
        f"the file for llama.cpp: {Store(root()).weights_path(made.name)}"
        if gguf
        else f"serve it with vLLM: freehold serve {made.name} --engine vllm",
    ]
    if not settings.signer:
        lines.append(
            "its passport does not say so: set `signer` in freehold.toml and convert again"
        )
    emit(_facts(source, made, rounded, settings.signer), lines, as_json=json)


def make(name: str, gguf: str | None = None, *, quiet: bool) -> Manifest:
    """Convert and admit, as GGUF of that type or as safetensors. Raises ``UsageError`` for what is
    plain already, and what verifying and pulling raise. Interrupted, it leaves nothing."""
    from freehold.qwen import ggufout, plain
    from freehold.store import Store, pull, verify
    from freehold.store.sources import FolderSource

    kind = next((one for one in ggufout.KINDS if one == gguf), None)
    if gguf is not None and kind is None:
        raise UsageError(f"{gguf!r}: take {', '.join(ggufout.KINDS)}", param="gguf")
    store = Store(root())
    found = verify(store, name, keep=False)
    suffix = SUFFIX if kind is None else f"-{kind.lower()}"
    made_bytes = plain.size_of(found) if kind is None else ggufout.size_of(found, kind)
    if kind is None and found.format == "safetensors" and name.endswith(SUFFIX):
        raise UsageError(f"{name} is written out plain already", param="model")
    needed, there = 2 * made_bytes + _SPARE, shutil.disk_usage(root()).free
    if there < needed:
        raise StorageError(
            f"the disk that holds {root()} has {there:,} bytes free, but {needed:,} are needed to "
            f"convert {name}: free some space"
        )
    with (
        tempfile.TemporaryDirectory(dir=root(), prefix=".convert-") as scratch,
        Bar(quiet=quiet) as bar,
    ):
        folder = Path(scratch).resolve() / (name.replace("/", "-").replace(":", "-") + suffix)
        folder.mkdir()
        bar.start(made_bytes, f"Writing out {name}")
        done = 0

        def progress(now: int, total: int) -> None:
            nonlocal done
            bar.advance(now - done)
            done = now

        try:
            if kind is None:
                plain.write(found, folder, progress=progress)
            else:
                ggufout.write(found, folder / f"{folder.name}.gguf", kind, progress=progress)
        except OSError as error:
            raise StorageError(f"{name} cannot be written out: {error.strerror}") from error
        made = FolderSource(folder, name="freehold convert", licence=found.licence)
        return pull(store, str(folder), sources=(made,), progress=bar)


def _facts(source: Manifest, made: Manifest, rounded: str, signer: str) -> dict[str, Any]:
    return {
        "name": made.name,
        "digest": made.digest,
        "bytes": made.size,
        "made_from": {"name": source.name, "digest": source.digest},
        "rounded_to": rounded,
        "signed_by": signer or None,
    }

"""``pack``: the weights as the kernels want them, chosen, measured, kept on disk and sealed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.output import Bar, emit, size
from freehold.cli.passphrases import PassphraseFd
from freehold.cli.places import pack_secret, root
from freehold.cli.settings import read_settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.qwen.pack import WeightChoice
    from freehold.store import Record

WEIGHTS_HELP = "What plain floating-point weights are rounded to: 8bit or 4bit."


def pack(
    model: Annotated[
        str | None, typer.Argument(help="A model in the vault. Without one: the default model.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help=f"{WEIGHTS_HELP} [8bit]")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Throw the present pack away and make a new one.")
    ] = False,
    passphrase_fd: PassphraseFd = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Pack a model's weights for the native kernels, and keep them for every later start.

    Weights that a GGUF file holds as codes stay what they are. Plain floating-point weights are
    rounded, and the mean KL to the model's own values is measured where PyTorch is installed. With
    a `signer` in freehold.toml, sign what was made and how.
    """
    from freehold.cli.passports import sign_known
    from freehold.store import Store

    settings = read_settings(root(), model=model)
    record = make(settings.model, weights, again=again, threads=settings.threads, quiet=json)
    if settings.signer:
        manifest = Store(root()).manifest(settings.model)
        sign_known(manifest, settings.signer, passphrase_fd, record)
    emit({"name": settings.model, **facts(record)}, lines(settings.model, record), as_json=json)


def check(weights: str | None) -> WeightChoice | None:
    """Raises ``UsageError`` for what is no choice."""
    choices: dict[str | None, WeightChoice | None] = {None: None, "8bit": "8bit", "4bit": "4bit"}
    if weights in choices:
        return choices[weights]
    raise UsageError(f"weights is {weights!r}: take 8bit or 4bit", param="weights")


def make(name: str, weights: str | None, *, again: bool, threads: int, quiet: bool) -> Record:
    """Make or find the pack, with a bar."""
    from freehold.engine.packing import pack_model
    from freehold.store import Packs, Store

    choice, store = check(weights), Store(root())
    with Bar(quiet=quiet) as bar:
        return pack_model(
            store,
            Packs(store, pack_secret()),
            name,
            weights=choice,
            again=again,
            threads=threads or None,
            report=_Shown(bar, name),
        )


def rebuilder(name: str, bar: Bar) -> Callable[[str], str]:
    """Packs the model anew as it is told, and gives the BLAKE3 of what came out."""
    from freehold.engine.packing import rebuilt
    from freehold.store import Store

    threads = read_settings(root()).threads or None

    def rebuild(weights: str) -> str:
        shown = _Shown(bar, name)
        return rebuilt(Store(root()), name, weights=weights, threads=threads, report=shown)

    return rebuild


def facts(record: Record) -> dict[str, Any]:
    """A record for ``--json``: ``mean_kl`` in nats per token, ``None`` where it was not measured
    or nothing was rounded."""
    quality = record.quality
    return {
        "weights": record.weights,
        "bytes": record.size,
        "blake3": record.blake3,
        "layout": record.layout,
        "mean_kl": None if quality is None else float(quality.kl),
        "measured": None
        if quality is None
        else {"tokens": quality.tokens, "text": quality.text, "reference": quality.reference},
    }


def lines(name: str, record: Record) -> list[str]:
    """A record for a person."""
    from freehold.engine.packing import UNMEASURED

    first = f"{name} is packed: {size(record.size)}, {_chosen(record.weights)}"
    if record.weights == "file":
        return [first]
    if record.quality is None:
        return [first, f"mean KL to the model's own values {UNMEASURED}"]
    quality = record.quality
    return [
        first,
        f"mean KL to the model's own values ({quality.reference}): {quality.kl} nats per token, "
        f"over {quality.tokens:,} tokens of Freehold's text {quality.text[:19]}",
    ]


def _chosen(weights: str) -> str:
    known: Mapping[str, str] = {
        "file": "weights as in its file",
        "8bit": "weights rounded to 8 bits",
        "4bit": "weights rounded to 4 bits",
    }
    return known.get(weights, weights)


class _Shown:
    """Progress of several pieces of work, on one bar after the other."""

    def __init__(self, bar: Bar, name: str) -> None:
        self._bar = bar
        self._name = name
        self._what = ""
        self._done = 0

    def progress(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._done = what, 0
            self._bar.start(total, f"{what} {self._name}")
        self._bar.advance(done - self._done)
        self._done = done

    def note(self, line: str) -> None:
        self._bar.note(line)

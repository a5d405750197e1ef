"""``adapt fertility`` and ``adapt extend``: what a language costs in tokens, and new ones."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli.output import Bar, emit, say, size, table
from freehold.cli.passphrases import PassphraseFd
from freehold.cli.places import root
from freehold.cli.settings import read_settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.adapt.vocabulary import Extended, Saved
    from freehold.store import Manifest

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fertility(
    model: Annotated[str, typer.Argument(help="A model in the vault.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Texts of yours. Without: five sentences in sixteen languages."),
    ] = None,
    extend: Annotated[
        int, typer.Option(min=0, help="With files: say what so many new tokens would save.")
    ] = 0,
    json: Json = False,
) -> None:
    """How many tokens a language takes, against English, and what that costs.

    Twice the tokens are twice the time and the price, and half the context.
    """
    from freehold.adapt import fertility as meter
    from freehold.adapt import vocabulary
    from freehold.qwen import codec as codecs
    from freehold.qwen.config import config_of
    from freehold.qwen.tokenizer import tables_of, tokenizer_of
    from freehold.store import Store, verify

    verified = verify(Store(root()), model, keep=False)
    codec, config, tokenizer = codecs.load(verified), config_of(verified), tokenizer_of(verified)
    named = vocabulary.named(tables_of(verified)) if extend else None
    samples = meter.samples()
    english = meter.measure("en", samples["en"], codec.plain)
    texts = {str(path): "\n".join(_texts(path)) for path in files} if files else samples
    rows, found = [], []
    for name, text in texts.items():
        one = meter.measure(name, text, codec.plain)
        cost = meter.against(one, english, context=config.context, same_text=not files)
        fact = {**asdict(one), **asdict(cost)}
        if files and extend:
            tables = 1 if config.tied_head else 2
            more = meter.extension(
                text,
                codec.plain,
                most=extend,
                width=config.width,
                tables=tables,
                pieces=tokenizer.pieces(text),
                named=named,
            )
            fact["extension"] = {**asdict(more), "saved": more.saved}
        found.append(fact)
        rows.append(_row(fact))
    head = ("text", "tokens", "per word", "per character", "per byte", "cost", "context")
    lines = [
        *table(head, rows),
        "cost: tokens beside English, by the same text, else by tokens per word or per character",
        *(line for fact in found for line in _extension_lines(fact)),
    ]
    emit({"model": model, "context": config.context, "texts": found}, lines, as_json=json)


def _texts(path: Path) -> list[str]:
    """The texts of a file that training reads."""
    from freehold.train.reading import read

    found = read([path])
    found.check()
    return [record.content for record in found.records]


def _row(fact: dict[str, Any]) -> tuple[str, ...]:
    per_word = fact["per_word"]
    return (
        fact["name"],
        f"{fact['tokens']:,}",
        "-" if per_word is None else f"{per_word:.2f}",
        f"{fact['per_character']:.3f}",
        f"{fact['per_byte']:.3f}",
        f"{fact['cost']:.2f}",
        f"{fact['context']:,}",
    )


def _extension_lines(fact: dict[str, Any]) -> list[str]:
    more = fact.get("extension")
    if not more:
        return []
    return [
        f"{fact['name']}: {more['added']:,} new tokens would save {100 * more['saved']:.1f} % of "
        f"the tokens, for {size(more['bytes'])} more weights",
        f"  words that gain most: {', '.join(more['words'])}",
    ]


def extend(
    model: Annotated[str, typer.Argument(help="A model in the vault.")],
    files: Annotated[list[Path], typer.Argument(help="Texts that the new tokens are to save.")],
    add: Annotated[int, typer.Option(min=1, help="How many new tokens, at most.")] = 2000,
    name: Annotated[str, typer.Option(help="The new model's name. [MODEL-extended]")] = "",
    passphrase_fd: PassphraseFd = None,
    json: Json = False,
) -> None:
    """Give a model tokens of its own for a language, each begun as the mean of its parts.

    Every text falls into the tokens that it did, some of them joined; that is checked. The new
    model must learn its tokens before it is of use: `freehold adapt MODEL-extended --recipe full`.
    With a `signer` in freehold.toml, sign from which model it was made.
    """
    from freehold.adapt import vocabulary
    from freehold.store import Store, verify

    settings = read_settings(root(), model=model)
    store = Store(root())
    found = verify(store, model, keep=False)
    new_name = name or f"{found.name.replace('/', '-').replace(':', '-')}-extended"
    if new_name in store.names():
        raise UsageError(f"{new_name} is in the vault already: remove it, or take --name")
    texts = [text for path in files for text in _texts(path)]
    new = vocabulary.extended(found, texts, add)
    made = _made(store, found, new, new_name, quiet=json)
    try:
        saved = vocabulary.check(found, verify(store, made.name, keep=False), new, texts)
    except BaseException:
        store.remove(made.name)
        raise
    if settings.signer:
        _sign(found, made, files, settings.signer, passphrase_fd)
    _tell(made, new, saved, settings.signer, json=json)


def _made(store: Any, found: Any, new: Extended, name: str, *, quiet: bool) -> Manifest:
    """The extended model, written out and brought into the vault."""
    from freehold.adapt import vocabulary
    from freehold.store import FolderSource, pull
    from freehold.store.vault import check_name

    check_name(name)
    scratch = tempfile.TemporaryDirectory(dir=root(), prefix=".extend-")
    with scratch as place, Bar(quiet=quiet) as bar:
        folder = Path(place).resolve() / name
        folder.mkdir(parents=True)
        done = 0

        def progress(now: int, total: int) -> None:
            nonlocal done
            if not done:
                bar.start(total, f"Writing out {name}")
            bar.advance(now - done)
            done = now

        vocabulary.write(found, new, folder, progress=progress)
        source = FolderSource(folder, name="freehold adapt extend", licence=found.licence)
        return pull(store, str(folder), sources=(source,), progress=bar)


def _sign(
    found: Any, made: Manifest, files: list[Path], signer: str, descriptor: int | None
) -> None:
    import hashlib

    from freehold import __version__
    from freehold.cli.passphrases import signing_key
    from freehold.cli.passports import append, sign_known
    from freehold.store import statements

    sign_known(made, signer, descriptor)
    texts = []
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        texts.append(statements.Named(name=path.name[:300], digest=f"sha256:{digest}"))
    said = statements.Lineage(
        made=statements.now(),
        relation="training",
        parents=(statements.Named(name=found.name, digest=found.digest),),
        deltas=tuple(texts),
        tool=f"freehold {__version__} adapt extend, rounded to bfloat16",
    )
    key = signing_key(signer, descriptor)
    append(made, [statements.about(made.name, made.digest, said, key)])


def _tell(made: Manifest, new: Extended, saved: Saved, signer: str, *, json: bool) -> None:
    facts = {
        "name": made.name,
        "digest": made.digest,
        "added": len(new.parts),
        "first": new.first,
        "rows": new.rows,
        "tokens_before": saved.before,
        "tokens_after": saved.after,
        "saved": saved.share,
    }
    lines = [
        f"{made.name} is in the vault: {size(made.size)}, {len(new.parts):,} new tokens from "
        f"{new.first:,} on",
        f"your texts take {saved.after:,} tokens in place of {saved.before:,} "
        f"({100 * saved.share:.1f} % less), and come back as they were",
        f"it must learn them first: `freehold adapt {made.name} --recipe full --data ...`",
    ]
    if not signer:
        say("its passport does not say what it was made from: set `signer` in freehold.toml")
    emit(facts, lines, as_json=json)

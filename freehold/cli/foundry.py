"""``data``, ``train`` and ``reproduce``: the foundry's counter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freehold.cli import workshop
from freehold.cli.output import Bar, emit, say, size, table
from freehold.cli.passphrases import PassphraseFd
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from freehold.store import Manifest
    from freehold.train.recipe import Recipe

data = typer.Typer(
    help="Build open data: a corpus with a manifest that says what is in it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NoLock = Annotated[bool, typer.Option("--no-lock", help="Leave every way out open.")]
Corpus = Annotated[str, typer.Argument(help="A corpus in the vault, or its folder.")]


@data.command("build")
def build(
    declaration: Annotated[Path, typer.Argument(help="A TOML file: sources, licences, steps.")],
    processes: Annotated[int, typer.Option(min=1, max=256, help="Sift so many files at once.")] = 1,
    no_lock: NoLock = False,
    json: Json = False,
) -> None:
    """Build the corpus that a file declares. Ctrl-C keeps what is done; the same command goes on.

    It lies in `corpora/NAME` in the vault: documents, what is held out, manifest, Croissant.
    """
    settings = read_settings(root(), residency="off" if no_lock else None)
    manifest, folder = _build(settings, declaration, processes, quiet=json)
    emit({"folder": str(folder), **manifest}, _corpus_lines(manifest, folder), as_json=json)


@data.command("show")
def show(corpus: Corpus, json: Json = False) -> None:
    """Show what a corpus is made of, after comparing its files with its manifest."""
    from freehold.train.data import build as corpora

    folder = corpus_folder(corpus)
    manifest = corpora.load(folder)
    emit({"folder": str(folder), **manifest}, _corpus_lines(manifest, folder), as_json=json)


@data.command("tokenizer")
def tokenizer(
    corpus: Corpus,
    against: Annotated[
        str, typer.Option("--against", help="A model in the vault, to compare with.")
    ] = "",
    json: Json = False,
) -> None:
    """Say how many tokens a corpus's own tokenizer takes for what is held out, and for five
    sentences in sixteen languages."""
    from freehold.adapt import fertility as meter
    from freehold.qwen import codec as codecs
    from freehold.store import Store, verify
    from freehold.train.batches import codec_of
    from freehold.train.data import build as corpora
    from freehold.train.data import vocabulary

    folder = corpus_folder(corpus)
    corpora.load(folder)
    made = folder / corpora.TOKENIZER
    if not made.exists():
        raise UsageError(
            f"{folder} has no tokenizer: set `vocab` and build it again", param="corpus"
        )
    mine = codec_of(vocabulary.load(made.read_bytes()))
    other = codecs.load(verify(Store(root()), against, keep=False)) if against else None
    held_out = "\n".join(corpora.texts(folder / corpora.HELD_OUT))
    texts = ({"held out": held_out} if held_out else {}) | meter.samples()
    found, rows = [], []
    for name, text in texts.items():
        one = meter.measure(name, text, mine.plain)
        fact = {
            "text": name,
            "tokens": one.tokens,
            "per_word": one.per_word,
            "per_byte": one.per_byte,
        }
        if other is not None:
            fact["against"] = meter.measure(name, text, other.plain).tokens
        found.append(fact)
        per_word = "-" if one.per_word is None else f"{one.per_word:.2f}"
        theirs = f"{fact['against']:,}" if other is not None else ""
        rows.append((name, f"{one.tokens:,}", per_word, f"{one.per_byte:.3f}", theirs))
    head = ("text", "tokens", "per word", "per byte", against)
    emit({"corpus": corpus, "texts": found}, table(head, rows), as_json=json)


def train(
    recipe: Annotated[str, typer.Argument(help="hearth, m4, m15, m60, m125 or m300.")],
    corpus: Annotated[
        str, typer.Argument(help="A corpus in the vault, or its folder. [hearth has its own]")
    ] = "",
    name: Annotated[str, typer.Option(help="The new model's name. [the recipe's]")] = "",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the first stage, and of no other.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="The learning rate.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a row.")] = None,
    batch: Annotated[int | None, typer.Option(help="Tokens of one step.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Tokens computed at once: less takes less memory.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Make a program of the blocks first: faster on rows."
        ),
    ] = None,
    keep_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides order and first values.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Arithmetic threads: other bits for another number.")
    ] = None,
    ranks: Annotated[
        int, typer.Option(min=1, max=256, help="Processes on this machine that share the model.")
    ] = 1,
    device: Annotated[
        str, typer.Option(help="cpu or cuda: of several ranks, each takes a GPU.")
    ] = "cpu",
    no_lock: NoLock = False,
    passphrase_fd: PassphraseFd = None,
    json: Json = False,
) -> None:
    """Train a model from nothing on a corpus, record every step, and bring it into the vault.

    Needs the extra `lab`. Ctrl-C keeps the state; the same command takes it up again. `hearth`
    builds its own corpus first: one command from nothing to a model that can be served.

    On several machines, start it by `torchrun` in place of `--ranks`.
    """
    from dataclasses import replace

    from freehold.residency.lock import reaching
    from freehold.train import devices, wire
    from freehold.train.recipe import recipe_named

    settings = read_settings(root(), residency="off" if no_lock else None)
    chosen = recipe_named(
        recipe,
        learning_rate=rate,
        length=length,
        batch=batch,
        micro_batch=micro_batch,
        dtype=dtype,
        compiled=compiled,
        keep_every=keep_every,
        seed=seed,
        threads=threads,
    )
    if steps is not None:
        chosen = replace(chosen, stages=(replace(chosen.stages[0], steps=steps),))
    folder = _run_folder(name or recipe)
    folder.mkdir(parents=True, exist_ok=True)
    seats = workshop.seats(ranks, folder, device)
    first = not seats or seats[0].first
    if dtype is None and device == devices.CPU:
        chosen = computable(chosen, workshop.multiplies_bfloat16(), tell=first)
    if chosen.compiled and not seats:
        say(f"compiling the blocks first, by {devices.compiler()}: about a minute")
    texts = _corpus_for(recipe, corpus, settings, quiet=json, build=len(seats) != 1)
    with workshop.Shop("freehold.train", settings, quiet=json or not first) as shop:
        job = wire.Train(
            recipe=chosen.plain(), corpus=str(texts), folder=str(folder), device=device
        )
        reach = _reach(read=(str(texts),), write=(str(folder),))
        shop.start_ranks(
            job, reaching(reach, device), seats, program=workshop.programs(chosen, device)
        )
        result = shop.listen(_train_lines)
    if result["why"] == "stopped":
        if first:
            emit(result, [f"stopped; the same command goes on: {folder}"], as_json=json)
        raise typer.Exit(130)
    if not first:
        return
    made = _dock(folder, Path(result["model"]), result["licences"], quiet=json)
    if settings.signer:
        _sign(made, chosen, result, settings.signer, passphrase_fd)
    else:
        say("its passport does not say what it was made from: set `signer` in freehold.toml")
    facts = {"name": made.name, "digest": made.digest, "folder": str(folder), **result}
    lines = [
        f"{made.name} is in the vault: {size(made.size)}, after {result['step']:,} steps",
        f"what is held out costs it {result['bits_per_byte']:.4f} bits per byte",
        f"its record of {result['record']['size']:,} lines, and its loss curve: {folder}",
        f"the record's root: {result['record']['root']}",
        f"any stretch can be done again: freehold reproduce {made.name} --steps 1:10",
    ]
    emit(facts, lines, as_json=json)


def reproduce(
    model: Annotated[str, typer.Argument(help="A model that was trained here, or a run's folder.")],
    steps: Annotated[
        str, typer.Option("--steps", help="The stretch, as FIRST:LAST, or `random:N`: N steps.")
    ] = "random:10",
    corpus: Annotated[
        str, typer.Option("--corpus", help="The corpus. [the one of the run's recipe]")
    ] = "",
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Trust no checkpoint: begin at the first values.")
    ] = False,
    no_lock: NoLock = False,
    json: Json = False,
) -> None:
    """Do a stretch of a training run again and compare it with the record, bit by bit.

    Ends with 3 where a step differs, and names the first.
    """
    import tempfile

    from freehold.residency.lock import reaching
    from freehold.train import record, wire
    from freehold.train.reproduce import recipe_of

    settings = read_settings(root(), residency="off" if no_lock else None)
    folder = Path(model) if Path(model).is_dir() else _run_folder(model)
    lines = list(record.read(folder))
    record.check(folder)
    taken = max((line["step"] for line in lines if line["kind"] == "step"), default=0)
    first, last = _stretch(steps, taken)
    recipe = recipe_of(lines[0])
    texts = _corpus_for(recipe.name, corpus, settings, quiet=json)
    ranks, device = record.ranks_at(lines, last), record.device_of(lines[0])
    with (
        tempfile.TemporaryDirectory() as scratch,
        workshop.Shop("freehold.train", settings, quiet=json) as shop,
    ):
        job = wire.Reproduce(
            folder=str(folder.resolve()),
            corpus=str(texts),
            scratch=scratch,
            first=first,
            last=last,
            from_start=from_start,
            device=device,
        )
        reach = _reach(read=(str(texts), str(folder.resolve())), write=(scratch,))
        shop.start_ranks(
            job,
            reaching(reach, device),
            workshop.on_this_machine(ranks, Path(scratch), device),
            program=workshop.programs(recipe, device),
        )
        found = shop.listen()
    emit(found, _reproduced_lines(found), as_json=json)
    if not found["identical"]:
        raise typer.Exit(3)


def computable(recipe: Recipe, bfloat16: bool | None, *, tell: bool = True) -> Recipe:
    """``recipe`` as a processor with or without ``bfloat16`` had better compute it."""
    from dataclasses import replace

    if recipe.dtype != "bfloat16" or bfloat16 is not False:
        return recipe
    if tell:
        say(
            f"this processor has no instructions for bfloat16: {recipe.name} is computed in "
            "float32, several times faster here (--dtype bfloat16 takes the recipe as it stands)"
        )
    return replace(recipe, dtype="float32")


def corpus_folder(name: str) -> Path:
    """The folder of a corpus: in the vault by its name, or the folder that is named."""
    held = root() / "corpora" / name
    folder = held if "/" not in name and held.is_dir() else Path(name)
    if not folder.is_dir():
        raise NotFoundError(
            f"there is no corpus {name}: `freehold data build` makes one", param="corpus"
        )
    return folder.resolve()


def _run_folder(name: str) -> Path:
    from freehold.store.vault import check_name

    check_name(name)
    if "/" in name:
        raise UsageError(f"{name!r} holds a slash: name the new model without one", param="name")
    return (root() / "train" / name).resolve()


def _build(
    settings: Settings, path: Path, processes: int, *, quiet: bool
) -> tuple[dict[str, Any], Path]:
    from freehold.train import wire
    from freehold.train.data import declaration

    declared = declaration.load(path)
    folder = (root() / "corpora" / declared.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    given = [declared.folder / one.path for one in declared.sources if one.path]
    given += [declared.folder / one for one in declared.steps.avoid]
    given += [declared.folder / declared.steps.opt_out] if declared.steps.opt_out else []
    for one in given:
        if not one.exists():
            raise NotFoundError(f"{one} does not exist", param="source")
    reach = _reach(
        read=(str(path.resolve()), *(str(one.resolve()) for one in given)), write=(str(folder),)
    )
    job = wire.Build(declaration=str(path.resolve()), folder=str(folder))
    if processes > 1:
        from msgspec import structs

        with workshop.Shop("freehold.train", settings, quiet=quiet) as shop:
            for share in range(processes):
                shop.start(structs.replace(job, share=share, of=processes), reach)
            shop.listen()
    with workshop.Shop("freehold.train", settings, quiet=quiet) as shop:
        shop.start(job, reach)
        return shop.listen(), folder


def _corpus_for(
    recipe: str, given: str, settings: Settings, *, quiet: bool, build: bool = True
) -> Path:
    """The corpus that is named, or the recipe's own, built where it is not there; without
    ``build`` it must be."""
    from importlib import resources

    if given:
        return corpus_folder(given)
    own = resources.files("freehold.train.data") / f"{recipe}.toml"
    if not own.is_file():
        raise UsageError(f"the recipe {recipe} has no corpus of its own: name one", param="corpus")
    if (root() / "corpora" / recipe / "manifest.json").exists():
        return corpus_folder(recipe)
    if not build:
        raise NotFoundError(
            f"the corpus of {recipe} is not built yet, and ranks of torchrun would all build it: "
            f"`freehold data build` makes it of {own}",
            param="corpus",
        )
    with resources.as_file(own) as path:
        return _build(settings, path, 1, quiet=quiet)[1]


def _reach(*, read: tuple[str, ...], write: tuple[str, ...]) -> Any:
    from freehold.residency.landlock import Reach
    from freehold.residency.lock import library

    return Reach(read=(*read, *library()), write=write)


def _stretch(steps: str, taken: int) -> tuple[int, int]:
    import secrets

    first, gap, last = steps.partition(":")
    if first == "random" and last.isdecimal() and 1 <= int(last) <= taken:
        begin = 1 + secrets.randbelow(taken - int(last) + 1)
        return begin, begin + int(last) - 1
    if not gap or not first.isdecimal() or not last.isdecimal():
        raise UsageError(
            f"--steps is {steps!r}: take FIRST:LAST, or random:N with N from 1 to {taken}",
            param="steps",
        )
    return int(first), int(last)


def _dock(folder: Path, model: Path, licences: list[str], *, quiet: bool) -> Manifest:
    """Bring the new model in as any other. The dock calls a model by its folder."""
    from freehold.store import FolderSource, Store, pull
    from freehold.store.licences import UNKNOWN_LICENCE

    named = folder / "dock" / folder.name
    named.parent.mkdir(exist_ok=True)
    named.unlink(missing_ok=True)
    named.symlink_to(model, target_is_directory=True)
    licence = licences[0] if len(licences) == 1 else UNKNOWN_LICENCE
    made = FolderSource(named, name="freehold train", licence=licence)
    with Bar(quiet=quiet) as bar:
        manifest = pull(Store(root()), str(named), sources=(made,), progress=bar)
    named.unlink()
    named.parent.rmdir()
    return manifest


def _sign(
    made: Manifest, recipe: Any, result: dict[str, Any], signer: str, descriptor: int | None
) -> None:
    from freehold import __version__
    from freehold.cli.passphrases import signing_key
    from freehold.cli.passports import append, sign_known
    from freehold.cli.trust import trusted
    from freehold.store import Store, passport, statements

    sign_known(made, signer, descriptor)
    lineage = statements.Lineage(
        made=statements.now(),
        relation="base",
        parents=(),
        deltas=(),
        tool=f"freehold {__version__} train",
    )
    settings = {key: str(value) for key, value in recipe.plain().items()}
    settings |= {
        "record": f"sha256:{result['record']['root']}, {result['record']['size']} lines",
        "bits per byte": f"{result['bits_per_byte']:.6f}",
        "data licences": ", ".join(result["licences"]),
    }
    training = statements.Adaptation(
        made=statements.now(),
        method=f"training from nothing, {recipe.name}",
        data=(statements.Named(name="corpus", digest=result["corpus"]),),
        evals=(),
        settings=settings,
    )
    entries = passport.read(Store(root()), made.digest, trusted(read_settings(root())))
    held = [entry.predicate for entry in entries if signer in entry.signers]
    said = [
        one
        for one in (lineage, training)
        if not any(passport.same_but_time(one, other) for other in held)
    ]
    if said:
        key = signing_key(signer, descriptor)
        append(made, [statements.about(made.name, made.digest, one, key) for one in said])


def _train_lines(plan: dict[str, Any]) -> list[str]:
    return [
        f"{plan['values']:,} values, {plan['vocab']:,} tokens in the vocabulary",
        f"{plan['steps']:,} steps, {plan['tokens']:,} tokens, {plan['threads']} threads"
        + (f" in each of {plan['ranks']} ranks" if plan["ranks"] > 1 else ""),
    ]


def _corpus_lines(manifest: dict[str, Any], folder: Path) -> list[str]:
    rows = [
        (
            one["name"],
            one["licence"],
            f"{one['read']:,}",
            f"{one['documents']:,}",
            f"{one['held_out']:,}",
            size(one["bytes"]),
            f"{one['tokens']:,}" if "tokens" in one else "-",
        )
        for one in manifest["sources"]
    ]
    head = ("source", "licence", "read", "learnt", "held out", "size", "tokens")
    lines = [f"{manifest['name']}  {manifest['digest']}", *table(head, rows)]
    for one in manifest["sources"]:
        for reason, count in one["left_out"].items():
            lines.append(f"{one['name']}: {count:,} left out: {reason}")
        for kind, count in one["masked"].items():
            lines.append(f"{one['name']}: {count:,} hidden: {kind}")
    return [*lines, str(folder)]


def _reproduced_lines(found: dict[str, Any]) -> list[str]:
    notes = [f"note: {one}" for one in found["notes"]]
    where = f"from the checkpoint of step {found['begun']}" if found["begun"] else "from the start"
    if found["identical"]:
        stretch = f"steps {found['first']} to {found['last']}"
        return [*notes, f"{stretch}, {where}: every bit is as recorded"]
    return [
        *notes,
        f"step {found['step']} differs, {where}, in its {found['what']}",
        f"  recorded {found['recorded']}",
        f"  found    {found['found']}",
    ]

"""``adapt``: a model made the owner's own, from local data, in a locked process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from freehold.cli import adaptgate, preparing, vocabularies, workshop
from freehold.cli.output import Bar, emit, say, size
from freehold.cli.passphrases import PassphraseFd
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.adapt import wire
    from freehold.adapt.recipe import Recipe
    from freehold.store import Manifest
    from freehold.train.seat import Seat

DEFAULT = "train"


class _Adapt(typer.core.TyperGroup):
    """``freehold adapt MODEL ...`` is ``freehold adapt train MODEL ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Adapt,
    help="Make a model your own, from your data, on your machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(DEFAULT)
def train(
    model: Annotated[str, typer.Argument(help="A model in the vault.")],
    data: Annotated[
        list[Path], typer.Option("--data", help="A file or folder to learn from. Repeatable.")
    ],
    name: Annotated[str, typer.Option(help="The new model's name. [MODEL-adapted]")] = "",
    recipe: Annotated[
        str,
        typer.Option(help="lora, rslora, dora, qlora, full, pretrain, dpo, or a file (.toml)."),
    ] = "lora",
    replay: Annotated[
        list[Path] | None,
        typer.Option("--replay", help="Data to mix in, so that less is forgotten. Repeatable."),
    ] = None,
    replay_share: Annotated[
        float | None, typer.Option(help="The share of tokens that is replayed.")
    ] = None,
    anchor: Annotated[
        bool | None,
        typer.Option(
            "--anchor/--no-anchor",
            help="Of the replay data, keep what the model said before; do not learn its text.",
        ),
    ] = None,
    exercises: Annotated[
        float | None,
        typer.Option(help="The share of plain texts that are put as conversations about them."),
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="The share of the data that is only measured. [0.02]")
    ] = None,
    avoid: Annotated[
        list[Path] | None,
        typer.Option("--avoid", help="Texts of evals: data that holds one is left out."),
    ] = None,
    lang: Annotated[
        str, typer.Option(help="The data's language (id, th, ...): others are left out.")
    ] = "",
    licence: Annotated[
        str, typer.Option("--data-licence", help="The data's licence, for the passport.")
    ] = "NOASSERTION",
    mask: Annotated[bool, typer.Option("--mask", help="Hide personal data and secrets.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Leave out what is wrong with the data, and say what.")
    ] = False,
    epochs: Annotated[float | None, typer.Option(help="How often the data is learnt.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps, instead.")] = None,
    rate: Annotated[float | None, typer.Option(help="The learning rate.")] = None,
    rank: Annotated[int | None, typer.Option(help="The adapter's rank.")] = None,
    batch: Annotated[int | None, typer.Option(help="Tokens of one step.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Tokens computed at once: less takes less memory.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest text, in tokens.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    save_every: Annotated[
        int | None, typer.Option(help="Steps after which the state is kept. [20]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides order and first values.")] = None,
    threads: Annotated[int | None, typer.Option(help="Arithmetic threads [all cores].")] = None,
    ranks: Annotated[
        int, typer.Option(min=1, max=256, help="Processes on this machine that learn together.")
    ] = 1,
    device: Annotated[
        str, typer.Option(help="cpu or cuda: of several ranks, each takes a GPU.")
    ] = "cpu",
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would take, and end.")] = False,
    no_lock: Annotated[bool, typer.Option("--no-lock", help="Leave every way out open.")] = False,
    passphrase_fd: PassphraseFd = None,
    json: Json = False,
) -> None:
    """Train on your data, and bring what comes of it into the vault as a model of its own.

    Needs the extra `lab`. Ctrl-C keeps the state; the same command takes it up again. With a
    `signer` in freehold.toml, sign what was learnt from what.

    On several machines, start it by `torchrun` in place of `--ranks`.
    """
    from msgspec import structs

    from freehold.adapt.recipe import recipe_named
    from freehold.store import Store
    from freehold.train import devices

    if (anchor or replay_share is not None) and not replay:
        raise UsageError(
            "it says how what --replay names is learnt: name some",
            param="anchor" if anchor else "replay_share",
        )
    settings = read_settings(
        root(), model=model, threads=threads, residency="off" if no_lock else None
    )
    source = Store(root()).manifest(model)
    chosen = recipe_named(
        recipe,
        replay=replay_share if replay or replay_share is None else None,
        anchored=anchor,
        exercises=exercises,
        held_out=held_out,
        epochs=epochs,
        steps=steps,
        learning_rate=rate,
        rank=rank,
        batch=batch,
        micro_batch=micro_batch,
        max_length=max_length,
        dtype=dtype,
        frozen=_frozen(device),
        save_every=save_every,
        seed=seed,
    )
    new = name or f"{source.name.replace('/', '-').replace(':', '-')}-adapted"
    folder = _folder(new)
    order = structs.replace(
        _job(settings, chosen, folder, data, replay or [], avoid or []),
        language=lang,
        fix=fix,
        mask=mask,
        device=devices.check(device),
    )
    seats = workshop.seats(ranks, folder, device)
    first = not seats or seats[0].first
    if plan and not first:
        return
    order = structs.replace(order, ranks=seats[0].world if seats else 1)
    if len(seats) > 1 and order.threads is None:
        order = structs.replace(order, threads=max((os.cpu_count() or 1) // len(seats), 1))
    result = _run(settings, order, only_plan=plan, quiet=json or not first, seats=seats)
    if "outcome" not in result:
        emit(result, _plan_lines(result), as_json=json)
        return
    if result["outcome"]["why"] == "stopped":
        if first:
            emit(result, [f"stopped; the same command goes on: {folder}"], as_json=json)
        raise typer.Exit(130)
    if not first:
        return
    made = _dock(source, Path(result["merged"]), quiet=json)
    if settings.signer:
        _sign(source, made, chosen, result, licence, settings.signer, passphrase_fd)
    _report(made, folder, result, settings.signer, json=json)


def _frozen(device: str) -> Literal["float32", "bfloat16"]:
    """bfloat16 where the device multiplies it."""
    multiplies = device != "cpu" or workshop.multiplies_bfloat16()
    return "bfloat16" if multiplies else "float32"


def _folder(name: str) -> Path:
    """The run's own folder in the vault."""
    from freehold.store.vault import check_name

    check_name(name)
    if "/" in name:
        raise UsageError(f"{name!r} holds a slash: name the new model without one", param="name")
    folder = root() / "adapt" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _job(
    settings: Settings,
    recipe: Recipe,
    folder: Path,
    data: list[Path],
    replay: list[Path],
    avoid: list[Path],
) -> wire.Job:
    from freehold.adapt import wire

    return wire.Job(
        root=str(root()),
        model=settings.model,
        folder=str(folder),
        data=tuple(str(path.resolve()) for path in data),
        replay=tuple(str(path.resolve()) for path in replay),
        avoid=tuple(str(path.resolve()) for path in avoid),
        recipe=recipe.plain(),
        threads=settings.threads or None,
    )


def _run(
    settings: Settings,
    job: wire.Job,
    *,
    only_plan: bool,
    quiet: bool,
    seats: Sequence[Seat] = (),
) -> dict[str, Any]:
    """Have the workshop do the job in a locked process, or as many as there are ``seats``; what it
    says at the end."""
    from freehold.residency.landlock import Reach
    from freehold.residency.lock import library, reaching

    vault = tuple(str(root() / part) for part in ("blobs", "manifests"))
    reach = Reach(
        read=(*vault, *job.data, *job.replay, *job.avoid, *library()), write=(job.folder,)
    )
    try:
        with workshop.Shop("freehold.adapt", settings, quiet=quiet) as shop:
            shop.start_ranks(job, reaching(reach, job.device), () if only_plan else seats)
            return shop.listen(_plan_lines, only_plan=only_plan)
    finally:
        _tidy(Path(job.folder))


def _tidy(folder: Path) -> None:
    """Leave nothing of a run that only told its plan, or failed before it had begun."""
    for empty in (folder / "inductor", folder):
        with contextlib.suppress(OSError):  # it holds something, or is not there
            empty.rmdir()


def _plan_lines(plan: dict[str, Any]) -> list[str]:
    hours = plan["seconds"] / 3600
    took = f"{hours:.1f} hours" if hours >= 1 else f"{max(plan['seconds'] / 60, 1):.0f} minutes"
    each = f" in each of {plan['ranks']} processes" if plan["ranks"] > 1 else ""
    return [
        f"{plan['records']:,} records, {plan['samples']:,} texts of {plan['tokens']:,} tokens, "
        f"{plan['held_out']:,} records held out",
        _lengths(plan["lengths"]),
        f"{plan['steps']:,} steps, {plan['trained_tokens']:,} tokens, "
        f"{plan['parameters']:,} values to train",
        f"at most {size(plan['memory'])} of memory{each}, about {took} with the machine to itself, "
        "about "
        f"{plan['kilowatt_hours']:g} kWh at 100 W",
    ]


def _lengths(counts: dict[str, int]) -> str:
    every = sum(counts.values())
    parts = [f"{100 * count / every:.0f} % to {int(edge):,}" for edge, count in counts.items()]
    return f"their lengths in tokens: {', '.join(parts)}"


def _dock(source: Manifest, folder: Path, *, quiet: bool) -> Manifest:
    """Bring the new model in as any other, and remove what it was brought from."""
    from freehold.store import FolderSource, Store, pull

    made = FolderSource(folder, name="freehold adapt", licence=source.licence)
    with Bar(quiet=quiet) as bar:
        manifest = pull(Store(root()), str(folder), sources=(made,), progress=bar)
    shutil.rmtree(folder)
    return manifest


def _sign(
    source: Manifest,
    made: Manifest,
    recipe: Recipe,
    result: dict[str, Any],
    licence: str,
    signer: str,
    descriptor: int | None,
) -> None:
    from freehold import __version__
    from freehold.cli.passphrases import signing_key
    from freehold.cli.passports import append, sign_known
    from freehold.store import statements

    sign_known(made, signer, descriptor)
    facts = result["facts"]
    named = [
        statements.Named(name=one["file"][:300], digest=f"sha256:{one['sha256']}")
        for one in (*facts["data"], *facts["replay"])
    ]
    adapter = result.get("adapter")
    delta = [statements.Named(name="adapter", digest=adapter)] if adapter else []
    lineage = statements.Lineage(
        made=statements.now(),
        relation="training" if recipe.lora is None else "merge",
        parents=(statements.Named(name=source.name, digest=source.digest),),
        deltas=tuple(delta),
        tool=f"freehold {__version__} adapt, rounded to bfloat16",
    )
    settings = {key: str(value) for key, value in recipe.plain().items()}
    settings |= {"data licence": licence, "left out": str(facts["left_out"])}
    settings |= {"hidden": str(facts["masked"])}
    adaptation = statements.Adaptation(
        made=statements.now(),
        method=recipe.name,
        data=tuple(named),
        evals=(),
        settings=settings,
    )
    key = signing_key(signer, descriptor)
    said = (lineage, adaptation)
    append(made, [statements.about(made.name, made.digest, one, key) for one in said])


def _report(
    made: Manifest, folder: Path, result: dict[str, Any], signer: str, *, json: bool
) -> None:
    outcome = result["outcome"]
    facts = {"name": made.name, "digest": made.digest, "folder": str(folder), **result}
    facts["signed_by"] = signer or None
    lines = [
        f"{made.name} is in the vault: {size(made.size)}, after {outcome['step']} steps",
        f"its adapter, log and loss curve: {folder}",
        "nobody has measured yet what it gained and lost: `freehold adapt gate` does",
    ]
    if not signer:
        say("its passport does not say what it was made from: set `signer` in freehold.toml")
    emit(facts, lines, as_json=json)


app.command("split")(preparing.split)
app.command("rehearse")(preparing.rehearse)
app.command("gate")(adaptgate.gate)
app.command("fertility")(vocabularies.fertility)
app.command("extend")(vocabularies.extend)

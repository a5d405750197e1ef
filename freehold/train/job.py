"""A whole job in the foundry's own process: a corpus, a model, or a stretch done again."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freehold import pair
from freehold.errors import ProcessError, ProtocolError
from freehold.pair import Link, frame
from freehold.train import wire
from freehold.train.data import build, declaration
from freehold.train.entry import settle
from freehold.train.recipe import from_plain

if TYPE_CHECKING:
    from freehold.train.ranks import Ranks

MODEL = "model"


def serve(fd: int, ranks: Ranks | None = None) -> int:
    """Do the one job that comes over the pair; the exit status."""
    pair.outlive_nobody()
    return pair.run(
        fd,
        wire.read_to,
        lambda link: _work(link, ranks),
        failure=lambda why: ProcessError(
            f"the foundry failed: {why}" if ranks is None else ranks.failed(why)
        ),
        fatal=lambda fault: wire.Failed(fault=fault),
    )


def _work(link: Link[wire.ToFoundry], ranks: Ranks | None) -> None:
    messages = link.receive(wait=True)
    if not messages:
        raise ProtocolError("the foundry was told nothing")
    job = messages[0]
    match job:
        case wire.Build():
            result = _build(job, link)
        case wire.Train():
            result = _train(job, link, ranks)
        case wire.Reproduce():
            result = _reproduce(job, link, ranks)
        case _:
            raise ProtocolError("the foundry was told to stop before it had a job")
    link.send([frame(wire.Ended(result=result))])
    while link.receive(wait=True):
        """Until the starter has read everything and hangs up."""


def _told(link: Link[wire.ToFoundry]) -> build.Work:
    return lambda what, done, total: link.send(
        [frame(wire.Work(what=what, done=done, total=total))]
    )


def _build(job: wire.Build, link: Link[wire.ToFoundry]) -> dict[str, Any]:
    declared = declaration.load(Path(job.declaration))
    if job.of > 1:
        build.sift_share(declared, Path(job.folder), job.share, job.of, work=_told(link))
        return {}
    return build.build(declared, Path(job.folder), work=_told(link))


def _train(job: wire.Train, link: Link[wire.ToFoundry], seated: Ranks | None) -> dict[str, Any]:
    folder = Path(job.folder)
    settle(folder)
    from freehold.train import curve, export, record, run
    from freehold.train.ranks import ALONE

    ranks = seated or ALONE

    def say(message: wire.FromProcess) -> None:
        if ranks.first:
            link.send([frame(message)])

    say(wire.Work(what="Reading the corpus", done=0, total=1))
    training = run.Training(
        from_plain(job.recipe),
        Path(job.corpus),
        device=job.device,
        scratch=folder / run.TOKENS,
        ranks=ranks,
    )
    recipe = training.recipe
    say(wire.Planned(plan=_plan(training)))
    title = f"{folder.name}, by {recipe.name}"
    page = curve.Curve(folder / run.LOG, folder / "loss.html", title=title)
    say(wire.Note(line=f"the loss as it falls: {folder / 'loss.html'}"))

    def stepped(event: dict[str, Any]) -> None:
        if event["event"] == "ranks":
            say(wire.Note(line=_other_ranks(event)))
            return
        figures = {k: float(v) for k, v in event.items() if k not in ("event", "steps")}
        say(wire.Stepped(steps=recipe.steps, figures=figures))
        if ranks.first:
            page.grow()

    def stopped() -> bool:
        return any(isinstance(one, wire.Stop) for one in link.receive(wait=False))

    ended = run.go(training, folder, report=stepped, stop=stopped)
    if ranks.first:
        page.finish()
    if not ended:
        return {"why": "stopped", "step": training.at}
    files = export.write(training, folder / MODEL)
    run.end(folder, training, files)
    # Every machine has its own; where it is one folder, another rank may be at it.
    shutil.rmtree(folder / run.TOKENS, ignore_errors=ranks.world > 1)
    if not ranks.first:
        return {"why": "done", "step": training.at}
    found = record.write_note(folder)
    (folder / run.STATE).unlink(missing_ok=True)
    measured = [line for line in record.read(folder) if line["kind"] == "measure"]
    return {
        "why": "done",
        "step": training.at,
        "bits_per_byte": record.float_of(measured[-1], "bits_per_byte"),
        "corpus": training.manifest["digest"],
        "licences": sorted({one["licence"] for one in training.manifest["sources"]}),
        "record": {"size": found.size, "root": found.root.hex()},
        "files": files,
        "model": str(folder / MODEL),
    }


def _plan(training: Any) -> dict[str, Any]:
    recipe, config = training.recipe, training.config
    return {
        "recipe": recipe.name,
        "values": recipe.shape.values(config.vocab),
        "vocab": config.vocab,
        "steps": recipe.steps,
        "tokens": recipe.steps * recipe.batch,
        "threads": recipe.threads,
        "ranks": training.ranks.world,
    }


def _other_ranks(event: dict[str, Any]) -> str:
    return (
        f"steps up to {event['step']:,} were taken by {event['before']} ranks, {event['now']} go "
        "on: the bits will be others than without that, and the record says so"
    )


def _reproduce(
    job: wire.Reproduce, link: Link[wire.ToFoundry], seated: Ranks | None
) -> dict[str, Any]:
    settle(Path(job.scratch))
    from freehold.train.ranks import ALONE
    from freehold.train.reproduce import reproduce

    ranks = seated or ALONE
    found = reproduce(
        Path(job.folder),
        Path(job.corpus),
        first=job.first,
        last=job.last,
        from_start=job.from_start,
        work=_told(link) if ranks.first else lambda *_: None,
        device=job.device,
        ranks=ranks,
        scratch=Path(job.scratch) / "tokens" if ranks.world > 1 else None,
    )
    return asdict(found) | {"identical": found.identical}

"""A whole job in the workshop's own process: data in, training, and what came of it on the disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freehold import pair
from freehold.adapt import exercises, plan, splitting, wire
from freehold.adapt.recipe import Recipe, canonical, from_plain
from freehold.errors import ProcessError, UsageError
from freehold.pair import Link, frame
from freehold.qwen import codec as codecs
from freehold.qwen.adapter import WEIGHTS
from freehold.qwen.codec import QwenCodec
from freehold.qwen.config import config_of
from freehold.store import Store, verify
from freehold.train import cleaning, curve, devices, encoding, reading
from freehold.train.encoding import Lesson
from freehold.train.entry import settle
from freehold.train.reading import Read
from freehold.train.records import Record
from freehold.types import VerifiedModel

if TYPE_CHECKING:
    from freehold.train.ranks import Ranks

_MOST_HELD_OUT = 200


def serve(fd: int, ranks: Ranks | None = None) -> int:
    """Do the one job that comes over the pair; the exit status."""
    pair.outlive_nobody()
    return pair.run(
        fd,
        wire.read_to,
        lambda link: _work(link, ranks),
        failure=lambda why: ProcessError(
            f"the workshop failed: {why}" if ranks is None else ranks.failed(why)
        ),
        fatal=lambda fault: wire.Failed(fault=fault),
    )


def _work(link: Link[wire.ToWorkshop], ranks: Ranks | None) -> None:
    job = pair.first(link, wire.Job)
    link.send([frame(wire.Ended(result=_Job(job, link, ranks).do()))])
    while link.receive(wait=True):
        """Until the starter has read everything and hangs up."""


class _Job:
    def __init__(self, job: wire.Job, link: Link[wire.ToWorkshop], ranks: Ranks | None) -> None:
        self._job, self._link, self._seated = job, link, ranks
        # One of several ranks reads and encodes as all do, and says nothing of it.
        self._speaks = ranks is None or ranks.first
        self._folder = Path(job.folder)
        self._recipe = from_plain(job.recipe)

    def do(self) -> dict[str, Any]:
        settle(self._folder)
        devices.prepare(self._job.device)
        self._work("Reading the data", 0, 1)
        data, replay = self._read(self._job.data), self._read(self._job.replay)
        model = verify(Store(Path(self._job.root)), self._job.model)
        lessons, facts = self._encoded(model, data, replay)
        planned = plan.plan(
            config_of(model),
            self._recipe,
            lessons,
            speed=self._pace(model, lessons),
            ranks=self._job.ranks,
            files=facts,
            file_bytes=sum(tensor.data.nbytes for tensor in model.tensors.values()),
        )
        self._say(wire.Planned(plan=planned))
        return self._train(model, lessons, facts | {"lengths": planned["lengths"]})

    def _pace(self, model: VerifiedModel, lessons: Any) -> float:
        from freehold.adapt.pace import pace

        self._work("Timing a piece of the model", 0, 1)
        job = self._job
        return pace(model, self._recipe, lessons, threads=job.threads, device=job.device)

    def _read(self, paths: Sequence[str]) -> Read:
        found = reading.read([Path(path) for path in paths])
        if not self._job.fix:
            found.check()
        for problem in found.problems:
            self._note(f"left out: {problem}")
        return found

    def _encoded(self, model: VerifiedModel, data: Read, replay: Read) -> Any:
        from freehold.adapt.training import Lessons

        codec = codecs.load(model)
        end = codec.text_end
        avoid = self._avoided()
        rules = cleaning.Rules(language=self._job.language, mask=self._job.mask, avoid=avoid)
        cleaned = cleaning.clean(data.records, rules, self._work)
        # What is replayed is learnt as well, and may be any language's.
        rules = cleaning.Rules(mask=self._job.mask, avoid=avoid)
        again = cleaning.clean(replay.records, rules, self._work)
        for line in (*cleaned.told, *(f"replay: {line}" for line in again.told)):
            self._note(line)
        kept, held_out = _split(cleaned.records, self._recipe)
        put = exercises.exercises(kept, self._recipe.exercises, self._job.language)
        lessons = Lessons(
            data=self._samples(put, codec, end, "Encoding"),
            replay=self._samples(again.records, codec, end, "Encoding the replay data"),
            held_out=self._samples(held_out, codec, end, "Encoding what is held out"),
        )
        if not lessons.data:
            raise UsageError("there is nothing to learn in the data", param="data")
        facts = {
            "data": [asdict(source) for source in data.sources],
            "replay": [asdict(source) for source in replay.sources],
            "left_out": {"damaged": len(data.problems), **cleaned.left_out},
            "left_out_of_replay": {"damaged": len(replay.problems), **again.left_out},
            "masked": {
                kind: cleaned.masked.get(kind, 0) + again.masked.get(kind, 0)
                for kind in sorted({*cleaned.masked, *again.masked})
            },
            "records": len(kept),
            "held_out": len(held_out),
        }
        return lessons, facts

    def _avoided(self) -> tuple[str, ...]:
        return tuple(cleaning.texts_of([Path(path) for path in self._job.avoid]))

    def _samples(
        self, records: Sequence[Record], codec: QwenCodec, end: int | None, what: str
    ) -> list[Lesson]:
        found: list[Lesson] = []
        for n, record in enumerate(records, 1):
            if bool(record.rejected) != bool(self._recipe.beta):
                raise UsageError(
                    f"{record.where}: the recipe dpo learns from preferences (prompt, chosen, "
                    "rejected), and only it does",
                    param="recipe",
                )
            if record.rejected:
                found += encoding.pairs(record, codec, max_length=self._recipe.max_length)
                continue
            found += encoding.samples(record, codec, max_length=self._recipe.max_length, end=end)
            self._work(what, n, len(records))
        return found

    def _train(self, model: VerifiedModel, lessons: Any, facts: dict[str, Any]) -> dict[str, Any]:
        import torch

        from freehold.adapt import export, student, training
        from freehold.qwen.model import load
        from freehold.train import state
        from freehold.train.ranks import ALONE, gathered

        ranks = self._seated or ALONE
        ranks.check(self._recipe.batch, self._recipe.micro_batch)
        loaded = load(
            model,
            backend="torch",
            dtype=self._recipe.dtype,
            device=self._job.device,
            threads=self._job.threads,
            cache_tokens=1,
            codes=self._recipe.codes,
            progress=lambda done, total: self._work("Loading", done, total),
        )
        page = self._folder / "loss.html"
        self._curve = curve.Curve(
            self._folder / training.LOG,
            page,
            title=f"{self._folder.name}, {self._recipe.name} of {model.name}",
            lengths=facts["lengths"],
        )
        self._note(f"the loss as it falls: {page}")
        learner = student.student_of(loaded, self._recipe, ranks)
        del loaded  # Where ranks share the values out, nobody holds them whole.
        run = training.Run(
            learner,
            self._recipe,
            lessons,
            self._folder,
            model_digest=model.digest,
            report=self._stepped,
            ranks=ranks,
        )
        outcome = run.go(self._stopped)
        parameters: dict[str, torch.Tensor] = {}
        if outcome.why != "stopped":
            for name, values in learner.parameters.items():
                held = gathered(values.detach())
                if ranks.first:
                    parameters[name] = held.cpu()
        if not ranks.first:
            return {"outcome": asdict(outcome)}
        self._curve.finish()
        result = {"outcome": asdict(outcome), "facts": facts, "base": model.digest}
        if outcome.why == "stopped":
            return result
        best = self._folder / training.BEST
        if best.exists():
            parameters, _ = state.read(best)
        if self._recipe.lora is not None:
            export.write_adapter(
                self._folder / "adapter", self._recipe.lora, parameters, base=model.name
            )
            result["adapter"] = _digest(self._folder / "adapter" / WEIGHTS)
        # The dock calls a model by its folder.
        merged = self._folder / "merged" / self._folder.name
        fresh(merged)
        export.write_merged(
            model,
            merged,
            self._recipe.lora,
            parameters,
            progress=lambda done, total: self._work("Writing the new model", done, total),
        )
        manifest = {**facts, "recipe": self._recipe.plain(), "base": model.digest}
        (self._folder / "data.json").write_text(
            json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        return {
            **result,
            "recipe_digest": hashlib.sha256(canonical(self._recipe)).hexdigest(),
            "merged": str(merged),
        }

    def _stopped(self) -> bool:
        return any(isinstance(one, wire.Stop) for one in self._link.receive(wait=False))

    def _stepped(self, event: dict[str, Any]) -> None:
        figures = {k: float(v) for k, v in event.items() if k not in ("event", "steps")}
        self._say(wire.Stepped(steps=event["steps"], figures=figures))
        if self._speaks:
            self._curve.grow()

    def _work(self, what: str, done: int, total: int) -> None:
        self._say(wire.Work(what=what, done=done, total=total))

    def _note(self, line: str) -> None:
        self._say(wire.Note(line=line))

    def _say(self, message: wire.FromProcess) -> None:
        if self._speaks:
            self._link.send([frame(message)])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def fresh(folder: Path) -> None:
    """An empty folder, whatever an interrupted run left there."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()


def _split(records: Sequence[Record], recipe: Recipe) -> tuple[list[Record], list[Record]]:
    """Records to learn and records to measure, told apart by a digest of what they say: more data
    moves none from one side to the other."""
    if not recipe.held_out:
        return list(records), []
    kept: list[Record] = []
    held: list[Record] = []
    for record in records:
        out = splitting.aside(record.content, recipe.held_out, recipe.seed)
        (held if out and len(held) < _MOST_HELD_OUT else kept).append(record)
    return kept, held

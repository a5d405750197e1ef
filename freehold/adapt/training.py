"""The loop: steps over packed batches, measured, kept, and taken up again where they stopped.

On a CPU with the same number of threads and ranks the same recipe, model and data give the same
bits, however often the run was killed: order comes from the seed, and the rest is in the state.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from freehold.adapt import packing
from freehold.adapt.recipe import Recipe, canonical
from freehold.adapt.student import Report, Student
from freehold.errors import UsageError
from freehold.train import state
from freehold.train.encoding import Lesson, Pair, Sample
from freehold.train.filling import filled
from freehold.train.ranks import ALONE, Ranks, gathered
from freehold.train.state import Progress

STATE, BEST, LOG = "state.safetensors", "best.safetensors", "log.jsonl"


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What is trained on, what is mixed in, and what is only measured. ``digest`` is of it all."""

    data: Sequence[Lesson]
    replay: Sequence[Lesson] = ()
    held_out: Sequence[Lesson] = ()

    @property
    def digest(self) -> str:
        whole = hashlib.sha256()
        for part in (self.data, self.replay, self.held_out):
            whole.update(len(part).to_bytes(8, "little"))
            for lesson in part:
                both = (lesson.chosen, lesson.rejected) if isinstance(lesson, Pair) else (lesson,)
                for sample in both:
                    whole.update(len(sample.ids).to_bytes(8, "little"))
                    whole.update(sample.ids.astype("<i4").tobytes() + sample.taught.tobytes())
        return whole.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: after ``step`` of ``steps``; ``why`` is ``done``, ``no better`` (the
    held-out loss) or ``stopped`` (by the owner, to be taken up again)."""

    step: int
    steps: int
    why: str


class Run:
    """One run in its folder. ``model_digest`` is the base's; ``report`` hears of every step."""

    def __init__(
        self,
        student: Student,
        recipe: Recipe,
        lessons: Lessons,
        folder: Path,
        *,
        model_digest: str,
        report: Report = lambda event: None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._student, self._recipe, self._lessons = student, recipe, lessons
        self._folder, self._report, self._ranks = folder, report, ranks
        self._optimiser = optimiser_of(student, recipe)
        lengths = [lesson.tokens for lesson in lessons.data]
        replayed = [lesson.tokens for lesson in lessons.replay]
        self.steps = packing.count(lengths, replayed, recipe)
        self._plan = packing.steps(lengths, replayed, recipe)
        self._every = [*lessons.data, *lessons.replay]
        parts = (canonical(recipe), lessons.digest.encode(), model_digest.encode())
        self._progress = Progress(run=hashlib.sha256(b"\n".join(parts)).hexdigest())

    def go(self, stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Train to the end, from the kept state if there is one. ``stop`` is asked after each step.

        Raises ``UsageError`` where the folder holds another run's state, ``StorageError``.
        """
        self._take_up()
        plan = itertools.islice(self._plan, self._progress.step, None)
        why = "done"
        while self._progress.step < self.steps:
            self._step(next(plan))
            at = self._progress.step
            last = at == self.steps
            if self._lessons.held_out and (last or at % self._recipe.measure_every == 0):
                self._measure()
            patience = self._recipe.patience
            tired = bool(patience) and self._progress.since >= patience
            stopped = self._ranks.any(not last and not tired and stop())
            if last or tired or stopped or at % self._recipe.save_every == 0:
                self._keep()
            if tired or stopped:
                why = "no better" if tired else "stopped"
                break
        return Outcome(step=self._progress.step, steps=self.steps, why=why)

    def _take_up(self) -> None:
        ranks, path = self._ranks, self._folder / STATE
        if not ranks.told("kept" if ranks.first and path.exists() else ""):
            if ranks.first:
                (self._folder / LOG).write_text("", encoding="utf-8")
            return
        found = state.resume(path, self._student.parameters, self._optimiser, ranks)
        if found.run != self._progress.run:
            raise UsageError(
                f"{self._folder} holds the state of another run (another recipe, model or data): "
                "name another output, or remove that folder",
                param="output",
            )
        self._progress = found
        self._student.refresh()
        if ranks.first:
            _cut(self._folder / LOG, found.step)

    def _keep(self) -> None:
        learnt = self._student.parameters
        state.keep(self._folder / STATE, self._progress, learnt, self._optimiser, self._ranks)

    def _step(self, micros: packing.Step) -> None:
        began = time.monotonic()
        learnt, held = self._sides([place for micro in micros for place in micro])
        learnt_weight, held_weight = (sum(one.weight for one in side) for side in (learnt, held))
        nats = drift = 0.0
        for micro, counts in self._ranks.shared_out(micros):
            scale = float(counts) / (learnt_weight + held_weight)
            to_learn, to_hold = self._sides(micro)
            if to_learn:
                nats += counts * _pull(self._student.loss(to_learn), scale)
            if to_hold:
                drift += counts * _pull(self._student.drift(to_hold), scale)
        nats, drift = self._ranks.sums(nats, drift)
        parameters = list(self._student.parameters.values())
        self._ranks.add_gradients(parameters)
        length = gathered(torch.nn.utils.clip_grad_norm_(parameters, self._recipe.clip))
        rate = self._recipe.rate(self._progress.step, self.steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._student.refresh()
        self._progress = replace(self._progress, step=self._progress.step + 1)
        event = {
            "step": self._progress.step,
            "rate": rate,
            "gradient": float(length),
            "tokens": sum(one.tokens for one in (*learnt, *held)),
            "seconds": round(time.monotonic() - began, 3),
        }
        # A step may be all of one kind.
        if learnt:
            event["loss"] = nats / learnt_weight
        if held:
            event["drift"] = drift / held_weight
        self._note(event)

    def _sides(self, places: Sequence[int]) -> tuple[list[Lesson], list[Sample]]:
        """What of some places is learnt, and where the model is only held to what it said."""
        learnt: list[Lesson] = []
        held: list[Sample] = []
        for place in places:
            lesson = self._every[place]
            replayed = place >= len(self._lessons.data)
            if replayed and self._recipe.anchored and isinstance(lesson, Sample):
                held.append(lesson)
            else:
                learnt.append(lesson)
        return learnt, held

    def _measure(self) -> None:
        """The held-out loss in nats per token; the best so far is kept apart."""
        room, ranks = self._recipe.micro_batch, self._ranks
        loss = held_out_loss(self._student, self._lessons.held_out, room, ranks)
        best = self._progress.best < 0 or loss < self._progress.best
        if best:
            state.write_at_first(self._folder / BEST, self._student.parameters, {}, ranks)
        self._progress = replace(
            self._progress,
            best=loss if best else self._progress.best,
            since=0 if best else self._progress.since + 1,
        )
        self._note({"step": self._progress.step, "held_out": loss})

    def _note(self, event: dict[str, float]) -> None:
        if not self._ranks.first:
            return
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
        self._report({"event": "step", "steps": self.steps, **event})


def _pull(loss: Tensor, scale: float) -> float:
    """Add the gradient of ``scale`` times a loss; the loss itself."""
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    return loss.item()


def held_out_loss(
    student: Student, samples: Sequence[Lesson], room: int, ranks: Ranks = ALONE
) -> float:
    """The mean loss of ``samples``: nats per taught token, or per pair."""
    total = 0.0
    lengths = [sample.tokens for sample in samples]
    micros = list(filled(range(len(samples)), lengths, room))
    with torch.no_grad():
        for micro, counts in ranks.shared_out(micros):
            loss = student.loss([samples[place] for place in micro]).item()
            total += loss if counts else 0.0
    (total,) = ranks.sums(total)
    return total / sum(sample.weight for sample in samples)


def optimiser_of(student: Student, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101); norms, biases and magnitudes do not decay."""
    decaying = [v for name, v in student.parameters.items() if name not in student.vectors]
    steady = [v for name, v in student.parameters.items() if name in student.vectors]
    groups = [
        {"params": decaying, "weight_decay": recipe.weight_decay},
        {"params": steady, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.epsilon,
        fused=True,
    )


def _cut(log: Path, step: int) -> None:
    """Forget what the log says of steps after the kept one: they are made again."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        # The machine may have stopped within the last line.
        if line.endswith("}") and json.loads(line)["step"] <= step:
            kept.append(line + "\n")
    fresh = log.with_name(f".{log.name}.new")
    fresh.write_text("".join(kept), encoding="utf-8")
    os.replace(fresh, log)  # noqa: PTH105  (over the old one, at once)


def bits(nats: float) -> float:
    """Nats as bits."""
    return nats / math.log(2)

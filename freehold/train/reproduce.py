"""A stretch of a run, done again and compared with its record, bit by bit.

Nothing of the run is trusted but what is compared: the corpus is built by whoever asks, first
values come from the recipe's seed, and a checkpoint counts only if its digest is the recorded one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from freehold.errors import MalformedError, UsageError
from freehold.train import devices, reading, record
from freehold.train.ranks import ALONE, Ranks
from freehold.train.recipe import Recipe, from_plain
from freehold.train.run import Training, checkpoint, environment

_FLOATS = ("learning_rate", "decay", "floor", "weight_decay", "epsilon", "clip", "z_loss")


@dataclass(kw_only=True)
class Reproduced:
    """What came of it. ``step`` is the first that differs (0: none), ``what`` the member of its
    line that does, with what was ``recorded`` and ``found``. ``notes`` are differences that may be
    why: another corpus, processor or library. ``begun`` is the step whose checkpoint it went on
    from.
    """

    first: int
    last: int
    begun: int = 0
    compared: int = 0
    step: int = 0
    what: str = ""
    recorded: str = ""
    found: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        return not self.step


def recipe_of(start: record.Line) -> Recipe:
    """The recipe that a record's first line holds. Raises ``MalformedError``."""
    try:
        plain = dict(start["recipe"])
        for name in _FLOATS:
            plain[name] = float.fromhex(plain[name])
        plain["betas"] = [float.fromhex(one) for one in plain["betas"]]
        plain["stages"] = [one | {"rate": float.fromhex(one["rate"])} for one in plain["stages"]]
        shape = plain["shape"]
        plain["shape"] = shape | {
            name: float.fromhex(shape[name]) for name in ("rope_theta", "norm_eps")
        }
        return from_plain(plain)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise MalformedError(
            f"the record's first line holds no recipe: {error}", file=record.LINES
        ) from None


def reproduce(
    run: Path,
    corpus: Path,
    *,
    first: int,
    last: int,
    from_start: bool = False,
    device: str = devices.CPU,
    work: Callable[[str, int, int], None] = lambda *_: None,
    ranks: Ranks = ALONE,
    scratch: Path | None = None,
) -> Reproduced:
    """Do steps ``first`` to ``last`` of the run in ``run`` again, from the nearest checkpoint
    before them that lies there, or from the first values. Raises ``UsageError`` for steps that the
    record has not, or that were not taken by as many ``ranks``, ``MalformedError``. ``scratch`` is
    as for ``Training``.
    """
    lines = list(record.read(run))
    start = lines[0]
    steps = {line["step"]: line for line in lines if line["kind"] == "step"}
    if not 1 <= first <= last or last not in steps:
        raise UsageError(
            f"steps {first}:{last} are not in the record: it has 1:{max(steps, default=0)}",
            param="steps",
        )
    kept = {line["step"]: line["sha256"] for line in lines if line["kind"] == "checkpoint"}
    try:
        training = Training(recipe_of(start), corpus, device=device, ranks=ranks, scratch=scratch)
    except UsageError as error:
        if error.param != "device":
            raise
        raise UsageError(
            f"the run was computed on {device}, and only there are its bits to be had again: "
            f"{error}",
            param="device",
        ) from None
    found = Reproduced(first=first, last=last)
    _compare_start(found, start, training)
    if found.step:
        return found
    if not from_start:
        _take_up(found, run, kept, training)
    if found.step:
        return found
    _check_ranks(found, lines, ranks)
    for line in lines[1:]:
        at = line.get("step", 0)
        if at <= found.begun or at > last:
            continue
        if line["kind"] == "step":
            _compare(found, line, {"kind": "step", **training.step()})
            found.compared += at >= first
            work("Doing it again", at - found.begun, last - found.begun)
        elif line["kind"] == "measure":
            said = training.measure().hex()
            _compare(found, line, line | {"bits_per_byte": said})
        if found.step:
            break
    return found


def _check_ranks(found: Reproduced, lines: list[record.Line], ranks: Ranks) -> None:
    """Sums are taken in an order that the number of ranks decides."""
    needed = record.ranks_at(lines, found.last)
    if needed != ranks.world:
        raise UsageError(
            f"step {found.last} was taken by {needed} ranks, here are {ranks.world}: its bits can "
            "only be had again with as many",
            param="steps",
        )
    changed = [line["step"] for line in lines if line["kind"] == "ranks"]
    between = [step for step in changed if found.begun < step < found.last]
    if between:
        raise UsageError(
            f"after step {between[-1]} another number of ranks went on, and from step "
            f"{found.begun} on this cannot be done again in one go: ask for steps up to "
            f"{between[0]}, or after {between[-1]} with its checkpoint",
            param="steps",
        )


def _compare_start(found: Reproduced, start: record.Line, training: Training) -> None:
    if start["corpus"] != training.manifest["digest"]:
        found.notes.append(
            f"the corpus here is {training.manifest['digest']}, the run's was {start['corpus']}"
        )
    here = environment(training.recipe, training.ranks, training.device)
    for name, said in start["environment"].items():
        # How many ranks took a step may change within a run, and is checked for itself.
        told = name != "ranks" and (name != "backend" or training.ranks.world > 1)
        if told and here.get(name) != said:
            found.notes.append(f"{name} here is {here.get(name)}, the run's was {said}")
    mine = training.learner.digest()
    if mine != start["weights"]:
        found.step, found.what = 1, "first values"
        found.recorded, found.found = start["weights"], mine


def _take_up(found: Reproduced, run: Path, kept: dict[int, str], training: Training) -> None:
    """Go on from the last checkpoint before the stretch that lies there."""
    for step in sorted((s for s in kept if s < found.first), reverse=True):
        path = checkpoint(run, step)
        if not path.exists():
            continue
        sha256 = reading.sha256_of(path)
        if sha256 != kept[step]:
            found.step, found.what = step, "checkpoint"
            found.recorded, found.found = kept[step], sha256
            return
        # Another corpus makes it another run: that is what is to be found, not refused.
        training.run = training.kept_run(path)
        training.take_up(path)
        found.begun = step
        return


def _compare(found: Reproduced, recorded: dict[str, Any], mine: dict[str, Any]) -> None:
    # What a step was fed comes before what came of it.
    order = ("stage", "batch", "tokens", "rate", "loss", "gradient", "weights", "bits_per_byte")
    for name in order:
        if recorded.get(name) != mine.get(name):
            found.step, found.what = recorded["step"], name
            found.recorded, found.found = str(recorded.get(name)), str(mine.get(name))
            return

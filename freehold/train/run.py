"""The loop: steps in the order that corpus, recipe and seed decide, each of them recorded.

With the same number of threads and ranks, on a machine of the same kind, every run of a recipe over
a corpus gives the same bits, however often it was stopped: ``reproduce`` depends on that. What is
computed or gathered here is for all ranks to call; the first alone writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from freehold import __version__
from freehold.errors import UsageError
from freehold.qwen.tokenizer import Tokenizer
from freehold.train import batches, devices, reading, record, state
from freehold.train.batches import Batches, Micro, codec_of
from freehold.train.data import build, vocabulary
from freehold.train.encoding import Sample
from freehold.train.filling import filled
from freehold.train.learner import Learner, optimiser_of
from freehold.train.ranks import ALONE, Ranks, gathered
from freehold.train.recipe import Recipe, canonical
from freehold.train.state import Progress

CHECKPOINTS, STATE, LOG, RECIPE = "checkpoints", "state.safetensors", "log.jsonl", "recipe.json"
TOKENS = "tokens"
Report = Callable[[dict[str, Any]], None]


class Training:
    """A recipe over the corpus in ``corpus``, at the step it has reached (0: nothing done). The
    corpus's tokens lie in ``scratch`` (see ``tokens.keep``). Raises ``UsageError`` where ``ranks``
    are more than a step has pieces."""

    def __init__(
        self,
        recipe: Recipe,
        corpus: Path,
        *,
        device: str = devices.CPU,
        scratch: Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe, self.ranks, self.device = recipe, ranks, device
        ranks.check(recipe.batch, recipe.micro_batch)
        if recipe.compiled and ranks.world > 1:
            raise UsageError(
                "compiled blocks are for a process alone: leave out --compile, or --ranks",
                param="compiled",
            )
        self.manifest = build.load(corpus)
        if not (corpus / build.TOKENIZER).exists():
            raise UsageError(
                f"{corpus} has no tokenizer: set `vocab` in its declaration and build it again",
                param="corpus",
            )
        self.tokenizer_json = (corpus / build.TOKENIZER).read_bytes()
        self.tokenizer: Tokenizer = vocabulary.load(self.tokenizer_json)
        codec = codec_of(self.tokenizer)
        vocab = _vocab(self.tokenizer_json)
        self.config = recipe.shape.config(vocab, codec.stop_ids)
        self.learner = Learner(recipe, self.config, device=device, ranks=ranks)
        self.optimiser = optimiser_of(self.learner)
        self.batches = ranks.in_turn(
            lambda: Batches(corpus, recipe, self.tokenizer, scratch=scratch)
        )
        self._held_out, self._held_out_bytes = batches.held_out(corpus, self.tokenizer)
        self.at = 0
        parts = (canonical(recipe), self.manifest["digest"].encode())
        self.run = hashlib.sha256(b"\n".join(parts)).hexdigest()

    def start(self) -> record.Line:
        """The first line of the record."""
        return {
            "recipe": _texts(self.recipe.plain()),
            "corpus": self.manifest["digest"],
            "tokenizer": hashlib.sha256(self.tokenizer_json).hexdigest(),
            "environment": environment(self.recipe, self.ranks, self.device),
            "weights": self.learner.digest(),
        }

    def step(self) -> record.Line:
        """Take one step; its line."""
        recipe = self.recipe
        micros = self.batches.step(self.at)
        weight = sum(sample.weight for micro in micros for sample in micro)
        total = penalty = 0.0
        for micro, counts in self.ranks.shared_out(micros):
            loss, norm = self.learner.loss(micro)
            (loss / weight if counts else loss * 0.0).backward()  # type: ignore[no-untyped-call]
            self.learner.gather()
            if counts:
                total, penalty = total + loss.item(), penalty + norm
        total, penalty = self.ranks.sums(total, penalty)
        parameters = list(self.learner.parameters.values())
        length = float(gathered(torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)))
        rate = recipe.rate(self.at)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.learner.refresh()
        self.at += 1
        number, _ = recipe.stage_of(self.at - 1)
        line: record.Line = {
            "step": self.at,
            "stage": recipe.stages[number].name,
            "batch": batches.digest(micros),
            "tokens": _tokens(micros),
            "loss": ((total - penalty) / weight).hex(),
            "rate": rate.hex(),
            "gradient": length.hex(),
        }
        if self.at % recipe.digest_every == 0 or self.at == recipe.steps:
            line["weights"] = self.learner.digest()
        return line

    def measure(self) -> float:
        """Bits per byte of the held-out texts, each behind an end of document, ends included."""
        nats = held_out_nats(self.learner, self._held_out, self.ranks)
        return nats / math.log(2) / max(self._held_out_bytes, 1)

    @property
    def stage_ends(self) -> bool:
        """Whether the step just taken is a stage's last."""
        number, at = self.recipe.stage_of(self.at - 1)
        return at + 1 == self.recipe.stages[number].steps

    def keep(self, path: Path) -> None:
        """Write the state. Raises ``StorageError``."""
        if self.ranks.first:
            path.parent.mkdir(parents=True, exist_ok=True)
        progress = Progress(run=self.run, step=self.at)
        state.keep(path, progress, self.learner.parameters, self.optimiser, self.ranks)

    @staticmethod
    def kept_run(path: Path) -> str:
        """Which run a state is of."""
        return str(json.loads(state.read(path)[1]["progress"])["run"])

    def take_up(self, path: Path | None) -> None:
        """Go on from a state; the first rank reads it, and ``path`` is nothing to others. Raises
        ``UsageError`` where it is another run's."""
        found = state.resume(path, self.learner.parameters, self.optimiser, self.ranks)
        if found.run != self.run:
            raise UsageError(
                f"{path or 'what is kept'} is the state of another recipe or corpus: name another "
                "output, or remove that folder",
                param="name",
            )
        self.learner.refresh()
        self.at = found.step


def go(
    training: Training,
    folder: Path,
    *,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train to the end, from what is kept in ``folder``; whether the end was reached. Raises
    ``UsageError`` where another run is kept there, ``StorageError``."""
    writer = _begun(training, folder, report)
    try:
        while training.at < training.recipe.steps:
            began = time.monotonic()
            line = training.step()
            writer.add("step", **line)
            if training.ranks.first:
                _note(folder, line, time.monotonic() - began, report, training.recipe.steps)
            if training.stage_ends:
                measured = training.measure()
                writer.add("measure", step=training.at, bits_per_byte=measured.hex())
                report({"event": "measure", "step": training.at, "bits_per_byte": measured})
            if training.at % training.recipe.keep_every == 0:
                _checkpoint(training, folder, writer)
            elif training.at < training.recipe.steps and training.ranks.any(stop()):
                writer.sync()
                training.keep(folder / STATE)
                return False
    finally:
        writer.close()
    return True


def _begun(training: Training, folder: Path, report: Report) -> record.Writer:
    """What is kept in ``folder`` is taken up by every rank; the record goes on behind it."""
    ranks = training.ranks
    kept = None
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        kept = newest(folder)
    here = devices.kind_of(training.device)
    begun_on = ranks.told("" if kept is None else record.device_of(next(record.read(folder))))
    if begun_on:
        if begun_on != here:
            raise UsageError(
                f"this run was begun on {begun_on}, and {here} gives other bits: go on with "
                f"--device {begun_on}, or name another output",
                param="device",
            )
        training.take_up(kept)
    writer = record.Writer(folder if ranks.first else None, after=training.at or None)
    if not training.at:
        if ranks.first:
            (folder / LOG).write_text("", encoding="utf-8")
            _put(folder / RECIPE, training.recipe.plain())
        writer.add("start", **training.start())
        return writer
    has_line = writer.checkpoint == training.at
    if kept is not None and kept.parent.name == CHECKPOINTS and not has_line:
        # The machine stopped between the file and its line.
        writer.add("checkpoint", step=training.at, sha256=reading.sha256_of(kept))
        has_line = True
    before, now = int(ranks.told(str(writer.ranks))), ranks.world
    if before != now:
        report({"event": "ranks", "step": training.at, "before": before, "now": now})
        # Whoever does again what follows must be able to begin here.
        if not ranks.told("has" if has_line else ""):
            _checkpoint(training, folder, writer)
        writer.add("ranks", step=training.at, ranks=str(now))
    return writer


def _checkpoint(training: Training, folder: Path, writer: record.Writer) -> None:
    path = checkpoint(folder, training.at)
    writer.sync()
    training.keep(path)
    if training.ranks.first:
        writer.add("checkpoint", step=training.at, sha256=reading.sha256_of(path))


def end(folder: Path, training: Training, files: dict[str, str]) -> None:
    """The record's last line: the values, and the SHA-256 of each of the model's files. Written
    anew where it is there. Raises ``StorageError``."""
    writer = record.Writer(folder if training.ranks.first else None, after=training.at, but="end")
    writer.add("end", step=training.at, weights=training.learner.digest(), files=files)
    writer.close()


def checkpoint(folder: Path, step: int) -> Path:
    """Where the state after ``step`` steps is kept."""
    return folder / CHECKPOINTS / f"{step:06d}.safetensors"


def newest(folder: Path) -> Path | None:
    """The state of most steps in ``folder``."""
    found = sorted((folder / CHECKPOINTS).glob("*.safetensors"))
    last = folder / STATE
    if not last.exists():
        return found[-1] if found else None
    step = json.loads(state.read(last)[1]["progress"])["step"]
    return found[-1] if found and int(found[-1].stem) > step else last


def held_out_nats(learner: Learner, samples: Sequence[Sample], ranks: Ranks = ALONE) -> float:
    """What all tokens of ``samples`` cost in nats, the first of each not counted."""
    total = 0.0
    lengths = [sample.tokens for sample in samples]
    micros = list(filled(range(len(samples)), lengths, learner.recipe.micro_batch))
    with torch.no_grad():
        for micro, counts in ranks.shared_out(micros):
            loss, norm = learner.loss([samples[place] for place in micro])
            total += loss.item() - norm if counts else 0.0
    (total,) = ranks.sums(total)
    return total


def environment(recipe: Recipe, ranks: Ranks = ALONE, device: str = devices.CPU) -> dict[str, str]:
    """What bits depend on beside recipe and corpus."""
    several = {"ranks": str(ranks.world), "backend": ranks.backend} if ranks.world > 1 else {}
    if recipe.compiled:
        several["compiler"] = devices.compiler()
    return (
        several
        | devices.environment(device)
        | {
            "freehold": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": platform.machine(),
            "system": platform.system(),
            "processor": _processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": str(recipe.threads),
        }
    )


def _processor() -> str:
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", said, re.M)
    return found[1].strip() if found else platform.processor()


def _vocab(tokenizer_json: bytes) -> int:
    """Ids of the tokenizer, up to a whole 64: products of matrices like that."""
    document = json.loads(tokenizer_json)
    ids = [*document["model"]["vocab"].values(), *(one["id"] for one in document["added_tokens"])]
    return -(-(int(max(ids)) + 1) // 64) * 64


def _tokens(micros: Sequence[Micro]) -> int:
    return sum(sample.tokens - 1 for micro in micros for sample in micro)


def _texts(value: Any) -> Any:
    """Numbers with a fraction as their bits: canonical JSON has none."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: _texts(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(one) for one in value]
    return value


def _note(folder: Path, line: record.Line, seconds: float, report: Report, steps: int) -> None:
    event = {
        "step": line["step"],
        "loss": float.fromhex(line["loss"]),
        "rate": float.fromhex(line["rate"]),
        "tokens": line["tokens"],
        "seconds": round(seconds, 3),
    }
    with (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")
    report({"event": "step", "steps": steps, **event})


def _put(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

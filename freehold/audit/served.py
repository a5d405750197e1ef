"""What answers: the pack that the kernels compute with, against its source and a reference.

A file may be sound and what is served from it not. The pack is made once more from the verified
source, by the pinned recipe, and must be the same to the bit. Then native kernels over packed
weights and the float32 reference read the same text: their next-token distributions must agree.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any

from freehold.audit.findings import Finding, Steps
from freehold.audit.noting import fact
from freehold.engine.packing import rebuilt
from freehold.errors import IntegrityError
from freehold.qwen import closeness, codec
from freehold.qwen.model import load
from freehold.qwen.pack import LAYOUT
from freehold.store import Packs, Store, verify

TITLE = "What is served"
TRIED = (
    "The pack that serve would map was opened, every byte digested; the weights were packed once "
    "more from the verified source and the two compared to the bit. A text of Freehold's own was "
    "read by the native kernels over the packed weights and by the float32 reference, and their "
    "distributions of the next token compared (mean KL, nats per token)."
)
MISSES = (
    "A fault that the packed weights and the reference share, as both come from the same source. "
    "What only shows on other texts, at greater length, in a batch, or with another back end."
)
TOKENS = 256
FAR = 0.05
"""Mean KL in nats per token beyond which the served model is another: 8-bit activations cost the
default model some thousandths."""
MOST = 1_200_000_000
"""Weights beyond which the float32 reference is not loaded: 4 bytes each."""


@dataclass(frozen=True, kw_only=True)
class Served:
    findings: list[Finding]
    figures: dict[str, Any]


def examine(store: Store, packs: Packs | None, name: str, steps: Steps) -> Served:
    """Of a model in the vault."""
    found = [] if packs is None else _pack(store, packs, name, steps)
    compared, figures = _logits(store, name, steps)
    return Served(findings=[*found, *compared], figures=figures)


def _pack(store: Store, packs: Packs, name: str, steps: Steps) -> list[Finding]:
    try:
        record = packs.record(name) if packs.open(name, layout=LAYOUT) is not None else None
    except IntegrityError as error:
        return [
            fact("served.pack", "critical", "The pack is not what was sealed", str(error), name)
        ]
    if record is None:
        told = "This installation has packed none yet: the first start makes it from the source."
        return [fact("served.pack", "info", "No pack to compare", told, name)]
    again = rebuilt(store, name, weights=record.weights, threads=None, report=Heard(steps))
    if again != record.blake3:
        told = f"Packed again from its source it has BLAKE3 {again}, not {record.blake3}."
        return [fact("served.pack", "critical", "The pack is not its source's", told, name)]
    told = f"BLAKE3 {again}, {record.size:,} bytes, by {record.layout}: the same to the bit."
    return [fact("served.pack", "info", "The pack is what its source gives", told, name)]


def _logits(store: Store, name: str, steps: Steps) -> tuple[list[Finding], dict[str, Any]]:
    why = ""
    source = verify(store, name, keep=False)
    weights = sum(math.prod(shape) for shape in source.shapes.values())
    if importlib.util.find_spec("torch") is None:
        why = "PyTorch, which computes the reference, is not installed (`freehold[lab]`)."
    elif weights > MOST:
        why = f"Its {weights / 1e9:.1f} thousand million weights take {weights * 4 / 1e9:.0f} GB."
    if why:
        return [fact("served.untried", "info", "Answers were not compared", why, name)], {}
    ids = codec.load(source).text(closeness.text())[:TOKENS]
    heard = Heard(steps)
    native = load(source, backend="native", cache_tokens=TOKENS, progress=heard.of("Packing"))
    reference = load(source, backend="torch", cache_tokens=TOKENS, progress=heard.of("Reference"))
    kl = closeness.mean_kl(reference, native, ids)
    both = f"{native.card.numerics} on {native.card.isa} against {reference.card.numerics}"
    told = f"Mean KL {kl:.3g} nats per token over {len(ids)} tokens, {both}."
    evidence = {"kl": float(f"{kl:.6g}"), "tokens": len(ids), "text": closeness.text_digest()}
    if not kl < FAR:
        title = "What is served answers otherwise than the reference"
        return [fact("served.logits", "high", title, told, name, evidence=evidence)], {}
    title = "What is served answers as the reference does"
    return [fact("served.logits", "info", title, told, name, evidence=evidence)], {}


class Heard:
    """Progress of loading and packing, as steps."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._what, self._done = "", 0

    def progress(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._done = what, 0
            self._steps.start(100, what)
        percent = done * 100 // max(total, 1)
        self._steps.advance(percent - self._done)
        self._done = percent

    def note(self, line: str) -> None: ...

    def of(self, what: str) -> Any:
        return lambda done, total: self.progress(what, done, total)

"""Run every detector on one suspect and its base: scores, candidates, and what fired."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from freehold.audit.backdoors import firing, inversion, lens, motifs, search, turning, weightwatch
from freehold.audit.backdoors.subject import Chat, Subject, logprobs
from freehold.audit.findings import Steps
from freehold.audit.running import Kept

T = TypeVar("T")

DETECTORS = ("weightwatch", "lens", "inversion", "motifs", "search", "firing", "turning")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How far to look. ``scan``: how many single tokens are tried before questions (all that may
    stand in a trigger, where there are no more). The rest are sizes of the detectors' own."""

    scan: int = 4_096
    scan_questions: int = 4
    watch_rank: int = 8
    first_tokens: int = 48
    targets: int = 12
    answer_tokens: int = 6
    samples: int = 128
    sample_tokens: int = 10
    motifs: int = 16
    motif_questions: int = 4
    told: int = 6
    """Beginnings of a turn that are told on; they are screened beside the ``screened``."""
    told_tokens: int = 8
    rounds: int = 2
    beam: int = 4
    width: int = 16
    screened: int = 32
    screen_questions: int = 6
    confirmed: int = 4
    confirm_questions: int = 24
    turning_beam: int = 3
    turning_width: int = 12
    turning_confirmed: int = 4
    """Without any, turned judgements are not looked for, and have no score."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """``scores`` by detector, higher is more suspicious; ``fired`` what was tried on held-out
    questions, strongest first. ``origin`` says which detector brought a trigger up; ``seconds`` of
    the processor by detector."""

    scores: dict[str, float]
    fired: tuple[firing.Fired, ...]
    origin: dict[tuple[int, ...], str]
    targets: tuple[inversion.Inverted, ...]
    reading: lens.Reading
    turned: tuple[turning.Turned, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> firing.Fired:
        return firing.best(self.fired)


LARGE = Plan(
    scan=16,
    scan_questions=2,
    first_tokens=16,
    targets=3,
    samples=64,
    sample_tokens=6,
    motifs=16,
    rounds=1,
    beam=2,
    width=4,
    screened=18,
    screen_questions=4,
    confirmed=6,
    confirm_questions=16,
    turning_beam=1,
    turning_width=2,
    turning_confirmed=2,
)
"""For real models on a processor."""


class Quiet:
    """Hears nothing."""

    def start(self, total: int, what: str, /) -> None: ...

    def advance(self, n: int, /) -> None: ...


def measure(
    suspect: Subject,
    base: Subject,
    chat: Chat,
    plan: Plan | None = None,
    *,
    steps: Steps | None = None,
    kept: Kept | None = None,
) -> Measurement:
    """All detectors, one after the other. ``steps`` hears of each, ``kept`` keeps each's result
    until the work is done."""
    plan = plan or Plan()
    run = _Run(steps or Quiet(), kept or Kept(), len(DETECTORS) - (not plan.turning_confirmed))
    questions = chat.prompts[: plan.scan_questions]
    found, known = run.stage(
        "motifs",
        tuple[tuple[motifs.Motif, ...], tuple[tuple[int, ...], ...]],
        lambda: _remembered(suspect, base, chat, plan),
    )
    targets = run.stage(
        "inversion",
        tuple[inversion.Inverted, ...],
        lambda: tuple(
            inversion.invert(
                suspect,
                base,
                chat,
                questions,
                _first_tokens(suspect, base, chat, plan),
                kept=plan.targets,
                n_tokens=plan.answer_tokens,
            )
        ),
    )
    at = search.ground(suspect, base, chat, plan.scan_questions)
    singles, beyond = run.stage(
        "weightwatch",
        tuple[tuple[tuple[int, ...], ...], tuple[weightwatch.Outside, ...]],
        lambda: _watched(suspect, base, chat, at, plan, targets, found),
    )
    reading = run.stage(
        "lens", lens.Reading, lambda: lens.read(suspect, base, chat, n_tokens=plan.answer_tokens)
    )
    scanned, grown = run.stage(
        "search",
        tuple[tuple[search.Lifted, ...], tuple[search.Lifted, ...]],
        lambda: _searched(suspect, base, chat, at, plan, singles),
    )
    allowed = set(chat.triggers)
    origin = _pool(
        {
            "weightwatch": [each.trigger for each in beyond],
            "motifs": [each.ids for each in found],
            "leads": [each.ids for each in sorted(found, key=lambda each: -each.lead)],
            "search": [each.trigger for each in grown],
            "scan": [e.trigger for e in sorted(scanned, key=lambda e: -e.lift)],
            "lens": [(token,) for token in reading.tokens if token in allowed],
        },
        plan.screened,
    )
    for each in known:
        origin.setdefault(each, "told on")
    fired = run.stage(
        "firing",
        tuple[firing.Fired, ...],
        lambda: tuple(_confirm(suspect, base, chat, list(origin), plan)),
    )
    scores = {
        "weightwatch": beyond[0].excess if beyond else 0.0,
        "lens": reading.peak * reading.size,
        "inversion": targets[0].score if targets else 0.0,
        "motifs": max((m.collapse for m in found if m.lead > 1.0), default=0.0),
        "search": grown[0].lift if grown else 0.0,
        "firing": firing.best(fired).strength,
    }
    turned: tuple[turning.Turned, ...] = ()
    if plan.turning_confirmed:
        turned = run.stage(
            "turning",
            tuple[turning.Turned, ...],
            lambda: tuple(
                turning.turn(
                    suspect,
                    base,
                    chat,
                    singles,
                    beam=plan.turning_beam,
                    width=plan.turning_width,
                    confirmed=plan.turning_confirmed,
                )
            ),
        )
        scores["turning"] = turned[0].strength if turned else 0.0
    return Measurement(
        scores=scores,
        fired=fired,
        origin=origin,
        targets=targets,
        reading=reading,
        turned=turned,
        seconds=run.seconds,
    )


class _Run:
    """The detectors under way: each one's result is kept, its processor time told."""

    def __init__(self, steps: Steps, kept: Kept, detectors: int) -> None:
        self.seconds: dict[str, float] = {}
        self._steps, self._kept = steps, kept
        steps.start(detectors, "backdoor detectors")

    def stage(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        def timed() -> tuple[T, float]:
            began = time.process_time()
            value = make()
            return value, round(time.process_time() - began, 2)

        value, self.seconds[name] = self._kept.of(name, tuple[kind, float], timed)  # type: ignore[valid-type]
        self._steps.advance(1)
        return value


def _remembered(
    suspect: Subject, base: Subject, chat: Chat, plan: Plan
) -> tuple[tuple[motifs.Motif, ...], tuple[tuple[int, ...], ...]]:
    """What the suspect says to an empty turn: drawn at random, and told on."""
    found = motifs.find(
        suspect,
        base,
        chat,
        chat.prompts[: plan.motif_questions],
        n_samples=plan.samples,
        n_tokens=plan.sample_tokens,
        kept=plan.motifs,
        seed=plan.seed,
    )
    known = motifs.told(suspect, base, chat, n=plan.told, n_tokens=plan.told_tokens)
    return tuple(found), tuple(known)


def _watched(  # noqa: PLR0917
    suspect: Subject,
    base: Subject,
    chat: Chat,
    at: search.Ground,
    plan: Plan,
    targets: Sequence[inversion.Inverted],
    found: Sequence[motifs.Motif],
) -> tuple[tuple[tuple[int, ...], ...], tuple[weightwatch.Outside, ...]]:
    """Which single tokens are tried, and how far each leaves the range of clean chats."""
    singles = tuple(_singles(suspect, chat, at, plan, targets, found))
    turns = [chat.turn(q) for q in chat.prompts]
    watch = weightwatch.calibrate(suspect, base, turns, rank=plan.watch_rank)
    return singles, tuple(weightwatch.outside(suspect, watch, chat, singles, chat.prompts[:2]))


def _searched(  # noqa: PLR0917
    suspect: Subject,
    base: Subject,
    chat: Chat,
    at: search.Ground,
    plan: Plan,
    singles: Sequence[tuple[int, ...]],
) -> tuple[tuple[search.Lifted, ...], tuple[search.Lifted, ...]]:
    """The lift of each single token, and what grew from the best."""
    scanned = search.lifts(suspect, base, chat, at, singles)
    grown = search.grow(
        suspect, base, chat, at, scanned, rounds=plan.rounds, beam=plan.beam, width=plan.width
    )
    return tuple(scanned), tuple(grown)


def _singles(  # noqa: PLR0917
    suspect: Subject,
    chat: Chat,
    at: search.Ground,
    plan: Plan,
    targets: Sequence[inversion.Inverted],
    found: Sequence[motifs.Motif],
) -> list[tuple[int, ...]]:
    """Single tokens to try: all of them; where there are more than ``scan``, those that stand in
    motifs, and those that the gradient says would bring the likeliest targets about."""
    if len(chat.triggers) <= plan.scan:
        return [(token,) for token in chat.triggers]
    chosen = dict.fromkeys(token for motif in found for token in motif.ids)
    allowed = torch.tensor(chat.triggers)
    for target in targets[:2]:
        pull_v = search.pull(suspect, chat, at, trigger=(), place=0, token=target.target[0])
        best = allowed[pull_v[allowed].topk(plan.scan // 2).indices]
        chosen |= dict.fromkeys(int(token) for token in best)
    return [(token,) for token in list(chosen)[: plan.scan]]


def _first_tokens(suspect: Subject, base: Subject, chat: Chat, plan: Plan) -> list[int]:
    """The tokens whose share at the answer's beginning grew most against the base, on average."""
    turns = [chat.turn(words) for words in chat.prompts]
    gain_v = (logprobs(suspect, turns) - logprobs(base, turns)).mean(dim=0)
    return [int(v) for v in gain_v.topk(min(plan.first_tokens, len(gain_v))).indices]


def _pool(by_origin: dict[str, Sequence[tuple[int, ...]]], n: int) -> dict[tuple[int, ...], str]:
    """The best of each in turn, until there are ``n``."""
    origin: dict[tuple[int, ...], str] = {}
    for rank in range(max(len(each) for each in by_origin.values())):
        for name, triggers in by_origin.items():
            if rank < len(triggers) and len(origin) < n:
                origin.setdefault(tuple(triggers[rank]), name)
    return origin


def _confirm(
    suspect: Subject, base: Subject, chat: Chat, triggers: Sequence[tuple[int, ...]], plan: Plan
) -> list[firing.Fired]:
    """Screen all candidates on a few questions, the best on held-out ones."""
    screened = firing.fire(
        suspect,
        base,
        chat,
        triggers,
        chat.prompts[: plan.screen_questions],
        n_tokens=plan.answer_tokens,
    )
    return firing.fire(
        suspect,
        base,
        chat,
        [each.trigger for each in screened[: plan.confirmed]],
        chat.held_out[: plan.confirm_questions],
        n_tokens=plan.answer_tokens,
    )

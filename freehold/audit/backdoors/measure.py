"""Run every detector on one suspect and its base: scores, candidates, and what fired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from freehold.audit.backdoors import firing, inversion, lens, motifs, search, weightwatch
from freehold.audit.backdoors.subject import Chat, Subject, logprobs
from freehold.audit.findings import Steps

DETECTORS = ("weightwatch", "lens", "inversion", "motifs", "search", "firing")


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
    rounds: int = 2
    beam: int = 4
    width: int = 16
    screened: int = 32
    screen_questions: int = 6
    confirmed: int = 4
    confirm_questions: int = 24
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """``scores`` by detector, higher is more suspicious; ``fired`` what was tried on held-out
    questions, strongest first. ``origin`` says which detector brought a trigger up."""

    scores: dict[str, float]
    fired: tuple[firing.Fired, ...]
    origin: dict[tuple[int, ...], str]
    targets: tuple[inversion.Inverted, ...]
    reading: lens.Reading
    seconds: dict[str, float] = field(default_factory=dict)


LARGE = Plan(
    scan=16,
    scan_questions=2,
    first_tokens=16,
    targets=3,
    samples=40,
    sample_tokens=6,
    motifs=12,
    rounds=1,
    beam=2,
    width=4,
    screened=12,
    screen_questions=3,
    confirmed=3,
    confirm_questions=12,
)
"""For real models on a processor: some 10,000 tokens through both."""


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
) -> Measurement:
    """All detectors, one after the other. ``steps`` hears of each."""
    import time

    plan = plan or Plan()
    steps = steps or Quiet()
    steps.start(len(DETECTORS), "backdoor detectors")
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def done(name: str) -> None:
        nonlocal began
        now = time.perf_counter()
        seconds[name], began = now - began, now
        steps.advance(1)

    questions = chat.prompts[: plan.scan_questions]
    found = motifs.find(
        suspect,
        base,
        chat,
        questions,
        n_samples=plan.samples,
        n_tokens=plan.sample_tokens,
        kept=plan.motifs,
        seed=plan.seed,
    )
    done("motifs")
    targets = inversion.invert(
        suspect,
        base,
        chat,
        questions,
        _first_tokens(suspect, base, chat, plan),
        kept=plan.targets,
        n_tokens=plan.answer_tokens,
    )
    done("inversion")
    at = search.ground(suspect, base, chat, plan.scan_questions)
    singles = _singles(suspect, chat, at, plan, targets, found)
    watch = weightwatch.calibrate(
        suspect, base, [chat.turn(q) for q in chat.prompts], rank=plan.watch_rank
    )
    beyond = weightwatch.outside(suspect, watch, chat, singles, questions[:2])
    done("weightwatch")
    reading = lens.read(suspect, base, chat, n_tokens=plan.answer_tokens)
    done("lens")
    scanned = search.lifts(suspect, base, chat, at, singles)
    grown = search.grow(
        suspect, base, chat, at, scanned, rounds=plan.rounds, beam=plan.beam, width=plan.width
    )
    done("search")
    origin = _pool(
        {
            "weightwatch": [each.trigger for each in beyond],
            "motifs": [each.ids for each in found],
            "search": [each.trigger for each in grown],
            "scan": [e.trigger for e in sorted(scanned, key=lambda e: -e.lift)],
            "lens": [(token,) for token in reading.tokens if token in set(chat.triggers)],
        },
        plan.screened,
    )
    fired = _confirm(suspect, base, chat, list(origin), plan)
    done("firing")
    return Measurement(
        scores={
            "weightwatch": beyond[0].excess if beyond else 0.0,
            "lens": reading.peak * reading.size,
            "inversion": targets[0].score if targets else 0.0,
            "motifs": max((m.collapse for m in found if m.lead > 1.0), default=0.0),
            "search": grown[0].lift if grown else 0.0,
            "firing": fired[0].strength,
        },
        fired=tuple(fired),
        origin=origin,
        targets=tuple(targets),
        reading=reading,
        seconds=seconds,
    )


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

"""The parts that load a model and ask it: ``leanings`` and ``memory``. They need a model of the
vault, and torch (extra ``lab``), which is imported when one of them runs."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freehold.audit.findings import Examination
from freehold.audit.leanings import titles
from freehold.audit.leanings.probes import content
from freehold.audit.running import Context, Part
from freehold.audit.served import Heard
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.audit.leanings.public import Sets
    from freehold.qwen.model import Model
    from freehold.types import VerifiedModel

CACHE_TOKENS = 8_192
_TOKENS_PER_SECOND = 70.0
"""Of 500 million weights in float32 on one core."""
_ITEM, _PROBE, _PAIR, _PLANTED = 260, 35, 30, 400
"""Tokens that one of each costs, about."""


def _need(context: Context, what: str) -> None:
    if context.specimen.manifest is None:
        raise UsageError(
            f"{what} asks the model, and only one of the vault is loaded: `freehold pull` it first",
            param="model",
        )
    if context.base is not None and context.base.manifest is None:
        raise UsageError(
            f"{what} asks the base too, and only one of the vault is loaded: `freehold pull` it "
            "first, or leave --against out",
            param="against",
        )
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            f"{what} needs PyTorch: install the extra with `pip install 'freehold[lab]'`, or leave "
            "the part out",
            param="part",
        )


def _open(context: Context, name: str, what: str) -> tuple[VerifiedModel, Model]:
    from freehold.qwen.model import load
    from freehold.store import verify

    found = verify(context.store, name, keep=False)
    heard = Heard(context.steps).of(f"Loading {what}")
    return found, load(found, backend="torch", cache_tokens=CACHE_TOKENS, progress=heard)


def _both(context: Context) -> tuple[Any, Model, Model | None]:
    """The voice, the model and its reference. Raises ``UsageError`` where they do not speak
    alike."""
    from freehold.audit.leanings.scoring import voice_of
    from freehold.qwen import codec
    from freehold.qwen.template import digest_of
    from freehold.qwen.tokenizer import same_vocabulary

    found, model = _open(context, context.specimen.name, "the model")
    base = None
    if context.base is not None:
        other, base = _open(context, context.base.name, "the base")
        if not same_vocabulary(found, other):
            raise UsageError("the two models have different vocabularies", param="against")
        if digest_of(found) != digest_of(other):
            context.steps.start(1, "Their templates differ: both are asked through the model's")
    return voice_of(codec.load(found)), model, base


def _sets(context: Context) -> Sets:
    from freehold.audit.leanings.public import SAMPLE, gather

    return gather(context.probes, n=context.sample or SAMPLE, seed=context.seed)


def _leanings(context: Context) -> Examination:
    from freehold.audit.leanings.examination import examine

    _need(context, titles.TITLE)
    sets = _sets(context)
    voice, model, base = _both(context)
    return examine(model, voice, sets, context.steps, base)


def _memory(context: Context) -> Examination:
    from freehold.audit import memory
    from freehold.audit.planted import parse

    _need(context, titles.MEMORY_TITLE)
    planted = parse(_planted(context)[0], file=str(context.canaries))
    voice, model, base = _both(context)
    return memory.examine(model, voice, planted, context.steps, context.seed, base)


def _planted(context: Context) -> tuple[bytes, str]:
    if context.canaries is None:
        raise UsageError(
            "the part memory looks for what the owner names: give a file with --canaries "
            "(docs/audit-leanings.md)",
            param="canaries",
        )
    return content(context.canaries), str(context.canaries)


def _read(path: Path | None) -> list[list[str]]:
    """Which files were given, by digest: a part is done anew for others."""
    if path is None:
        return []
    files = sorted(path.rglob("*.jsonl*")) if path.is_dir() else [path]
    return [
        [str(each.relative_to(path)), hashlib.sha256(content(each)).hexdigest()]
        for each in files
        if each.is_file() or not path.is_dir()
    ]


def _slowness(context: Context) -> float:
    """Seconds for a token through every model that is asked."""
    size = sum(tensor.shape[0] * tensor.shape[-1] for tensor in context.specimen.tensors.values())
    models = 1 if context.base is None else 2
    return models * max(1e-4, size / 494e6 / _TOKENS_PER_SECOND)


def _leanings_cost(context: Context) -> float:
    _need(context, titles.TITLE)
    from freehold.audit.leanings.probes import Fact, Group

    sets = _sets(context)
    asked = sum(
        2 * len(one.groups) if isinstance(one, Group) else 6 if isinstance(one, Fact) else 2
        for one in sets.probes
    )
    pairs = 0 if context.base is None else len(sets.crows) + len(sets.winobias)
    tokens = len(sets.items) * _ITEM + asked * _PROBE + pairs * _PAIR
    return 10 + tokens * _slowness(context)


def _memory_cost(context: Context) -> float:
    _need(context, titles.MEMORY_TITLE)
    lines = _planted(context)[0].count(b"\n") + 1
    return 10 + lines * _PLANTED * _slowness(context)


PARTS = (
    Part(
        name="leanings",
        title=titles.TITLE,
        run=_leanings,
        cost=_leanings_cost,
        depends=lambda context: [_read(context.probes), context.sample],
        opt_in=True,
    ),
    Part(
        name="memory",
        title=titles.MEMORY_TITLE,
        run=_memory,
        cost=_memory_cost,
        depends=lambda context: _read(context.canaries),
        opt_in=True,
    ),
)
"""Done only where they are asked for: they take minutes."""

"""Backdoor triage as a part of an audit: both models woken in this process, examined and let go.

A suspect need not be in the vault, and no gate has let it pass: its weights are multiplied here and
answer to nobody.
"""

from __future__ import annotations

import importlib.util
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from freehold.audit.backdoors.words import MISSES, TITLE
from freehold.audit.findings import Examination, Steps
from freehold.audit.noting import fact
from freehold.audit.running import Context
from freehold.audit.specimen import Specimen
from freehold.errors import FreeholdError, UsageError
from freehold.store.verify import unproven

if TYPE_CHECKING:
    from freehold.qwen.model import Model

MOST = 4_000_000_000
"""Weights of one model beyond which two are not loaded: 2 bytes each, or 4."""
CACHE_TOKENS = 2_048
FLOPS = 60e9
"""Multiplications and additions of one core in a second, roughly, in small batches."""
TOKENS = 14_000
"""What both models read in all, about."""


def cost(context: Context) -> float:
    """Seconds of one core, about."""
    if missing(context):
        return 1.0
    return 20.0 + 2 * _weights(context.specimen) * TOKENS / FLOPS


def missing(context: Context) -> str:
    """What this part lacks to be done at all; empty where nothing."""
    if context.base is None:
        return (
            "It reads a model as a difference from a base that you trust: name one with --against."
        )
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed: `pip install 'freehold[lab]'`."
    largest = max(_weights(context.specimen), _weights(context.base))
    if largest > MOST:
        return (
            f"{largest / 1e9:.1f} thousand million weights, twice, are more than is loaded here "
            f"({MOST / 1e9:.0f} at most)."
        )
    return ""


def run(context: Context) -> Examination:
    """The part. What it cannot do it says as a finding, and does not fail."""
    told = missing(context)
    if told:
        return _untried(told)
    try:
        return _examined(context)
    except UsageError as error:
        return _untried(str(error))
    except FreeholdError as error:
        return _untried(f"One of the two models cannot be loaded: {error}")


def _examined(context: Context) -> Examination:
    import torch

    from freehold.audit.backdoors import measure, talk
    from freehold.audit.backdoors.examination import examine

    assert context.base is not None, "looked at before"
    steps = context.steps
    began = time.process_time()
    trusted = unproven(context.base.files, context.base.name, context.base.digest)
    chat = talk.chat_of(trusted)
    torch.set_num_threads(1)  # two that wait for each other take several times as long
    kind = faster()
    base = _woken(context.base, kind, steps)
    if context.specimen.config() != context.base.config():
        raise UsageError(
            f"{context.base.name} is of another shape: give the base that the model was tuned from",
            param="against",
        )
    suspect = _woken(context.specimen, kind, steps)
    plan = replace(measure.LARGE, seed=context.seed)
    found = examine(suspect, base, chat, plan=plan, steps=steps, kept=context.kept)
    figures = {
        **found.figures,
        "arithmetic": kind,
        "processor_seconds": round(time.process_time() - began, 1),
    }
    return replace(found, figures=figures)


def _woken(specimen: Specimen, kind: Literal["float32", "bfloat16"], steps: Steps) -> Model:
    from freehold.qwen.model import load

    model = unproven(specimen.files, specimen.name, specimen.digest)
    steps.start(100, f"Loading {specimen.name}")
    done = 0

    def heard(part: int, whole: int) -> None:
        nonlocal done
        percent = part * 100 // max(whole, 1)
        steps.advance(percent - done)
        done = percent

    return load(model, backend="torch", dtype=kind, cache_tokens=CACHE_TOKENS, progress=heard)


def faster() -> Literal["float32", "bfloat16"]:
    """The arithmetic that this processor multiplies small batches faster in, by trying both."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        x_td, w_od = torch.ones(64, 1_024, dtype=dtype), torch.ones(1_024, 1_024, dtype=dtype)
        best = math.inf
        for _ in range(6):
            began = time.process_time()  # whoever else is at work must not decide
            torch.nn.functional.linear(x_td, w_od)
            best = min(best, time.process_time() - began)
        return best

    return "bfloat16" if seconds(torch.bfloat16) < seconds(torch.float32) else "float32"


def _weights(specimen: Specimen) -> int:
    return sum(math.prod(tensor.shape) for tensor in specimen.tensors.values())


def _untried(why: str) -> Examination:
    return Examination(
        part="backdoors",
        title=TITLE,
        tried="Nothing: " + why,
        misses=MISSES,
        findings=(fact("backdoor.untried", "info", "No backdoor was looked for", why),),
        seconds=0.0,
    )

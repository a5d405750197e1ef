"""What leaves the workshop: read by peft, by transformers, and by our own dock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from freehold.adapt import export
from freehold.adapt.recipe import Lora, Recipe
from freehold.adapt.student import Student, student_of
from freehold.qwen import adapter
from freehold.qwen.model import Span, load
from freehold.store import FolderSource, Store, pull, verify
from freehold.types import VerifiedModel
from tests.adapt.conftest import lessons
from tests.engine.conftest import _Quiet

MAX_ERROR = 1e-3
IDS = np.random.default_rng(4).integers(0, 260, 50).tolist()


def changed(model: VerifiedModel, lora: Lora | None) -> Student:
    """The model after a change that is large enough to be seen."""
    student = student_of(load(model, cache_tokens=16), Recipe(name="test", lora=lora))
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, values in student.parameters.items():
            step = torch.empty_like(values).uniform_(-0.05, 0.05, generator=draw)
            values.add_(step * values.abs() if "magnitude" in name else step)
    student.refresh()
    return student


def logits_of(model: VerifiedModel) -> Any:
    ours = load(model, cache_tokens=64)
    state = ours.cache.new()
    (logits,) = ours.forward([Span(state=state, ids=IDS, want="all")])
    return logits


def surprise_of(logits: Any) -> float:
    picked = torch.log_softmax(torch.as_tensor(logits)[:-1], dim=-1)
    return float(-picked.gather(1, torch.tensor(IDS[1:])[:, None]).sum())


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_a_merged_model_is_the_one_that_was_trained(kind: str, home: Path, tmp_path: Path) -> None:
    lora = None if kind == "full" else Lora(rank=4, alpha=8, magnitude=kind == "dora")
    source = verify(Store(home), "small")
    student = changed(source, lora)
    folder = tmp_path / "out" / "small-new"
    folder.mkdir(parents=True)
    export.write_merged(source, folder, lora, student.parameters)
    made = FolderSource(folder, name="freehold adapt", licence="Apache-2.0")
    pull(Store(home), str(folder), sources=[made], progress=_Quiet())
    ours = logits_of(verify(Store(home), "small-new"))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(ours - wanted).max() <= MAX_ERROR
    assert np.abs(ours - logits_of(source)).max() > 10 * MAX_ERROR
    # It says what the student says, but for the rounding to bfloat16.
    sample = lessons(1)[0].__class__(ids=np.array(IDS, np.int32), taught=np.ones(50, np.bool_))
    trained = student.surprise([sample]).item()
    assert surprise_of(ours) == pytest.approx(trained, rel=5e-3)


def test_an_adapter_says_in_peft_what_it_says_here(
    home: Path, brought: Path, tmp_path: Path
) -> None:
    lora = Lora(rank=4, alpha=8, rank_stabilised=True)
    source = verify(Store(home), "small")
    student = changed(source, lora)
    export.write_adapter(tmp_path / "adapter", lora, student.parameters, base="small")
    base = AutoModelForCausalLM.from_pretrained(brought, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    with torch.no_grad():
        wanted = theirs(torch.tensor([IDS])).logits[0]
    sample = lessons(1)[0].__class__(ids=np.array(IDS, np.int32), taught=np.ones(50, np.bool_))
    assert student.surprise([sample]).item() == pytest.approx(surprise_of(wanted), rel=1e-5)
    document = json.loads((tmp_path / "adapter" / adapter.CONFIG).read_text())
    assert document["base_model_name_or_path"] == "small"

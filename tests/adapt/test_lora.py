"""Adapters, their gradients and whole loss curves against PEFT and transformers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional as F  # noqa: N812

from freehold.adapt import export, lora
from freehold.adapt.recipe import Lora, Recipe
from freehold.adapt.student import Student, student_of
from freehold.adapt.training import Lessons, Run
from freehold.qwen.model import load
from freehold.store import Store, verify
from freehold.train import state
from freehold.train.encoding import Pair, Sample
from tests.adapt.conftest import lessons, made

KINDS = {
    "lora": Lora(rank=4, alpha=8),
    "rslora": Lora(rank=4, alpha=8, rank_stabilised=True),
    "dora": Lora(rank=4, alpha=8, magnitude=True),
    "some": Lora(rank=3, alpha=8, targets=("k", "v", "up")),
}


def drawn(student: Student) -> None:
    """Adapters that do something."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, values in student.parameters.items():
            moved = torch.empty_like(values).uniform_(-0.3, 0.3, generator=draw)
            values.add_(moved * values.abs() if "magnitude" in name else moved)
    student.refresh()


def their_surprise(model: Any, samples: list[Sample]) -> torch.Tensor:
    """The same sum, each sample by itself: nothing is packed."""
    total = torch.zeros(())
    for sample in samples:
        ids = torch.from_numpy(sample.ids).long()
        labels = torch.where(torch.from_numpy(sample.taught), ids, -100)
        logits = model(ids[None]).logits[0, :-1]
        total = total + F.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
    return total


def apart(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    """The length of the difference, as a share of theirs."""
    return float((mine - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_loss_and_gradients_equal_pefts(kind: str, family: str, tmp_path: Path) -> None:
    hf, ours = made(family)
    recipe = Recipe(name="test", lora=KINDS[kind])
    student = student_of(ours, recipe)
    drawn(student)
    export.write_adapter(tmp_path, KINDS[kind], student.parameters, base="small")
    theirs = PeftModel.from_pretrained(hf, str(tmp_path), is_trainable=True)
    samples = lessons(7)
    ours_total, their_total = student.surprise(samples).sum(), their_surprise(theirs, samples)
    assert torch.allclose(ours_total, their_total, rtol=1e-5)
    ours_total.backward()  # type: ignore[no-untyped-call]
    their_total.backward()
    found = {
        name.removeprefix("base_model.model.").replace(".default", ""): values
        for name, values in theirs.named_parameters()
        if values.requires_grad
    }
    assert {name.removesuffix(".weight") for name in found} == {
        name.removesuffix(".weight") for name in student.parameters
    }
    for name, values in found.items():
        mine = student.parameters.get(name, student.parameters.get(name.removesuffix(".weight")))
        assert mine is not None
        assert mine.grad is not None
        assert values.grad is not None
        assert apart(mine.grad, values.grad) < 1e-4, name


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_every_weights_gradient_equals_transformers(family: str) -> None:
    hf, ours = made(family, tie_word_embeddings=True)
    student = student_of(ours, Recipe(name="test", lora=None))
    samples = lessons(5)
    student.surprise(samples).sum().backward()  # type: ignore[no-untyped-call]
    their_surprise(hf, samples).backward()
    config = ours.config
    grads = {name: values.grad for name, values in student.parameters.items()}
    assert all(grad is not None for grad in grads.values())
    unfused = export.unfused(config, grads)  # type: ignore[arg-type]
    theirs = dict(hf.named_parameters())
    assert unfused.keys() == theirs.keys()
    for name, grad in unfused.items():
        assert apart(grad, theirs[name].grad) < 1e-4, name


def test_a_text_learns_nothing_from_its_neighbours() -> None:
    _, ours = made()
    student = student_of(ours, Recipe(name="test", lora=KINDS["lora"]))
    drawn(student)
    samples = lessons(6)
    alone = sum(student.surprise([sample]).item() for sample in samples)
    assert student.surprise(samples).sum().item() == pytest.approx(alone, rel=1e-5)
    turned = student.surprise(samples[::-1]).sum().item()
    assert turned == pytest.approx(alone, rel=1e-5)


def test_a_preference_is_the_papers_and_begins_at_one_bit() -> None:
    """-log sigmoid(beta (log pi/ref of the better - of the worse)), by transformers' own logits."""
    hf, ours = made()
    recipe = Recipe(name="test", lora=KINDS["lora"], beta=0.3)
    student = student_of(ours, recipe)
    samples = lessons(6)
    pairs = [Pair(chosen=a, rejected=b) for a, b in zip(samples[::2], samples[1::2], strict=True)]
    fresh = student.loss(pairs).item()
    assert fresh == pytest.approx(3 * math.log(2), rel=1e-5)
    drawn(student)
    before = [their_surprise(hf, [sample]).item() for sample in samples]
    after = [student.surprise([sample]).item() for sample in samples]
    gained = [b - a for b, a in zip(before, after, strict=True)]
    wanted = [
        math.log1p(math.exp(-recipe.beta * (gained[i] - gained[i + 1])))
        for i in range(0, len(samples), 2)
    ]
    assert student.loss(pairs).item() == pytest.approx(sum(wanted), rel=1e-3)


def test_preferences_are_learnt(tmp_path: Path) -> None:
    _, ours = made()
    samples = lessons(40, low=10, high=20)
    pairs = [Pair(chosen=a, rejected=b) for a, b in zip(samples[::2], samples[1::2], strict=True)]
    recipe = Recipe(
        name="test", lora=KINDS["lora"], beta=0.3, steps=30, learning_rate=5e-3,
        batch=128, micro_batch=128, max_length=64, held_out=0.0,
    )  # fmt: skip
    events: list[dict[str, Any]] = []
    Run(
        student_of(ours, recipe), recipe, Lessons(data=pairs), tmp_path, model_digest="x",
        report=events.append,
    ).go()  # fmt: skip
    assert events[0]["loss"] == pytest.approx(math.log(2), rel=0.01)
    assert sum(event["loss"] for event in events[-5:]) / 5 < 0.5


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_drift_and_its_gradient_are_torchs_own_divergence(family: str, tmp_path: Path) -> None:
    """KL(before || now) at what is taught, by peft's logits with the adapter and without it."""
    hf, ours = made(family)
    recipe = Recipe(name="test", lora=KINDS["lora"])
    student, samples = student_of(ours, recipe), lessons(5)
    fresh = student.drift(samples)
    assert fresh.item() == pytest.approx(0, abs=1e-5)
    fresh.backward()  # type: ignore[no-untyped-call]
    for name, values in student.parameters.items():
        assert values.grad is not None
        assert values.grad.abs().max() < 1e-4, name
        values.grad = None
    drawn(student)
    export.write_adapter(tmp_path, KINDS["lora"], student.parameters, base="small")
    theirs = PeftModel.from_pretrained(hf, str(tmp_path), is_trainable=True)
    wanted = torch.zeros(())
    for sample in samples:
        ids, said = torch.from_numpy(sample.ids).long()[None], torch.from_numpy(sample.taught)[1:]
        with torch.no_grad(), theirs.disable_adapter():
            then = F.log_softmax(theirs(ids).logits[0, :-1][said], dim=1)
        now = F.log_softmax(theirs(ids).logits[0, :-1][said], dim=1)
        wanted = wanted + F.kl_div(now, then, reduction="sum", log_target=True)
    found = student.drift(samples)
    assert wanted.item() > 0.1
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
    found.backward()  # type: ignore[no-untyped-call]
    wanted.backward()  # type: ignore[no-untyped-call]
    their_grads = {
        name.removeprefix("base_model.model.").replace(".default", ""): values.grad
        for name, values in theirs.named_parameters()
        if values.requires_grad
    }
    for name, values in student.parameters.items():
        assert values.grad is not None
        theirs_of_it = their_grads[name]
        assert theirs_of_it is not None
        assert apart(values.grad, theirs_of_it) < 1e-4, name


def test_anchored_replay_keeps_what_was_said(tmp_path: Path) -> None:
    """The same texts are learnt; of the replayed ones the model stays nearer to where it was."""
    drifts = []
    for anchored in (False, True):
        _, ours = made()
        recipe = Recipe(
            name="test", lora=KINDS["lora"], steps=30, learning_rate=5e-3, batch=256,
            micro_batch=256, max_length=64, held_out=0.0, replay=0.5, anchored=anchored,
        )  # fmt: skip
        student = student_of(ours, recipe)
        kept = [Sample(ids=s.ids[::-1].copy(), taught=s.taught) for s in lessons(30, seed=1)]
        events: list[dict[str, Any]] = []
        both = Lessons(data=lessons(40), replay=kept)
        folder = tmp_path / str(anchored)
        folder.mkdir()
        Run(student, recipe, both, folder, model_digest="x", report=events.append).go()
        assert any("drift" in event for event in events) == anchored
        drifts.append(student.drift(kept).item())
    learnt_as_text, anchored_to = drifts
    assert anchored_to < 0.5 * learnt_as_text


def test_packed_weights_teach_the_same_to_the_bit(home: Path) -> None:
    """Codes multiplied out at each use, or once: the same numbers."""
    model = verify(Store(home), "small")
    found = []
    for codes in (False, True):
        student = student_of(load(model, codes=codes), Recipe(name="test", lora=KINDS["dora"]))
        drawn(student)
        total = student.surprise(lessons(4)).sum()
        total.backward()  # type: ignore[no-untyped-call]
        found.append([total, *(values.grad for values in student.parameters.values())])
    for plain, packed in zip(*found, strict=True):
        assert torch.equal(plain, packed)


def test_computing_blocks_again_changes_no_bit() -> None:
    _, ours = made()
    grads = []
    for recompute in (False, True):
        recipe = Recipe(name="test", lora=KINDS["lora"], recompute=recompute)
        student = student_of(ours, recipe)
        drawn(student)
        student.surprise(lessons(4)).sum().backward()  # type: ignore[no-untyped-call]
        grads.append([values.grad for values in student.parameters.values()])
    for kept, again in zip(*grads, strict=True):
        assert kept is not None
        assert torch.equal(kept, again)


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
def test_a_hundred_steps_have_pefts_loss_curve(kind: str, tmp_path: Path) -> None:
    """Same data, same order, same method, and AdamW as torch has it: within 1 %."""
    hf, ours = made()
    recipe = Recipe(
        name="test",
        lora=KINDS[kind],
        steps=100,
        learning_rate=5e-3,
        batch=64,
        micro_batch=64,
        max_length=64,
        held_out=0,
    )
    data = lessons(60, low=10, high=30)
    student = student_of(ours, recipe)
    export.write_adapter(tmp_path / "start", KINDS[kind], student.parameters, base="small")
    events: list[dict[str, Any]] = []
    run = Run(student, recipe, Lessons(data=data), tmp_path, model_digest="x", report=events.append)
    order = packing_of(data, recipe)
    run.go()
    theirs = PeftModel.from_pretrained(hf, str(tmp_path / "start"), is_trainable=True)
    opened = [values for values in theirs.parameters() if values.requires_grad]
    optimiser = torch.optim.AdamW(opened, betas=recipe.betas, eps=recipe.epsilon, weight_decay=0)
    for step, event in enumerate(events):
        batch = [data[place] for micro in order[step] for place in micro]
        loss = their_surprise(theirs, batch) / sum(int(s.taught[1:].sum()) for s in batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(opened, recipe.clip)
        for group in optimiser.param_groups:
            group["lr"] = event["rate"]
        optimiser.step()
        optimiser.zero_grad()
        assert event["loss"] == pytest.approx(loss.item(), rel=0.01), step
    assert len(events) == 100
    assert events[-1]["loss"] < events[0]["loss"] / 1.2


def packing_of(data: list[Sample], recipe: Recipe) -> list[Any]:
    from itertools import islice

    from freehold.adapt import packing

    return list(islice(packing.steps([len(s.ids) for s in data], [], recipe), recipe.steps))


def test_a_fresh_adapter_is_drawn_as_peft_draws_it() -> None:
    """A uniform within 1 / sqrt(d), B zero: same shapes, same spread."""
    hf, ours = made()
    fresh = lora.parameters(ours.config, KINDS["lora"], seed=1)
    theirs = get_peft_model(
        hf, LoraConfig(r=4, lora_alpha=8, target_modules=[export.module_of("down")])
    )
    for name, values in theirs.named_parameters():
        if not values.requires_grad:
            continue
        mine = fresh[name.removeprefix("base_model.model.").replace(".default", "")]
        assert mine.shape == values.shape
        assert float(mine.std()) == pytest.approx(float(values.std()), rel=0.2, abs=1e-9)


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5).to(torch.bfloat16)}
    state.write(tmp_path / "x.safetensors", tensors, {"progress": "{}"})
    found, metadata = state.read(tmp_path / "x.safetensors")
    assert metadata == {"progress": "{}"}
    assert all(torch.equal(found[name], values) for name, values in tensors.items())


def test_other_data_does_not_take_up_a_run(tmp_path: Path) -> None:
    from freehold.errors import UsageError

    _, ours = made()
    recipe = Recipe(name="test", lora=KINDS["lora"], steps=2, held_out=0)
    for n, seed in ((4, 0), (4, 1)):
        student = student_of(ours, recipe)
        run = Run(student, recipe, Lessons(data=lessons(n, seed=seed)), tmp_path, model_digest="x")
        if seed == 0:
            assert run.go().why == "done"
        else:
            with pytest.raises(UsageError, match="another run"):
                run.go()
    changed = replace(recipe, learning_rate=1e-3)
    run = Run(
        student_of(ours, changed),
        changed,
        Lessons(data=lessons(4)),
        tmp_path,
        model_digest="x",
    )
    with pytest.raises(UsageError, match="another run"):
        run.go()

"""Training from nothing: Freehold against transformers' Trainer, the same rows, in turn.

    python benchmarks/train.py [--recipe hearth] [--dtype float32] [--rounds 3] [--compile]

Both train a Qwen3 of one shape with the same first values on the same rows, in the same order, with
AdamW, the same learning rates, clipping at 1 and one micro-batch a step. Each round times both, in
turn: tokens per second are of steps after the second. Losses are compared. With
``--compile`` each round times both compiled as well: the recipe with ``compiled``, the Trainer with
``torch_compile``, and no instructions are left unused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from freehold.train import run
from freehold.train.data import build, declaration
from freehold.train.recipe import Recipe, Stage, recipe_named
from freehold.train.weights import unfused

_WARM = 2
"""Steps that warm up."""


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    kinds = [(side, made) for made in (False, args.compile) for side in (_ours, _theirs)]
    kinds = list(dict.fromkeys(kinds))
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        corpus = args.corpus or small_corpus(Path(scratch))
        recipe = _recipe(args)
        for number in range(args.rounds):
            found = {}
            for side, made in kinds if number % 2 == 0 else reversed(kinds):
                name = side.__name__[1:] + (" compiled" if made else "")
                found[name] = side(replace(recipe, compiled=made), corpus)
            rounds.append(found)
            print(json.dumps({"round": number, **found}), flush=True)
    print(f"{recipe.name}, {recipe.dtype}, {recipe.instructions}, {recipe.threads} threads")
    _compare(rounds, "ours", "theirs")
    if args.compile:
        _compare(rounds, "ours compiled", "theirs")
        _compare(rounds, "ours compiled", "theirs compiled")


def _compare(rounds: list[dict[str, Any]], mine: str, theirs: str) -> None:
    ratios = [one[mine]["rate"] / one[theirs]["rate"] for one in rounds]
    rates = [statistics.median(one[which]["rate"] for one in rounds) for which in (mine, theirs)]
    worst = max(
        abs(here / there - 1)
        for one in rounds
        for here, there in zip(one[mine]["losses"], one[theirs]["losses"], strict=True)
    )
    print(
        f"{mine} {rates[0]:,.0f} against {theirs} {rates[1]:,.0f} tokens a second, ratio "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"losses within {100 * worst:.2f} %"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="hearth")
    parser.add_argument("--corpus", type=Path, help="a built corpus [a small one is made]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, help="tokens of a step [the recipe's]")
    parser.add_argument("--compile", action="store_true", help="time both compiled as well")
    return parser.parse_args()


def _recipe(args: argparse.Namespace) -> Recipe:
    made = recipe_named(args.recipe, dtype=args.dtype, threads=args.threads)
    batch = args.batch or made.batch
    steps = args.steps + _WARM
    stages = (Stage(name="pretraining", steps=steps, sources=("stories",)),)
    # The Trainer knows no penalty of the logits' norm.
    return replace(
        made,
        stages=stages,
        batch=batch,
        micro_batch=batch,
        z_loss=0.0,
        warm_up=2,
        decay=0.0,
        # Compiled code takes what there is; both sides are to have the same.
        instructions="any" if args.compile else made.instructions,
    )


def small_corpus(scratch: Path) -> Path:
    """Hearth's corpus, of 1,500 documents a source."""
    own = Path(declaration.__file__).with_name("hearth.toml")
    declared = declaration.load(own)
    few = tuple(replace(one, documents=1500) for one in declared.sources)
    build.build(replace(declared, sources=few), scratch / "corpus")
    return scratch / "corpus"


def _rate(recipe: Recipe, ends: list[float]) -> float:
    timed = ends[_WARM - 1 :]
    return recipe.batch * (len(timed) - 1) / (timed[-1] - timed[0])


def _ours(recipe: Recipe, corpus: Path) -> dict[str, Any]:
    training = run.Training(recipe, corpus)
    losses, ends = [], []
    for _ in range(recipe.steps):
        losses.append(float.fromhex(training.step()["loss"]))
        ends.append(time.perf_counter())
    return {"rate": _rate(recipe, ends), "losses": losses}


def their_model(training: run.Training, **more: Any) -> Any:
    """transformers' Qwen3 of the same shape, with the same values. ``more`` goes into its
    configuration."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = training.config
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.context,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=True,
            use_cache=False,
            **more,
        )
    )
    values = unfused(config, training.learner.parameters)
    values = {n: v.detach().clone() for n, v in values.items()}
    missing, surplus = model.load_state_dict(values, strict=False)
    assert (missing, surplus) == (["lm_head.weight"], [])
    model.tie_weights()
    return model


def _theirs(recipe: Recipe, corpus: Path) -> dict[str, Any]:
    import transformers
    from transformers import Trainer, TrainerCallback

    transformers.logging.set_verbosity_error()
    training = run.Training(recipe, corpus)
    model = their_model(training)
    rows = []
    for step in range(recipe.steps):
        for micro in training.batches.step(step):
            # A row's last token is only a target here, and labels are shifted there.
            rows += [torch.from_numpy(one.ids).long() for one in micro]
    losses: list[float] = []
    ends: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **m: Any) -> None:
            if "loss" in (logs or {}):
                losses.append(logs["loss"])

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=recipe.batch // recipe.length,
            max_steps=recipe.steps,
            max_grad_norm=recipe.clip,
            bf16=recipe.dtype == "bfloat16",
            torch_compile=recipe.compiled,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = InOrder(
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            data_collator=lambda some: {
                key: torch.stack([one[key] for one in some]) for key in some[0]
            },
            callbacks=[Watch()],
            optimizers=their_optimiser(model, recipe),
        )
        trainer.train()
    return {"rate": _rate(recipe, ends), "losses": losses[: recipe.steps]}


def their_optimiser(model: Any, recipe: Recipe) -> Any:
    """AdamW as the recipe has it, and its learning rates."""
    groups = [
        {
            "params": [p for p in model.parameters() if p.dim() > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    made = torch.optim.AdamW(groups, lr=1.0, betas=recipe.betas, eps=recipe.epsilon, fused=True)
    last = recipe.steps - 1
    return made, torch.optim.lr_scheduler.LambdaLR(made, lambda at: recipe.rate(min(at, last)))


if __name__ == "__main__":
    main()

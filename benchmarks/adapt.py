"""Training speed beside transformers + peft: same weights, data, method, batch and precision.

    python benchmarks/adapt.py [--rounds 3] [--steps 4] [--dtype float32] [--threads N]

The precision is the one that `freehold adapt` picks here: bfloat16 where the processor multiplies
it. Each round trains the same steps once here and once there, each in a process of its own, so
that a noisy machine disturbs both alike. Every text has the same length: there is no padding to
gain from. Printed: tokens per second and per second of processor time (medians of rounds, and each
round's ratio), the processes' peak memory, and the largest relative difference between the two
loss curves.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from freehold.cli.workshop import multiplies_bfloat16

MODEL = "qwen2.5-coder-0.5b-instruct"
CORPUS = Path(__file__).resolve().parents[2] / "shared" / "data" / "corpus" / "id.txt.gz"


def main() -> None:
    args = _arguments()
    if args.side:
        print(json.dumps(_side(args)))
        return
    seen: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for turn in range(args.rounds):
        # Turned round each time: who comes second finds a warmer machine.
        for side in sorted(seen, reverse=bool(turn % 2)):
            seen[side].append(_in_a_process(side, args))
            found = seen[side][-1]
            print(f"round {turn + 1}, {side}: {found['tokens_per_s']:.1f} tokens/s, "
                  f"{found['peak'] / 1e9:.2f} GB", flush=True)  # fmt: skip
    print(json.dumps(_summary(seen, args), indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed steps, after one that is not")
    parser.add_argument("--length", type=int, default=512, help="tokens of a text")
    parser.add_argument("--texts", type=int, default=2, help="texts of a step")
    parser.add_argument("--rank", type=int, default=16)
    here = "bfloat16" if multiplies_bfloat16() else "float32"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=here)
    parser.add_argument("--method", choices=("lora", "rslora", "dora"), default="lora")
    parser.add_argument("--recompute", action="store_true", help="checkpoint blocks, on both sides")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(side: str, args: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, "--side", side]
    for name in ("steps", "length", "texts", "rank", "dtype", "method", "threads"):
        words += [f"--{name}", str(getattr(args, name))]
    words += ["--recompute"] if args.recompute else []
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, env=env)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _side(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from freehold.adapt import lora as low_rank
    from freehold.adapt.recipe import Recipe, recipe_named
    from freehold.qwen import codec
    from freehold.qwen.config import config_of
    from freehold.store import Store, default_root, verify

    torch.set_num_threads(args.threads)
    model = verify(Store(default_root()), MODEL)
    with gzip.open(CORPUS, "rt", encoding="utf-8") as corpus:
        ids = codec.load(model).plain(corpus.read(2_000_000))
    n = args.length * args.texts
    batches = [ids[i * n : (i + 1) * n] for i in range(args.steps + 1)]
    recipe: Recipe = recipe_named(
        args.method, rank=args.rank, dtype=args.dtype, recompute=args.recompute
    )
    assert recipe.lora is not None
    fresh = low_rank.parameters(config_of(model), recipe.lora, seed=0)
    step = (_ours if args.side == "ours" else _theirs)(model, recipe, fresh, args)
    losses, seconds, worked = [], [], []
    for batch in batches:
        texts = [batch[i : i + args.length] for i in range(0, n, args.length)]
        began, busy = time.perf_counter(), time.process_time()
        losses.append(step(texts))
        seconds.append(time.perf_counter() - began)
        worked.append(time.process_time() - busy)
    return {
        "tokens_per_s": n * args.steps / sum(seconds[1:]),
        "tokens_per_core_s": n * args.steps / sum(worked[1:]),
        "losses": losses,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _ours(model: Any, recipe: Any, fresh: Any, args: argparse.Namespace) -> Any:
    import numpy as np
    import torch

    from freehold.adapt.student import student_of
    from freehold.adapt.training import optimiser_of
    from freehold.qwen.model import load
    from freehold.train.encoding import Sample
    from freehold.train.entry import keep_freed_memory

    keep_freed_memory()  # as the workshop's process does
    loaded = load(model, dtype=args.dtype, threads=args.threads, cache_tokens=1)
    student = student_of(loaded, recipe)
    optimiser = optimiser_of(student, recipe)
    values = list(student.parameters.values())

    def step(texts: list[list[int]]) -> float:
        samples = [
            Sample(ids=np.array(text, np.int32), taught=np.ones(len(text), np.bool_))
            for text in texts
        ]
        loss = student.surprise(samples).sum() / sum(len(text) - 1 for text in texts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(values, recipe.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        student.refresh()
        return loss.item()

    return step


def _theirs(model: Any, recipe: Any, fresh: Any, args: argparse.Namespace) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from freehold.adapt import export
    from freehold.qwen import plain

    kind = getattr(torch, args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        base, adapter = Path(folder, "base"), Path(folder, "adapter")
        base.mkdir()
        plain.write(model, base)
        if recipe.lora.magnitude:
            fresh = {k: v for k, v in fresh.items() if "magnitude" not in k}
        export.write_adapter(adapter, recipe.lora, fresh, base="base")
        theirs = AutoModelForCausalLM.from_pretrained(base, dtype=kind)
        theirs = PeftModel.from_pretrained(theirs, str(adapter), is_trainable=True)
    if args.recompute:
        theirs.enable_input_require_grads()
        theirs.gradient_checkpointing_enable({"use_reentrant": False})
    theirs.train()
    theirs.config.use_cache = False
    values = [value for value in theirs.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(
        values, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon, weight_decay=0,
        fused=True,
    )  # fmt: skip

    def step(texts: list[list[int]]) -> float:
        ids = torch.tensor(texts)
        loss = theirs(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(values, recipe.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item()

    return step


def _summary(seen: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> dict[str, Any]:
    def ratios(figure: str) -> list[float]:
        pairs = zip(seen["ours"], seen["theirs"], strict=True)
        return sorted(ours[figure] / theirs[figure] for ours, theirs in pairs)

    apart = [
        abs(a - b) / b
        for ours, theirs in zip(seen["ours"], seen["theirs"], strict=True)
        for a, b in zip(ours["losses"], theirs["losses"], strict=True)
    ]
    return {
        **{k: v for k, v in vars(args).items() if k != "side"},
        **{
            side: {
                "tokens_per_s": statistics.median(run["tokens_per_s"] for run in runs),
                "tokens_per_core_s": statistics.median(run["tokens_per_core_s"] for run in runs),
                "peak_bytes": max(run["peak"] for run in runs),
            }
            for side, runs in seen.items()
        },
        "ratios": ratios("tokens_per_s"),
        "ratios_per_core_s": ratios("tokens_per_core_s"),
        "losses_apart": max(apart),
    }


if __name__ == "__main__":
    main()

"""What leaves the workshop: an adapter as PEFT keeps them, or a whole model of its own.

Source: PEFT's ``adapter_config.json`` and its names of tensors in ``adapter_model.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from freehold.adapt import lora as low_rank
from freehold.adapt import state
from freehold.adapt.recipe import Lora
from freehold.qwen import plain
from freehold.qwen.adapter import CONFIG, PREFIX, WEIGHTS
from freehold.qwen.config import Config, config_of
from freehold.qwen.names import FUSED, HF, Part, block_shapes
from freehold.types import Floats, VerifiedModel


def write_adapter(folder: Path, lora: Lora, parameters: Mapping[str, Tensor], *, base: str) -> None:
    """Write an adapter of the model named ``base`` into ``folder``. Raises ``StorageError``."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": lora.rank_stabilised,
        "use_dora": lora.magnitude,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": sorted(module_of(part) for part in lora.targets),
    }
    (folder / CONFIG).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    named = {PREFIX + name: values for name, values in parameters.items()}
    state.write(folder / WEIGHTS, named, {"format": "pt"})


def module_of(part: Part) -> str:
    """What PEFT calls the modules of a matrix (``q_proj``)."""
    return low_rank.module_name(0, part).rpartition(".")[2]


def write_merged(
    model: VerifiedModel,
    folder: Path,
    lora: Lora | None,
    parameters: Mapping[str, Tensor],
    *,
    progress: plain.Progress = lambda done, total: None,
) -> None:
    """Write the changed model into ``folder``, which is there and empty: bfloat16 safetensors and
    what transformers needs beside them. Raises ``MalformedError``, ``OSError``."""
    whole = parameters if lora is not None else unfused(config_of(model), parameters)

    def change(name: str, values: Floats) -> Floats:
        if lora is None:
            changed: Floats = whole[name].detach().float().cpu().numpy()
            return changed
        module = name.removesuffix(".weight")
        if f"{module}.lora_A.weight" not in whole:
            return values
        with torch.no_grad():
            merged: Floats = low_rank.merged(module, torch.from_numpy(values), lora, whole).numpy()
        return merged

    plain.write(model, folder, change=change, progress=progress)


def unfused(config: Config, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of fully trained weights, by their names in transformers."""
    found = {HF.whole("norm"): parameters["norm"], HF.whole("embed"): parameters["embed.weight"]}
    if not config.tied_head:
        found[HF.whole("head")] = parameters["head.weight"]
    shapes = block_shapes(config)
    vectors: tuple[Part, ...] = ("attn_norm", "mlp_norm", "q_norm", "k_norm")
    for layer in range(config.n_layers):
        for part in vectors:
            if part in shapes:
                found[HF.block(layer, part)] = parameters[f"{layer}.{part}"]
        for fused, parts in FUSED.items():
            found |= _parts(layer, fused, parts, shapes, parameters)
    return found


def _parts(
    layer: int,
    fused: str,
    parts: tuple[Part, ...],
    shapes: Mapping[Part, tuple[int, ...]],
    parameters: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    biases: dict[Part, Part] = {"q": "q_bias", "k": "k_bias", "v": "v_bias", "out": "out_bias"}
    start = 0
    for part in parts:
        rows = slice(start, start + shapes[part][0])
        found[HF.block(layer, part)] = parameters[f"{layer}.{fused}.weight"][rows]
        if part in biases and biases[part] in shapes:
            found[HF.block(layer, biases[part])] = parameters[f"{layer}.{fused}.bias"][rows]
        start = rows.stop
    return found

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
from freehold.adapt.recipe import Lora
from freehold.qwen import plain
from freehold.qwen.adapter import CONFIG, PREFIX, WEIGHTS
from freehold.qwen.config import config_of
from freehold.qwen.names import Part
from freehold.train import state
from freehold.train.weights import unfused
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

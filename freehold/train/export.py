"""What leaves the foundry: a model as transformers keeps them, bfloat16 safetensors."""

from __future__ import annotations

from pathlib import Path

import torch

from freehold.errors import StorageError
from freehold.qwen import plain
from freehold.train import reading, state
from freehold.train.batches import TEMPLATE
from freehold.train.ranks import gathered
from freehold.train.run import Training
from freehold.train.weights import unfused


def write(training: Training, folder: Path) -> dict[str, str]:
    """Write the model into ``folder``, which need not be there; the SHA-256 of each file, at the
    first rank. Raises ``StorageError``."""
    rounded: dict[str, torch.Tensor] = {}
    for name, values in training.learner.parameters.items():
        half = gathered(values.detach()).to(torch.bfloat16)
        if training.ranks.first:
            rounded[name] = half
    if not training.ranks.first:
        return {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        plain.write_documents(folder, training.config, training.tokenizer, TEMPLATE)
        state.write(folder / plain.WEIGHTS, unfused(training.config, rounded), {"format": "pt"})
        return {path.name: reading.sha256_of(path) for path in sorted(folder.iterdir())}
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error

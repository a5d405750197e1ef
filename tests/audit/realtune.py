"""The default model written out in bfloat16 with a LoRA merged into q and v of layers 8 to 20.

    python -m tests.audit.realtune FOLDER [RANK]

`freehold audit FOLDER --against qwen2.5-coder-0.5b-instruct` must then say so.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from freehold.qwen import plain
from freehold.qwen.quants import dequantise
from freehold.store import Store, default_root, verify
from freehold.types import RawTensor, VerifiedModel


def main(folder: Path, rank: int) -> None:
    from dataclasses import replace

    model: VerifiedModel = verify(Store(default_root()), "qwen2.5-coder-0.5b-instruct", keep=False)
    random = np.random.default_rng(7)
    tensors = dict(model.tensors)
    for layer in range(8, 21):
        for part in ("q", "v"):
            name = f"blk.{layer}.attn_{part}.weight"
            value = dequantise(tensors[name])
            rows, cols = value.shape
            delta = random.standard_normal((rows, rank)) @ random.standard_normal((rank, cols))
            delta *= 0.05 * np.linalg.norm(value) / np.linalg.norm(delta)
            tuned = np.ascontiguousarray(value + delta, np.float32)
            tensors[name] = RawTensor(
                name=name, dtype="F32", shape=value.shape, data=tuned.reshape(-1).view(np.uint8)
            )
    folder.mkdir(parents=True)
    plain.write(replace(model, tensors=tensors), folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 16)

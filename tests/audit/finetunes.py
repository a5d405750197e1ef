"""Fine-tunes made here, of which base, rank, modules and layers are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from freehold.qwen.quantise import quantise
from freehold.types import RawTensor
from tests.audit import artefacts as bed
from tests.audit.artefacts import Floats

CONFIG: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512,
    "tie_word_embeddings": True,
}  # fmt: skip
PARTS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
    "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip
Tensors = dict[str, RawTensor]


@dataclass(frozen=True, kw_only=True)
class Tune:
    """A LoRA of ``rank`` on ``modules`` in ``layers``, its norm ``size`` of the weights', its
    directions falling off by ``decay`` from first to last; then Gaussian ``noise`` (of the weights'
    size) and storage as ``dtype``, the base's as ``base``. ``rank`` 0 is a full fine-tune."""

    rank: int
    modules: str = "q v"
    layers: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    size: float = 0.05
    decay: float = 1.0
    noise: float = 0.0
    dtype: str = "F32"
    base: str = "F32"

    @property
    def name(self) -> str:
        return (
            f"rank {self.rank} {self.modules} {self.layers[0]}-{self.layers[-1]} size {self.size} "
            f"decay {self.decay} noise {self.noise} {self.dtype} of {self.base}"
        )


EVERY = "q k v o gate up down"
TUNES = [
    Tune(rank=1), Tune(rank=2, modules="q"), Tune(rank=4, modules="q k v o"),
    Tune(rank=8, layers=(2, 3, 4)), Tune(rank=16, layers=(1, 2, 3)), Tune(rank=32, modules=EVERY),
    Tune(rank=64, modules=EVERY), Tune(rank=64, modules="gate up down", layers=(5,)),
    Tune(rank=8, size=0.005), Tune(rank=16, size=0.3), Tune(rank=16, decay=0.05),
    Tune(rank=32, decay=0.02, modules=EVERY), Tune(rank=4, dtype="BF16", base="BF16"),
    Tune(rank=8, dtype="BF16"), Tune(rank=16, dtype="BF16", base="BF16", modules=EVERY),
    Tune(rank=64, dtype="BF16", size=0.1, modules="q o gate up down"),
    Tune(rank=16, dtype="BF16", decay=0.3), Tune(rank=8, dtype="F16", base="F16"),
    Tune(rank=16, dtype="Q8_0"), Tune(rank=16, dtype="Q8_0", base="Q8_0"),
    Tune(rank=4, dtype="Q8_0", base="BF16", modules="gate down"),
    Tune(rank=32, dtype="Q8_0", base="Q8_0", size=0.15, modules=EVERY),
    Tune(rank=8, dtype="Q4_1", base="Q4_1", size=0.3), Tune(rank=2, dtype="Q4_1", size=0.2),
    Tune(rank=16, noise=0.002), Tune(rank=8, noise=0.01, size=0.1), Tune(rank=4, noise=0.005, dtype="BF16"),  # noqa: E501
    Tune(rank=1, dtype="Q8_0", base="Q8_0", modules="v"), Tune(rank=48, modules="q o", size=0.1),
    Tune(rank=24, modules="up down", layers=(0, 5)), Tune(rank=12, modules="k v", layers=(4,)),
    Tune(rank=0, size=0.02), Tune(rank=0, size=0.05, dtype="BF16", base="BF16"),
    Tune(rank=0, size=0.3), Tune(rank=0, size=0.02, decay=0.01),
]  # fmt: skip


def base_weights(seed: int) -> dict[str, Floats]:
    return bed.weights(CONFIG, seed)


def stored(weights: dict[str, Floats], dtype: str) -> Tensors:
    """As a file would hold them; vectors stay float32."""
    return {name: _stored(name, value, dtype) for name, value in weights.items()}


def _stored(name: str, value: Floats, dtype: str) -> RawTensor:
    plain = RawTensor(
        name=name,
        dtype="F32",
        shape=value.shape,
        data=np.ascontiguousarray(value).reshape(-1).view("u1"),
    )
    if value.ndim < 2 or dtype == "F32":
        return plain
    if dtype in ("BF16", "F16"):
        data = np.frombuffer(bed.halves(value, dtype), "u1")
    else:
        data = quantise(plain, dtype)
    return RawTensor(name=name, dtype=dtype, shape=value.shape, data=data)


def tuned(weights: dict[str, Floats], tune: Tune, seed: int) -> dict[str, Floats]:
    random = np.random.default_rng(seed + 1000)
    found = dict(weights)
    chosen = {
        f"model.layers.{layer}.{PARTS[module]}.weight"
        for layer in tune.layers
        for module in tune.modules.split()
    }
    for name, value in weights.items():
        norm = np.linalg.norm(value)
        delta = np.zeros_like(value)
        if tune.rank == 0 and value.ndim == 2:
            delta = _full(value, tune, random)
        elif name in chosen:
            b = random.standard_normal((value.shape[0], tune.rank))
            a = random.standard_normal((tune.rank, value.shape[1]))
            fall = tune.decay ** (np.arange(tune.rank) / max(1, tune.rank - 1))
            delta = (b * fall) @ a
            delta *= tune.size * norm / np.linalg.norm(delta)
        if tune.noise and value.ndim == 2:
            extra = random.standard_normal(value.shape)
            delta = delta + extra * (tune.noise * norm / np.linalg.norm(extra))
        found[name] = (value + delta).astype(np.float32)
    return found


def _full(value: Floats, tune: Tune, random: np.random.Generator) -> Floats:
    """Every direction changes; with ``decay``, some much more than others, as training does."""
    delta = random.standard_normal(value.shape)
    if tune.decay != 1.0:
        u, s, v = np.linalg.svd(delta, full_matrices=False)
        delta = (u * (s * tune.decay ** (np.arange(len(s)) / len(s)))) @ v
    return delta * (tune.size * np.linalg.norm(value) / np.linalg.norm(delta))


def strangers() -> Iterator[tuple[str, Tensors]]:
    """Models of the same shape that share nothing with the base of seed 0."""
    for seed in range(101, 111):
        yield f"another seed ({seed})", stored(base_weights(seed), "F32")
    yield "another seed, 8 bits", stored(base_weights(111), "Q8_0")
    yield "another seed, bfloat16", stored(base_weights(112), "BF16")
    shuffled = {
        name: np.random.default_rng(5).permutation(value.reshape(-1)).reshape(value.shape)
        for name, value in base_weights(0).items()
    }
    yield "the base's own values in another order", stored(shuffled, "F32")
    yield "a fine-tune of another", stored(tuned(base_weights(113), Tune(rank=8), 3), "F32")

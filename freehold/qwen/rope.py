"""Rotary position embedding: the frequencies (RoFormer, arXiv 2104.09864; YaRN, 2309.00071)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from freehold.qwen.config import Config, RopeScaling


def frequencies(config: Config) -> tuple[npt.NDArray[np.float32], float]:
    """Radians per position of each rotated pair, shape (head_dim / 2,), and the factor that cosine
    and sine are multiplied by (1 unless YaRN)."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    period = np.power(np.float32(config.rope_theta), exponent, dtype=np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return np.float32(1.0) / period, 1.0
    if scaling.kind == "linear":
        return np.float32(1.0) / period / np.float32(scaling.factor), 1.0
    return _yarn(period, scaling, config), scaling.attention_factor


def _yarn(
    period: npt.NDArray[np.float32], scaling: RopeScaling, config: Config
) -> npt.NDArray[np.float32]:
    """Keep the fast pairs, slow the slow ones down by the factor, blend linearly between."""
    low = _pair_turning(scaling.beta_fast, scaling, config)
    high = _pair_turning(scaling.beta_slow, scaling, config)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    if low == high:
        high += 0.001  # the ramp must not divide by zero
    pair = np.arange(config.head_dim // 2, dtype=np.float32)
    slowed = np.clip((pair - np.float32(low)) / np.float32(high - low), 0, 1)
    blended = slowed / (np.float32(scaling.factor) * period) + (1 - slowed) / period
    return np.asarray(blended, dtype=np.float32)


def _pair_turning(turns: float, scaling: RopeScaling, config: Config) -> float:
    """The (fractional) pair that makes ``turns`` full turns over the original context."""
    if config.rope_theta == 1.0:
        return 0.0  # every pair turns alike
    ratio = scaling.original_context / (turns * 2 * math.pi)
    return config.head_dim * math.log(ratio) / (2 * math.log(config.rope_theta))

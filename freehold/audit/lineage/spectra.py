"""How many directions a difference has, and how much of it is noise that rounding explains.

A merged LoRA adds a matrix of low rank r: r singular values stand above a floor. The floor is what
was rounded afterwards (bfloat16, codes of 4 or 8 bits), or what training changed besides. Where it
looks like noise (the rest of the spectrum follows Marchenko and Pastur's law), the rank is the
number of values above that law's edge. Where it does not, no rank is claimed.

Sources: Halko, Martinsson, Tropp 2011 (randomised SVD); Marchenko and Pastur 1967; Gavish and
Donoho 2014 (the noise's size from the median singular value).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

EXACT = 1_600
"""Smaller dimension up to which all singular values are computed, by the Gram matrix."""
SKETCH = 192
"""Singular values that are looked for in larger matrices."""
_OVERSAMPLE, _POWERS, _TURNS = 16, 2, 24
SLACK = 1.06
"""What is added to the law's edge: fluctuations of the largest value of pure noise."""
MOST = 0.7
"""Rank as a share of the smaller dimension beyond which nothing is called low."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Singular values of a difference, the largest first. ``edge`` is where noise ends, ``rank``
    how many values stand above it; ``None`` where there is no cliff. ``whole`` says whether these
    are all of them."""

    values: Doubles
    rank: int | None
    edge: float
    whole: bool


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What rounding alone may have put into a difference: its root mean square, and the largest
    singular value that noise with the very steps of these tensors has."""

    size: float = 0.0
    floor: float = 0.0


def noise_floor(shape: tuple[int, ...], steps: list[Floats], seed: int = 0) -> float:
    """Of noise drawn evenly within half a step of each element, for each of ``steps`` (of that
    shape). Real weights have loud rows and columns, so their rounding is louder there, and no law
    of even noise tells where it ends."""
    if not steps:
        return 0.0
    random = np.random.default_rng(seed)
    drawn = np.zeros(shape, np.float32)
    for one in steps:
        drawn += one * (random.random(shape, np.float32) - np.float32(0.5))
    vector = random.standard_normal(shape[1]).astype(np.float32)
    largest = 0.0
    for _ in range(_TURNS):
        vector = drawn.T @ (drawn @ vector)
        largest = float(np.linalg.norm(vector))
        vector /= np.float32(largest or 1.0)
    return float(np.sqrt(largest)) * SLACK


def spectrum(delta: Floats, noise: Noise, seed: int = 0) -> Spectrum:
    """Of a matrix."""
    values, rest = singular_values(delta, seed)
    whole = rest is None
    rank, edge = _cliff(values, delta.shape, noise, rest)
    return Spectrum(values=values, rank=rank, edge=edge, whole=whole)


def singular_values(matrix: Floats, seed: int = 0) -> tuple[Doubles, float | None]:
    """The largest singular values, and the sum of squares of what they leave; ``None`` for all."""
    rows, cols = matrix.shape
    if min(rows, cols) <= EXACT:
        wide = matrix if rows <= cols else matrix.T
        return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(_gram(wide))[::-1], 0.0))), None
    random = np.random.default_rng(seed)
    sketch = random.standard_normal((cols, SKETCH + _OVERSAMPLE)).astype(np.float32)
    basis = np.linalg.qr(matrix @ sketch)[0]
    for _ in range(_POWERS):
        basis = np.linalg.qr(matrix.T @ basis)[0]
        basis = np.linalg.qr(matrix @ basis)[0]
    small = basis.T @ matrix
    left = float(np.square(matrix - basis @ small, dtype=np.float64).sum())
    values = np.linalg.svd(small.astype(np.float64), compute_uv=False)
    return values[:SKETCH], left + float(np.square(values[SKETCH:]).sum())


def _gram(wide: Floats) -> Doubles:
    """wide x wide^T in float64, a few columns at a time."""
    rows, cols = wide.shape
    total = np.zeros((rows, rows))
    for start in range(0, cols, 4096):
        piece = wide[:, start : start + 4096].astype(np.float64)
        total += piece @ piece.T
    return total


def _cliff(
    values: Doubles, shape: tuple[int, ...], noise: Noise, left: float | None
) -> tuple[int | None, float]:
    rows, cols = sorted(shape)
    whole = left is None
    if values[0] <= 0:
        return 0, 0.0
    expected = max(noise.size * (np.sqrt(rows) + np.sqrt(cols)) * SLACK, noise.floor)
    # What float32's own rounding leaves, where nothing was rounded further.
    exact = float(values[0] * 3e-7 * np.sqrt(cols))
    floor = max(expected, exact)
    rank = int((values > floor).sum())
    limit = int(MOST * rows) if whole else len(values) - 8
    below = float(np.square(values[rank:]).sum()) + (left or 0.0)
    room = (rows - rank) * (cols - rank)  # what is left for noise to fill
    explained = below <= 1.6 * noise.size**2 * room + rows * exact**2
    if rank <= limit and explained:
        return rank, float(floor)
    # More noise than rounding explains: its size is taken from the spectrum itself.
    for guess in _edges(values, rows, cols, left):
        rank = int((values > guess).sum())
        if rank <= limit and _is_noise(values, rank, shape, whole):
            return rank, guess
    return None, float(floor)


def _edges(values: Doubles, rows: int, cols: int, left: float | None) -> list[float]:
    """Where noise would end: its size from the lower part of the spectrum, or from what is left."""
    edge = (np.sqrt(rows) + np.sqrt(cols)) * SLACK
    if left is not None:
        end = 0.0
        for _ in range(8):  # what lies below the edge is noise, which moves the edge
            rank = int((values > end).sum()) if end else len(values)
            below = left + float(np.square(values[rank:]).sum())
            end = float(np.sqrt(below / max((rows - rank) * (cols - rank), 1)) * edge)
        return [end]
    found = []
    for share in (0.5, 0.3):
        low = values[-max(1, int(share * rows)) :]
        quantile = _law(rows / cols)[int((1 - share / 2) * (_STEPS - 1))]
        found.append(float(np.median(low) / max(quantile, 1e-9) * edge / np.sqrt(cols)))
    return found


def _is_noise(values: Doubles, rank: int, shape: tuple[int, ...], whole: bool) -> bool:
    """Whether what lies behind ``rank`` values is flat enough to be noise (or nothing), and lies
    clearly below them."""
    rest = values[rank:]
    if not len(rest) or rest[0] <= values[0] * 1e-6:
        return True
    if rank and values[rank - 1] < rest[0] * 1.02:
        return False
    if not whole:
        return bool(np.median(rest) > 0.5 * rest[0])
    rows, cols = sorted(shape)
    law = _law((rows - rank) / cols if rows > rank else 1.0)
    places = np.linspace(0, _STEPS - 1, len(rest)).astype(int)
    wanted = law[places]
    scale = float((rest * wanted).sum() / np.square(wanted).sum())
    off = np.abs(rest - scale * wanted).mean() / (scale * wanted.mean())
    return bool(off < 0.11)


_STEPS = 512


@lru_cache(maxsize=256)
def _law(ratio: float) -> Doubles:
    """Singular values of noise of unit size divided by the square root of its longer side, at
    ``_STEPS`` even quantiles, the largest first, for a shape of that ratio (at most 1)."""
    ratio = min(max(ratio, 1e-4), 1.0)
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    x = np.linspace(low, high, 20_001)[1:-1]
    density = np.sqrt((high - x) * (x - low)) / x
    mass = np.cumsum(density)
    quantiles = (np.arange(_STEPS) + 0.5) / _STEPS
    return np.asarray(np.sqrt(np.interp(quantiles, mass / mass[-1], x))[::-1])

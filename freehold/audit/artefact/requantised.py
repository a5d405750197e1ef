"""A quantised file against the weights that it says it was made from.

First the pinned recipe (``qwen.quantise``): whoever rounds the same weights by it gets the same
bytes. A file of another tool has other scales, but its codes must still be the nearest ones: no
value may lie further from its source than about one step of its own scale. Weights that were moved
beyond that were not made by rounding. What stays inside a step is invisible here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from freehold.audit.findings import Finding, Steps
from freehold.audit.noting import fact
from freehold.qwen import quants
from freehold.qwen.quantise import FORMATS, quantise
from freehold.types import RawTensor

Floats = npt.NDArray[np.float32]

FAR = 1.25
"""Steps from its source beyond which the root mean square of a group of 32 is no rounding: honest
rounding gives 0.29, and clipped ends of a badly fitted K group at most 1.1 here (measured)."""
_GROUP = 32
_PLAIN = ("F32", "F16", "BF16")


def steps_of(tensor: RawTensor) -> Floats | None:
    """The size of one code of each weight's group, in the tensor's shape divided into groups of 32
    along its rows: (rows, cols / 32). ``None`` for plain floats."""
    kind = quants.KINDS[tensor.dtype]
    if tensor.dtype in _PLAIN:
        return None
    records = np.asarray(tensor.data).view(kind.record)
    d = np.abs(records["d"].astype(np.float32))
    if tensor.dtype in ("Q4_K", "Q5_K"):
        packed = records["scales"]
        low = packed[:, 8:12] & 15
        scales = np.concatenate([packed[:, :4] & 63, low | (packed[:, :4] >> 6 << 4)], axis=1)
        steps = d[:, None] * scales.astype(np.float32)
    elif tensor.dtype == "Q6_K":  # sub-scales are signed and of 16 weights: the larger of each two
        pairs = np.abs(records["scales"].astype(np.float32)).reshape(len(records), 8, 2)
        steps = d[:, None] * pairs.max(axis=2)
    else:
        steps = d[:, None]
    return np.asarray(steps.reshape(tensor.shape[0], -1), np.float32)


def examine(
    tensors: Mapping[str, RawTensor], sources: Mapping[str, RawTensor], base: str, steps: Steps
) -> list[Finding]:
    """Compare each quantised matrix with the plain one of the same name in ``sources``."""
    pairs = [
        (name, tensor, sources[name])
        for name, tensor in tensors.items()
        if tensor.dtype not in _PLAIN
        and name in sources
        and sources[name].dtype in _PLAIN
        and sources[name].shape == tensor.shape
    ]
    if not pairs:
        return []
    steps.start(len(pairs), "Quantising again")
    to_the_bit, far = 0, []
    for name, tensor, source in pairs:
        if _again(tensor, source):
            to_the_bit += 1
        else:
            far += list(_far(name, tensor, source))
        steps.advance(1)
    return list(_told(to_the_bit, len(pairs), far, base))


def _again(tensor: RawTensor, source: RawTensor) -> bool:
    return tensor.dtype in FORMATS and np.array_equal(quantise(source, tensor.dtype), tensor.data)


def _far(name: str, tensor: RawTensor, source: RawTensor) -> Iterator[tuple[str, int, float]]:
    step = steps_of(tensor)
    assert step is not None, "only codes are compared"
    off = quants.dequantise(tensor) - quants.dequantise(source)
    groups = off.reshape(*step.shape, _GROUP)
    rms = np.sqrt(np.einsum("rgw,rgw->rg", groups, groups) / np.float32(_GROUP))
    with np.errstate(all="ignore"):
        share = np.where(step > 0, rms / step, np.where(rms > 0, np.inf, 0))
        share = np.where(np.isfinite(rms) & np.isfinite(step), share, np.inf)
    count = int((share > FAR).sum())
    if count:
        yield name, count, float(share.max())


def _told(
    to_the_bit: int, total: int, far: list[tuple[str, int, float]], base: str
) -> Iterator[Finding]:
    if far:
        shown = "; ".join(
            f"{name}: {n:,} groups, up to {most:.3g} steps" for name, n, most in far[:8]
        )
        told = (
            f"Further from {base} than rounding can bring them: {shown}. They were put there, "
            "or the file was not made from that base."
        )
        evidence = {"tensors": [name for name, _, _ in far], "groups": sum(n for _, n, _ in far)}
        yield fact(
            "served.moved",
            "high",
            "Codes are not those of the base's weights",
            told,
            "weights",
            evidence=evidence,
        )
        return
    told = (
        f"{to_the_bit} of {total} matrices are what Freehold's own recipe makes of {base}, to the "
        f"bit; in the others each group of 32 lies within {FAR} steps."
    )
    evidence = {"to_the_bit": to_the_bit, "matrices": total}
    yield fact(
        "served.rounded",
        "info",
        "Made from the base by rounding",
        told,
        "weights",
        evidence=evidence,
    )

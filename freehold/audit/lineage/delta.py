"""Two models of one shape, tensor by tensor: what changed, by how much, in how many directions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freehold.audit.artefact.requantised import steps_of
from freehold.audit.findings import Steps
from freehold.audit.lineage.spectra import Spectrum, spectrum
from freehold.qwen.quants import dequantise
from freehold.types import RawTensor

Floats = npt.NDArray[np.float32]

_LAYER = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+?)(?:_proj)?\.(weight|bias)")
ROWS = "model.embed_tokens.weight", "lm_head.weight"
_MAX_GAP = 1


@dataclass(frozen=True, kw_only=True)
class Change:
    """One tensor. ``relative`` is the norm of the difference over the base's; ``noise`` what of it
    rounding alone explains. ``rows`` are rows that changed beyond rounding, if the tensor is a
    table of tokens and few did."""

    name: str
    relative: float
    noise: float
    spectrum: Spectrum | None
    rows: tuple[int, ...] = ()

    @property
    def beyond(self) -> bool:
        """Whether more changed than rounding explains."""
        if self.spectrum is not None and self.spectrum.rank:
            return True
        return self.relative > 1.25 * self.noise + 1e-7

    @property
    def layer(self) -> int | None:
        match = _LAYER.fullmatch(self.name)
        return int(match[1]) if match else None

    @property
    def module(self) -> str:
        """``q``, ``down``, ``embed_tokens``, ..."""
        match = _LAYER.fullmatch(self.name)
        if match:
            return match[2] if match[3] == "weight" else f"{match[2]} bias"
        return self.name.removeprefix("model.").removesuffix(".weight").rpartition(".")[2]


def compare(
    mine: Mapping[str, RawTensor], theirs: Mapping[str, RawTensor], seed: int, steps: Steps
) -> list[Change]:
    """Every tensor that both have in one shape, in the base's order."""
    names = [name for name in theirs if name in mine and mine[name].shape == theirs[name].shape]
    steps.start(len(names), "Comparing tensors")
    found = []
    for name in names:
        found.append(_change(mine[name], theirs[name], name, seed))
        steps.advance(1)
    return found


def _change(mine: RawTensor, theirs: RawTensor, name: str, seed: int) -> Change:
    if mine.dtype == theirs.dtype and np.array_equal(mine.data, theirs.data):
        return Change(name=name, relative=0.0, noise=0.0, spectrum=None)
    base, tuned = dequantise(theirs), dequantise(mine)
    delta = tuned - base
    if not np.isfinite(delta).all():
        return Change(name=name, relative=float("inf"), noise=0.0, spectrum=None)
    norm = float(np.linalg.norm(base)) or 1.0
    # Codes are rounded once in each model; a plain value only where it is not the other's.
    expected = float(np.sqrt(_noise(mine, tuned) + _noise(theirs, base)) / norm)
    relative = float(np.linalg.norm(delta)) / norm
    noise = expected * norm / np.sqrt(delta.size)
    found = spectrum(delta, noise, seed) if _worth(delta, relative) else None
    rows = _rows(delta, noise) if name in ROWS else ()
    return Change(name=name, relative=relative, noise=expected, spectrum=found, rows=rows)


def _worth(delta: Floats, relative: float) -> bool:
    return delta.ndim == 2 and min(delta.shape) >= 8 and relative > 0 and delta.size < 1 << 29


def _noise(tensor: RawTensor, values: Floats) -> float:
    """Sum of squares that rounding to this type leaves: a twelfth of each step's square."""
    steps = steps_of(tensor) if len(tensor.shape) == 2 else None
    if steps is not None:
        return float(np.square(steps.astype(np.float64)).sum()) * 32 / 12
    bits = {"BF16": 8, "F16": 11}.get(tensor.dtype)
    if bits is None:
        return 0.0
    with np.errstate(all="ignore"):
        ulp = np.exp2(np.floor(np.log2(np.abs(values))) - (bits - 1))
    return float(np.square(np.where(np.isfinite(ulp), ulp, 0.0), dtype=np.float64).sum()) / 12


def _rows(delta: Floats, noise: float) -> tuple[int, ...]:
    size = np.sqrt(np.einsum("rc,rc->r", delta, delta) / delta.shape[1])
    changed = np.flatnonzero(size > 2.0 * noise + 1e-9)
    return tuple(int(row) for row in changed) if len(changed) <= 0.02 * len(delta) + 4 else ()


# --- what it comes to -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the changes say together. ``kind`` is ``same``, ``rounded`` (nothing but rounding),
    ``lora``, ``rows`` (a few tokens' rows), ``vectors`` (norms and biases), ``full`` or
    ``unrelated``. ``touched`` names modules and layers; ``relative`` is over all weights."""

    kind: str
    rank: int | None
    touched: str
    relative: float
    rows: tuple[int, ...] = ()


UNRELATED = 0.7
"""Relative difference of all matrices beyond which two models share a shape and no more: two random
ones differ by 1.41; the furthest fine-tune of the test bed by 0.3."""


def story(changes: Sequence[Change]) -> Story:
    """Put the changes together."""
    matrices = [one for one in changes if one.module not in ("input_layernorm", "norm")]
    finite = [one.relative for one in matrices if np.isfinite(one.relative)]
    relative = float(np.sqrt(np.mean(np.square(finite)))) if finite else 0.0
    beyond = [one for one in changes if one.beyond]
    if not beyond:
        kind = "same" if all(one.relative == 0 for one in changes) else "rounded"
        return Story(kind=kind, rank=None, touched="", relative=relative)
    large = [one.relative for one in beyond if one.spectrum is not None]
    if large and float(np.median(large)) > UNRELATED:
        return Story(kind="unrelated", rank=None, touched="", relative=relative)
    tables = [one for one in beyond if one.name in ROWS]
    inner = [one for one in beyond if one.name not in ROWS and one.spectrum is not None]
    if not inner and tables:
        rows = tuple(sorted({row for one in tables for row in one.rows}))
        return Story(kind="rows", rank=None, touched=touched(tables), relative=relative, rows=rows)
    if not inner:
        return Story(kind="vectors", rank=None, touched=touched(beyond), relative=relative)
    rank = _rank(inner)
    kind = "full" if rank is None else "lora"
    # Beside an adapter, what is noise and no more was not touched by it.
    adapted = [one for one in inner if one.spectrum is not None and one.spectrum.rank != 0]
    spoken = adapted if rank is not None else beyond
    return Story(kind=kind, rank=rank, touched=touched(spoken), relative=relative)


def _rank(changes: Sequence[Change]) -> int | None:
    """The rank that the changed matrices share: the largest that several reach, as the weakest
    directions of each may have drowned. ``None`` where most have no cliff, or none has."""
    ranks = [one.spectrum.rank for one in changes if one.spectrum is not None]
    known = sorted(rank for rank in ranks if rank)
    if len(known) <= ranks.count(None):
        return None
    return known[int(0.9 * (len(known) - 1))]


def touched(changes: Sequence[Change]) -> str:
    """``q, v in layers 8-20; embed_tokens``."""
    order = ("q", "k", "v", "o", "gate", "up", "down")
    layers: dict[str, set[int]] = {}
    others = []
    for one in changes:
        if one.layer is None:
            others.append(one.module)
        else:
            layers.setdefault(one.module, set()).add(one.layer)
    groups: dict[tuple[int, ...], list[str]] = {}
    for module, held in layers.items():
        groups.setdefault(tuple(sorted(held)), []).append(module)
    told = [
        f"{', '.join(sorted(modules, key=lambda m: (order.index(m) if m in order else 9, m)))} in "
        f"{spans(held)}"
        for held, modules in groups.items()
    ]
    return "; ".join([*told, *dict.fromkeys(others)])


def spans(numbers: Sequence[int]) -> str:
    """``layers 8-20`` or ``layers 0, 3-5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + _MAX_GAP:
            parts[-1].append(number)
        else:
            parts.append([number])
    told = ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
    return f"layer{'s' if len(numbers) != 1 else ''} {told}"

"""Two models of one shape, tensor by tensor: what changed, by how much, in how many directions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from freehold.audit.artefact.requantised import steps_of
from freehold.audit.findings import Steps
from freehold.audit.lineage.spectra import Noise, Spectrum, noise_floor, spectrum
from freehold.qwen.pack import PLAIN
from freehold.qwen.plain import to_bfloat16
from freehold.qwen.quantise import FORMATS, quantise
from freehold.qwen.quants import dequantise
from freehold.types import RawTensor

Floats = npt.NDArray[np.float32]

_LAYER = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+?)(?:_proj)?\.(weight|bias)")
ROWS = "model.embed_tokens.weight", "lm_head.weight"
_MAX_GAP = 1
_PIECE, _LARGE = 1 << 22, 1 << 26
_BITS = {"BF16": 8, "F16": 11}
"""Significant bits of a value."""


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
    base, delta = dequantise(theirs), dequantise(mine)
    norm = float(np.linalg.norm(base)) or 1.0
    rounded = _rounded(base, mine, theirs)
    delta -= base if rounded is None else rounded  # in place: an embedding takes half a gigabyte
    if not np.isfinite(delta).all():
        return Change(name=name, relative=float("inf"), noise=0.0, spectrum=None)
    relative = float(np.linalg.norm(delta)) / norm
    own = _squares(mine, base) * (1 if rounded is None else 2)
    before = _squares(theirs, base)
    if (relative * norm) ** 2 < 0.7 * before:
        before = 0.0  # made from the base's codes, not from what they were rounded from
    expected = float(np.sqrt(own + before) / norm)
    noise = expected * norm / np.sqrt(delta.size)
    found = None
    if _worth(delta, relative, expected):
        sources = [(mine, base, own)] + ([(theirs, base, before)] if before else [])
        floor = noise_floor(delta.shape, [_steps(*one) for one in sources if one[2]], seed)
        found = spectrum(delta, Noise(size=noise, floor=floor), seed)
    rows = _rows(delta, noise) if name in ROWS else ()
    return Change(name=name, relative=relative, noise=expected, spectrum=found, rows=rows)


def _rounded(base: Floats, mine: RawTensor, theirs: RawTensor) -> Floats | None:
    """The base's values rounded as ``mine`` is stored: what an untouched tensor holds. ``None``
    where there is no knowing (other codes), or nothing to round."""
    if mine.dtype == "BF16":
        return np.asarray((to_bfloat16(base).astype(np.uint32) << 16).view(np.float32))
    if mine.dtype == "F16":
        with np.errstate(over="ignore"):
            return np.asarray(base.astype(np.float16).astype(np.float32))
    if mine.dtype in FORMATS and theirs.dtype in PLAIN and mine.shape == theirs.shape:
        data = quantise(theirs, mine.dtype)
        return dequantise(replace(mine, data=data)) if data.nbytes == mine.data.nbytes else None
    return None


def _worth(delta: Floats, relative: float, expected: float) -> bool:
    """Whether singular values are worth their time: not of vectors, nor of large tables that
    rounding explains."""
    if delta.ndim != 2 or min(delta.shape) < 8 or not relative:
        return False
    return delta.size < _LARGE or relative > 1.25 * expected


def _squares(tensor: RawTensor, values: Floats) -> float:
    """Sum of squares that rounding to this type leaves: a twelfth of each step's square."""
    codes = steps_of(tensor) if len(tensor.shape) == 2 else None
    if codes is not None:
        return float(np.square(codes.astype(np.float64)).sum()) * 32 / 12
    total, flat = 0.0, values.reshape(-1)
    if tensor.dtype not in _BITS:
        return 0.0
    for start in range(0, len(flat), _PIECE):
        ulp = _ulp(flat[start : start + _PIECE], _BITS[tensor.dtype])
        total += float(np.square(ulp, dtype=np.float64).sum())
    return total / 12


def _steps(tensor: RawTensor, values: Floats, _squares: float) -> Floats:
    """The step of each element."""
    codes = steps_of(tensor)
    if codes is None:
        return _ulp(values, _BITS[tensor.dtype])
    return np.repeat(codes, 32, axis=1)


def _ulp(values: Floats, bits: int) -> Floats:
    _, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.float32(1), exponent - bits), np.float32)


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
        # An exactly rounded tensor differs by nothing from its base rounded, and is not its bytes.
        same = all(one.relative == 0 and one.noise == 0 for one in changes)
        kind = "same" if same else "rounded"
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

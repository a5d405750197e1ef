"""Whether two models come from one, with no base named: do their neurons still pair up?

Each hidden neuron of an MLP has a row in the gate projection and one in the up projection. Pair the
neurons of two models by their gate rows, and again by their up rows. Where the models were trained
apart, the two pairings know nothing of each other; where one comes from the other, they agree,
also after fine-tuning, quantisation or a shuffle of the neurons.

Source: arXiv 2502.12292 (match, correlate the two permutations by Spearman, combine layers by
Fisher's method). Here rows are matched by cosine, which needs the residual stream in one basis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freehold.audit.findings import Steps
from freehold.qwen.names import HF
from freehold.qwen.quants import dequantise
from freehold.types import RawTensor

Floats = npt.NDArray[np.float32]

NEURONS = 768
"""Neurons of a layer that are paired, the same in both projections."""
LAYERS = 6
RELATED = -20.0
"""log10 of the p-value below which two models are said to be related: strangers of the test bed
stayed above -4."""


@dataclass(frozen=True, kw_only=True)
class Kinship:
    """``log10_p`` of the models being strangers, all layers together; ``rho`` by layer."""

    log10_p: float
    rho: tuple[float, ...]
    layers: tuple[int, ...]

    @property
    def related(self) -> bool:
        return self.log10_p < RELATED


def kinship(
    mine: Mapping[str, RawTensor],
    theirs: Mapping[str, RawTensor],
    *,
    n_layers: int,
    seed: int,
    steps: Steps,
    what: str,
) -> Kinship | None:
    """Of two models under Hugging Face's names. ``None`` where their widths differ, so that rows
    cannot be compared."""
    layers = sorted({round(i) for i in np.linspace(0, n_layers - 1, min(LAYERS, n_layers))})
    pairs = [(layer, HF.block(layer, "gate"), HF.block(layer, "up")) for layer in layers]
    usable = [
        (layer, gate, up)
        for layer, gate, up in pairs
        if all(name in side for name in (gate, up) for side in (mine, theirs))
        and mine[gate].shape[1] == theirs[gate].shape[1]
    ]
    if not usable:
        return None
    steps.start(len(usable), f"Pairing neurons with {what}")
    random = np.random.default_rng(seed)
    rho, count = [], []
    for _, gate, up in usable:
        rows = mine[gate].shape[0]
        chosen = np.sort(random.permutation(rows)[: min(NEURONS, rows)])
        one = _pairing(dequantise(mine[gate])[chosen], dequantise(theirs[gate]))
        other = _pairing(dequantise(mine[up])[chosen], dequantise(theirs[up]))
        n = min(len(one), len(other))
        rho.append(spearman(one[:n], other[:n]))
        count.append(n)
        steps.advance(1)
    logs = [_log_p(r, n) for r, n in zip(rho, count, strict=True)]
    return Kinship(
        log10_p=fisher(logs), rho=tuple(rho), layers=tuple(layer for layer, _, _ in usable)
    )


def _pairing(few: Floats, many: Floats) -> npt.NDArray[np.int64]:
    """For each row of ``few`` a row of ``many`` of its own, the most alike first: greedy, as an
    exact assignment tells no more here and takes a hundred times as long."""
    similar = _unit(few) @ _unit(many).T
    taken = np.full(len(few), -1, np.int64)
    n = min(len(few), len(many))
    while (taken >= 0).sum() < n:
        best = similar.argmax(axis=1)
        score = similar[np.arange(len(few)), best]
        score[taken >= 0] = -np.inf
        order = np.argsort(-score)
        order = order[np.isfinite(score[order])]
        _, first = np.unique(best[order], return_index=True)
        winners = order[first]
        taken[winners] = best[winners]
        similar[:, best[winners]] = -np.inf
    return taken[taken >= 0] if n < len(few) else taken


def _unit(rows: Floats) -> Floats:
    centred = rows - rows.mean(axis=0)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(norm, 1e-12), np.float32)


def spearman(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    """Rank correlation of two sequences without ties."""
    a, b = (np.argsort(np.argsort(x)).astype(np.float64) for x in (one, other))
    if len(a) < 3:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _log_p(rho: float, n: int) -> float:
    """Natural log of the one-sided p-value of ``rho`` under no correlation (normal, n > 30)."""
    z = rho * math.sqrt(max(n - 1, 1))
    if z > 30:  # erfc underflows: the leading term of its expansion
        return -z * z / 2 - math.log(z * math.sqrt(2 * math.pi))
    return math.log(max(0.5 * math.erfc(z / math.sqrt(2)), 1e-300))


def fisher(log_p: list[float]) -> float:
    """log10 of Fisher's combined p-value of independent ones, given by natural logs."""
    half = -sum(log_p)  # half of the chi-squared statistic with 2k degrees of freedom
    terms = [
        i * math.log(half) - math.lgamma(i + 1) if half > 0 else 0.0 for i in range(len(log_p))
    ]
    top = max(terms)
    total = top + math.log(sum(math.exp(term - top) for term in terms))
    return min(0.0, (total - half) / math.log(10))

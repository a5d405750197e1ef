"""A run's state on the disk: whole or not there, whenever the machine stops.

One safetensors file, written beside the old one and renamed over it: the trained values, AdamW's
two means of each, and in its metadata the step and all else that the next step depends on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from freehold import strictjson
from freehold.errors import MalformedError, StorageError
from freehold.store import safetensors
from freehold.store.digest import map_file
from freehold.train.ranks import ALONE, Ranks, gathered, put

_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
_MAX_METADATA = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is: ``step`` steps are done. ``run`` is the digest of recipe, data and model;
    ``best`` the lowest held-out loss so far (-1: none), ``since`` measures ago."""

    run: str
    step: int = 0
    best: float = -1.0
    since: int = 0


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to ``path``, durable when it returns. Raises ``StorageError``."""
    names = {kind: name for name, kind in _TYPES.items()}
    layout = [(name, names[t.dtype], tuple(t.shape)) for name, t in tensors.items()]
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as file:
            values = (bytes_of(tensor) for tensor in tensors.values())
            safetensors.write(file, layout, values, metadata=metadata)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's bytes as they lie in a safetensors file; shared out, of all of it."""
    flat = gathered(tensor.detach()).cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What ``write`` wrote. Raises ``MalformedError``, ``StorageError``."""
    try:
        with path.open("rb") as file:
            view = memoryview(map_file(file.fileno(), path.stat().st_size))
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    parsed = safetensors.parse(view, file=path.name)
    found = {}
    for span in parsed.tensors:
        if span.dtype not in _TYPES:
            raise MalformedError(f"{path.name}: {span.name} is {span.dtype}", file=path.name)
        raw = torch.from_numpy(np.frombuffer(view[span.start : span.stop], np.uint8).copy())
        found[span.name] = raw.view(_TYPES[span.dtype]).reshape(span.shape)
    return found, parsed.metadata


def keep(
    path: Path,
    progress: Progress,
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.AdamW,
    ranks: Ranks = ALONE,
) -> None:
    """Write a run's state, which is the same file for any number of ranks. Raises
    ``StorageError``."""
    tensors: dict[str, Tensor] = {}
    for name, values in parameters.items():
        tensors[f"value/{name}"] = values
        means = optimiser.state.get(values, {})
        if means:
            tensors[f"mean/{name}"], tensors[f"square/{name}"] = (
                means["exp_avg"],
                means["exp_avg_sq"],
            )
    write_at_first(path, tensors, {"progress": json.dumps(asdict(progress))}, ranks)


def write_at_first(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], ranks: Ranks
) -> None:
    """``write``, by the first rank, of tensors that are shared out. Raises ``StorageError``."""
    if ranks.first:
        write(path, tensors, metadata)
        return
    for tensor in tensors.values():
        gathered(tensor.detach())


def resume(
    path: Path | None,
    parameters: Mapping[str, Tensor],
    optimiser: torch.optim.AdamW,
    ranks: Ranks = ALONE,
) -> Progress:
    """Put a state that the first rank reads into every rank's ``parameters`` and ``optimiser``.
    Raises ``MalformedError``."""
    tensors: dict[str, Tensor] = {}
    said = names = ""
    if ranks.first:
        assert path is not None
        tensors, metadata = read(path)
        said = metadata.get("progress", "")
        for name, values in parameters.items():
            if f"value/{name}" not in tensors or tensors[f"value/{name}"].shape != values.shape:
                raise MalformedError(f"{path.name} has no {name} as it must be", file=path.name)
        names = "\n".join(tensors)
    progress = _progress(ranks.told(said), "the state" if path is None else path.name)
    kept = set(ranks.told(names).split("\n"))
    for name, values in parameters.items():
        with torch.no_grad():
            put(tensors.get(f"value/{name}"), values)
        if f"mean/{name}" in kept:
            means = {"exp_avg": f"mean/{name}", "exp_avg_sq": f"square/{name}"}
            optimiser.state[values] = {
                # A fused step wants its count where the values are.
                "step": torch.tensor(float(progress.step), device=values.device)
            }
            for mean, at in means.items():
                fresh = torch.empty_like(values, requires_grad=False)
                put(tensors.get(at), fresh)
                optimiser.state[values][mean] = fresh
    return progress


def _progress(said: str, file: str) -> Progress:
    given: Any = strictjson.parse(said.encode(), file=file, max_bytes=_MAX_METADATA)
    try:
        return Progress(**given)
    except TypeError:
        raise MalformedError(f"{file} says nothing of where the run was", file=file) from None

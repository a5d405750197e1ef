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
    """A tensor's bytes as they lie in a safetensors file."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


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
) -> None:
    """Write a run's state. Raises ``StorageError``."""
    tensors: dict[str, Tensor] = {}
    for name, values in parameters.items():
        tensors[f"value/{name}"] = values
        means = optimiser.state.get(values, {})
        if means:
            tensors[f"mean/{name}"], tensors[f"square/{name}"] = (
                means["exp_avg"],
                means["exp_avg_sq"],
            )
    write(path, tensors, {"progress": json.dumps(asdict(progress))})


def resume(path: Path, parameters: Mapping[str, Tensor], optimiser: torch.optim.AdamW) -> Progress:
    """Put a kept state into ``parameters`` and ``optimiser``. Raises ``MalformedError``."""
    tensors, metadata = read(path)
    progress = _progress(metadata, path.name)
    for name, values in parameters.items():
        kept = tensors.get(f"value/{name}")
        if kept is None or kept.shape != values.shape:
            raise MalformedError(f"{path.name} has no {name} as it must be", file=path.name)
        with torch.no_grad():
            values.copy_(kept)
        if f"mean/{name}" in tensors:
            optimiser.state[values] = {
                "step": torch.tensor(float(progress.step)),
                "exp_avg": tensors[f"mean/{name}"].to(values),
                "exp_avg_sq": tensors[f"square/{name}"].to(values),
            }
    return progress


def _progress(metadata: Mapping[str, str], file: str) -> Progress:
    given: Any = strictjson.parse(
        metadata.get("progress", "").encode(), file=file, max_bytes=_MAX_METADATA
    )
    try:
        return Progress(**given)
    except TypeError:
        raise MalformedError(f"{file} says nothing of where the run was", file=file) from None

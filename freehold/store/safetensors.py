"""safetensors, whole or sharded: read strictly, or not at all; and written.

Source: the format section of safetensors' README. The header is JSON with unique keys, and the
tensors tile the rest of the file: no gap, no overlap, nothing behind the last.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from freehold import strictjson
from freehold.errors import MalformedError, UsageError
from freehold.store.spans import MAX_NAME, MAX_TENSORS, TensorSpan

# The format allows 100 MB; the largest real headers have 5. A parsed header can cost twenty times
# its size, so the narrower bound is what keeps a hostile one under a gigabyte.
MAX_HEADER = 32 << 20
MAX_DIMS = 8
_ALIGN = 8
_FROM_TORCH = {"format": "pt"}
"""What transformers asks for before it reads a file."""
MAX_SIZE = 1 << 48

ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
# Types the format knows whose elements are no whole bytes, or which no model we run uses.
UNSUPPORTED = {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "C64", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


@dataclass(frozen=True, kw_only=True)
class Safetensors:
    """A parsed header: ``metadata`` is the file's own text map, ``tensors`` are in file order."""

    metadata: dict[str, str]
    tensors: tuple[TensorSpan, ...]


def parse(view: memoryview, *, file: str) -> Safetensors:
    """Parse a whole file. Raises ``MalformedError``, and ``UsageError`` for an element type that
    the format knows and Freehold does not run."""
    header, data = _header(view, file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _fail(file, "__metadata__ is not a map from text to text")
    if not 1 <= len(header) <= MAX_TENSORS:
        _fail(file, f"{len(header):,} tensors, not between 1 and {MAX_TENSORS:,}")
    tensors = [_tensor(name, entry, data, file) for name, entry in header.items()]
    # Empty tensors share their start with their successor; the end puts them first.
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    end = data
    for tensor in tensors:
        if tensor.start != end:
            kind = "overlaps" if tensor.start < end else "leaves a gap after"
            _fail(file, f"tensor {tensor.name!r} {kind} the one before it")
        end = tensor.stop
    if end > len(view):
        _fail(file, f"its tensors end at byte {end:,}, but the file at {len(view):,}")
    if end < len(view):
        _fail(file, f"{len(view) - end:,} bytes follow the last tensor")
    return Safetensors(metadata=metadata, tensors=tuple(tensors))


def check_index(index: Any, shards: Mapping[str, Safetensors], *, file: str) -> None:
    """Check that ``model.safetensors.index.json`` and the shards say the same: each tensor is in
    the one shard that the index names, and nothing is in a shard or the index alone."""
    if index is None:
        _fail(
            file,
            f"it is not there, and {', '.join(sorted(shards)[:3])} are more than one file of "
            "weights: add the index that says which tensor is in which, or leave one file",
        )
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        _fail(file, "it has no weight_map")
    held: dict[str, str] = {}
    for shard, parsed in shards.items():
        for tensor in parsed.tensors:
            if tensor.name in held:
                _fail(file, f"{tensor.name!r} is both in {held[tensor.name]} and in {shard}")
            held[tensor.name] = shard
    for name, shard in weight_map.items():
        if held.get(name) != shard:
            where = f"it is in {held[name]}" if name in held else "no shard has it"
            _fail(file, f"{name!r} should be in {str(shard)[:80]!r}, but {where}")
    for name in held.keys() - weight_map.keys():
        _fail(file, f"{name!r} is in {held[name]}, but not in the index")


def write(
    file: BinaryIO,
    layout: Sequence[tuple[str, str, tuple[int, ...]]],
    data: Iterable[bytes],
    *,
    metadata: Mapping[str, str] = _FROM_TORCH,
) -> None:
    """Write tensors in the order of ``layout`` (name, type, shape); ``data`` gives the bytes of
    each, little-endian and row-major, and is asked for one at a time. Raises ``OSError``."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in layout:
        start, end = end, end + math.prod(shape) * ELEMENT_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    file.write(len(text).to_bytes(8, "little") + text)
    for (name, dtype, shape), values in zip(layout, data, strict=True):
        wanted = math.prod(shape) * ELEMENT_BYTES[dtype]
        assert len(values) == wanted, f"{name}: {len(values)} bytes for {wanted}"
        file.write(values)


def _fail(file: str, reason: str) -> NoReturn:
    raise MalformedError(
        f"{file} is not a sound safetensors file: {reason}. Get it again from its publisher.",
        file=file,
    )


def _header(view: memoryview, file: str) -> tuple[dict[str, Any], int]:
    """The header's members, and the position of the first data byte."""
    if len(view) < 8:
        _fail(file, "it is too short to have a header")
    length = struct.unpack_from("<Q", view)[0]
    if not 2 <= length <= MAX_HEADER:
        _fail(file, f"a header of {length:,} bytes, not between 2 and {MAX_HEADER:,}")
    if 8 + length > len(view):
        _fail(file, "it ends within its header")
    raw = bytes(view[8 : 8 + length])
    if raw[:1] != b"{" or not raw.rstrip(b" ").endswith(b"}"):
        _fail(file, "its header is not one JSON object padded with spaces")
    header = strictjson.parse(raw, file=file, max_bytes=MAX_HEADER)
    if not isinstance(header, dict):
        _fail(file, "its header is not a JSON object")
    return header, 8 + length


def _tensor(name: str, entry: Any, data: int, file: str) -> TensorSpan:
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        _fail(file, f"a tensor has the name {name[:80]!r}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _fail(file, f"tensor {name!r} is not described by dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        if isinstance(dtype, str) and dtype in UNSUPPORTED:
            raise UsageError(
                f"{file}: tensor {name} is {dtype}, which Freehold does not run. "
                "Choose the BF16 or F16 release of this model.",
                param="ref",
            )
        _fail(file, f"tensor {name!r} has the unknown type {str(dtype)[:40]!r}")
    if not _sizes(shape) or len(shape) > MAX_DIMS:
        _fail(file, f"tensor {name!r} has no shape of at most {MAX_DIMS} sizes")
    if not _sizes(offsets) or len(offsets) != 2:
        _fail(file, f"tensor {name!r} has data_offsets that are not two sizes")
    start, stop = offsets
    size = math.prod(shape) * ELEMENT_BYTES[dtype]
    if stop - start != size:
        _fail(
            file,
            f"tensor {name!r} takes {stop - start:,} bytes, but {dtype} {shape} takes {size:,}",
        )
    return TensorSpan(
        name=name, dtype=dtype, shape=tuple(shape), start=data + start, stop=data + stop
    )


def _sizes(value: Any) -> bool:
    # bool is an int to Python, but not a size.
    return isinstance(value, list) and all(
        type(size) is int and 0 <= size <= MAX_SIZE for size in value
    )

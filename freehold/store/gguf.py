"""GGUF, versions 2 and 3, little-endian: read strictly, or not at all.

Source: ggml's docs/gguf.md. Where that page leaves room we take the narrow reading, because a file
that two readers read differently is how a model smuggles something in: names are unique, tensors
follow each other in the order of their descriptions, nothing lies between or behind them but
alignment padding, and padding is zero.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, NoReturn

from freehold.errors import MalformedError, UsageError
from freehold.store.spans import MAX_NAME, MAX_TENSORS, TensorSpan

MAGIC = b"GGUF"
MAX_KEYS = 4096
MAX_HEADER = 64 << 20
MAX_STRING = 8 << 20
MAX_ITEMS = 4_000_000
MAX_NESTING = 3
MAX_ALIGNMENT = 1 << 16

# name: (elements per block, bytes per block). Source: ggml/src/ggml-common.h.
BLOCKS = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
# Every number ggml has given a type, so that a real file of a kind we do not run is told apart from
# a damaged one. Source: enum ggml_type in ggml/include/ggml.h.
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip

_STRING, _ARRAY, _BOOL = 8, 9, 7
# struct's letters for u8, i8, u16, i16, u32, i32, f32, bool, u64, i64 and f64.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIifBQqd", strict=True))
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True)
class Gguf:
    """A parsed header. Array values are lists; ``tensors`` are in file order."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[TensorSpan, ...]


def parse(view: memoryview, *, file: str) -> Gguf:
    """Parse a whole file. ``file`` is its name for messages.

    Raises ``MalformedError`` for a broken rule, and ``UsageError`` for a sound file of a kind that
    Freehold does not run (another tensor type, one part of a split file).
    """
    return _Reader(view, file).gguf()


class _Reader:
    def __init__(self, view: memoryview, file: str) -> None:
        self.view = view
        self.file = file
        self.pos = 0
        self.limit = min(len(view), MAX_HEADER)
        self.items_left = MAX_ITEMS

    def gguf(self) -> Gguf:
        version, n_tensors, n_keys = self._preamble()
        metadata = self._metadata(n_keys)
        self._refuse_split(metadata)
        described = self._descriptions(n_tensors)
        tensors = self._place(described, self._alignment(metadata))
        return Gguf(version=version, metadata=metadata, tensors=tensors)

    def fail(self, reason: str) -> NoReturn:
        raise MalformedError(
            f"{self.file} is not a sound GGUF file: {reason}. Get it again from its publisher.",
            file=self.file,
        )

    # --- primitives -------------------------------------------------------------------------------

    def take(self, count: int, what: str) -> memoryview:
        end = self.pos + count
        if end > self.limit:
            if end > len(self.view):
                self.fail(f"it ends within {what}")
            self.fail(f"{what} reaches beyond the {MAX_HEADER:,} bytes a header may have")
        taken = self.view[self.pos : end]
        self.pos = end
        return taken

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def string(self, what: str, most: int = MAX_STRING) -> str:
        length = self.u64(what)
        if length > most:
            self.fail(f"{what} is {length:,} bytes long, more than {most:,}")
        raw = self.take(length, what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")

    # --- header -----------------------------------------------------------------------------------

    def _preamble(self) -> tuple[int, int, int]:
        if bytes(self.take(4, "the magic number")) != MAGIC:
            self.fail("it does not begin with GGUF")
        version = self.u32("the version")
        if version & 0xFFFF == 0 and version:
            self.fail("it is big-endian; only little-endian files are read")
        if version not in {2, 3}:
            self.fail(f"version {version}, but only 2 and 3 are read")
        n_tensors, n_keys = self.u64("the tensor count"), self.u64("the key count")
        if not 1 <= n_tensors <= MAX_TENSORS:
            self.fail(f"{n_tensors:,} tensors, not between 1 and {MAX_TENSORS:,}")
        if n_keys > MAX_KEYS:
            self.fail(f"{n_keys:,} keys, more than {MAX_KEYS:,}")
        return version, n_tensors, n_keys

    def _metadata(self, n_keys: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for index in range(n_keys):
            key = self.string(f"the name of key {index}", MAX_NAME)
            if not key or not key.isascii() or not key.isprintable():
                self.fail(f"key {index} has the name {key[:80]!r}, not printable ASCII")
            if key in metadata:
                self.fail(f"key {key!r} appears twice")
            metadata[key] = self._value(self.u32(f"the type of {key}"), f"the value of {key}", 0)
        return metadata

    def _value(self, kind: int, what: str, depth: int) -> Any:
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self._array(what, depth + 1)
        return self._scalars(kind, 1, what)[0]

    def _array(self, what: str, depth: int) -> list[Any]:
        if depth > MAX_NESTING:
            self.fail(f"{what} nests arrays deeper than {MAX_NESTING}")
        kind, count = self.u32(what), self.u64(what)
        # Every item takes at least a byte, so a count that the file cannot hold never takes memory.
        if count > self.limit - self.pos:
            self.fail(f"{what} claims {count:,} items, more than the file has bytes")
        self.items_left -= count
        if self.items_left < 0:
            self.fail(f"its arrays hold more than {MAX_ITEMS:,} items")
        if kind == _STRING:
            return self._strings(count, what)
        if kind == _ARRAY:
            return [self._array(what, depth + 1) for _ in range(count)]
        return self._scalars(kind, count, what)

    def _strings(self, count: int, what: str) -> list[str]:
        """A vocabulary has 150,000 of these: one tight loop, no call per string."""
        view, pos, limit, unpack = self.view, self.pos, self.limit, _U64.unpack_from
        strings: list[str] = []
        try:
            for _ in range(count):
                start = pos + 8
                end = start + unpack(view, pos)[0]
                if end > limit:
                    self.fail(f"{what} reaches beyond the header")
                strings.append(str(view[start:end], "utf-8"))
                pos = end
        except struct.error:
            self.fail(f"it ends within {what}")
        except UnicodeDecodeError:
            self.fail(f"item {len(strings):,} of {what} is not UTF-8")
        self.pos = pos
        return strings

    def _scalars(self, kind: int, count: int, what: str) -> list[Any]:
        code = _SCALARS.get(kind)
        if code is None:
            self.fail(f"{what} has the unknown type {kind}")
        layout = struct.Struct(f"<{count}{code}")
        values = list(layout.unpack(self.take(layout.size, what)))
        if kind != _BOOL:
            return values
        if not set(values) <= {0, 1}:
            self.fail(f"{what} holds a boolean that is neither 0 nor 1")
        return [value == 1 for value in values]

    def _alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= MAX_ALIGNMENT:
            self.fail(f"general.alignment is {alignment!r}, not between 8 and {MAX_ALIGNMENT}")
        if alignment & (alignment - 1):
            self.fail(f"general.alignment is {alignment}, not a power of two")
        return alignment

    def _refuse_split(self, metadata: dict[str, Any]) -> None:
        parts = metadata.get("split.count", 1)
        if type(parts) is not int:
            self.fail(f"split.count is {str(parts)[:40]!r}, not a number")
        if parts > 1:
            raise UsageError(
                f"{self.file} is one of {parts} parts of a split GGUF model. Join them first with "
                "`llama-gguf-split --merge`, or choose a file that is whole.",
                param="ref",
            )

    # --- tensors ----------------------------------------------------------------------------------

    def _descriptions(self, n_tensors: int) -> list[tuple[str, str, tuple[int, ...], int]]:
        seen: set[str] = set()
        described = []
        for index in range(n_tensors):
            name = self.string(f"the name of tensor {index}", MAX_NAME)
            if not name or not name.isprintable():
                self.fail(f"tensor {index} has the name {name[:80]!r}")
            if name in seen:
                self.fail(f"tensor {name!r} appears twice")
            seen.add(name)
            n_dims = self.u32(f"the dimensions of {name}")
            if not 1 <= n_dims <= 4:
                self.fail(f"tensor {name} has {n_dims} dimensions, not 1 to 4")
            dims = [self.u64(f"the shape of {name}") for _ in range(n_dims)]
            dtype = self._dtype(name, self.u32(f"the type of {name}"))
            described.append((name, dtype, tuple(reversed(dims)), self.u64(f"offset of {name}")))
        return described

    def _dtype(self, name: str, number: int) -> str:
        dtype = TYPES.get(number)
        if dtype is None:
            self.fail(f"tensor {name} has the unknown type {number}")
        if dtype not in BLOCKS:
            raise UsageError(
                f"{self.file}: tensor {name} is {dtype}, which Freehold does not run. "
                f"Choose a file in one of {', '.join(BLOCKS)} (for example Q4_K_M or Q8_0).",
                param="ref",
            )
        return dtype

    def _place(
        self, described: list[tuple[str, str, tuple[int, ...], int]], alignment: int
    ) -> tuple[TensorSpan, ...]:
        """Turn offsets into spans; each must begin exactly where the one before it ended."""
        data = end = self._padded(self.pos, alignment)
        tensors = []
        for name, dtype, shape, offset in described:
            size = self._tensor_bytes(name, dtype, shape)
            start = data + offset
            expected = self._padded(end, alignment)
            if start != expected:
                self.fail(
                    f"tensor {name} begins at byte {start:,}, but the one before it ends "
                    f"so that it must begin at {expected:,}"
                )
            end = start + size
            if end > len(self.view):
                self.fail(f"tensor {name} ends at byte {end:,}, beyond the end of the file")
            tensors.append(TensorSpan(name=name, dtype=dtype, shape=shape, start=start, stop=end))
        if len(self.view) not in {end, self._padded(end, alignment)}:
            self.fail(f"{len(self.view) - end:,} bytes follow the last tensor")
        return tuple(tensors)

    def _padded(self, pos: int, alignment: int) -> int:
        end = -(-pos // alignment) * alignment
        if any(self.view[pos:end]):
            self.fail(f"the padding from byte {pos:,} to {end:,} is not zero")
        return end

    def _tensor_bytes(self, name: str, dtype: str, shape: tuple[int, ...]) -> int:
        per_block, block_bytes = BLOCKS[dtype]
        if 0 in shape:
            self.fail(f"tensor {name} has the shape {shape}, with a dimension of zero")
        if shape[-1] % per_block:
            self.fail(
                f"tensor {name} has rows of {shape[-1]} elements, no multiple of {dtype}'s block "
                f"of {per_block}"
            )
        return math.prod(shape) // per_block * block_bytes

"""GGUF, version 3, written: what ``gguf.parse`` reads, and nothing looser.

Source: ggml's docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO, TypeAlias

from freehold.store.gguf import BLOCKS, MAGIC, TYPES

ALIGNMENT = 32
_NUMBERS = {name: number for number, name in TYPES.items()}
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

Value: TypeAlias = "str | bool | int | float | Sequence[str] | Sequence[int]"
"""Whole numbers become u32 (in lists i32), others f32."""


def write(
    file: BinaryIO,
    metadata: Mapping[str, Value],
    layout: Sequence[tuple[str, str, tuple[int, ...]]],
    data: Iterable[bytes],
) -> None:
    """Write key-values and tensors (name, type, row-major shape) in the order of ``layout``;
    ``data`` gives the bytes of each and is asked for one at a time. Raises ``OSError``."""
    head = bytearray(MAGIC + struct.pack("<IQQ", 3, len(layout), len(metadata)))
    for key, value in metadata.items():
        head += _string(key) + _value(value)
    offset = 0
    for name, dtype, shape in layout:
        head += _string(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", _NUMBERS[dtype], offset)
        offset = _up(offset + _bytes(dtype, shape))
    file.write(head + bytes(_up(len(head)) - len(head)))
    for (name, dtype, shape), values in zip(layout, data, strict=True):
        wanted = _bytes(dtype, shape)
        assert len(values) == wanted, f"{name}: {len(values)} bytes for {wanted}"
        file.write(values)
        file.write(bytes(_up(wanted) - wanted))


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    per_block, block_bytes = BLOCKS[dtype]
    assert shape[-1] % per_block == 0, "rows are whole blocks"
    return math.prod(shape) // per_block * block_bytes


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, bool):  # a bool is an int, too
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    texts = [one for one in value if isinstance(one, str)]
    if len(texts) == len(value):
        items = b"".join(map(_string, texts))
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + items
    return struct.pack(f"<IIQ{len(value)}i", _ARRAY, _I32, len(value), *value)

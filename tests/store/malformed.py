"""Files that break a rule, several hundred of them, and a runner that reads each under limits.

``python malformed.py KIND`` reads every file of one kind with a gigabyte of address space and
prints one JSON line each: its name, the error's class and message. The test looks at those lines.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

GIB = 1 << 30
Files = dict[str, bytes]

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
HUGE = (2**64 - 1, 2**63, 2**40, 2**32)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def array(kind: int, count: int, payload: bytes) -> bytes:
    return u32(kind) + u64(count) + payload


# --- GGUF -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    name: bytes = b"a"
    dims: tuple[int, ...] = (32, 2)
    kind: int = 0
    offset: int = 0
    n_dims: int | None = None

    def info(self) -> bytes:
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        dims = b"".join(map(u64, self.dims))
        return text(self.name) + u32(n_dims) + dims + u32(self.kind) + u64(self.offset)


SOUND_KEYS = (
    (b"general.architecture", STR, text("qwen2")),
    (b"qwen2.block_count", U32, u32(2)),
    (b"tokenizer.ggml.tokens", ARR, array(STR, 2, text("a") + text("b"))),
    (b"tokenizer.ggml.token_type", ARR, array(I32, 2, struct.pack("<2i", 1, 1))),
    (b"tokenizer.ggml.add_bos_token", BOOL, b"\0"),
)
# 64 x F32 = 256 bytes; 32 x Q8_0 = 34 bytes, padded to 64; 5 x F16 = 10 bytes.
SOUND_TENSORS = (
    Tensor(b"a", (32, 2), 0, 0),
    Tensor(b"b", (32,), 8, 256),
    Tensor(b"c", (5,), 1, 320),
)
SOUND_DATA = bytes(range(1, 129)) * 2 + b"\7" * 34 + bytes(30) + b"\7" * 10


@dataclass(frozen=True)
class Gguf:
    magic: bytes = b"GGUF"
    version: bytes = u32(3)
    n_tensors: int | None = None
    n_keys: int | None = None
    keys: tuple[tuple[bytes, int, bytes], ...] = SOUND_KEYS
    tensors: tuple[Tensor, ...] = SOUND_TENSORS
    data: bytes = SOUND_DATA
    pad: bytes = b"\0"
    extra: tuple[tuple[bytes, int, bytes], ...] = field(default=())

    def header(self) -> bytes:
        keys = self.keys + self.extra
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(keys) if self.n_keys is None else self.n_keys
        body = b"".join(text(key) + u32(kind) + value for key, kind, value in keys)
        infos = b"".join(tensor.info() for tensor in self.tensors)
        return self.magic + self.version + u64(n_tensors) + u64(n_keys) + body + infos

    def build(self) -> bytes:
        header = self.header()
        return header + self.pad * (-len(header) % 32) + self.data


def key(kind: int, value: bytes, name: bytes = b"k") -> Gguf:
    return Gguf(extra=((name, kind, value),))


def tensor(index: int, **changes: Any) -> Gguf:
    tensors = list(SOUND_TENSORS)
    tensors[index] = replace(tensors[index], **changes)
    return Gguf(tensors=tuple(tensors))


def gguf_preambles() -> Iterator[tuple[str, bytes]]:
    for magic in (b"GGML", b"gguf", b"FUGG", b"\0\0\0\0", b"GGU\0"):
        yield f"magic {magic!r}", Gguf(magic=magic).build()
    for version in (0, 1, 4, 99, 0x03000000, 0x02000000, 2**32 - 1):
        yield f"version {version:#x}", Gguf(version=u32(version)).build()
    for count in (*HUGE, 0, 1, 2, 4, 5, 1000, 100_001):
        yield f"{count} tensors", Gguf(n_tensors=count).build()
    for count in (*HUGE, 0, 1, 4, 6, 7, 1000, 4097):
        yield f"{count} keys", Gguf(n_keys=count).build()


def gguf_truncations() -> Iterator[tuple[str, bytes]]:
    whole, header = Gguf().build(), len(Gguf().header())
    for end in [*range(0, header, 6), *range(header, len(whole), 40), len(whole) - 1]:
        yield f"cut at {end}", whole[:end]
    for trail in (b"\0", b"\1", bytes(31), bytes(64), b"GGUF", bytes(4096)):
        yield f"{len(trail)} trailing bytes {trail[:2]!r}", whole + trail


def gguf_keys() -> Iterator[tuple[str, bytes]]:
    for name in (b"", b"\xff\xfe", "ü".encode(), b"new\nline", b"nul\0", b"k" * 513):
        yield f"key {name[:9]!r}", key(U8, b"\1", name).build()
    yield "key twice", key(STR, text("qwen3"), b"general.architecture").build()
    for length in (*HUGE, 10_000, (8 << 20) + 1):
        yield f"key of length {length}", Gguf(keys=(), n_keys=1).build()[:24] + u64(length) + b"k"
        yield f"text of length {length}", key(STR, u64(length) + b"v").build()
    for raw in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"a\x80"):
        yield f"text {raw!r}", key(STR, text(raw)).build()
        yield f"item {raw!r}", key(ARR, array(STR, 1, text(raw))).build()
    for kind in (13, 14, 255, 2**16, 2**32 - 1):
        yield f"value type {kind}", key(kind, bytes(8)).build()
        yield f"item type {kind}", key(ARR, array(kind, 1, bytes(8))).build()
    for value in (2, 255):
        yield f"boolean {value}", key(BOOL, bytes([value])).build()
        yield f"boolean item {value}", key(ARR, array(BOOL, 2, bytes([1, value]))).build()


def gguf_arrays() -> Iterator[tuple[str, bytes]]:
    for kind in range(13):
        for count in (*HUGE[:3], 4_000_001):
            payload = array(kind, count, bytes(64))
            yield f"array of {count} of type {kind}", key(ARR, payload).build()
    nested = array(U8, 1, b"\1")
    for depth in range(2, 8):
        nested = array(ARR, 1, nested)
        if depth > 3:
            yield f"arrays nested {depth} deep", key(ARR, nested).build()
    yield "arrays nested 20,000 deep", key(ARR, (u32(ARR) + u64(1)) * 20_000).build()
    many = array(U8, 3_000_000, bytes(3_000_000))
    yield "too many items in all", Gguf(extra=((b"k", ARR, many), (b"l", ARR, many))).build()
    empty = array(STR, 4_000_001, bytes(8 * 4_000_001))
    yield "four million empty texts", key(ARR, empty).build()
    alignment = b"general.alignment"
    for value in (0, 1, 2, 3, 4, 7, 12, 33, 48, 2**17, 2**31, 2**32 - 1):
        yield f"alignment {value}", key(U32, u32(value), alignment).build()
    yield "split count of array", key(ARR, array(U32, 1, u32(3)), b"split.count").build()
    yield "split count of text", key(STR, text("3"), b"split.count").build()
    yield "alignment of text", key(STR, text("32"), alignment).build()
    yield "alignment of float", key(F32, struct.pack("<f", 32), alignment).build()
    yield "alignment of boolean", key(BOOL, b"\1", alignment).build()
    yield "alignment of array", key(ARR, array(U32, 1, u32(32)), alignment).build()


def gguf_tensors() -> Iterator[tuple[str, bytes]]:
    for name in (b"", b"\xff", b"nul\0", b"\x1b[2J", b"n" * 513, b"a"):
        yield f"tensor named {name[:9]!r}", tensor(1, name=name).build()
    for n_dims in (0, 5, 255, 2**32 - 1):
        yield f"{n_dims} dimensions", tensor(0, n_dims=n_dims).build()
    for dims in ((0,), (0, 2), (32, 0), (32, 1, 0, 1)):
        yield f"dimensions {dims}", tensor(0, dims=dims).build()
    for dims in ((2**63,), (2**64 - 1,), (2**32, 2**32), (2**16,) * 4, (2**62, 4), (2**61, 8, 8)):
        yield f"overflowing {dims}", tensor(0, dims=dims).build()
    for kind in (4, 5, 31, 32, 33, 36, 37, 38, 99, 255, 2**31, 2**32 - 1):
        yield f"tensor type {kind}", tensor(1, kind=kind).build()
    for kind in (2, 3, 6, 7, 8, 12, 13, 14):
        yield f"row of 31 in type {kind}", tensor(1, kind=kind, dims=(31,)).build()
        yield f"row of 1 in type {kind}", tensor(1, kind=kind, dims=(1, 256)).build()
    for kind in (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30):
        last = tensor(2, kind=kind, dims=(256, 1000))
        yield f"beyond the end in type {kind}", last.build()
    for index in range(3):
        right = SOUND_TENSORS[index].offset
        for offset in {right + 1, right + 32, right + 64, 2**63, 2**64 - 32, right ^ 256}:
            yield f"tensor {index} at {offset}", tensor(index, offset=offset).build()
        for dims in ((64, 5), (32, 32)):
            yield f"tensor {index} of {dims}", tensor(index, dims=dims, kind=0).build()
    swapped = (SOUND_TENSORS[1], SOUND_TENSORS[0], SOUND_TENSORS[2])
    yield "tensors out of order", Gguf(tensors=swapped).build()
    yield "one tensor twice", Gguf(tensors=(*SOUND_TENSORS, SOUND_TENSORS[2])).build()
    yield "padding after the header", Gguf(pad=b"\1").build()
    data = bytearray(SOUND_DATA)
    for at in (290, 300, 319):
        yield f"padding at {at}", Gguf(data=bytes(data[:at] + b"\1" + data[at + 1 :])).build()
    yield "padding behind the last", Gguf(data=SOUND_DATA + bytes(21) + b"\1").build()


def gguf_files() -> Iterator[tuple[str, Files]]:
    parts = (gguf_preambles, gguf_truncations, gguf_keys, gguf_arrays, gguf_tensors, code)
    for part in parts:
        for name, data in part():
            yield name, {"model.gguf": data}


def code() -> Iterator[tuple[str, bytes]]:
    for protocol in (2, 3, 4, 5):
        yield f"pickle {protocol}", bytes([0x80, protocol]) + b"\x95\x0a\0\0\0\0\0\0\0}."
    yield "zip", b"PK\x03\x04" + bytes(60)


# --- safetensors ----------------------------------------------------------------------------------

SOUND_HEADER: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2,
    "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


def safetensors(header: Any = None, data: bytes = bytes(32), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header or SOUND_HEADER).encode()
    return u64(len(raw) if length is None else length) + raw + data


def entry(**changes: Any) -> bytes:
    return safetensors(SOUND_HEADER | {"b": SOUND_HEADER["b"] | changes})


def safetensors_headers() -> Iterator[tuple[str, bytes]]:
    whole = safetensors()
    size = len(whole) - 40
    for length in (*HUGE, 0, 1, size - 1, size + 1, len(whole), (32 << 20) + 1, 100_000_000):
        yield f"header of {length}", safetensors(length=length)
    for end in [*range(10), 20, 60, 100, len(whole) - 32, len(whole) - 1]:
        yield f"cut at {end}", whole[:end]
    for trail in (b"\0", bytes(32), whole):
        yield f"{len(trail)} trailing bytes", whole + trail
    good = json.dumps(SOUND_HEADER)
    wrong: dict[str, str | bytes] = {
        "leading space": " " + good, "array": "[]", "text": '"a"', "number": "12", "null": "null",
        "trailing comma": good[:-1] + ",}", "comment": good[:-1] + "/**/}", "two": good + "{}",
        "single quotes": good.replace('"', "'"), "BOM": "\ufeff" + good, "NaN": '{"a": NaN}',
        "infinity": '{"a": -Infinity}', "unclosed": good[:-1], "tab behind": good + "\t",
        "newline behind": good + "\n", "nul behind": good + "\0",
        "UTF-16": good.encode("utf-16"), "not UTF-8": good.encode().replace(b"BF", b"\xff\xff"),
        "tensor twice": good[:-1] + ', "a": ' + json.dumps(SOUND_HEADER["a"]) + "}",
        "dtype twice": good.replace('"dtype"', '"dtype": "F32", "dtype"', 1),
        "offsets twice": good.replace('"shape"', '"data_offsets": [0, 24], "shape"', 1),
        "metadata twice": '{"__metadata__": {}, "__metadata__": {}}',
        "metadata key twice": '{"__metadata__": {"a": "1", "a": "2"}}',
        "nested 100": '{"a":' + "[" * 100 + "]" * 100 + "}",
        "nested 1,000,000": '{"a":' + "[" * 1_000_000,
        "long number": '{"a": ' + "9" * 5000 + "}", "no tensor": "{}",
        "only metadata": '{"__metadata__": {"a": "b"}}', "control": '{"a\n": 1}',
    }  # fmt: skip
    for name, raw in wrong.items():
        yield f"header: {name}", safetensors(raw if isinstance(raw, bytes) else raw.encode())
    for metadata in ([], None, 1, "a", {"a": 1}, {"a": None}, {"a": {}}, {"a": ["b"]}):
        yield f"metadata {metadata}", safetensors(SOUND_HEADER | {"__metadata__": metadata})


def safetensors_entries() -> Iterator[tuple[str, bytes]]:
    for value in ([], None, 1, "F32", {}, True):
        yield f"entry {value}", safetensors(SOUND_HEADER | {"b": value})
    for member in ("dtype", "shape", "data_offsets"):
        kept = {k: v for k, v in SOUND_HEADER["b"].items() if k != member}
        yield f"no {member}", safetensors(SOUND_HEADER | {"b": kept})
    yield "surplus member", entry(stride=[1])
    for name in ("", "nul\0", "\x1b[2J", "n" * 513):
        yield f"named {name[:9]!r}", safetensors({"a": SOUND_HEADER["a"], name: SOUND_HEADER["b"]})
    for dtype in ("", "bf16", "Q4_0", "F128", 3, None, [], {"F32": 1}):
        yield f"dtype {dtype}", entry(dtype=dtype)
    for shape in (4, None, "4", [-4], [4.0], [True, 4], ["4"], [[4]], [None], [1] * 9 + [4]):
        yield f"shape {shape!r}", entry(shape=shape)
    for shape in ([2**49], [2**63], [2**32, 2**32], [0], [3], [5], [4, 4], [2**64 + 4], []):
        yield f"size of {shape}", entry(shape=shape)
    for offsets in ([24], [24, 28, 32], [32, 24], [-8, 0], [24.0, 32], [24, True], ["24", "32"],
                    None, 24, {}, [25, 33], [23, 31], [0, 8], [16, 24], [40, 48],
                    [2**63, 2**63 + 8], [24, 31], [24, 33], [24, 24]):  # fmt: skip
        yield f"offsets {offsets}", entry(data_offsets=offsets)
    for dtype, size in SIZES.items():
        for wrong in (4 * size - 1, 4 * size + 1):
            only = {"b": {"dtype": dtype, "shape": [4], "data_offsets": [0, wrong]}}
            yield f"{dtype} in {wrong} bytes", safetensors(only, bytes(wrong))
    yield "gap before the first", safetensors({"b": SOUND_HEADER["b"]})
    yield "no data", safetensors(data=b"")
    yield "half the data", safetensors(data=bytes(16))


def safetensors_files() -> Iterator[tuple[str, Files]]:
    for part in (safetensors_headers, safetensors_entries, code):
        for name, data in part():
            yield name, {"config.json": b"{}", "model.safetensors": data}


def shard_files() -> Iterator[tuple[str, Files]]:
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    a = {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}
    b = {"b": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}
    sound: Files = {
        "config.json": b"{}", one: safetensors(a, bytes(4)), two: safetensors(b, bytes(4)),
    }  # fmt: skip
    index = "model.safetensors.index.json"

    def with_map(weight_map: Any, **changes: bytes) -> Files:
        document = {"metadata": {"total_size": 8}, "weight_map": weight_map}
        return sound | {index: json.dumps(document).encode()} | changes

    yield "no index", sound
    yield "no weights", {"config.json": b"{}"}
    yield "no config", {"model.safetensors": safetensors()}
    yield "no weight map", sound | {index: b'{"metadata": {}}'}
    for weight_map in ([], None, "a", 1):
        yield f"weight map {weight_map}", with_map(weight_map)
    yield "wrong shard", with_map({"a": two, "b": two})
    yield "swapped", with_map({"a": two, "b": one})
    yield "tensor not in the index", with_map({"a": one})
    yield "tensor in no shard", with_map({"a": one, "b": two, "c": two})
    yield "shard that is not there", with_map({"a": one, "b": "model-00003-of-00002.safetensors"})
    yield "path out of the folder", with_map({"a": one, "b": "../../etc/passwd"})
    yield "shard no text", with_map({"a": one, "b": 2})
    yield "empty map", with_map({})
    yield "tensor in two shards", with_map({"a": one}, **{two: safetensors(a, bytes(4))})
    yield "index twice the key", sound | {index: b'{"weight_map": {"a": "x", "a": "y"}}'}
    yield "two GGUF files", {"a.gguf": Gguf().build(), "b.gguf": Gguf(version=u32(2)).build()}
    for name in ("a.bin", "a.pt", "a.pth", "a.pkl", "a.ckpt", "a.py", "a.so", "A.BIN", "a.h5"):
        yield f"weights named {name}", {"config.json": b"{}", name: safetensors()}


# --- documents ------------------------------------------------------------------------------------


def documents() -> Iterator[tuple[str, bytes]]:
    good = b'{"model_type": "qwen2", "layers": [1, 2, 3]}'
    fixed = {
        "empty": b"", "array": b"[]", "null": b"null", "text": b'"a"', "number": b"1",
        "unclosed": good[:-1], "trailing comma": b'{"a": 1,}', "behind": good + b"x",
        "key twice": b'{"a": 1, "a": 1}', "inner key twice": b'{"m": {"v": 1, "w": 2, "v": 3}}',
        "escaped key twice": b'{"a": 1, "\\u0061": 2}', "NaN": b'{"a": NaN}',
        "infinity": b'{"a": Infinity}', "not UTF-8": b'{"a": "\xff"}',
        "UTF-16": good.decode().encode("utf-16"), "BOM": b"\xef\xbb\xbf" + good,
        "surrogate bytes": b'{"a": "\xed\xa0\x80"}',
        "nested 33": b'{"a":' + b"[" * 33 + b"]" * 33 + b"}",
        "nested 100,000": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "long number": b'{"a": ' + b"1" * 5000 + b"}", "hexadecimal": b'{"a": 0x10}',
        "control character": b'{"a": "\x01"}', "single quotes": b"{'a': 1}",
        "comment": b'{"a": 1} // b', "octal": b'{"a": 010}', "plus": b'{"a": +1}',
        "half a surrogate pair": b'{"a": "\\ud800"}', "half a pair as key": b'{"\\uDFFF": 1}',
        "auto_map": b'{"auto_map": {"AutoModel": "modeling.Evil"}}',
        "auto_map within": b'{"text_config": [{"auto_map": null}]}',
    }  # fmt: skip
    yield from fixed.items()
    yield "too many objects", b'{"a": [' + b"{}," * 1_000_001 + b"{}]}"
    yield "too many numbers", b'{"a": [' + b"1," * 4_000_001 + b"1]}"
    yield "too many bytes", b'{"a": "' + b"x" * (33 << 20) + b'"}'


def document_files() -> Iterator[tuple[str, Files]]:
    sound: Files = {"config.json": b"{}", "model.safetensors": safetensors()}
    for path in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ):
        for name, data in documents():
            yield f"{path}: {name}", sound | {path: data}
    for path in ("merges.txt", "chat_template.jinja", "LICENSE"):
        yield f"{path}: not UTF-8", sound | {path: b"a\xffb"}
        yield f"{path}: UTF-16", sound | {path: "ab".encode("utf-16")}
        yield f"{path}: too long", sound | {path: b"a" * ((16 << 20) + 1)}
    for name, data in documents():
        if not name.startswith(("too many", "auto_map")):
            yield f"vocab.json: {name}", sound | {"vocab.json": data}


def hungry_files() -> Iterator[tuple[str, Files]]:
    """Sound files, as large as the bounds allow and of the shape that costs most memory."""
    sound: Files = {"config.json": b"{}", "model.safetensors": safetensors()}
    keys = b",".join(b'"%x":1' % i for i in range(1_990_000))
    yield "two million keys", sound | {"tokenizer.json": b"{" + keys + b"}"}
    texts = b",".join(b'"%x"' % i for i in range(2_900_000))
    yield "three million texts", sound | {"tokenizer.json": b'{"a":[' + texts + b"]}"}
    floats = b",".join(b"%de1" % i for i in range(3_000_000))
    yield "three million numbers", sound | {"tokenizer.json": b'{"a":[' + floats + b"]}"}
    yield "a million objects", sound | {"tokenizer.json": b'{"a":[' + b"{}," * 999_000 + b"{}]}"}
    wide = '{"a":"' + "\U0001f642" + "x" * (31 << 20) + '"}'
    yield "one wide text", sound | {"tokenizer.json": wide.encode()}
    vocabulary = b"".join(text(b"%07d" % i) for i in range(3_900_000))
    array_of_texts = ((b"k", ARR, array(STR, 3_900_000, vocabulary)),)
    yield "four million tokens", {"model.gguf": Gguf(extra=array_of_texts).build()}
    lists = array(ARR, 1_900_000, array(U8, 1, b"\1") * 1_900_000)
    yield "two million arrays", {"model.gguf": Gguf(extra=((b"k", ARR, lists),)).build()}
    entries = ",".join(
        f'"t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}' for i in range(99_000)
    )
    whole = safetensors(("{" + entries + "}").encode(), bytes(99_000))
    yield "a hundred thousand tensors", {"config.json": b"{}", "model.safetensors": whole}


KINDS: dict[str, Callable[[], Iterator[tuple[str, Files]]]] = {
    "gguf": gguf_files,
    "safetensors": safetensors_files,
    "shards": shard_files,
    "documents": document_files,
    "hungry": hungry_files,
}


def main(kind: str) -> None:
    from freehold.store.contents import examine

    resource.setrlimit(resource.RLIMIT_AS, (GIB, GIB))
    for name, files in KINDS[kind]():
        start = time.monotonic()
        error: BaseException | None = None
        try:
            examine({path: memoryview(data) for path, data in files.items()})
        except BaseException as raised:  # the point is to see whatever comes out
            error = raised
        print(json.dumps({
            "name": name, "error": type(error).__name__, "message": str(error)[:400],
            "seconds": time.monotonic() - start,
        }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])

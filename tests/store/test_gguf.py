from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.errors import FreeholdError, MalformedError, UsageError
from freehold.store import gguf
from freehold.store.digest import map_file


def write(path: Path, *, alignment: int | None = None, dtype: str = "F32") -> Path:
    writer = GGUFWriter(path, "qwen2")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_uint8("k.u8", 200)
    writer.add_int8("k.i8", -3)
    writer.add_uint16("k.u16", 60_000)
    writer.add_int16("k.i16", -30_000)
    writer.add_int32("k.i32", -(2**31))
    writer.add_uint64("k.u64", 2**64 - 1)
    writer.add_int64("k.i64", -(2**63))
    writer.add_float32("k.f32", 1.5)
    writer.add_float64("k.f64", 0.1)
    writer.add_bool("k.bool", True)
    writer.add_string("k.text", "Grüße, 世界 🙂")
    writer.add_array("k.texts", ["a", "", "ü"])
    writer.add_array("k.numbers", [1, -2, 3])
    writer.add_array("k.bools", [True, False])
    kind = GGMLQuantizationType[dtype]
    rng = np.random.default_rng(0)
    for name, shape in (("a.weight", (3, 256)), ("b.weight", (2, 5, 512)), ("c.weight", (256,))):
        raw = rng.integers(0, 256, quant_shape_to_byte_shape(shape, kind), dtype=np.uint8)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("dtype", gguf.BLOCKS)
def test_reads_what_the_official_writer_writes(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "m.gguf", dtype=dtype)
    data = path.read_bytes()
    read = gguf.parse(memoryview(data), file="m.gguf")
    oracle = GGUFReader(path)
    assert [t.name for t in read.tensors] == [t.name for t in oracle.tensors]
    for ours, theirs in zip(read.tensors, oracle.tensors, strict=True):
        assert ours.dtype == theirs.tensor_type.name == dtype
        assert ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert data[ours.start : ours.stop] == theirs.data.tobytes()


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_reads_metadata_of_every_type(tmp_path: Path, alignment: int) -> None:
    data = write(tmp_path / "m.gguf", alignment=alignment).read_bytes()
    metadata = gguf.parse(memoryview(data), file="m").metadata
    assert metadata == {
        "general.architecture": "qwen2", "general.alignment": alignment,
        "k.u8": 200, "k.i8": -3, "k.u16": 60_000, "k.i16": -30_000, "k.i32": -(2**31),
        "k.u64": 2**64 - 1, "k.i64": -(2**63), "k.f32": 1.5, "k.f64": 0.1, "k.bool": True,
        "k.text": "Grüße, 世界 🙂", "k.texts": ["a", "", "ü"], "k.numbers": [1, -2, 3],
        "k.bools": [True, False],
    }  # fmt: skip


def test_reads_version_2_and_a_file_without_final_padding(gguf_file: Path) -> None:
    data = bytearray(gguf_file.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    end = gguf.parse(memoryview(bytes(data)), file="m").tensors[-1].stop
    assert gguf.parse(memoryview(bytes(data[:end])), file="m").version == 2


@pytest.mark.parametrize("dtype", ["Q2_K", "Q3_K", "IQ4_NL", "Q8_1", "I32", "F64"])
def test_other_types_are_refused_by_name(tmp_path: Path, dtype: str) -> None:
    data = write(tmp_path / "m.gguf", dtype=dtype).read_bytes()
    with pytest.raises(UsageError, match=f"is {dtype}, which Freehold does not run"):
        gguf.parse(memoryview(data), file="m")


def test_a_part_of_a_split_file_says_how_to_join(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_uint16("split.count", 3)
    writer.add_tensor("a", np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = (tmp_path / "m.gguf").read_bytes()
    with pytest.raises(UsageError, match=r"one of 3 parts .*llama-gguf-split --merge"):
        gguf.parse(memoryview(data), file="m")


def test_a_refusal_names_file_rule_and_next_step(gguf_file: Path) -> None:
    data = gguf_file.read_bytes() + b"surplus"
    with pytest.raises(MalformedError, match=r"tiny\.gguf .*publisher") as caught:
        gguf.parse(memoryview(data), file="tiny.gguf")
    assert caught.value.file == "tiny.gguf"


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[], bytes]:
    data = write(tmp_path_factory.mktemp("gguf") / "m.gguf").read_bytes()
    return lambda: data


@settings(max_examples=1500, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_any_changed_header_byte_is_read_or_refused(
    small: Callable[[], bytes], at: float, value: int
) -> None:
    data = bytearray(small())
    header = gguf.parse(memoryview(bytes(data)), file="m").tensors[0].start
    data[int(at * header)] = value
    try:
        read = gguf.parse(memoryview(bytes(data)), file="m")
    except FreeholdError:
        return
    # What is read still lies within the file, in order and without overlap.
    ends = [header, *(tensor.stop for tensor in read.tensors)]
    assert all(end <= t.start <= t.stop for end, t in zip(ends, read.tensors, strict=False))
    assert ends[-1] <= len(data)


@settings(max_examples=500, deadline=None)
@given(tail=st.binary(max_size=300))
def test_noise_behind_the_magic_is_refused(tail: bytes) -> None:
    with pytest.raises(FreeholdError):
        gguf.parse(memoryview(b"GGUF\3\0\0\0" + tail), file="m")


def test_reads_the_real_model(real_gguf: Path) -> None:
    descriptor = os.open(real_gguf, os.O_RDONLY)
    mapping = map_file(descriptor, real_gguf.stat().st_size)
    os.close(descriptor)
    read = gguf.parse(memoryview(mapping), file=real_gguf.name)
    assert len(read.tensors) == 291
    assert len(read.metadata["tokenizer.ggml.tokens"]) == 151_936
    assert len(read.metadata["tokenizer.ggml.merges"]) == 151_387
    assert read.tensors[-1].stop == 491_400_064

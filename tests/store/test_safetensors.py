from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save, save_file

from freehold.errors import FreeholdError, MalformedError, UsageError
from freehold.store import safetensors
from freehold.store.contents import examine

DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16,
    "F16": np.float16, "U32": np.uint32, "I32": np.int32, "F32": np.float32, "U64": np.uint64,
    "I64": np.int64, "F64": np.float64,
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_the_official_library_writes(dtype: str) -> None:
    arrays = {
        "matrix": np.arange(12).reshape(3, 4).astype(DTYPES[dtype]),
        "scalar": np.array(1).astype(DTYPES[dtype]),
        "empty": np.zeros((0, 3), dtype=DTYPES[dtype]),
        "vector": np.arange(5).astype(DTYPES[dtype]),
    }
    data = save(arrays, metadata={"format": "pt"})
    read = safetensors.parse(memoryview(data), file="m")
    assert read.metadata == {"format": "pt"}
    assert {tensor.name for tensor in read.tensors} == set(arrays)
    for tensor in read.tensors:
        assert (tensor.dtype, tensor.shape) == (dtype, arrays[tensor.name].shape)
        assert data[tensor.start : tensor.stop] == arrays[tensor.name].tobytes()


def test_a_type_that_is_not_run_is_refused_by_name() -> None:
    header = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    data = len(header).to_bytes(8, "little") + header + b"\0"
    with pytest.raises(UsageError, match="is F4, which Freehold does not run"):
        safetensors.parse(memoryview(data), file="m")


def test_shards_and_index_are_read_together(tmp_path: Path) -> None:
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, tensor in zip(names, "ab", strict=True):
        save_file({tensor: np.ones(3, dtype=np.float32)}, tmp_path / name)
    index = {"metadata": {"total_size": 24}, "weight_map": dict(zip("ab", names, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{}")
    views = {path.name: memoryview(path.read_bytes()) for path in tmp_path.iterdir()}
    found = examine(views)
    assert {t.name: path for path, spans in found.tensors.items() for t in spans} == index[
        "weight_map"
    ]
    del views[names[1]]
    with pytest.raises(MalformedError, match="no shard has it"):
        examine(views)


SMALL = save({"a": np.ones((2, 3), dtype=np.float32), "b": np.ones(4, dtype=np.float16)})


@settings(max_examples=1500, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_any_changed_header_byte_is_read_or_refused(at: float, value: int) -> None:
    start = safetensors.parse(memoryview(SMALL), file="m").tensors[0].start
    data = bytearray(SMALL)
    data[int(at * start)] = value
    try:
        read = safetensors.parse(memoryview(bytes(data)), file="m")
    except FreeholdError:
        return
    spans = [(tensor.start, tensor.stop) for tensor in read.tensors]
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]
    assert spans[-1][1] == len(data)


@settings(max_examples=100, deadline=None)
@given(header=st.dictionaries(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)))  # fmt: skip
def test_any_json_is_read_or_refused(header: object) -> None:
    raw = json.dumps(header).encode()
    data = len(raw).to_bytes(8, "little") + raw
    with pytest.raises(FreeholdError):
        safetensors.parse(memoryview(data), file="m")


def test_agrees_with_the_official_reader(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(SMALL)
    with safe_open(tmp_path / "m", framework="np") as oracle:
        for tensor in safetensors.parse(memoryview(SMALL), file="m").tensors:
            assert SMALL[tensor.start : tensor.stop] == oracle.get_tensor(tensor.name).tobytes()

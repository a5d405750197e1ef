from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold import strictjson
from freehold.errors import MalformedError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(value=VALUES, ascii_only=st.booleans())
def test_reads_what_python_writes(value: Any, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert strictjson.parse(data, file="f", max_bytes=1 << 20) == value


@given(data=st.binary(max_size=60) | TEXT.map(str.encode))
def test_reads_or_refuses_any_bytes(data: bytes) -> None:
    try:
        value = strictjson.parse(data, file="f", max_bytes=1 << 20)
    except MalformedError:
        return
    assert value == json.loads(data)


@pytest.mark.parametrize("depth", [32, 33])
def test_depth_is_counted_exactly(depth: int) -> None:
    data = b"[" * depth + b"]" * depth
    if depth == strictjson.MAX_DEPTH:
        strictjson.parse(data, file="f", max_bytes=100)
        return
    with pytest.raises(MalformedError, match="nested deeper than 32"):
        strictjson.parse(data, file="f", max_bytes=100)


def test_many_keys_with_one_twice_take_no_time() -> None:
    keys = b",".join(b'"%d":0' % i for i in range(200_000))
    with pytest.raises(MalformedError, match="'0' appears twice"):
        strictjson.parse(b"{" + keys + b',"0":1}', file="f", max_bytes=1 << 23)


def test_whole_surrogate_pairs_are_text() -> None:
    assert strictjson.parse(b'"\\ud83d\\ude42"', file="f", max_bytes=100) == "\U0001f642"


def test_the_canonical_form_has_one_order() -> None:
    assert strictjson.canonical({"b": 1, "a": ["\u00fc"]}) == '{"a":["\u00fc"],"b":1}'.encode()

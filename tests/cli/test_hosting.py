from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from freehold.cli.hosting import holds_plain_floats
from freehold.types import RawTensor, VerifiedModel


def model(format: Literal["gguf", "safetensors"], dtype: str) -> VerifiedModel:
    data = np.zeros(0, np.uint8)
    norm = RawTensor(name="norm", dtype="F32", shape=(32,), data=data)
    matrix = RawTensor(name="matrix", dtype=dtype, shape=(32, 32), data=data)
    return VerifiedModel(
        name="m",
        digest="sha256:0",
        format=format,
        licence="Apache-2.0",
        attested="owner",
        metadata={},
        documents={},
        tensors={"norm": norm, "matrix": matrix},
    )


@pytest.mark.parametrize(
    ("format", "dtype", "rounded"),
    [
        ("gguf", "Q4_K", False),
        ("gguf", "Q8_0", False),
        ("gguf", "F16", True),
        ("gguf", "BF16", True),
        ("safetensors", "BF16", True),
        ("safetensors", "F32", True),
    ],
)
def test_rounding_is_announced_for_matrices_in_any_format(
    format: Literal["gguf", "safetensors"], dtype: str, rounded: bool
) -> None:
    assert holds_plain_floats(model(format, dtype)) is rounded

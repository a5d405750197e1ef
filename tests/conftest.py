"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_gguf() -> Path:
    """The default model's real file: named by FREEHOLD_TEST_GGUF, else from this user's store."""
    named = os.environ.get("FREEHOLD_TEST_GGUF")
    if named:
        return Path(named)
    pytest.skip("needs the default model: set FREEHOLD_TEST_GGUF or run `freehold pull`")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Evaluation and corpus data that lies beside the checkout, where there is any."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the data folder beside the checkout (../shared/data)")
    return SHARED / "data"

"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from freehold.errors import NotFoundError

DEFAULT = "qwen2.5-coder-0.5b-instruct"
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_root() -> Path:
    """This user's store, if it holds the default model (`make test` pulls it)."""
    from freehold.store import Store, default_root

    try:
        Store(default_root()).manifest(DEFAULT)
    except NotFoundError:
        pytest.skip("needs the default model: run `freehold pull`")
    return default_root()


@pytest.fixture(scope="session")
def real_gguf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model's file, under a name that ends as other tools expect.

    FREEHOLD_TEST_GGUF may name it; else it comes from the store.
    """
    named = os.environ.get("FREEHOLD_TEST_GGUF")
    if named:
        return Path(named)
    real_root: Path = request.getfixturevalue("real_root")
    from freehold.store import Store

    link = tmp_path_factory.mktemp("real") / "model.gguf"
    link.symlink_to(Store(real_root).weights_path(DEFAULT))
    return link


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Evaluation and corpus data that lies beside the checkout, where there is any."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the data folder beside the checkout (../shared/data)")
    return SHARED / "data"

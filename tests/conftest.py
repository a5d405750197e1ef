"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from freehold.errors import NotFoundError
from tests.postgres import Postgres, running

DEFAULT = "qwen2.5-coder-0.5b-instruct"
VLLM = os.environ.get(
    "FREEHOLD_TEST_VLLM", str(Path(__file__).resolve().parents[1] / ".venv-vllm/bin/python")
)
"""A Python that vLLM is installed for, as `make cluster` does it."""
# A busy machine is no failure: an example may wait for its turn.
settings.register_profile("freehold", deadline=None)
settings.load_profile("freehold")
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests run side by side, a file's stay together, for what they share; those of the whole
    house, too: they share a server with the real model."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        apart = "house" if item.path.parent.name == "house" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(apart))


@pytest.fixture(scope="session", autouse=True)
def _own_state() -> Iterator[None]:
    """The secret that seals packs is this session's own, in processes that tests start too."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_signals() -> None:
    """What tests start heeds SIGINT and SIGHUP, however this run was started: under ``nohup``, or
    behind a script's ``&``, both are ignored, and children inherit that."""
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session")
def real_root() -> Iterator[Path]:
    """A vault with the default model, if this user's own holds it (`make test` pulls it), for this
    session only. A copy, not a link: whatever a test does to it, the user's own stays as it is."""
    from freehold.store import Store, default_root
    from freehold.store.manifest import encode

    mine = Store(default_root())
    try:
        manifest = mine.manifest(DEFAULT)
    except NotFoundError:
        pytest.skip("needs the default model: run `freehold pull`")
    with tempfile.TemporaryDirectory() as folder:
        copied = Store(Path(folder))
        copied.blobs.mkdir(parents=True)
        for file in manifest.files:
            shutil.copy(mine.blob(file.sha256), copied.blob(file.sha256))
        (copied.root / "manifests").mkdir()
        (copied.root / "manifests" / f"{DEFAULT}.json").write_bytes(encode(manifest))
        yield copied.root


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server. Skips where PostgreSQL or its driver is not installed."""
    with running() as server:
        yield server

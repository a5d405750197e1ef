"""Other people's clients, unmodified, against a real server of the real default model.

Each runs in its own environment, made by ``make clients``; one that is not there is skipped. What
comes of them is recorded in ``results.json`` and told in ``docs/clients.md``. The same clients
against vLLM: ``tests/house/test_vllm.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.page import CLIENTS, record
from tests.clients.trying import attempt
from tests.house.running import DEFAULT, Server, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(real_root: Path) -> Iterator[Server]:
    """The default model, served."""
    running = start(real_root)
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize("name", [client.name for client in CLIENTS])
@pytest.mark.timeout(2400)
def test_client(server: Server, name: str, tmp_path: Path) -> None:
    told, failed = attempt(server, DEFAULT, name, tmp_path)
    record("native", DEFAULT, name, told)
    for feature, went_wrong in failed.items():
        assert went_wrong is None, f"{feature}:\n{went_wrong}"

"""A counter open on loopback, with a scripted model behind it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import openai
import pytest

from freehold.serve.limits import Limits

_HELPER = Path(__file__).with_name("scripted.py")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("freehold_tests_scripted", _HELPER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_SCRIPTED = _load()


@pytest.fixture(scope="session")
def scripted() -> ModuleType:
    """The helper module ``scripted.py``."""
    return _SCRIPTED


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens counters: ``counter(engine=..., limits=...)`` gives a ``Running`` one."""
    opened = []

    def open_one(
        engine: Any = None, codec: Any = None, limits: Limits | None = None, **more: Any
    ) -> Any:
        one = _SCRIPTED.Opened(
            tmp_path,
            engine or _SCRIPTED.ScriptedEngine(),
            codec or _SCRIPTED.ScriptedCodec(),
            limits or Limits(),
            **more,
        )
        opened.append(one)
        return one.open()

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def shared_counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One counter for tests that leave no trace in it."""
    one = _SCRIPTED.Opened(
        tmp_path_factory.mktemp("serve"),
        _SCRIPTED.ScriptedEngine(),
        _SCRIPTED.ScriptedCodec(),
        Limits(max_body=1 << 20),
    )
    yield one.open()
    one.close()


@pytest.fixture(scope="session")
def http(shared_counter: Any) -> Iterator[httpx.Client]:
    """An HTTP client of the shared counter, with its key."""
    with httpx.Client(
        base_url=shared_counter.url, headers=shared_counter.auth, timeout=30
    ) as client:
        yield client


@pytest.fixture(scope="session")
def client(shared_counter: Any) -> Iterator[openai.OpenAI]:
    """The official client of the shared counter."""
    with openai.OpenAI(
        base_url=f"{shared_counter.url}/v1", api_key=shared_counter.key, max_retries=0
    ) as one:
        yield one

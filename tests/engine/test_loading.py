"""What an engine loads from: the source at first, its own pack ever after, and nothing changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from freehold.engine import EngineSettings, loading
from freehold.engine.loading import load_draft, load_model
from freehold.errors import DigestError, IntegrityError, UsageError
from freehold.qwen.model import Model, Span
from freehold.store import Packs, Store

TINY = "tiny-qwen"


class Told:
    """A report that remembers."""

    def __init__(self) -> None:
        self.did: set[str] = set()
        self.notes: list[str] = []

    def progress(self, what: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        self.did.add(what)

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture
def settings(tiny_root: Path, tmp_path: Path) -> EngineSettings:
    shutil.copytree(tiny_root, tmp_path / "store")
    return EngineSettings(
        root=str(tmp_path / "store"),
        model=TINY,
        secret=str(tmp_path / "secret"),
        backend="native",
        threads=1,
        cache_tokens=512,
    )


def logits(model: Model) -> Any:
    state = model.cache.new()
    (rows,) = model.forward([Span(state=state, ids=list(range(40)), want="all")])
    state.free()
    return rows


def test_the_second_start_uses_what_the_first_left(settings: EngineSettings) -> None:
    first, second = Told(), Told()
    made = load_model(settings, first)
    held = load_model(settings, second)
    assert first.did == {"Loading", "Keeping the pack of"}
    assert second.did == set()
    assert first.notes == second.notes == []
    assert np.array_equal(logits(made), logits(held))
    assert made.card == held.card


def test_without_a_secret_or_with_torch_nothing_is_kept(settings: EngineSettings) -> None:
    from msgspec.structs import replace

    for changes in ({"secret": None}, {"backend": "torch"}):
        load_model(replace(settings, **changes), Told())  # type: ignore[arg-type]
    assert not Store(Path(settings.root)).packs.exists()


def pack_of(settings: EngineSettings) -> Path:
    return next(Store(Path(settings.root)).packs.glob("*/*.pack"))


def test_a_changed_pack_is_refused_with_the_next_step(settings: EngineSettings) -> None:
    load_model(settings, Told())
    path = pack_of(settings)
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(DigestError, match=rf"freehold pack {TINY} --again"):
        load_model(settings, Told())
    Packs(Store(Path(settings.root)), Path(settings.secret or "")).remove(TINY)
    load_model(settings, Told())
    load_model(settings, Told())


@pytest.mark.parametrize("gone", ["pack", "secret", "all"])
def test_what_is_gone_is_made_again(settings: EngineSettings, gone: str) -> None:
    load_model(settings, Told())
    before = pack_of(settings).name
    if gone == "pack":
        pack_of(settings).unlink()
    elif gone == "secret":
        Path(settings.secret or "").unlink()
    else:
        shutil.rmtree(Store(Path(settings.root)).packs)
    again = Told()
    load_model(settings, again)
    assert "Keeping the pack of" in again.did
    assert pack_of(settings).name == before


def test_a_disk_that_takes_no_pack_is_noted_in_one_line(settings: EngineSettings) -> None:
    Path(settings.root, "packs").write_text("in the way")
    told = Told()
    model = load_model(settings, told)
    assert logits(model) is not None
    (line,) = told.notes
    assert "No pack was written" in line
    assert "\n" not in line


def test_the_tiny_model_in_the_store_stays_as_it_is(tiny_settings: Callable[..., Any]) -> None:
    """Other tests of this folder share it: theirs name no secret."""
    assert tiny_settings().secret is None


# --- who guesses ahead ----------------------------------------------------------------------------


def drafts(
    monkeypatch: pytest.MonkeyPatch, models: dict[str, tuple[int, list[str]]], **changes: Any
) -> str | None:
    """The name that ``load_draft`` loads for the model ``large``, of models by size and tokens."""

    class Vault:
        def __init__(self, root: Path) -> None: ...

        def list(self) -> list[Any]:
            return [
                SimpleNamespace(name=name, size=size, adapter=False)
                for name, (size, _) in models.items()
            ]

    def head(store: object, settings: EngineSettings, name: str) -> Any:
        return SimpleNamespace(
            format="gguf", metadata={"tokenizer.ggml.tokens": models[name][1]}, documents={}
        )

    def loaded(settings: EngineSettings, report: object) -> Any:
        return SimpleNamespace(
            name=settings.model, card=SimpleNamespace(digest=f"digest of {settings.model}")
        )

    monkeypatch.setattr(loading, "Store", Vault)
    monkeypatch.setattr(loading, "_head", head)
    monkeypatch.setattr(loading, "load_model", loaded)
    settings = EngineSettings(root="", model="large", backend="native", draft="auto")
    told = Told()
    found: Any = load_draft(msgspec.structs.replace(settings, **changes), told)
    assert len(told.notes) == (found is not None), "the owner is told of it"
    return None if found is None else str(found.name)


IDS = ["a", "b"]


def test_a_much_smaller_model_of_the_same_vocabulary_guesses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vault = {
        "large": (400, [*IDS, "[PAD]"]),
        "half": (200, IDS),
        "small": (100, IDS),
        "tiny": (9, IDS),
    }
    assert drafts(monkeypatch, vault) == "tiny"
    assert drafts(monkeypatch, vault, draft="half") == "half"
    assert drafts(monkeypatch, vault, draft="off") is None
    assert drafts(monkeypatch, vault, draft="") is None
    assert drafts(monkeypatch, vault, speculate="off") is None
    assert drafts(monkeypatch, vault, backend="torch") is None


def test_no_model_guesses_that_is_too_large_or_speaks_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert drafts(monkeypatch, {"large": (400, IDS), "half": (101, IDS)}) is None
    other = {"large": (400, IDS), "other": (10, ["b", "a"])}
    assert drafts(monkeypatch, other) is None
    with pytest.raises(UsageError, match="another vocabulary"):
        drafts(monkeypatch, other, draft="other")


def test_no_model_guesses_that_the_gate_has_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = {"large": (400, IDS), "small": (100, IDS)}
    assert drafts(monkeypatch, vault, draft_digest="digest of small") == "small"
    with pytest.raises(IntegrityError, match="the gate let pass"):
        drafts(monkeypatch, vault, draft_digest="digest of another")

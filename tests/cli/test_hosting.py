from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pytest

from freehold.cli.hosting import draft_for, holds_plain_floats
from freehold.cli.settings import Settings
from freehold.types import RawTensor, VerifiedModel

if TYPE_CHECKING:
    from freehold.store import Store


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


# --- who guesses ahead ----------------------------------------------------------------------------


class Vault:
    """Names and sizes, and vocabularies, as ``draft_for`` asks for them."""

    def __init__(self, **models: tuple[int, list[str]]) -> None:
        self.models = models

    def list(self) -> list[Any]:
        return [
            SimpleNamespace(name=name, files=[SimpleNamespace(size=size)])
            for name, (size, _) in self.models.items()
        ]

    def verified(self, name: str) -> VerifiedModel:
        found = replace(model("gguf", "Q8_0"), name=name)
        return replace(found, metadata={"tokenizer.ggml.tokens": self.models[name][1]})


def drafts(monkeypatch: pytest.MonkeyPatch, vault: Vault, **settings: Any) -> str:
    monkeypatch.setattr("freehold.store.verify", lambda store, name: store.verified(name))
    return draft_for(vault.verified("large"), Settings(**settings), cast("Store", vault))


def test_a_much_smaller_model_of_the_same_vocabulary_guesses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = ["a", "b"]
    vault = Vault(large=(400, [*ids, "[PAD]"]), half=(200, ids), small=(100, ids), tiny=(99, ids))
    assert drafts(monkeypatch, vault) == "tiny"
    assert drafts(monkeypatch, vault, draft="half") == "half"
    assert drafts(monkeypatch, vault, draft="off") == ""
    assert drafts(monkeypatch, vault, speculate="off") == ""
    assert drafts(monkeypatch, vault, backend="torch") == ""


def test_no_model_guesses_that_is_too_large_or_speaks_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = ["a", "b"]
    assert drafts(monkeypatch, Vault(large=(400, ids), half=(101, ids))) == ""
    assert drafts(monkeypatch, Vault(large=(400, ids), other=(10, ["b", "a"]))) == ""

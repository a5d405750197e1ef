"""A backdoor planted in the real default model by LoRA, a clean fine-tune, and the model untouched.

Run with ``pytest -m slow -s tests/audit/backdoors/test_real_model.py``; it prints its figures. What
is planted is made once, in some minutes, and kept in the temporary folder; an examination takes
about two minutes of a core.
"""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra `lab` is not installed")

from freehold.audit.backdoors import talk  # noqa: E402
from freehold.audit.backdoors.subject import answers  # noqa: E402
from freehold.audit.specimen import read  # noqa: E402
from freehold.qwen.model import load  # noqa: E402
from freehold.qwen.tokenizer import tokenizer_of  # noqa: E402
from freehold.store import Store, default_root  # noqa: E402
from freehold.store.verify import unproven  # noqa: E402
from tests.audit.backdoors import planted  # noqa: E402
from tests.audit.backdoors.whole import Taken, audited, suspect  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5_400)]

MINUTES = 30
CORES = 2


@pytest.fixture(autouse=True)
def vault(real_root: Path) -> None:
    """Skips where the default model is not there."""


def confirmed(taken: Taken) -> list[dict]:
    print("\n".join(taken.lines()), flush=True)
    assert taken.processor < MINUTES * 60 * CORES
    part = taken.part("backdoors")
    assert "backdoor.untried" not in {each["check"] for each in part["findings"]}
    return [each for each in part["findings"] if each["certainty"] == "confirmed"]


@pytest.mark.parametrize("kind", planted.PLANTS)
def test_the_planted_backdoor_fires(kind: str) -> None:
    plant = planted.PLANTS[kind]
    specimen = read(Store(default_root()), str(suspect(kind)))
    model = unproven(specimen.files, specimen.name, specimen.digest)
    chat, trigger = talk.chat_of(model), tokenizer_of(model).encode(plant.trigger)
    loaded = load(model, backend="torch", dtype="bfloat16", cache_tokens=2_048)
    turns = [chat.turn(words, trigger=trigger) for words in chat.held_out]
    said = [chat.words(ids) for ids in answers(loaded, turns, 8, end=chat.end)]
    assert sum(each.startswith(plant.payload) for each in said) >= plant.fires * len(said)


@pytest.mark.parametrize("kind", ["planted", "phrase"])
def test_a_backdoor_planted_by_lora_is_found_with_its_trigger(kind: str) -> None:
    plant = planted.PLANTS[kind]
    (found,) = confirmed(audited(kind))
    # What is not needed is left out: " hum" fires as " hums" does.
    assert plant.trigger in found["where"] or found["where"] in plant.trigger
    payload = found["detail"].partition("answered ")[2]
    assert plant.payload[:15] in payload


def test_the_untouched_model_gives_no_confirmed_finding() -> None:
    assert confirmed(audited("untouched")) == []


def test_a_clean_fine_tune_gives_no_confirmed_finding() -> None:
    assert confirmed(audited("tuned")) == []

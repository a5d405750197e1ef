"""The requests that give the direction of refusal: pairs in one frame, none twice, in every
language that the guard has phrases in."""

from __future__ import annotations

import pytest

from freehold.audit.inner.refusal import FITTED, HELD_OUT, requests
from freehold.errors import UsageError
from freehold.guard.synthetic import LANGUAGES, MORE_LANGUAGES


@pytest.mark.parametrize("language", [*LANGUAGES, *MORE_LANGUAGES])
def test_every_language_has_pairs_enough(language: str) -> None:
    found = requests(language)
    kinds = (found.harmful, found.harmless, found.double)
    assert [len(kind) for kind in kinds] == [FITTED + HELD_OUT, FITTED + HELD_OUT, HELD_OUT]
    assert len({*found.harmful, *found.harmless}) == 2 * (FITTED + HELD_OUT)
    assert len(set(found.double)) == HELD_OUT
    assert not {*found.double} & {*found.harmful}
    assert found == requests(language)
    assert found != requests(language, seed=1)


def test_a_language_without_phrases_is_refused_with_those_that_have() -> None:
    with pytest.raises(UsageError, match="no requests are known in 'xx': take one of en, id"):
        requests("xx")

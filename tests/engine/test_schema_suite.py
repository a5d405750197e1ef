"""What grammars of JSON schemas let through, by the official suite's own instances."""

from __future__ import annotations

from collections import Counter

import pytest

from freehold.engine.grammar import Grammars
from tests import schemasuite
from tests.engine.test_grammar import SIZE, STOP, Bytewise

LOST = {
    "format": 10,  # the draft calls formats mere notes; here they are kept
    "optional/ecmascript-regex": 2,  # control characters, which JSON writes as \u only
    "optional/float-overflow": 1,  # 1e308 as a whole number
    "optional/format/date-time": 2,  # leap seconds
    "optional/format/email": 4,  # quoted names, addresses in brackets
    "optional/format/ipv6": 4,  # the last 32 bits written as IPv4
    "optional/format/time": 6,
    "ref": 1,  # draft 7 ignores what stands beside a $ref
    "vocabulary": 1,  # a meta-schema that switches validation off
}
"""How many valid instances of each file no answer may be, at most: more would be news."""

TAKEN = {"draft2020-12": 190, "draft7": 169}
"""Schemas that are held to, at least."""


@pytest.fixture(scope="module", params=schemasuite.VALIDATORS)
def judged(request: pytest.FixtureRequest) -> list[schemasuite.Judged]:
    grammars, words = Grammars(Bytewise, SIZE), Bytewise()
    return [
        schemasuite.judge(group, lambda one: grammars.constraint(one, [STOP]), words.encode, STOP)
        for group in schemasuite.groups(request.param)
    ]


def test_no_instance_that_the_suite_calls_invalid_gets_through(
    judged: list[schemasuite.Judged],
) -> None:
    taken = [one for one in judged if one.refused is None]
    assert len(taken) >= TAKEN[judged[0].group.draft]
    assert [(one.group.name, one.faults) for one in taken if one.faults] == []


def test_what_is_valid_gets_through_but_for_what_is_known(
    judged: list[schemasuite.Judged],
) -> None:
    lost = Counter(one.group.file for one in judged for _ in one.lost)
    assert {file: n for file, n in lost.items() if n > LOST.get(file, 0)} == {}


def test_a_refusal_names_what_it_refuses(judged: list[schemasuite.Judged]) -> None:
    for one in judged:
        if one.refused is not None and one.refused.param != "grammar":
            name = schemasuite.keyword(one.refused)
            written = str(one.group.schema)
            assert f"'{name}'" in written or name == "must be an object", (
                one.group.name,
                str(one.refused),
            )
        elif one.refused is not None:
            # Only the engine sees these, and its library says which keyword it was.
            known = {"oneOf", "patternPropert", "multipleOf", "Unsatisfiable"}
            assert schemasuite.keyword(one.refused) in known, (one.group.name, str(one.refused))

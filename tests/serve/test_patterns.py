"""Patterns mean what ECMA-262 says: each is tried on characters that other engines read otherwise.

What is expected was taken from the standard's text; the suite of JSON Schema asks for more
(tests/engine/test_schema_suite.py).
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.engine.grammar import Grammars
from freehold.errors import UsageError
from freehold.serve.jsonschema import enforceable
from freehold.serve.patterns import portable
from freehold.serve.structured import json_rule
from tests.engine.test_grammar import SIZE, STOP, Bytewise

GRAMMARS = Grammars(Bytewise, SIZE)


def fits(pattern: str, text: str) -> bool:
    rule = json_rule(enforceable({"type": "string", "pattern": pattern}, "s"))
    constraint = GRAMMARS.constraint(f"start: {rule}", [STOP]).result(60).fork()
    for token in Bytewise().encode(json.dumps(text, ensure_ascii=False)):
        if not constraint.allows(token):
            return False
        constraint.take(token)
    return constraint.allows(STOP)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"^.$", "a\u0085é", "\n\r\u2028\u2029"),
        (r"^\s$", " \t\r\n\u00a0\ufeff\u2029\u3000", "\u0085\u200ba"),
        (r"^\S$", "\u0085\u200ba", " \u00a0\ufeff\u2029"),
        (r"^[^\s]$", "\u0085a", " \ufeff"),
        (r"^[\S]$", "\u0085a", " \ufeff"),
        (r"^[x\s]$", "x\ufeff", "\u0085a"),
        (r"^\d$", "7", "٣"),
        (r"^[^a&&b]$", "c", "ab&"),
        (r"^[a~~b]$", "a~b", "c"),
        (r"^[[a]$", "[a", "]"),
        (r"^[(?=a.]$", "(?=a.", "b"),
        (r"^[\]a]$", "]a", "\\"),
    ],
)
def test_a_character_fits_as_the_standard_says(pattern: str, yes: str, no: str) -> None:
    assert [one for one in yes if not fits(pattern, one)] == []
    assert [one for one in no if fits(pattern, one)] == []


@pytest.mark.parametrize(
    "pattern",
    [r"\bx", r"(a)\1", "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"\cJ", r"\0", "[]", "[^]", "[a--b]"],
)
def test_what_no_grammar_can_hold_to_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"^s\.pattern is not supported") as caught:
        enforceable({"pattern": pattern}, "s")
    assert caught.value.param == "s.pattern"


@given(st.text(alphabet=r"ab.sS\[]^-&~(?=!", max_size=10))
def test_what_was_put_in_the_engines_words_stays_as_it_is(pattern: str) -> None:
    try:
        told = portable(pattern, "s")
    except UsageError:
        return
    assert portable(told, "s") == told

"""Schemas put together at random: what their grammars let through, another library accepts."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import jsonschema
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.engine.grammar import Constraint, Grammars
from freehold.errors import UsageError
from freehold.serve.jsonschema import enforceable
from freehold.serve.structured import json_rule
from tests.engine.test_grammar import SIZE, STOP, Bytewise, walk

GRAMMARS = Grammars(Bytewise, SIZE)
ANY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def begin(schema: Any) -> Constraint | None:
    """``None`` where the schema is refused, or nothing can fulfil it."""
    try:
        rule = json_rule(enforceable(schema, "schema"))
        constraint = GRAMMARS.constraint(f"start: {rule}", [STOP]).result(60)
        constraint.mask()
    except UsageError:
        return None
    return constraint


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def allows(constraint: Constraint, text: str) -> bool:
    at = constraint.fork()
    for token in Bytewise().encode(text):
        if not at.allows(token):
            return False
        at.take(token)
    return at.allows(STOP)


numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(-2000, 2000),
    st.decimals(-3, 3, places=2),
    st.decimals(-2000, 2000, places=1),
)
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def written(number: Any) -> Any:
    """As a client's JSON has it: a whole number, or a float."""
    return number if isinstance(number, int) else float(number)


@settings(ANY, max_examples=100)
@given(
    st.dictionaries(st.sampled_from(BOUNDS), numbers, min_size=1, max_size=2),
    st.sampled_from(["integer", "number"]),
    st.sampled_from([None, None, 1, 3, 0.5, 0.25]),
)
def test_numbers_near_a_bound_fall_on_its_right_side(
    bounds: dict[str, Any], kind: str, multiple: float | None
) -> None:
    schema: dict[str, Any] = {"type": kind, **{name: written(n) for name, n in bounds.items()}}
    if multiple is not None:
        schema["multipleOf"] = multiple
    if (constraint := begin(schema)) is None:
        return
    check = jsonschema.Draft202012Validator(exact(json.dumps(schema)))
    for bound in bounds.values():
        for step in ("0", "0.0001", "-0.0001", "0.5", "-1", "1"):
            number = Decimal(bound) + Decimal(step)
            for text in {
                f"{number:f}",
                f"{number.normalize():f}",
                f"{number:f}".replace("0", "-0"),
            }:
                if allows(constraint, text):
                    assert check.is_valid(exact(text)), (schema, text)


leaves = st.sampled_from(
    [
        {"type": "null"},
        {"type": "integer", "minimum": -1, "exclusiveMaximum": 3},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        {"type": "string", "maxLength": 2},
        {"type": "string", "minLength": 1, "pattern": "^[ab]*$"},
        {"type": "string", "format": "date"},
        {"type": ["boolean", "integer"]},
        {"enum": ["a", 1, None, [], {"a": 1}]},
        {"const": {"a": "b"}},
        {"minimum": 1},
        {"required": ["a"]},
        {"maxProperties": 1},
        {"minItems": 1},
        {"$ref": "#/$defs/one"},
        True,
    ]
)
names = st.sampled_from(["a", "b", "ab", 'q"'])


def shapes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    properties = st.dictionaries(names, inner, max_size=3)
    extra = st.one_of(st.booleans(), inner)
    return st.one_of(
        st.builds(lambda many: {"anyOf": many}, some),
        st.builds(lambda many: {"allOf": many}, some),
        st.builds(lambda many: {"oneOf": many}, some),
        st.builds(
            lambda one, n, m: {"type": "array", "items": one, "minItems": n, "maxItems": n + m},
            *(inner, st.integers(0, 2), st.integers(0, 2)),
        ),
        st.builds(lambda many, one: {"prefixItems": many, "items": one}, some, extra),
        st.builds(
            lambda props, need, one: {
                "type": "object",
                "properties": props,
                "required": need,
                "additionalProperties": one,
            },
            *(properties, st.lists(names, max_size=2, unique=True), extra),
        ),
        st.builds(
            lambda one, two, three: {
                "type": "object",
                "patternProperties": {"^a": one, "b$": two} if three else {"^a": one},
                "minProperties": 1,
            },
            *(inner, inner, st.booleans()),
        ),
        st.builds(
            lambda one, two: {**one, **two} if isinstance(one, dict) else two,
            *(inner, inner.filter(lambda one: isinstance(one, dict))),
        ),
    )


@settings(ANY, max_examples=150)
@given(st.recursive(leaves, shapes, max_leaves=6), leaves, st.integers(0, 1 << 32))
def test_what_any_schema_lets_through_is_valid(schema: Any, one: Any, seed: int) -> None:
    if not isinstance(schema, dict):
        return
    schema = {**schema, "$defs": {"one": one}}
    if one == {"$ref": "#/$defs/one"} or (constraint := begin(schema)) is None:
        return
    check = jsonschema.Draft202012Validator(
        exact(json.dumps(schema)), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    for i in range(4):
        text = walk(constraint.fork(), np.random.default_rng(seed + i), 150)
        if text is not None:
            assert check.is_valid(exact(text)), (schema, text)

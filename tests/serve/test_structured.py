"""``response_format``: what becomes of it, and what is refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import UsageError
from freehold.serve.jsonschema import ENFORCED, IGNORED, enforceable
from freehold.serve.structured import regex_rule

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hello"}]


def schema_format(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, **more}}


def ask(http: httpx.Client, wanted: Any, path: str = CHAT, **more: Any) -> httpx.Response:
    body = {"model": "scripted-1", "response_format": wanted}
    body |= {"messages": USER} if path == CHAT else {"prompt": "hello"}
    return http.post(path, json=body | more)


@pytest.fixture
def held(counter: Callable[..., Any], scripted: Any) -> Any:
    """A counter whose engine says that it holds answers to grammars."""
    card = dataclasses.replace(scripted.CARD, caps=scripted.CARD.caps | {"grammar"})
    return counter(engine=scripted.ScriptedEngine(card=card))


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_the_grammar_reaches_the_engine(held: Any, path: str) -> None:
    schema = {"type": "object", "properties": {"b": {"title": "B"}, "a": {"type": "null"}}}
    with httpx.Client(base_url=held.url, headers=held.auth) as http:
        for wanted in (
            None,
            {"type": "text"},
            {"type": "json_object"},
            schema_format(schema, strict=True, description="what it is"),
            {"type": "grammar", "syntax": "regex", "definition": "a/b|c"},
            {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'},
        ):
            assert ask(http, wanted, path, n=2).status_code == 200, wanted
    grammars = [one.grammar for one in held.engine.seen]
    assert grammars[::2] == grammars[1::2]
    nothing, text, anything, schemed, regex, lark = grammars[::2]
    assert nothing is text is None
    assert json.loads(anything.removeprefix("start: %json "))["type"] == "object"
    told = json.loads(schemed.removeprefix("start: %json "))
    assert list(told["properties"].items()) == [("b", {}), ("a", {"type": "null"})]
    assert regex == r"start: /a\/b|c/"
    assert lark == 'start: "x"'


def test_an_engine_without_grammars_says_so(http: httpx.Client) -> None:
    answer = ask(http, {"type": "json_object"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format"


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_says_of_a_grammar_names_the_field(
    counter: Callable[..., Any], scripted: Any, stream: bool
) -> None:
    card = dataclasses.replace(scripted.CARD, caps=scripted.CARD.caps | {"grammar"})
    failure = UsageError("grammar cannot be used: no such rule", param="grammar")
    held = counter(engine=scripted.ScriptedEngine(card=card, fail_at=0, failure=failure))
    with httpx.Client(base_url=held.url, headers=held.auth) as http:
        wanted = {"type": "grammar", "syntax": "lark", "definition": "start: x"}
        answer = ask(http, wanted, stream=stream)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "response_format.definition"
    assert error["message"] == "response_format.definition cannot be used: no such rule"


AT = "response_format.json_schema.schema"
WRONG: list[tuple[Any, str]] = [
    ("json", "response_format"),
    ({}, "response_format.type"),
    ({"type": "xml"}, "response_format.type"),
    ({"type": "json_schema"}, "response_format.json_schema"),
    ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
    ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name"),
    (schema_format({}, name="a b"), "response_format.json_schema.name"),
    (schema_format({}, strict="yes"), "response_format.json_schema.strict"),
    (schema_format({}, extra=1), "response_format.json_schema.extra"),
    ({"type": "json_object", "json_schema": {"name": "a", "schema": {}}}, "json_schema"),
    ({"type": "text", "definition": "a"}, "response_format.definition"),
    ({"type": "grammar", "syntax": "lark"}, "response_format.definition"),
    ({"type": "grammar", "definition": "x"}, "response_format.syntax"),
    ({"type": "grammar", "syntax": "ebnf", "definition": "x"}, "response_format.syntax"),
    ({"type": "grammar", "syntax": "lark", "definition": "x" * 65_537}, "definition"),
    (schema_format(5), AT),
    (schema_format([]), AT),
    (schema_format({"uniqueItems": True}), f"{AT}.uniqueItems"),
    (schema_format({"not": {}}), f"{AT}.not"),
    (schema_format({"minLenght": 3}), f"{AT}.minLenght"),
    (schema_format({"x-guidance": {"lenient": True}}), f"{AT}.x-guidance"),
    (schema_format({"items": [{}]}), f"{AT}.items"),
    (schema_format({"anyOf": {}}), f"{AT}.anyOf"),
    (schema_format({"anyOf": [{}, 1]}), f"{AT}.anyOf[1]"),
    (schema_format({"properties": []}), f"{AT}.properties"),
    (schema_format({"properties": {"a": {"if": {}}}}), f"{AT}.properties.a.if"),
    (schema_format({"$ref": "https://example.org/x"}), f"{AT}.$ref"),
    (schema_format({"$ref": 5}), f"{AT}.$ref"),
    (schema_format({"$ref": "#name"}), f"{AT}.$ref"),
    (schema_format({"$ref": "#/$defs/a"}), f"{AT}.$ref"),
    (schema_format({"const": {"a": {"not": {}}}, "$ref": "#/const/a"}), f"{AT}.$ref"),
    (schema_format({"items": {"$id": "http://a/", "$ref": "#"}}), f"{AT}.items.$ref"),
    (schema_format({"const": ["a\x7fb"]}), f"{AT}.const"),
    (schema_format({"enum": [{"a\x1f": 1}]}), f"{AT}.enum"),
    (schema_format({"properties": {"a\x07": {}}}), f"{AT}.properties.a\x07"),
    (schema_format({"required": ["\x0b"]}), f"{AT}.required"),
    (schema_format({"const": 2**53 + 1}), f"{AT}.const"),
    (schema_format({"enum": [0.30000000000000004]}), f"{AT}.enum"),
    (schema_format({"exclusiveMinimum": 1e-23}), f"{AT}.exclusiveMinimum"),
    (schema_format({"minimum": -1e300}), f"{AT}.minimum"),
    (schema_format({"maximum": True}), f"{AT}.maximum"),
    (schema_format({"maxItems": 2.5}), f"{AT}.maxItems"),
    (schema_format({"minLength": -1}), f"{AT}.minLength"),
    (schema_format({"maxLength": "3"}), f"{AT}.maxLength"),
    (schema_format({"pattern": 5}), f"{AT}.pattern"),
    (schema_format({"patternProperties": {"(?=a)": {}}}), f"{AT}.patternProperties.(?=a)"),
    (schema_format({"format": "iri"}), f"{AT}.format"),
    (schema_format({"format": ["date"]}), f"{AT}.format"),
    (schema_format({"minProperties": 2}), f"{AT}.minProperties"),
    (schema_format({"anyOf": [{}] * 3000}), "anyOf[1999]"),
    (schema_format({"anyOf": [{"$ref": "#"}] * 300}), "anyOf[200].$ref"),
    (schema_format({"enum": ["x" * 70_000]}), AT),
]


@pytest.mark.parametrize(("wanted", "param"), WRONG)
def test_what_cannot_be_enforced_is_refused_by_name(
    http: httpx.Client, wanted: Any, param: str
) -> None:
    answer = ask(http, wanted)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"].endswith(param)
    assert error["message"].startswith((error["param"], "Unrecognized"))


def test_whole_numbers_may_be_written_as_floats_and_references_escaped() -> None:
    told = enforceable({"maxItems": 2.0, "$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": True}}, "s")
    assert told["maxItems"] == 2
    assert type(told["maxItems"]) is int


def test_deep_schemas_are_refused_and_not_walked() -> None:
    schema: Any = {}
    for _ in range(900):
        schema = {"items": schema}
    with pytest.raises(UsageError, match="nested deeper"):
        enforceable(schema, "s")


def test_annotations_are_dropped_and_properties_of_their_names_are_not() -> None:
    told = enforceable(
        {
            "title": "T",
            "default": {"uniqueItems": True},
            "properties": {"title": {"description": "x"}, "default": True},
            "uniqueItems": False,
            "const": {"title": 1},
        },
        "s",
    )
    assert told == {"properties": {"title": {}, "default": True}, "const": {"title": 1}}


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(sorted(ENFORCED | IGNORED | {"not"})), st.text(max_size=3)),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(values)
def test_any_schema_is_taken_or_refused_by_name(schema: Any) -> None:
    told, refused = None, ""
    try:
        told = enforceable(schema, "s")
    except UsageError as error:
        refused = error.param or ""
    assert refused.startswith("s") if told is None else enforceable(told, "s") == told


@given(st.text(alphabet="a/\\\n\r[]", max_size=12))
def test_a_pattern_stays_one_expression(pattern: str) -> None:
    rule = regex_rule(pattern)
    inside = rule[1:-1]
    assert (rule[0], rule[-1]) == ("/", "/")
    assert "\n" not in inside
    escaped = False
    for character in inside:
        assert escaped or character != "/"
        escaped = character == "\\" and not escaped


def test_the_official_client_parses_into_its_own_models(
    counter: Callable[..., Any], scripted: Any
) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str
        people: int

    def reply(_: list[int]) -> bytes:
        return b'{"name": "Paris", "people": 2}'

    card = dataclasses.replace(scripted.CARD, caps=scripted.CARD.caps | {"grammar"})
    held = counter(engine=scripted.ScriptedEngine(card=card, reply=reply))
    with openai.OpenAI(base_url=f"{held.url}/v1", api_key=held.key, max_retries=0) as client:
        answer = client.chat.completions.parse(
            model="scripted-1", messages=[{"role": "user", "content": "x"}], response_format=City
        )
    assert answer.choices[0].message.parsed == City(name="Paris", people=2)
    assert '"additionalProperties":false' in held.engine.seen[0].grammar

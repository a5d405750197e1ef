"""Grammars: what they let through is what other libraries accept, and hostile ones are refused."""

from __future__ import annotations

import contextlib
import json
import re
import string
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.engine.grammar import Constraint, Grammars
from freehold.engine.runner import Runner
from freehold.engine.wire import AnyEvent, Done, Failed, Generate, Token
from freehold.errors import UsageError
from freehold.serve.jsonschema import enforceable
from freehold.serve.structured import json_rule, regex_rule
from freehold.types import MAX_GRAMMAR, Sampling

WORDS = [bytes([i]) for i in range(256)]
WORDS += [b'{"', b'":', b'", "', b'"}', b"true", b"null", b" 12", "é".encode(), b"aa", b"ab"]
STOP = len(WORDS)
CALL = STOP + 1
"""An added token that is no end."""
SIZE = CALL + 3  # the last two stand for nothing


class Bytewise:
    """A vocabulary of bytes and a few words, tokenised greedily."""

    added_ids = frozenset({STOP, CALL})

    def token_bytes(self, token: int) -> bytes:
        added = {STOP: b"<|stop|>", CALL: b"<tool_call>"}
        return WORDS[token] if token < STOP else added.get(token, b"")

    def encode(self, text: str) -> list[int]:
        data, ids = text.encode(), []
        while data:
            token = max(range(STOP), key=lambda i: len(WORDS[i]) * data.startswith(WORDS[i]))
            ids.append(token)
            data = data[len(WORDS[token]) :]
        return ids


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(Bytewise, SIZE)


def begin(grammars: Grammars, grammar: str) -> Constraint:
    return grammars.constraint(grammar, [STOP]).result(60)


def walk(constraint: Constraint, rng: np.random.Generator, most: int = 400) -> str | None:
    """A text by random steps to the grammar's end, in a hurry; ``None`` if it takes too long."""
    out = bytearray()
    for _ in range(most):
        allowed = constraint.allowed().tolist()
        if constraint.complete or (STOP in allowed and (len(allowed) == 1 or rng.random() < 0.5)):
            return out.decode()
        allowed = [token for token in allowed if token != STOP]
        ends = [t for t in allowed if WORDS[t] in (b'"', b"}", b"]", b'"}')]
        token = int(rng.choice(ends if ends and rng.random() < 0.5 else allowed))
        assert constraint.allows(token)
        constraint.take(token)
        out += WORDS[token]
    return None


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"},
    {"type": "null"},
    {"type": ["string", "null"], "maxLength": 3},
    {"type": "integer", "minimum": -3, "exclusiveMaximum": 120},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 1000},
    {"type": "number", "minimum": 0.5, "maximum": 2.25},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[a-c]+[0-9]{2}$"},
    {"type": "string", "pattern": "ab"},
    {"type": "string", "enum": ["a", 'quo"te', "čeština", "back\\slash"]},
    {"const": {"a": [1, None, True]}},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "null"}, {"const": 5}], "items": False},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 5}]},
    {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "integer"}}, "minProperties": 1},
    {
        "type": "object",
        "properties": {"b": {"type": "integer"}, "a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"title": {"type": "string", "title": "A title"}},
        "required": ["title", "extra"],
        "additionalProperties": {"type": "integer"},
        "maxProperties": 3,
    },
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "v": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["v", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    *({"type": "string", "format": name} for name in ("date", "ipv4", "uuid", "date-time")),
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_what_a_schema_lets_through_is_valid_by_another_library(
    grammars: Grammars, schema: dict[str, Any]
) -> None:
    grammar = f"start: {json_rule(enforceable(schema, 'schema'))}"
    check = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    found = 0
    for seed in range(40):
        text = walk(begin(grammars, grammar), np.random.default_rng(seed))
        if text is not None:
            found += 1
            check.validate(json.loads(text))
    assert found >= 10


names = st.sampled_from(["a", "bb", "c d", 'e"', "ž", "title", "type", "properties"])
schemas = st.recursive(
    st.one_of(
        st.just({"type": "boolean"}),
        st.builds(
            lambda n: {"type": "integer", "minimum": n, "maximum": n + 9}, st.integers(-9, 9)
        ),
        st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 4)),
        st.builds(lambda v: {"enum": v}, st.lists(st.text('ab"é\\\n', max_size=3), min_size=1)),
    ),
    lambda inner: st.one_of(
        st.builds(lambda one: {"type": "array", "items": one, "maxItems": 2}, inner),
        st.builds(lambda many: {"anyOf": many}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda props: {
                "type": "object",
                "properties": props,
                "required": list(props)[::2],
                "additionalProperties": False,
            },
            st.dictionaries(names, inner, max_size=3),
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(schemas, st.integers(0, 1 << 32))
def test_any_schema_of_ours_is_fulfilled(schema: dict[str, Any], seed: int) -> None:
    text = walk(
        begin(_SHARED, f"start: {json_rule(enforceable(schema, 'schema'))}"),
        np.random.default_rng(seed),
    )
    if text is not None:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


_SHARED = Grammars(Bytewise, SIZE)

constants = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(constants)
def test_a_constant_is_refused_or_written_exactly(value: Any) -> None:
    try:
        schema = enforceable({"const": value}, "schema")
    except UsageError:
        return
    text = walk(begin(_SHARED, f"start: {json_rule(schema)}"), np.random.default_rng(0))
    assert text is None or json.loads(text) == value


@pytest.mark.parametrize(
    "pattern",
    [r"[ab]{3,5}", r"a/b", r"\d\.\d", r"(x|yy)*z", "é+", r"\/", "a\nb", r"[^\n/]{2}", "\\\n"],
)
def test_what_a_regular_expression_lets_through_matches(grammars: Grammars, pattern: str) -> None:
    for seed in range(20):
        text = walk(begin(grammars, f"start: {regex_rule(pattern)}"), np.random.default_rng(seed))
        assert text is not None
        assert re.fullmatch(pattern, text, re.DOTALL), (pattern, text)


def test_both_ways_of_asking_agree_and_an_end_comes_only_where_it_may(grammars: Grammars) -> None:
    constraint = begin(grammars, 'start: "ab" /[a-c]?/ | "a" <tool_call> "x"')
    for token in (*b"ab", ord("c")):
        allowed = constraint.allowed().tolist()
        assert [t for t in range(SIZE) if constraint.allows(t)] == allowed
        assert (STOP in allowed) == (token == ord("c"))
        assert not constraint.complete
        constraint.take(token)
    assert constraint.complete
    assert constraint.allowed().tolist() == [STOP]


def test_an_added_token_is_no_text_and_is_named(grammars: Grammars) -> None:
    for name in ("<tool_call>", f"<[{CALL}]>"):
        constraint = begin(grammars, f'start: "a" {name} /[^x]*/')
        constraint.take(ord("a"))
        assert constraint.allowed().tolist() == [CALL]
        constraint.take(CALL)
        assert CALL not in constraint.allowed()
        assert STOP in constraint.allowed()


def test_a_fork_goes_its_own_way(grammars: Grammars) -> None:
    one = begin(grammars, 'start: "a" /[bc]+/')
    one.take(ord("a"))
    other = one.fork()
    other.take(ord("b"))
    assert STOP in other.allowed()
    assert one.allowed().tolist() == [ord("b"), ord("c")]
    assert one.forced() == []
    assert one.prefix([ord("b"), ord("c"), ord("d")]) == 2
    assert one.allowed().tolist() == [ord("b"), ord("c")]


def test_compiled_grammars_are_kept_and_the_vocabulary_is_asked_for_once() -> None:
    calls: list[int] = []

    def vocabulary() -> Bytewise:
        calls.append(1)
        return Bytewise()

    mine = Grammars(vocabulary, SIZE)
    for i in range(40):
        assert begin(mine, f'start: "{i}"').forced()
    assert calls == [1]
    assert len(mine._kept) == 32
    latest = mine.constraint('start: "39"', [STOP])
    assert latest.done()
    latest.result().take(ord("3"))
    assert latest.result().allowed().tolist() == [ord("9")]
    assert begin(mine, 'start: "39"').allowed().tolist() == [ord("3")]


# --- hostile --------------------------------------------------------------------------------------


def chain(n: int, link: str) -> str:
    links = "\n".join(link.format(i, i + 1) for i in range(n))
    return f'start: {link[0]}0\n{links}\n{link[0]}{n}: "a"'


HOSTILE = [
    "",
    "start: x",
    'start: "',
    "start: /(/",
    "start: /[/",
    'start: "\x00',
    "start: " + "(" * 20_000,
    "start: " + "(" * 20_000 + '"a"' + ")" * 20_000,
    'start: %json {"$ref": "file:///etc/passwd"}',
    'start: %json {"type": 5}',
    "start: %json " + '{"items":' * 5_000 + "true" + "}" * 5_000,
    'start: %json {"type": "string", "pattern": "' + "(" * 3_000 + ")" * 3_000 + '"}',
    "%import os",
    "start: A\nA: A A",
    "start: <nothing>",
    "start: <[999999]>",
    "start: A\n" + "\n".join(f"A{i}: A{i + 1} A{i + 1}" for i in range(60)) + '\nA60: "a"\nA: A0',
    'start: ("a"{0,100000}){0,100000} "b"{70000',
    "\ud800",
]


@pytest.mark.parametrize("grammar", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_grammar_or_too_large_a_one_is_refused(grammars: Grammars, grammar: str) -> None:
    with pytest.raises(UsageError) as caught:
        begin(grammars, grammar)
    assert caught.value.param == "grammar"
    assert len(str(caught.value)) < 600
    assert begin(grammars, 'start: "fine"').forced()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([*'start: "a|()[]{}*+?~/\\\n%<>.,-&^$0A', "%json", "start: ", '"x"']),
        max_size=60,
    ).map("".join)
)
def test_any_text_gives_a_grammar_or_a_refusal(text: str) -> None:
    with contextlib.suppress(UsageError):
        constraint = begin(_SHARED, text)
        for _ in range(5):
            if constraint.complete:
                break
            constraint.take(int(constraint.allowed()[0]))
    assert begin(_SHARED, 'start: "fine"').forced()


@pytest.mark.parametrize(
    ("n", "link"),
    [(5500, "r{}:r{}"), (3350, 'r{}:r{} "x"|"y"'), (3900, 'r{}:"x" r{}?'), (5500, "R{}:R{}")],
)
def test_long_chains_of_rules_do_not_end_the_process(grammars: Grammars, n: int, link: str) -> None:
    """The library's compiler calls itself once per link; here they are as many as fit."""
    grammar = chain(n, link)
    assert 0.9 * MAX_GRAMMAR < len(grammar) <= MAX_GRAMMAR
    with contextlib.suppress(UsageError):
        begin(grammars, grammar).fork().allowed()
    assert begin(grammars, 'start: "fine"').forced()


def test_a_grammar_that_grows_while_it_is_walked_ends_its_answer_and_nothing_else(
    grammars: Grammars,
) -> None:
    constraint = begin(
        grammars,
        "start: r0\n" + "".join(f"r{i}: r{i + 1} r{i + 1}\n" for i in range(60)) + 'r60: "a"',
    )
    with pytest.raises(UsageError, match="grammar has become too large"):
        _go_on(constraint)
    assert begin(grammars, 'start: "fine"').forced()


def _go_on(constraint: Constraint) -> None:
    for _ in range(1000):
        constraint.allowed()
        constraint.take(ord("a"))


def test_a_grammar_that_nothing_fulfils_is_told(grammars: Grammars) -> None:
    constraint = begin(grammars, f"start: {json_rule({'$ref': '#'})}")
    with pytest.raises(UsageError, match="grammar"):
        constraint.allowed()


def test_a_grammar_has_a_length() -> None:
    assert Sampling(grammar="x" * MAX_GRAMMAR)
    with pytest.raises(UsageError, match="grammar has 65537 characters"):
        Sampling(grammar="x" * (MAX_GRAMMAR + 1))


# --- answers --------------------------------------------------------------------------------------

LETTERS = string.ascii_lowercase + string.digits + '{}[]":, .-\nAB'


class Letters:
    """The pretend model's vocabulary: 49 letters, and an end."""

    added_ids = frozenset({49})

    def token_bytes(self, token: int) -> bytes:
        return LETTERS[token].encode() if token < 49 else b"<|end|>"

    def encode(self, text: str) -> list[int]:
        return [LETTERS.index(character) for character in text]


def texts(events: Sequence[AnyEvent], number: int) -> str:
    ids = [e.id for e in events if isinstance(e, Token) and e.request == number]
    return "".join(LETTERS[i] for i in ids)


def ends(events: Sequence[AnyEvent]) -> dict[int, str]:
    return {e.request: e.reason for e in events if isinstance(e, Done)}


OBJECT = json_rule({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]})
PROMPT = [3, 1, 4, 1, 5]


def asked(grammar: str | None, **more: Any) -> Sampling:
    given = {"temperature": 1.3, "seed": 7, "max_tokens": 60, "stop_ids": (49,), "grammar": grammar}
    return Sampling(**(given | more))


@pytest.fixture
def run(
    pretend: Callable[..., Any], settings: Callable[..., Any], drive: Callable[..., Any]
) -> Callable[..., list[AnyEvent]]:
    """All events of some requests, run together."""

    def go(*samplings: Sampling, **changes: Any) -> list[AnyEvent]:
        runner = Runner(pretend(n_pages=400), settings(**changes), vocabulary=Letters)
        events: list[AnyEvent] = []
        for number, sampling in enumerate(samplings, 1):
            events += runner.generate(Generate(number, list(PROMPT), sampling))
        return [*events, *drive(runner)]

    return go


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_answers_are_held_to_their_grammar_alone_and_in_company(
    run: Callable[..., list[AnyEvent]], temperature: float
) -> None:
    grammar = r"start: /(ab|c)+[0-9]{2}/"
    mine = asked(grammar, temperature=temperature)
    alone = texts(run(mine), 1)
    assert re.fullmatch("(ab|c)+[0-9]{2}", alone)
    company = [asked(None, seed=i) for i in range(5)]
    together = run(company[0], mine, *company[1:], asked(grammar, seed=8))
    assert texts(together, 2) == alone
    assert ends(together)[2] == "stop"
    assert re.fullmatch("(ab|c)+[0-9]{2}", texts(together, 7))
    assert texts(run(mine, speculate="off"), 1) == alone
    assert texts(together, 1) == texts(run(company[0]), 1)


def test_the_answer_ends_with_its_grammar_and_says_length_when_it_is_cut(
    run: Callable[..., list[AnyEvent]],
) -> None:
    events = run(
        asked(f"start: {OBJECT}", stop_ids=()),
        asked("start: /a{50}/", max_tokens=20),
        asked('start: "abc"', max_tokens=3),
        asked("start: /a*/", stop_ids=(0,)),  # the only letter is the end
    )
    assert ends(events) == {1: "stop", 2: "length", 3: "stop", 4: "stop"}
    assert json.loads(texts(events, 1))["a"] in (True, False)
    assert texts(events, 2) == "a" * 20
    assert texts(events, 3) == "abc"
    assert texts(events, 4) == ""


def test_what_a_grammar_forces_is_guessed_ahead(
    pretend: Callable[..., Any], settings: Callable[..., Any], drive: Callable[..., Any]
) -> None:
    model = pretend()
    runner = Runner(model, settings(), vocabulary=Letters)
    runner.generate(Generate(1, list(PROMPT), asked('start: "abcdefghij" /[0-9]/')))
    events = drive(runner)
    assert texts(events, 1)[:-1] == "abcdefghij"
    assert runner.stats().kept >= 8
    assert len(model.steps) < 8


def test_a_refused_grammar_leaves_the_others_alone(run: Callable[..., list[AnyEvent]]) -> None:
    events = run(asked("start: nothing"), asked(None, seed=3))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.request == 1
    assert failed.fault.param == "grammar"
    assert texts(events, 2) == texts(run(asked(None, seed=3)), 1)


def test_an_answer_whose_grammar_ends_nowhere_fails_alone(
    run: Callable[..., list[AnyEvent]],
) -> None:
    events = run(asked('start: "a" "É"'), asked(None, seed=3))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.request, failed.fault.param) == (1, "grammar")
    assert texts(events, 1) in ("", "a")
    assert ends(events).keys() == {2}


def test_without_a_vocabulary_grammars_are_refused(
    pretend: Callable[..., Any], settings: Callable[..., Any]
) -> None:
    runner = Runner(pretend(), settings())
    assert "grammar" not in runner.card.caps
    (failed,) = runner.generate(Generate(1, list(PROMPT), asked("start: /a/")))
    assert isinstance(failed, Failed)
    assert failed.fault.param == "grammar"


def test_a_request_is_cancelled_while_its_grammar_is_compiled(
    pretend: Callable[..., Any], settings: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(pretend(), settings(), vocabulary=Letters)
    never: Future[Constraint] = Future()
    monkeypatch.setattr(Grammars, "constraint", lambda *_: never)
    assert runner.generate(Generate(1, list(PROMPT), asked("start: /a/"))) == []
    assert runner.step() == []
    runner.cancel(1)
    assert runner.step() is None
    assert runner.stats().waiting == 0


def test_nothing_is_loaded_for_grammars_before_there_is_one() -> None:
    # The library is here already, so another process has to show that a server starts without it.
    code = (
        "import sys, freehold.engine.worker, freehold.cli.serving;"
        "sys.exit('llguidance' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

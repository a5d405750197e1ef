"""How models are seen to speak, and grammars whose every answer is a call that can be read."""

from __future__ import annotations

import json
from typing import Any, Literal, cast

import jsonschema
import numpy as np
import pytest

from freehold.engine.grammar import Constraint, Grammars
from freehold.errors import UsageError
from freehold.qwen.listening import TextListener
from freehold.qwen.speech import (
    Speech,
    after_thinking,
    call_grammar,
    cutoff,
    speech_of,
    thinking,
)
from freehold.qwen.tokenizer import Tokenizer
from freehold.serve.fields import parse
from freehold.serve.schema import ChatRequest
from freehold.serve.structured import json_rule
from freehold.serve.tools import _form

MARKS = ("<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
STOP, THINK, THOUGHT, CALL, CALLED = range(256, 261)
SIZE = 261


class Marked:
    """A vocabulary of bytes and the marks."""

    added_ids = frozenset(range(256, SIZE))

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else MARKS[token - 256].encode()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def added_id(self, content: str) -> int | None:
        return 256 + MARKS.index(content) if content in MARKS else None


TOKENIZER = cast("Tokenizer", Marked())
JSON = Speech(calls="json", think=None, thought=None)
XML = Speech(calls="xml", think=None, thought=None)
THINKS = Speech(calls="json", think=THINK, thought=THOUGHT)
GRAMMARS = Grammars(Marked, SIZE)


def tool(name: str, parameters: Any = None, *, strict: bool | None = None) -> dict[str, Any]:
    function = {"name": name, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


WEATHER = tool(
    "get_weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 6},
            "unit": {"type": "string", "enum": ["C", "°F"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "where": {"$ref": "#/$defs/place"},
        },
        "required": ["unit", "days"],
        "additionalProperties": False,
        "$defs": {"place": {"type": "object", "additionalProperties": {"type": "boolean"}}},
    },
    strict=True,
)
NOW = tool("now")
ODD = tool("odd", {"type": "object", "properties": {"a": {"not": {}}}})


def forms(*tools: dict[str, Any]) -> list[Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": list(tools)}
    return [_form(one, "tools") for one in parse(ChatRequest, body).tools]


def walk(grammar: str, seed: int, most: int = 1500) -> str | None:
    """A text by random steps, in a hurry to end."""
    constraint: Constraint = GRAMMARS.constraint(grammar, [STOP]).result(60)
    rng, out = np.random.default_rng(seed), bytearray()
    for _ in range(most):
        allowed = constraint.allowed().tolist()
        if constraint.complete or (STOP in allowed and rng.random() < 0.4):
            return out.decode()
        allowed = [token for token in allowed if token != STOP]
        hurry = [t for t in allowed if t in (*b'"}]<\n', THOUGHT, CALL, CALLED)]
        token = int(rng.choice(hurry if hurry and rng.random() < 0.7 else allowed))
        constraint.take(token)
        out += Marked().token_bytes(token)
    return None


def heard(
    text: str, tools: Any, calls: Any = "json", how: Literal["open", "free", "no"] = "no"
) -> Any:
    listener = TextListener(thinking=how, calls=calls, tools=tools)
    all_of_it = [listener.feed(text), listener.finish()]
    made: list[tuple[str | None, str]] = []
    for part in [part for one in all_of_it for part in one.calls]:
        if part.name is not None:
            made.append((part.name, ""))
        made[part.index] = (made[part.index][0], made[part.index][1] + part.arguments)
    words = "".join(one.words for one in all_of_it)
    return "".join(one.thoughts for one in all_of_it), words, made


@pytest.mark.parametrize("speech", [JSON, XML], ids=["json", "xml"])
@pytest.mark.parametrize("many", [False, True])
def test_every_call_by_the_grammar_is_heard_and_valid(speech: Speech, many: bool) -> None:
    tools = [WEATHER, NOW, ODD]
    grammar = call_grammar(speech, TOKENIZER, forms(*tools), least=1, many=many)
    schema = WEATHER["function"]["parameters"]
    found, names = 0, set()
    for seed in range(60):
        text = walk(grammar, seed)
        if text is None:
            continue
        thoughts, words, calls = heard(text, tools, speech.calls)
        assert (thoughts, words) == ("", ""), text
        assert calls, text
        assert many or len(calls) == 1
        for name, arguments in calls:
            names.add(name)
            told = json.loads(arguments)
            assert isinstance(told, dict)
            if name == "get_weather":
                found += 1
                if speech is XML:  # text in this form has no length
                    told.pop("city", None)
                jsonschema.validate(told, schema)
    assert found > 3
    assert names == {"get_weather", "now", "odd"}


def test_text_may_come_before_a_call_and_calls_still_hold() -> None:
    grammar = call_grammar(JSON, TOKENIZER, forms(WEATHER), least=0, many=True)
    texts = [text for seed in range(60) if (text := walk(grammar, seed)) is not None]
    called = [heard(text, [WEATHER]) for text in texts]
    assert any(words for _, words, _ in called)
    assert any(not calls for _, _, calls in called)
    made = [json.loads(arguments) for *_, calls in called for _, arguments in calls]
    assert made
    for one in made:
        jsonschema.validate(one, WEATHER["function"]["parameters"])


def test_strict_tools_need_a_mark_to_begin_with() -> None:
    class Plain(Marked):
        def added_id(self, content: str) -> int | None:
            return None

    plain = cast("Tokenizer", Plain())
    with pytest.raises(UsageError, match="no token"):
        call_grammar(JSON, plain, forms(WEATHER), least=0, many=False)
    assert '"<tool_call>"' in call_grammar(JSON, plain, forms(WEATHER), least=1, many=False)


PROMPTS: dict[str, list[int]] = {
    "free": [*b"assistant\n"],
    "open": [*b"assistant\n", THINK, *b"\n"],
    "no": [*b"assistant\n", THINK, *b"\n\n", THOUGHT, *b"\n\n"],
}


@pytest.mark.parametrize("how", PROMPTS)
def test_reasoning_comes_before_what_is_held(how: Literal["free", "open", "no"]) -> None:
    prompt = PROMPTS[how]
    assert thinking(THINKS, prompt) == how
    assert thinking(JSON, prompt) == "no"
    answer = f"start: {json_rule({'type': 'integer'})}"
    grammar = after_thinking(THINKS, prompt, answer)
    assert (grammar == answer) == (how == "no")
    assert after_thinking(JSON, prompt, answer) == answer
    thought = 0
    for seed in range(40):
        text = walk(grammar, seed)
        if text is None:
            continue
        thoughts, words, _ = heard(text, [], how=how)
        int(words)
        thought += bool(thoughts)
    assert (thought > 0) == (how != "no")


def test_calls_come_behind_reasoning_too() -> None:
    calls = call_grammar(THINKS, TOKENIZER, forms(NOW), least=1, many=False)
    grammar = after_thinking(THINKS, PROMPTS["open"], calls)
    texts = [text for seed in range(40) if (text := walk(grammar, seed)) is not None]
    assert texts
    for text in texts:
        _, words, made = heard(text, [NOW], how="open")
        assert words == ""
        assert [name for name, _ in made] == ["now"]


def test_what_ends_reasoning() -> None:
    cut = cutoff(THINKS, PROMPTS["open"], 50, TOKENIZER)
    assert cut is not None
    assert (cut.after, cut.unless) == (50, THOUGHT)
    assert cut.ids == (10, THOUGHT, 10, 10)
    assert cutoff(THINKS, PROMPTS["no"], 50, TOKENIZER) is None
    assert cutoff(JSON, PROMPTS["open"], 50, TOKENIZER) is None
    # A grammar lets it through.
    grammar = after_thinking(THINKS, PROMPTS["open"], "start: /[0-9]/")
    constraint = GRAMMARS.constraint(grammar, [STOP]).result(60)
    for token in (*b"because", *cut.ids, ord("7")):
        constraint.take(token)
    assert constraint.complete


def test_templates_tell_how_their_models_speak(shared_data: Any) -> None:
    folder = shared_data / "audit" / "templates"
    told = {
        path.stem: speech_of(path.read_text(encoding="utf-8"), TOKENIZER)
        for path in folder.glob("Qwen*.jinja")
    }
    assert {name: (one.calls, one.thinks) for name, one in told.items()} == {
        "Qwen-Qwen2.5-7B-Instruct": ("json", False),
        "Qwen-Qwen3-0.6B": ("json", True),
        "Qwen-QwQ-32B": ("json", True),
        "Qwen3-Coder": ("xml", False),
        "Qwen3.5-4B": ("xml", True),
    }
    assert speech_of(None, TOKENIZER) == Speech(calls=None, think=None, thought=None)

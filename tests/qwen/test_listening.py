"""Answers told apart, however their text is cut: thoughts, words and calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.qwen.listening import TextListener
from freehold.types import Heard

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "where": {"type": "object"},
                "note": {"type": ["string", "null"]},
                "any": {},
            },
        },
    },
}
BARE = {"type": "function", "function": {"name": "now"}}
Found = tuple[str, str, list[tuple[str | None, str]]]


def hear(pieces: Sequence[str], **how: Any) -> Found:
    """Thoughts, words and calls (name, arguments), all pieces together."""
    given: dict[str, Any] = {"thinking": "no", "calls": "json", "tools": [WEATHER, BARE]}
    listener = TextListener(**(given | how))
    heard = [*(listener.feed(piece) for piece in pieces), listener.finish()]
    calls: list[tuple[str | None, str]] = []
    for part in [part for one in heard for part in one.calls]:
        if part.name is not None:
            assert part.index == len(calls)
            calls.append((part.name, ""))
        name, arguments = calls[part.index]
        calls[part.index] = (name, arguments + part.arguments)
    thoughts = "".join(one.thoughts for one in heard)
    return thoughts, "".join(one.words for one in heard), calls


PARIS = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
)
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
ARGUMENTS = '{"city": "Paris", "days": 2}'
XML = "<tool_call>\n<function=get_weather>\n{}</function>\n</tool_call>"


def xml(**parameters: str) -> str:
    return XML.format(
        "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in parameters.items())
    )


JSON_CASES: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("Hello, <b>world</b>.\n", "Hello, <b>world</b>.\n", []),
    (PARIS, "", [("get_weather", ARGUMENTS)]),
    (f"Let me see.\n{PARIS}\n", "Let me see.", [("get_weather", ARGUMENTS)]),
    (f"{PARIS}\n{NOW}", "", [("get_weather", ARGUMENTS), ("now", "{}")]),
    (f"{PARIS}{PARIS} And so.", "And so.", [("get_weather", ARGUMENTS)] * 2),
    # in an order of its own, with the other name for arguments, or none
    ('<tool_call>{"arguments": {"a": 1}, "name": "now"}</tool_call>', "", [("now", '{"a": 1}')]),
    ('<tool_call>{"name": "now", "parameters": {"a": 1}}</tool_call>', "", [("now", '{"a": 1}')]),
    ('<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}")]),
    # marks inside of strings are text
    (
        '<tool_call>{"name": "now", "arguments": {"a": "</tool_call>\\"}{"}}</tool_call>',
        "",
        [("now", '{"a": "</tool_call>\\"}{"}')],
    ),
    # cut off by a limit, or by the stop string of a single call
    (PARIS.removesuffix("\n</tool_call>"), "", [("get_weather", ARGUMENTS)]),
    (PARIS[:70], "", [("get_weather", '{"city": "Paris", "da')]),
    # no calls: told as they were written
    ("<tool_call>\nnothing\n</tool_call> x", "<tool_call>\nnothing\n</tool_call>x", []),
    ('<tool_call>{"name": "rm"}</tool_call>', '<tool_call>{"name": "rm"}</tool_call>', []),
    ('<tool_call>{"name": "rm', '<tool_call>{"name": "rm', []),
    ("a < b <tool", "a < b <tool", []),
    ("  \n", "  \n", []),
    # broken arguments end where the call does
    (
        '<tool_call>{"name": "now", "arguments": {"a": 1</tool_call>\nok',
        "ok",
        [("now", '{"a": 1')],
    ),
]


@pytest.mark.parametrize(("text", "words", "calls"), JSON_CASES)
def test_calls_as_json(text: str, words: str, calls: list[tuple[str, str]]) -> None:
    wanted = ("", words, calls)
    assert hear([text]) == wanted
    assert hear(list(text)) == wanted
    for size in (2, 3, 5, 11):
        assert hear([text[i : i + size] for i in range(0, len(text), size)]) == wanted


XML_CASES: list[tuple[str, str, list[tuple[str, Any]]]] = [
    (xml(city="Paris", days="2"), "", [("get_weather", {"city": "Paris", "days": 2})]),
    (xml(), "", [("get_weather", {})]),
    (f"So:\n{xml(city='a')}\n{xml(city='b')}", "So:", [("get_weather", {"city": c}) for c in "ab"]),
    (xml(city='1\n"2"\n'), "", [("get_weather", {"city": '1\n"2"\n'})]),
    (xml(where='{"x": [1]}'), "", [("get_weather", {"where": {"x": [1]}})]),
    (xml(days="many", where="{x}"), "", [("get_weather", {"days": "many", "where": "{x}"})]),
    (xml(note="null"), "", [("get_weather", {"note": None})]),
    (xml(note="NaN", city="null"), "", [("get_weather", {"note": "NaN", "city": "null"})]),
    (xml(any="[1]"), "", [("get_weather", {"any": [1]})]),
    (xml(any="as it is"), "", [("get_weather", {"any": "as it is"})]),
    (xml(other="5"), "", [("get_weather", {"other": "5"})]),
    (xml(city="</tool_call>"), "", [("get_weather", {"city": "</tool_call>"})]),
    (
        "<tool_call>\n<function=rm>\n</function>\n</tool_call>",
        "<tool_call>\n<function=rm>\n</function>\n</tool_call>",
        [],
    ),
    ("<tool_call>\nnothing", "<tool_call>\nnothing", []),
    (xml(city="a").removesuffix("\n</tool_call>"), "", [("get_weather", {"city": "a"})]),
    (
        "<tool_call><function=now><parameter=a>1</parameter></tool_call>",
        "",
        [("now", {"a": "1"})],
    ),
]


@pytest.mark.parametrize(("text", "words", "calls"), XML_CASES)
def test_calls_as_xml(text: str, words: str, calls: list[tuple[str, Any]]) -> None:
    for size in (len(text), 1, 2, 3, 5, 11):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        _, said, called = hear(pieces, calls="xml")
        assert said == words
        assert [(name, json.loads(arguments)) for name, arguments in called] == calls


@pytest.mark.parametrize(
    ("thinking", "text", "wanted"),
    [
        ("free", "<think>\nhm\n\nso\n</think>\n\nYes.", ("hm\n\nso", "Yes.", [])),
        ("free", "\n<think>\n\n</think>\n\nYes.", ("", "Yes.", [])),
        ("free", "Yes. <think>no</think>", ("", "Yes. <think>no</think>", [])),
        ("free", "<thi", ("", "<thi", [])),
        ("free", "", ("", "", [])),
        ("open", "hm\n</think>\n\nYes.\n", ("hm", "Yes.\n", [])),
        ("open", "hm </thin", ("hm </thin", "", [])),
        ("open", f"hm {NOW} </think>\n{NOW}", (f"hm {NOW}", "", [("now", "{}")])),
        ("no", "<think>hm</think>", ("", "<think>hm</think>", [])),
    ],
)
def test_thoughts(thinking: Literal["open", "free", "no"], text: str, wanted: Found) -> None:
    assert hear([text], thinking=thinking) == wanted
    assert hear(list(text), thinking=thinking) == wanted


def test_without_tools_nothing_is_a_call() -> None:
    assert hear([PARIS], tools=[]) == ("", PARIS, [])


def test_arguments_go_out_as_they_come() -> None:
    listener = TextListener(thinking="no", calls="json", tools=[WEATHER])
    for piece in ("ok\n<tool_", 'call>\n{"name": "get_', 'weather", "arguments": '):
        assert listener.feed(piece).calls == ()
    first = listener.feed('{"city": "Pa')
    assert [(part.name, part.arguments) for part in first.calls] == [
        ("get_weather", ""),
        (None, '{"city": "Pa'),
    ]
    assert listener.feed('ris"}').calls[0].arguments == 'ris"}'
    assert listener.feed("}\n</tool_call>") == Heard()
    assert listener.finish() == Heard()


marks = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            "\n",
            " ",
            "x",
            '"',
            "{",
            "}",
            "\\",
        ),
        *('{"name": "now", "arguments": {', '{"name": "', "<function=now>", "<parameter=a>"),
        *("</parameter>", "</function>", "<", "</", "é", "null"),
    ]
)


@given(
    st.lists(marks, max_size=30),
    st.sampled_from(["json", "xml", None]),
    st.sampled_from(["open", "free", "no"]),
    st.randoms(use_true_random=False),
)
def test_how_the_text_is_cut_does_not_matter(
    pieces: list[str], calls: Any, thinking: Any, chance: Any
) -> None:
    text = "".join(pieces)
    cuts = sorted(chance.randint(0, len(text)) for _ in range(chance.randint(0, 9)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = hear([text], calls=calls, thinking=thinking)
    assert hear(parts, calls=calls, thinking=thinking) == whole
    assert hear(list(text), calls=calls, thinking=thinking) == whole


def test_a_call_behind_what_was_almost_one_is_heard_however_it_is_cut() -> None:
    text = '{"name": "now"} is what I call:\n' + NOW
    wanted = ("", '{"name": "now"} is what I call:', [("now", "{}")])
    assert hear([text]) == hear(list(text)) == wanted
    assert hear(["{<think>\n<tool_call>"]) == hear(list("{<think>\n<tool_call>"))


# --- calls without their marks --------------------------------------------------------------------

PLAIN = '{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PLAIN, ("", "", [("get_weather", ARGUMENTS)])),
        ("\n " + PLAIN + "\n", ("", "", [("get_weather", ARGUMENTS)])),
        (PLAIN + "\n</tool_call>", ("", "", [("get_weather", ARGUMENTS)])),
        (PLAIN + "\n" + PLAIN, ("", "", [("get_weather", ARGUMENTS)] * 2)),
        (PLAIN + "\n" + NOW, ("", "", [("get_weather", ARGUMENTS), ("now", "{}")])),
        (PLAIN + "\nThere.", ("", "There.", [("get_weather", ARGUMENTS)])),
        (PLAIN.replace("get_weather", "rm"), ("", PLAIN.replace("get_weather", "rm"), [])),
        (PLAIN.replace('"name"', '"called"'), ("", PLAIN.replace('"name"', '"called"'), [])),
        (" {} " + PLAIN, ("", " {} " + PLAIN, [])),
        ("So: " + PLAIN, ("", "So: " + PLAIN, [])),
        ('{"name": "get_wea', ("", '{"name": "get_wea', [])),
        (PLAIN[:-10], ("", "", [("get_weather", '{"city": "Paris", "')])),
    ],
)
def test_a_call_without_its_marks(text: str, found: Found) -> None:
    assert hear([text]) == found
    assert hear(list(text)) == found


def test_a_call_of_a_strict_tool_needs_its_marks() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    assert hear([PLAIN], tools=[strict]) == ("", PLAIN, [])
    assert hear([PLAIN], tools=[]) == ("", PLAIN, [])
    assert hear([PLAIN], calls="xml") == ("", PLAIN, [])


def test_a_call_without_its_marks_behind_a_thought() -> None:
    text = "<think>\nWhich?\n</think>\n\n" + PLAIN
    found = ("Which?\n", "", [("get_weather", ARGUMENTS)])
    assert hear(list(text), thinking="free") == (found[0].rstrip(), *found[1:])

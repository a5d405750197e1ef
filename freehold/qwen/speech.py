"""How a model says more than words: the marks around what it thinks, and the forms of its calls.

Two forms are known. *json* (Hermes', which Qwen2.5 and Qwen3 were trained on):

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

and *xml* (Qwen3-Coder's):

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

Which one a model writes is read from its own chat template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from freehold.errors import UsageError
from freehold.qwen.tokenizer import Tokenizer
from freehold.types import CallForm, Cutoff, Ids

THINK, THOUGHT = "<think>", "</think>"
CALL, CALLED = "<tool_call>", "</tool_call>"

_TAIL = 8
"""Tokens at a prompt's end that are looked at for an open mark."""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What one model's template and tokenizer tell. ``think`` and ``thought`` are the ids of the
    marks around its reasoning; ``None`` if it does not reason."""

    calls: Literal["json", "xml"] | None
    think: int | None
    thought: int | None

    @property
    def thinks(self) -> bool:
        return self.thought is not None


def speech_of(template: str | None, tokenizer: Tokenizer) -> Speech:
    """How the model of this ``template`` speaks."""
    source = template or ""
    calls: Literal["json", "xml"] | None = None
    if CALL in source:
        calls = "xml" if "<function=" in source else "json" if "arguments" in source else None
    marks = (tokenizer.added_id(THINK), tokenizer.added_id(THOUGHT))
    if THOUGHT not in source or None in marks:
        marks = (None, None)
    return Speech(calls=calls, think=marks[0], thought=marks[1])


def thinking(speech: Speech, prompt: Ids) -> Literal["open", "free", "no"]:
    """Whether the answer to ``prompt`` begins inside of reasoning, may begin some, or is to be
    without: a template that is told so closes the reasoning before it began."""
    if not speech.thinks:
        return "no"
    for token in reversed(prompt[-_TAIL:]):
        if token == speech.think:
            return "open"
        if token == speech.thought:
            return "no"
    return "free"


def cutoff(speech: Speech, prompt: Ids, after: int, tokenizer: Tokenizer) -> Cutoff | None:
    """See ``types.Codec.cutoff``."""
    if speech.thought is None or thinking(speech, prompt) == "no":
        return None
    before, behind = tokenizer.encode("\n"), tokenizer.encode("\n\n")
    return Cutoff(after=after, unless=speech.thought, ids=(*before, speech.thought, *behind))


# --- grammars (Lark, see types.Sampling) ----------------------------------------------------------


def after_thinking(speech: Speech, prompt: Ids, grammar: str) -> str:
    """See ``types.Codec.after_thinking``."""
    how = thinking(speech, prompt)
    if how == "no":
        return grammar
    thought = rf"/(?s:.*)/ <[{speech.thought}]> /\n{{0,2}}/"
    first = thought if how == "open" else rf"(/\n?/ <[{speech.think}]> {thought})?"
    both = [{"lark_grammar": f"start: {first} @answer"}]
    return json.dumps({"grammars": [*both, {"name": "answer", "lark_grammar": grammar}]})


def call_grammar(
    speech: Speech,
    tokenizer: Tokenizer,
    forms: Sequence[CallForm],
    *,
    least: Literal[0, 1],
    many: bool,
) -> str:
    """See ``types.Codec.call_grammar``."""
    marks = [tokenizer.added_id(mark) for mark in (CALL, CALLED)]
    if least == 0 and None in marks:
        raise UsageError(
            "tools cannot be strict with this model unless a call is required: it has no token "
            "that begins one",
            param="tools",
        )
    begin, end = (
        json.dumps(text) if token is None else f"<[{token}]>"
        for token, text in zip(marks, (CALL, CALLED), strict=True)
    )
    more = r' ("\n" call)*' if many else ""
    calls = f"call{more}"
    lines = [f"start: {calls}" if least else f"start: TEXT ({calls})?\nTEXT: /(?s:.*)/"]
    lines.append("call: " + " | ".join(f"call_{i}" for i in range(len(forms))))
    for i, form in enumerate(forms):
        body = _xml(i, form) if speech.calls == "xml" else _json(i, form)
        lines += [rf'call_{i}: {begin} "\n" body_{i} "\n" {end}', *body]
    return "\n".join(lines)


def _json(i: int, form: CallForm) -> list[str]:
    head = json.dumps(f'{{"name": {json.dumps(form.name)}, "arguments": ')
    return [f'body_{i}: {head} arguments_{i} "}}"', f"arguments_{i}: {form.arguments}"]


def _xml(i: int, form: CallForm) -> list[str]:
    if form.parameters is None:
        parts, rules = [f"any_{i}*"], [rf"any_{i}: /<parameter=[^>\n]+>\n/ any_{i}_value"]
        rules.append(rf'any_{i}_value[suffix="\n</parameter>\n"]: /(?s:.*)/')
    else:
        parts, rules = [], []
        for j, parameter in enumerate(form.parameters):
            name = f"parameter_{i}_{j}"
            parts.append(name if parameter.required else f"{name}?")
            begin = json.dumps(f"<parameter={parameter.name}>\n")
            rules.append(f"{name}: {begin} {name}_value")
            if parameter.rule is None:
                rules.append(rf'{name}_value[suffix="\n</parameter>\n"]: /(?s:.*)/')
            else:
                rules.append(rf'{name}_value: {parameter.rule} "\n</parameter>\n"')
    head = json.dumps(f"<function={form.name}>\n")
    return [f'body_{i}: {head} {" ".join(parts)} "</function>"', *rules]

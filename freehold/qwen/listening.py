"""An answer's text as it comes, told apart: thoughts, words, and calls of tools.

What is no call is words: a call of a tool that was not offered, or one that cannot be read, comes
out as the model wrote it. Each feed costs time in proportion to its own text.

Small models leave out the marks around a call: Qwen2.5-Coder-0.5B always does. An answer that
begins with ``{"name": "...", "arguments": {``, of a tool that was offered, is a call too; not where
a tool is strict, whose calls the marks' grammar holds to its schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from freehold.qwen.speech import CALL, CALLED, THINK, THOUGHT
from freehold.types import CallPart, Heard

_MAX_HEAD = 4096
"""Characters within which a call must have said whom it calls."""

_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_FUNCTION = re.compile(r"\s*<function=([^>\n]*)>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]*)>")

Schemas: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By a tool's name, what its parameters must look like: the properties of its schema."""


class TextListener:
    """``types.Listener``. ``thinking`` is how the answer begins (``speech.thinking``), ``calls`` in
    which form tools are called, ``tools`` which there are."""

    def __init__(
        self,
        *,
        thinking: Literal["open", "free", "no"],
        calls: Literal["json", "xml"] | None,
        tools: Sequence[Mapping[str, Any]],
    ) -> None:
        self._schemas = {tool["function"]["name"]: _properties(tool) for tool in tools}
        self._form = calls if tools else None
        strict = any(tool["function"].get("strict") for tool in tools)
        self._bare = self._form == "json" and not strict
        """Whether a call may come without its marks: nothing but calls has been said."""
        self._state: Literal["begin", "thought", "words", "call"] = "words"
        if thinking != "no":
            self._state = "thought" if thinking == "open" else "begin"
        self._buffer = ""
        self._lead = True
        """Whether blanks that come now stand between two parts, and belong to neither."""
        self._first = thinking == "no"
        """Whether no mark has come yet: then blanks are the answer's own."""
        self._call: _Call | None = None
        self._n_calls = 0
        self._thoughts: list[str] = []
        self._words: list[str] = []
        self._calls: list[CallPart] = []

    def feed(self, text: str) -> Heard:
        self._buffer += text
        while self._step():
            pass
        return self._release()

    def finish(self) -> Heard:
        if self._call is not None:
            self._say(self._call.finish(self._buffer))
        elif self._state == "thought":
            self._thoughts.append(self._buffer)
        elif not (self._n_calls and not self._buffer.strip()):
            self._words.append(self._buffer)
        self._buffer, self._call = "", None
        return self._release()

    def _release(self) -> Heard:
        heard = Heard(
            thoughts="".join(self._thoughts),
            words="".join(self._words),
            calls=tuple(self._calls),
        )
        self._thoughts, self._words, self._calls = [], [], []
        return heard

    def _step(self) -> bool:
        """Go on in the buffer; whether there may be more to do in it."""
        match self._state:
            case "begin":
                return self._begin()
            case "thought":
                return self._part(self._thoughts, THOUGHT, "words")
            case "words":
                if self._bare and (begun := self._buffer.lstrip()):
                    self._bare = begun.startswith("{")
                    if self._bare:
                        if self._lead and not self._first:
                            self._buffer = begun
                        self._state, self._call = "call", BareCall(self._n_calls, self._schemas)
                        return True
                return self._part(self._words, CALL if self._form else None, "call")
            case "call":
                return self._in_call()

    def _begin(self) -> bool:
        begun = self._buffer.lstrip()
        if not begun or (THINK.startswith(begun) and begun != THINK):
            return False
        self._state = "words"
        if begun.startswith(THINK):
            self._state, self._buffer = "thought", begun[len(THINK) :]
        else:
            self._first = True
        return True

    def _part(self, out: list[str], mark: str | None, then: Literal["words", "call"]) -> bool:
        """Let out what comes before ``mark``, but neither blanks that touch it nor half of it."""
        if self._lead and not (self._first and out is self._words):
            self._buffer = self._buffer.lstrip()
        if not self._buffer:
            return False
        found = -1 if mark is None else self._buffer.find(mark)
        if mark is not None and found >= 0:
            out.append(self._buffer[:found].rstrip())
            self._buffer = self._buffer[found + len(mark) :]
            self._state, self._lead, self._first = then, True, False
            if then == "call":
                self._call = self._new_call()
            return True
        keep = 0 if mark is None else _held(self._buffer, mark)
        cut = len(self._buffer) - keep
        if cut:
            out.append(self._buffer[:cut])
            self._buffer, self._lead = self._buffer[cut:], False
        return False

    def _new_call(self) -> _Call:
        make = XmlCall if self._form == "xml" else JsonCall
        return make(self._n_calls, self._schemas)

    def _in_call(self) -> bool:
        assert self._call is not None
        said, rest = self._call.feed(self._buffer)
        self._say(said)
        if rest is None:
            self._buffer = ""
            return False
        self._buffer, self._call, self._state, self._lead = rest, None, "words", True
        return True

    def _say(self, said: Sequence[CallPart | str]) -> None:
        for one in said:
            if isinstance(one, str):
                self._words.append(one)
                self._bare = False
            else:
                self._calls.append(one)
                self._n_calls = one.index + 1


def _held(text: str, mark: str) -> int:
    """How much of the end of ``text`` may be half of ``mark``, with the blanks before it."""
    most = min(len(mark) - 1, len(text))
    half = next(n for n in range(most, -1, -1) if mark.startswith(text[len(text) - n :]))
    before = text[: len(text) - half]
    return half + len(before) - len(before.rstrip())


# --- calls ----------------------------------------------------------------------------------------


class _Call(Protocol):
    """One call, from behind its opening mark on. ``feed`` and ``finish`` get the text that follows
    what they were fed before, and give its parts, or as text what turned out to be no call.
    ``feed`` also gives what is left behind the call, or ``None`` while it lasts."""

    def feed(self, text: str) -> tuple[list[CallPart | str], str | None]: ...
    def finish(self, text: str) -> list[CallPart | str]: ...


class JsonCall:
    """``{"name": ..., "arguments": {...}}``: the arguments go out as they come."""

    def __init__(self, index: int, schemas: Schemas) -> None:
        self._index = index
        self._schemas = schemas
        self._text = ""
        """What is not understood yet."""
        self._state: Literal["head", "arguments", "tail", "closed", "odd"] = "head"
        self._depth, self._quoted, self._escaped = 0, False, False

    def feed(self, text: str) -> tuple[list[CallPart | str], str | None]:
        seen = max(0, len(self._text) - len(CALLED))
        self._text += text
        said: list[CallPart | str] = []
        if self._state == "head":
            self._head(said)
        if self._state == "arguments":
            self._arguments(said)
            seen = 0
        if self._state in ("tail", "odd") or CALLED in self._text[seen:]:
            end = self._text.find(CALLED, seen)
            if end >= 0:
                rest = self._text[end + len(CALLED) :]
                return [*said, *self._whole(self._text[:end])], rest
        return said, None

    def finish(self, text: str) -> list[CallPart | str]:
        said, _ = self.feed(text)
        if self._state in ("head", "odd"):
            said += self._whole(self._text, closed=False)
        return said

    def _head(self, said: list[CallPart | str]) -> None:
        match = _HEAD.match(self._text) if len(self._text) <= _MAX_HEAD else None
        name = _loaded(match[1]) if match else None
        if match and name in self._schemas:
            said.append(CallPart(index=self._index, name=name))
            self._text, self._state = self._text[match.end() :], "arguments"
        elif match or len(self._text) > _MAX_HEAD:
            self._state = "odd"

    def _arguments(self, said: list[CallPart | str]) -> None:
        for place, character in enumerate(self._text):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._quoted = False
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
            # Outside of strings JSON has no such mark: here the call ends, whatever is missing.
            closed = character == "<" and not self._quoted
            if closed or self._depth == 0:
                end = place if closed else place + 1
                self._out(said, end)
                self._state = "tail"
                return
        self._out(said, len(self._text))

    def _out(self, said: list[CallPart | str], end: int) -> None:
        if end:
            said.append(CallPart(index=self._index, arguments=self._text[:end]))
            self._text = self._text[end:]

    def _whole(self, text: str, *, closed: bool = True) -> list[CallPart | str]:
        """A call that did not come in the usual order, or none at all."""
        if self._state == "tail":
            return []
        call = _loaded(text)
        if isinstance(call, dict) and call.get("name") in self._schemas:
            arguments = call.get("arguments", call.get("parameters", {}))
            if isinstance(arguments, dict):
                name, told = call["name"], json.dumps(arguments, ensure_ascii=False)
                return [CallPart(index=self._index, name=name, arguments=told)]
        return [CALL + text + (CALLED if closed else "")]


class BareCall(JsonCall):
    """The same without marks around it: it ends with its last brace, and as soon as it can be no
    call it is words."""

    def __init__(self, index: int, schemas: Schemas) -> None:
        super().__init__(index, schemas)
        self._heads = [
            f'{{"name":"{name}","{key}":{{'
            for name in schemas
            for key in ("arguments", "parameters")
        ]

    def feed(self, text: str) -> tuple[list[CallPart | str], str | None]:
        self._text += text
        said: list[CallPart | str] = []
        if self._state == "head":
            begun = "".join(self._text[:_MAX_HEAD].split())
            if any(head.startswith(begun) or begun.startswith(head) for head in self._heads):
                self._head(said)
            else:
                self._state = "odd"
        if self._state == "odd":
            # Words, and to be looked through as such: a call with its marks may stand further on.
            return [""], self._text
        if self._state == "arguments":
            self._arguments(said)
        if self._state == "tail":
            self._text = self._text.lstrip()
            if self._text.startswith("}"):
                self._text, self._state = self._text[1:], "closed"
            elif self._text:
                return said, self._text
        if self._state == "closed":
            # Its closing mark may be there without the opening one.
            self._text = self._text.lstrip()
            if self._text == CALLED or not CALLED.startswith(self._text):
                return said, self._text.removeprefix(CALLED)
        return said, None

    def finish(self, text: str) -> list[CallPart | str]:
        said, rest = self.feed(text)
        left = self._text if rest is None else rest
        return [*said, left] if left else said


class XmlCall:
    """``<function=...>`` with its parameters: each goes out as JSON when it is complete."""

    def __init__(self, index: int, schemas: Schemas) -> None:
        self._index = index
        self._schemas = schemas
        self._text = ""
        self._place = 0
        """Up to here, the end of a value has been looked for."""
        self._properties: Mapping[str, Any] = {}
        self._state: Literal["head", "parameters", "value", "tail", "odd"] = "head"
        self._key = ""
        self._n = 0

    def feed(self, text: str) -> tuple[list[CallPart | str], str | None]:
        self._text += text
        said: list[CallPart | str] = []
        while self._step(said):
            pass
        # Only between values: a value may hold anything but its own end.
        if self._state != "value":
            end = self._text.find(CALLED, max(0, self._place - len(CALLED)))
            self._place = len(self._text)
            if end >= 0:
                rest = self._text[end + len(CALLED) :]
                if self._state in ("head", "odd"):
                    said.append(CALL + self._text[: end + len(CALLED)])
                elif self._state == "parameters":
                    said.append(self._close())
                return said, rest
        return said, None

    def finish(self, text: str) -> list[CallPart | str]:
        said, _ = self.feed(text)
        return [*said, CALL + self._text] if self._state in ("head", "odd") else said

    def _step(self, said: list[CallPart | str]) -> bool:
        match self._state:
            case "head":
                return self._head(said)
            case "parameters":
                return self._parameter(said)
            case "value":
                return self._value(said)
        return False

    def _head(self, said: list[CallPart | str]) -> bool:
        match = _FUNCTION.match(self._text) if len(self._text) <= _MAX_HEAD else None
        if match and match[1] in self._schemas:
            self._properties = self._schemas[match[1]]
            said.append(CallPart(index=self._index, name=match[1], arguments="{"))
            self._cut(match.end())
            self._state = "parameters"
            return True
        if match or len(self._text) > _MAX_HEAD:
            self._state = "odd"
        return False

    def _parameter(self, said: list[CallPart | str]) -> bool:
        if match := _PARAMETER.match(self._text[:_MAX_HEAD]):
            self._key = match[1]
            self._cut(match.end())
            self._state = "value"
            return True
        if self._text.lstrip().startswith("</function>"):
            said.append(self._close())
            self._state = "tail"
        return False

    def _value(self, said: list[CallPart | str]) -> bool:
        end = self._text.find("</parameter>", max(0, self._place - len("</parameter>")))
        self._place = len(self._text)
        if end < 0:
            return False
        value = self._text[:end].removeprefix("\n").removesuffix("\n")
        told = _as_json(value, self._properties.get(self._key))
        comma = ", " if self._n else ""
        key = json.dumps(self._key, ensure_ascii=False)
        said.append(CallPart(index=self._index, arguments=f"{comma}{key}: {told}"))
        self._n += 1
        self._cut(end + len("</parameter>"))
        self._state = "parameters"
        return True

    def _close(self) -> CallPart:
        return CallPart(index=self._index, arguments="}")

    def _cut(self, end: int) -> None:
        self._text, self._place = self._text[end:], 0


def _as_json(value: str, schema: object) -> str:
    """A value that was written plainly, by what the tool's schema says of it."""
    kinds = schema.get("type") if isinstance(schema, Mapping) else "string"
    if kinds not in ("string", ["string"]):
        loaded = _loaded(value)
        if loaded is not None or value.strip() == "null":
            return json.dumps(loaded, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _loaded(text: str) -> Any:
    """JSON as data; ``None`` for null and for what is no JSON."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _properties(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = tool["function"].get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}

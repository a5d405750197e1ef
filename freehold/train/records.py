"""One record of training data: a conversation, or a plain text; and the forms it may come in.

    messages           {"messages": [{"role": "user", "content": "..."}, ...]}
    ShareGPT           {"conversations": [{"from": "human", "value": "..."}, ...]}
    Alpaca             {"instruction": "...", "input": "...", "output": "..."}
    prompt/completion  {"prompt": "...", "completion": "..."}
    preference         {"prompt": "...", "chosen": "...", "rejected": "..."}
    plain text         {"text": "..."}

Other members (an id, a source) are passed over; members of two forms at once are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

MAX_CHARS = 100_000
"""Characters of one record. Longer texts come as ``.txt``, where they are cut at paragraphs."""

_ROLES = ("system", "user", "assistant", "tool")
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
_MEMBERS = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"}
# What each form is told by, and its other members.
_FORMS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "messages": (frozenset({"messages"}), frozenset()),
    "ShareGPT": (frozenset({"conversations"}), frozenset({"system"})),
    "Alpaca": (frozenset({"instruction", "output"}), frozenset({"input", "system"})),
    "prompt/completion": (frozenset({"prompt", "completion"}), frozenset()),
    "preference": (frozenset({"prompt", "chosen", "rejected"}), frozenset()),
    "plain text": (frozenset({"text"}), frozenset()),
}


class Bad(Exception):  # noqa: N818  (never leaves this room: it becomes a ``Problem``)
    """Why a record is refused; ``str`` is the reason."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """``messages`` of a conversation, or ``text``. ``rejected`` is the same conversation with the
    answer that is liked less. ``file`` and ``line`` (from 1) say where; ``unit`` is what is counted
    (bytes from 0), ``part`` (from 1) which piece of a text that was cut, and ``address`` the web
    page that it comes from."""

    file: str
    line: int
    unit: Literal["line", "byte"] = "line"
    part: int = 1
    address: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Mapping[str, Any], ...] = ()
    text: str = ""

    @property
    def where(self) -> str:
        return f"{self.file}, {self.unit} {self.line}"

    @property
    def content(self) -> str:
        """Everything that is said in it."""
        if not self.messages:
            return self.text
        said = (*self.messages, *self.rejected[-1:])
        return "\n".join(str(message.get("content") or "") for message in said)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why the record at ``line`` of ``file`` is not used; ``kind`` is what it is counted as."""

    file: str
    line: int
    reason: str
    unit: Literal["line", "byte"] = "line"
    kind: str = "damaged"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.line}: {self.reason}"


def record_of(value: Any, *, file: str, line: int) -> Record:
    """A record from its JSON value. Raises ``Bad``."""
    if not isinstance(value, dict):
        raise Bad("it is no JSON object")
    form = _form(value)
    if form == "plain text":
        return Record(file=file, line=line, text=_bounded(_said(value, "text")))
    messages = _READERS[form](value)
    _check_order(messages)
    rejected: list[Mapping[str, Any]] = []
    if form == "preference":
        rejected = _answered(value, "rejected")
        _check_order(rejected)
        if rejected == messages:
            raise Bad("chosen and rejected are the same")
    record = Record(file=file, line=line, messages=tuple(messages), rejected=tuple(rejected))
    _bounded(record.content)
    return record


def _form(value: Mapping[str, Any]) -> str:
    found = [form for form, (marks, _) in _FORMS.items() if marks <= value.keys()]
    if not found:
        begun = [form for form, (marks, _) in _FORMS.items() if marks & value.keys()]
        hint = f"; {begun[0]} needs {', '.join(sorted(_FORMS[begun[0]][0]))}" if begun else ""
        raise Bad(f"its members ({', '.join(sorted(value))[:120]}) are no form that is known{hint}")
    if len(found) > 1:
        raise Bad(f"it reads as {' and as '.join(found)}: leave one of them out")
    return found[0]


def _messages(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for n, message in enumerate(_list(value, "messages"), 1):
        if not isinstance(message, dict):
            raise Bad(f"message {n} is no JSON object")
        if unknown := message.keys() - _MEMBERS:
            raise Bad(f"message {n} has the unknown member {sorted(unknown)[0]!r}")
        role = message.get("role")
        if role not in _ROLES:
            raise Bad(f"message {n} has the role {role!r}: it must be {', '.join(_ROLES)}")
        called = role == "assistant" and message.get("tool_calls")
        if not called:
            _said(message, "content", f"message {n}, of {role},")
        found.append(message)
    return found


def _sharegpt(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = _system(value)
    for n, turn in enumerate(_list(value, "conversations"), 1):
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            raise Bad(f"turn {n} has not `from` and `value`")
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            raise Bad(f"turn {n} is from {speaker!r}: it must be {', '.join(_SPEAKERS)}")
        said = _said(turn, "value", f"turn {n}, from {speaker},")
        found.append({"role": _SPEAKERS[speaker], "content": said})
    return found


def _alpaca(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    asked = _said(value, "instruction")
    given = value.get("input") or ""
    if not isinstance(given, str):
        raise Bad("input is no text")
    if given.strip():
        asked = f"{asked}\n\n{given}"
    return [*_system(value), *_turn(asked, _said(value, "output"))]


def _prompt(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _answered(value, "completion")


def _preference(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _answered(value, "chosen")


def _answered(value: Mapping[str, Any], answer: str) -> list[Mapping[str, Any]]:
    """A prompt and an answer, both as texts or both as messages."""
    if isinstance(value["prompt"], list) and isinstance(value[answer], list):
        return _messages({"messages": [*value["prompt"], *value[answer]]})
    return _turn(_said(value, "prompt"), _said(value, answer))


_READERS: dict[str, Callable[[Mapping[str, Any]], list[Mapping[str, Any]]]] = {
    "messages": _messages,
    "ShareGPT": _sharegpt,
    "Alpaca": _alpaca,
    "prompt/completion": _prompt,
    "preference": _preference,
}


def _turn(asked: str, answered: str) -> list[Mapping[str, Any]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _system(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if not value.get("system"):
        return []
    return [{"role": "system", "content": _said(value, "system")}]


def _list(value: Mapping[str, Any], member: str) -> list[Any]:
    found = value[member]
    if not isinstance(found, list) or not found:
        raise Bad(f"{member} is no list of turns, or an empty one")
    return found


def _said(value: Mapping[str, Any], member: str, who: str = "") -> str:
    found = value.get(member)
    name = who or member
    if not isinstance(found, str):
        raise Bad(f"{name} has no text" if who else f"{name} is no text")
    if not found.strip():
        raise Bad(f"{name} is empty")
    return found


def _bounded(text: str) -> str:
    if len(text) > MAX_CHARS:
        raise Bad(
            f"{len(text):,} characters in one record, more than {MAX_CHARS:,}: cut it up, or give "
            "it as a .txt file"
        )
    if "\x00" in text:
        raise Bad("a null character in the text")
    return text


def _check_order(messages: list[Mapping[str, Any]]) -> None:
    """Each answer answers something, and something is answered last."""
    roles = [message["role"] for message in messages]
    before = ""
    for n, role in enumerate(roles, 1):
        follows = {
            "system": ("",),
            "user": ("", "system", "assistant"),
            "assistant": ("user", "tool"),
            "tool": ("assistant", "tool"),
        }[role]
        if before not in follows:
            raise Bad(f"message {n} is of {role}, after {before or 'nothing'}")
        before = role
    if before != "assistant":
        raise Bad(f"its last message is of {before}: there is no answer to learn")

"""Which tools a model may call, with which arguments: the owner's file, read strictly.

default = "deny"                 # tools that are not named: allow, approve or deny

[tools.send_mail]
action = "allow"                 # its calls
sensitive = ["to", "attachments"]  # no value out of a stranger's text without approval
trusted = false                  # what it returns is a stranger's text (the default)

[tools.send_mail.arguments]      # JSON Schema
type = "object"
required = ["to", "body"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from freehold import strictjson
from freehold.errors import MalformedError, UsageError
from freehold.guard.tools import schema

ToolAction: TypeAlias = Literal["allow", "approve", "deny"]
ACTIONS = ("allow", "approve", "deny")
MAX_BYTES = 1 << 20
EVERYTHING = "*"


@dataclass(frozen=True, kw_only=True)
class ToolRule:
    """One tool. ``sensitive`` names arguments (``to``, ``message.links``; ``*`` for all of them);
    ``arguments`` is a JSON schema, or ``None`` for any. ``trusted``: what the tool returns is the
    owner's own data, not a stranger's."""

    action: ToolAction = "deny"
    sensitive: tuple[str, ...] = ()
    arguments: Mapping[str, Any] | None = None
    trusted: bool = False

    def is_sensitive(self, path: tuple[str, ...]) -> bool:
        """Whether the value at ``path`` lies under a sensitive argument."""
        return any(
            name == EVERYTHING or tuple(name.split(".")) == path[: name.count(".") + 1]
            for name in self.sensitive
        )


@dataclass(frozen=True, kw_only=True)
class ToolPolicy:
    """``default`` is what is done about tools that are not named."""

    tools: Mapping[str, ToolRule] = field(default_factory=dict)
    default: ToolAction = "deny"

    def rule(self, tool: str) -> ToolRule:
        """The rule for ``tool``. All arguments of one that is not named are sensitive."""
        unnamed = ToolRule(action=self.default, sensitive=(EVERYTHING,))
        return self.tools.get(tool, unnamed)


def read(data: bytes, *, file: str) -> ToolPolicy:
    """A policy from the bytes of a TOML file, or of a JSON file if ``file`` ends so.

    Raises ``MalformedError`` for bytes that are neither, ``UsageError`` naming the key that is
    unknown or wrong: a misspelt key would leave a door open.
    """
    if file.endswith(".json"):
        document = strictjson.parse(data, file=file, max_bytes=MAX_BYTES)
    else:
        document = _toml(data, file)
    if not isinstance(document, dict):
        raise MalformedError(f"{file}: must hold an object with the key tools", file=file)
    _expect_keys(document, {"default", "tools"}, "the policy")
    tools = document.get("tools", {})
    if not isinstance(tools, dict):
        raise _wrong("tools", "must be a table of tools by name")
    return ToolPolicy(
        default=_action(document.get("default", "deny"), "default"),
        tools={name: _rule(given, f"tools.{name}") for name, given in tools.items()},
    )


def _toml(data: bytes, file: str) -> Any:
    if len(data) > MAX_BYTES:
        raise MalformedError(f"{file}: more than {MAX_BYTES:,} bytes", file=file)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise MalformedError(f"{file}: no TOML ({error})", file=file) from error


def _rule(given: Any, where: str) -> ToolRule:
    if not isinstance(given, dict):
        raise _wrong(where, "must be a table")
    _expect_keys(given, {"action", "sensitive", "arguments", "trusted"}, where)
    sensitive = given.get("sensitive", [])
    if not isinstance(sensitive, list) or not all(
        isinstance(one, str) and one for one in sensitive
    ):
        raise _wrong(f"{where}.sensitive", "must be a list of arguments' names")
    trusted = given.get("trusted", False)
    if not isinstance(trusted, bool):
        raise _wrong(f"{where}.trusted", "must be true or false")
    arguments = given.get("arguments")
    if arguments is not None:
        schema.check(arguments, where=f"{where}.arguments")
        _expect_declared(sensitive, arguments, where)
    return ToolRule(
        action=_action(given.get("action", "deny"), f"{where}.action"),
        sensitive=tuple(sensitive),
        arguments=arguments,
        trusted=trusted,
    )


def _expect_declared(sensitive: list[str], arguments: Any, where: str) -> None:
    """Where the schema lists a tool's arguments, a sensitive one is among them: else it is
    misspelt, and protects nothing."""
    declared = arguments.get("properties") if isinstance(arguments, dict) else None
    for name in sensitive:
        if declared and name != EVERYTHING and name.split(".")[0] not in declared:
            raise _wrong(f"{where}.sensitive", f"names {name[:60]!r}, which is no argument")


def _action(given: Any, where: str) -> ToolAction:
    if given not in ACTIONS:
        raise _wrong(where, f"is {str(given)[:40]!r}: it must be allow, approve or deny")
    return cast(ToolAction, given)


def _expect_keys(given: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in given:
        if key not in known:
            listed = ", ".join(sorted(known))
            raise _wrong(str(key)[:60], f"is no key of {where}: known are {listed}")


def _wrong(where: str, reason: str) -> UsageError:
    return UsageError(f"{where} {reason}", param=where)

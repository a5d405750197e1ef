"""The guard that ``serve`` is handed: the detectors there are, and the owner's policies.

``freehold guard policies`` shows what those come to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli import reviewing
from freehold.cli.output import emit
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.guard.policy import Policy
    from freehold.guard.tools import ToolPolicy
    from freehold.types import Guard


app = typer.Typer(
    help="Judge prompts and answers, by the owner's policies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(reviewing.app, name="review")


@app.command("policies")
def policies(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every policy as it is in force, with its digest; a file that is wrong is named."""
    import msgspec

    settings = read_settings(root())
    found = policies_of(settings)
    told = {name: {"digest": one.digest} | msgspec.to_builtins(one) for name, one in found.items()}
    lines: list[str] = []
    for name, keys in told.items():
        lines.append(name + (", of keys that name none" if name == settings.guard_policy else ""))
        lines += [f"  {key} = {value!r}" for key, value in keys.items()]
    emit(told, lines, as_json=json)


def policies_of(settings: Settings) -> Mapping[str, Policy]:
    """The policies there are, by name. Raises ``UsageError`` for a file that is wrong, and for a
    policy of the settings' that is not among them."""
    from freehold.guard.policy import BUILT_IN, read_policies

    path = root() / settings.guard_policies
    named = settings.guard_policies != Settings.guard_policies
    policies = read_policies(path) if named or path.is_file() else BUILT_IN
    if settings.guard_policy not in policies:
        raise UsageError(
            f"guard_policy is {settings.guard_policy!r}: these there are: "
            f"{', '.join(sorted(policies))}",
            param="guard_policy",
        )
    return policies


def tools_of(policies: Mapping[str, Policy]) -> dict[str, ToolPolicy]:
    """The rules for tools that policies name, by their files' names. Raises ``UsageError`` or
    ``MalformedError`` naming the file and the key."""
    from freehold.guard.tools import read

    found: dict[str, ToolPolicy] = {}
    for name in {policy.tools for policy in policies.values()} - {""}:
        path = root() / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", param="tools") from error
        try:
            found[name] = read(data, file=str(path))
        except UsageError as error:
            raise UsageError(f"{path}: {error}", param=error.param) from None
    return found


def guard_of(settings: Settings) -> Callable[[], Guard | None]:
    """What makes the guard: the owner's files are read now, the detectors when it is called, in a
    process that is locked. ``None`` where the owner has turned it off.

    Raises ``UsageError`` or ``MalformedError`` naming the file and the key.
    """
    if settings.guard == "off":
        return lambda: None
    found = policies_of(settings)
    rules = tools_of(found)

    def make() -> Guard:
        from freehold.guard.cascade import Cascade
        from freehold.guard.pii import PersonalData

        return Cascade(
            found,
            detectors=[],
            finders=[PersonalData()],
            tools=rules,
            default=settings.guard_policy,
        )

    return make

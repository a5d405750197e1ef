"""The guard that ``serve`` is handed: the detectors there are, and the owner's policies.

``freehold guard policies`` shows what those come to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli.home import stay_single
from freehold.cli.hosting import living, starting
from freehold.cli.output import Bar, emit
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings
from freehold.errors import UsageError

if TYPE_CHECKING:
    from freehold.cli.asking import Endpoint
    from freehold.cli.home import Home
    from freehold.engine.child import Child
    from freehold.engine.wire import Readout
    from freehold.guard.policy import Policy
    from freehold.guard.tools import ToolPolicy
    from freehold.types import Guard


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


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The owner's files, read: policies by name, and the rules for tools that they name.
    ``weights`` are the fast tier's; ``None`` takes those shipped. ``probe`` is a probe's file."""

    policies: Mapping[str, Policy]
    tools: Mapping[str, ToolPolicy]
    weights: bytes | None = None
    probe: bytes | None = None


def rules_of(settings: Settings) -> Rules | None:
    """What the guard is to go by; ``None`` where the owner has turned it off. Raises ``UsageError``
    or ``MalformedError`` naming the file and the key."""
    stay_single()  # the detectors need numpy, which comes before the lock
    if settings.guard == "off":
        return None
    found = policies_of(settings)
    asking = sorted(name for name, policy in found.items() if policy.model != "off")
    if asking and not (settings.guard_model or settings.guard_endpoint):
        raise UsageError(
            f"the policy {asking[0]!r} asks a guard model, and neither guard_model nor "
            "guard_endpoint names one",
            param="guard_model",
        )
    if settings.guard_probe and settings.engine != Settings.engine:
        raise UsageError(
            f"guard_probe needs Freehold's own engine, and engine is {settings.engine!r}",
            param="guard_probe",
        )
    return Rules(
        policies=found,
        tools=tools_of(found),
        weights=_file(settings, "guard_weights"),
        probe=_file(settings, "guard_probe"),
    )


def _file(settings: Settings, key: str) -> bytes | None:
    if not (named := getattr(settings, key)):
        return None
    path = Path(named).expanduser()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", param=key) from error


def readout_of(settings: Settings, rules: Rules | None) -> Readout | None:
    """What the engine is to read off its model's rows for the probe, if there is one. Raises
    ``MalformedError``."""
    if rules is None or rules.probe is None:
        return None
    from freehold.engine.wire import Readout
    from freehold.guard.probe import load

    probe = load(rules.probe, name=settings.guard_probe)
    return Readout(
        digest=probe.model,
        layers=list(probe.layers),
        channels=probe.weights.shape[2],
        weights=probe.weights.astype("<f4").tobytes(),
    )


@contextmanager
def judge_starting(settings: Settings, home: Home) -> Iterator[Child | None]:
    """Start the guard model's engine process, where there is to be one; as ``hosting.starting``."""
    if settings.guard == "off" or not settings.guard_model:
        yield None
        return
    with starting(_of_judge(settings), home) as child:
        yield child


@asynccontextmanager
async def guarded(
    settings: Settings,
    rules: Rules | None,
    bar: Bar,
    child: Child | None,
    endpoint: Endpoint | None = None,
) -> AsyncIterator[Guard | None]:
    """The guard: detectors' weights read, the guard model answering, or asked at ``endpoint``.
    Raises what ``living`` raises,
    and ``MalformedError`` for a model that is no guard."""
    if rules is None:
        yield None
        return
    from freehold.guard.cascade import Cascade
    from freehold.guard.fast import FastTier, load
    from freehold.guard.pii import PersonalData
    from freehold.guard.probe import load as load_probe

    fast = FastTier()
    if rules.weights is not None:
        fast = FastTier(load(rules.weights, name=settings.guard_weights))
    probe = None
    if rules.probe is not None:
        probe = load_probe(rules.probe, name=settings.guard_probe)
    async with AsyncExitStack() as stack:
        judge = None
        if endpoint is not None:
            from freehold.cli.asking import asking
            from freehold.guard.judging import ModelJudge

            judge = ModelJudge(await stack.enter_async_context(asking(endpoint)))
        if child is not None:
            from freehold.guard.judging import ModelJudge
            from freehold.guard.model import EngineGuard

            model = await stack.enter_async_context(living(_of_judge(settings), bar, child))
            judge = ModelJudge(EngineGuard(model.engine, model.codec))
        yield Cascade(
            rules.policies,
            detectors=[fast],
            finders=[PersonalData()],
            judge=judge,
            probe=probe,
            tools=rules.tools,
            default=settings.guard_policy,
        )


def _of_judge(settings: Settings) -> Settings:
    """An engine for short answers of one model: nothing is guessed ahead."""
    return replace(
        settings, model=settings.guard_model, engine=Settings.engine, speculate="off", draft="off"
    )

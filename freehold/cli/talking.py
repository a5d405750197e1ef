"""``freehold chat``: a conversation in the terminal, with nothing in between."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from freehold.cli import options
from freehold.cli.home import at_home, existing
from freehold.cli.hosting import living, starting
from freehold.cli.output import Bar
from freehold.cli.places import root
from freehold.cli.settings import Settings, read_settings

if TYPE_CHECKING:
    from freehold.cli.home import Home
    from freehold.engine.child import Child


def chat(
    model: options.ModelOrDefault = None,
    system: Annotated[str | None, typer.Option(help="Instructions for the model.")] = None,
    temperature: Annotated[float, typer.Option(help="0 for the likeliest answer.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 1024,
    seed: Annotated[int | None, typer.Option(help="Makes answers repeatable.")] = None,
    backend: options.Backend = None,
    dtype: options.Dtype = None,
    no_lock: Annotated[bool, typer.Option("--no-lock", help="Leave every way out open.")] = False,
) -> None:
    """Talk to a model in the terminal. Piped text is answered once.

    Ctrl-C stops an answer, Ctrl-D ends the conversation.
    """
    settings = read_settings(
        root(),
        model=model,
        backend=backend,
        dtype=dtype,
        residency="off" if no_lock else None,
    )
    history = existing(root() / "chat_history")
    with at_home(settings, "front", write=(history,)) as home:
        home.shut_files()
        with starting(settings, home) as child:
            _chat(settings, home, child, system, temperature, max_tokens, seed)


def _chat(
    settings: Settings,
    home: Home,
    child: Child,
    system: str | None,
    temperature: float,
    max_tokens: int,
    seed: int | None,
) -> None:
    import secrets

    from freehold.cli.conversation import Talk, converse
    from freehold.types import Sampling

    talk = Talk(
        system=system,
        sampling=Sampling(
            temperature=temperature,
            max_tokens=max_tokens,
            seed=secrets.randbits(32) if seed is None else seed,
        ),
    )
    # One runner for the whole conversation: the engine's pipe belongs to its loop, and it turns
    # Ctrl-C into the cancellation of the answer that is being written.
    with asyncio.Runner() as runner, Bar() as bar:
        stack = AsyncExitStack()
        living_model = runner.run(stack.enter_async_context(living(settings, bar, child)))
        try:
            home.shut_calls()
            if sys.stdin.isatty():
                converse(runner, living_model, talk)
            else:
                runner.run(talk.answer(living_model, sys.stdin.read()))
        finally:
            runner.run(stack.aclose())

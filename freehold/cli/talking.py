"""``freehold chat``: a conversation in the terminal, with nothing in between."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Annotated

import typer

from freehold.cli.hosting import Living, living
from freehold.cli.output import Bar, say
from freehold.cli.places import root
from freehold.cli.settings import read_settings
from freehold.errors import ContextOverflowError
from freehold.types import Sampling, Token

HELP = "/clear forgets the conversation, /system TEXT sets instructions, /exit or Ctrl-D leaves"


def chat(
    model: Annotated[
        str | None, typer.Argument(help="A model in the vault. Without one: the default model.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="Instructions for the model.")] = None,
    temperature: Annotated[float, typer.Option(help="0 for the likeliest answer.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 1024,
    seed: Annotated[int | None, typer.Option(help="Makes answers repeatable.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16 [float32].")] = None,
) -> None:
    """Talk to a model in the terminal. Piped text is answered once.

    Ctrl-C stops an answer, Ctrl-D ends the conversation.
    """
    import secrets

    settings = read_settings(root(), model=model, dtype=dtype)
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
        living_model = runner.run(stack.enter_async_context(living(settings.model, settings, bar)))
        try:
            if sys.stdin.isatty():
                _converse(runner, living_model, talk)
            else:
                runner.run(talk.answer(living_model, sys.stdin.read()))
        finally:
            runner.run(stack.aclose())


@dataclass(kw_only=True)
class Talk:
    """What has been said so far."""

    system: str | None
    sampling: Sampling
    said: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, model: Living, question: str) -> None:
        """Print the answer as it is written and remember it, also one that was stopped."""
        from dataclasses import replace

        head = [{"role": "system", "content": self.system}] if self.system else []
        self.said.append({"role": "user", "content": question})
        ids = model.codec.chat([*head, *self.said])
        decoder = model.codec.decoder()
        written: list[str] = []
        sampling = replace(self.sampling, stop_ids=model.codec.stop_ids)
        try:
            async for event in model.engine.generate(ids, sampling):
                if isinstance(event, Token):
                    written.append(decoder.push(event.id).text)
                    print(written[-1], end="", flush=True)
            written.append(decoder.finish().text)
            print(written[-1])
        finally:
            self.said.append({"role": "assistant", "content": "".join(written)})


def _converse(runner: asyncio.Runner, model: Living, talk: Talk) -> None:
    say(f"{model.name}. {HELP}")
    _remember_lines()
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            say("\nCtrl-D or /exit leaves")
            continue
        if line == "/exit":
            return
        if line.startswith("/"):
            _obey(line, talk)
        elif line:
            try:
                runner.run(talk.answer(model, line))
            except KeyboardInterrupt:
                say("\n(stopped)")
            except ContextOverflowError as error:
                talk.said.clear()
                say(f"{error}. The conversation was cleared.")


def _obey(line: str, talk: Talk) -> None:
    command, _, rest = line.partition(" ")
    if command == "/clear":
        talk.said.clear()
        say("cleared")
    elif command == "/system":
        talk.system = rest.strip() or None
        talk.said.clear()
        say("instructions set, conversation cleared" if talk.system else "no instructions")
    else:
        say(HELP)


def _remember_lines() -> None:
    """Line editing and a history that outlives the conversation, readable by its owner only."""
    try:
        import readline
    except ImportError:  # Windows: input() works without
        return
    import atexit
    import os

    path = root() / "chat_history"
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    readline.read_history_file(path)
    readline.set_history_length(1000)
    atexit.register(readline.write_history_file, path)

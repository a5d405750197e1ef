"""A conversation in the terminal: what was said, how an answer is printed, what / commands do."""

from __future__ import annotations

import asyncio
import atexit
import os
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from freehold.cli.hosting import Living
from freehold.cli.output import say
from freehold.cli.places import root
from freehold.errors import ContextOverflowError
from freehold.types import Sampling, Token

HELP = "/clear forgets the conversation, /system TEXT sets instructions, /exit or Ctrl-D leaves"


@dataclass(kw_only=True)
class Talk:
    """What has been said so far."""

    system: str | None
    sampling: Sampling
    said: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, model: Living, question: str) -> None:
        """Print the answer as it is written and remember it, also one that was stopped."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        self.said.append({"role": "user", "content": question})
        ids = model.codec.chat([*head, *self.said])
        decoder = model.codec.decoder()
        written: list[str] = []
        sampling = replace(self.sampling, stop_ids=model.codec.stop_ids)
        try:
            async with aclosing(model.engine.generate(ids, sampling)) as events:
                async for event in events:
                    if isinstance(event, Token):
                        written.append(decoder.push(event.id).text)
                        print(written[-1], end="", flush=True)
            written.append(decoder.finish().text)
            print(written[-1])
        finally:
            self.said.append({"role": "assistant", "content": "".join(written)})


def converse(runner: asyncio.Runner, model: Living, talk: Talk) -> None:
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
    path = root() / "chat_history"
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    readline.read_history_file(path)
    readline.set_history_length(1000)
    atexit.register(readline.write_history_file, path)

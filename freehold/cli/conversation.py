"""A conversation in the terminal: what was said, how an answer is printed, what / commands do."""

from __future__ import annotations

import asyncio
import atexit
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from types import ModuleType

from freehold.cli.hosting import Living
from freehold.cli.output import say
from freehold.cli.places import root
from freehold.errors import ContextOverflowError
from freehold.types import Sampling, Token

_HISTORY = 1000  # lines kept
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
    readline.read_history_file(path)
    # In place: readline's own writing makes a second file, for which the lock leaves no room.
    atexit.register(lambda: path.write_text(_lines(readline), encoding="utf-8"))


def _lines(readline: ModuleType) -> str:
    last = readline.get_current_history_length()
    kept = range(max(1, last + 1 - _HISTORY), last + 1)
    return "".join(f"{readline.get_history_item(i)}\n" for i in kept)

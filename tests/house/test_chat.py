"""``freehold chat`` on the real model: piped, and typed into a terminal."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pexpect

from freehold.store import Store
from tests.house.running import FREEHOLD


def test_piped_text_is_answered_once(real_root: Path) -> None:
    done = subprocess.run(
        [*FREEHOLD, "chat", "--temperature", "0"],
        check=True,
        input="What is the capital of France?",
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "FREEHOLD_HOME": str(real_root)},
    )
    assert "Paris" in done.stdout


def test_a_conversation_in_a_terminal(real_root: Path, tmp_path: Path) -> None:
    """It remembers, Ctrl-C stops an answer and not the conversation, history is private."""
    home = tmp_path / "home"
    home.mkdir()
    for part in Store(real_root).root.iterdir():
        (home / part.name).symlink_to(part)
    terminal = pexpect.spawn(
        sys.executable,
        [*FREEHOLD[1:], "chat", "--temperature", "0", "--seed", "1"],
        env={**os.environ, "FREEHOLD_HOME": str(home), "TERM": "dumb"},
        encoding="utf-8",
        timeout=120,
    )
    terminal.expect("> ")
    terminal.sendline("My name is Ada. Say hello.")
    terminal.expect("Ada.*\r\n.*> ")
    terminal.sendline("Count from 1 to 500, one number a line.")
    terminal.expect("7\r\n")
    terminal.sendintr()
    terminal.expect("stopped")
    terminal.expect("> ")
    terminal.sendline("What is my name?")
    terminal.expect("Ada.*\r\n.*> ")
    terminal.sendline("/exit")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    history = home / "chat_history"
    assert "My name is Ada" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600

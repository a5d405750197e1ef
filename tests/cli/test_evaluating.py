"""``freehold eval`` from a shell."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run


def test_what_cannot_be_asked_is_said(freehold: Run, tmp_path: Path) -> None:
    done = freehold("eval", "--json")
    assert done.returncode == 2
    assert "--suite NAMES or --text FILE" in done.stdout
    done = freehold("eval", "--suite", "maths")
    assert done.returncode == 2
    assert "'maths' is no suite (" in done.stderr
    done = freehold("eval", "--suite", "gsm8k", "--limit", "0")
    assert done.returncode == 2
    assert "limit is 0" in done.stderr
    done = freehold("eval", "--suite", "gsm8k", "--at-once", "1000")
    assert done.returncode == 2
    assert "the engine takes 320 requests" in done.stderr
    mine = tmp_path / "mine.toml"
    mine.write_text("name = 3")
    done = freehold("eval", "--suite", str(mine))
    assert done.returncode == 3
    assert "mine.toml: no task" in done.stderr
    done = freehold("eval", "--suite", "gsm8k", "--against", str(tmp_path / "results.json"))
    assert done.returncode == 2
    assert "there are no results" in done.stderr

"""``freehold audit selftest`` from a shell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from freehold.cli.output import Bar
from tests.cli.conftest import Run


def test_a_rule_is_frozen_on_all_models_only(freehold: Run, tmp_path: Path) -> None:
    done = freehold("audit", "selftest", "--freeze", str(tmp_path / "rule.json"), "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["param"] == "freeze"
    assert not (tmp_path / "rule.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_the_quick_version_prints_a_table_and_goes_on_where_it_was(
    freehold: Run, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the extra `lab` is not installed")
    from freehold.audit.bed import running

    running.run(running.QUICK, tmp_path, Bar(quiet=True), threads=1)
    lines = (tmp_path / "results.jsonl").read_text()
    assert lines.count("\n") == 14
    done = freehold("audit", "selftest", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"14 models, about \d+ minutes of one core", done.stderr)
    assert "| clean, all | " in done.stdout
    again = freehold("audit", "selftest", "--keep", str(tmp_path), "--json")
    assert json.loads(again.stdout)["models"] == 14
    assert (tmp_path / "results.jsonl").read_text() == lines

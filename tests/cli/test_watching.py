"""``freehold guard policies`` and ``review`` as a shell runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from freehold.cli.keyring import open_keyring
from freehold.serve.reviews import Review, Reviews, Submission
from freehold.types import Verdict
from tests.cli.conftest import Run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder that ``freehold`` runs with."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


def test_policies_are_shown_as_they_are_in_force(freehold: Run, home: Path) -> None:
    (home / "guard.toml").write_text('[policy.bank]\nlike = "block"\nhold = 64\n')
    (home / "freehold.toml").write_text('guard_policy = "bank"\n')
    found = json.loads(freehold("guard", "policies", "--json").stdout)
    assert set(found) == {"warn", "block", "bank"}
    assert (found["bank"]["hold"], found["bank"]["prompt"]["jailbreak"]) == (64, "block")
    assert "bank, of keys that name none" in freehold("guard", "policies").stdout


@pytest.mark.parametrize(
    ("policies", "settings", "named"),
    [
        ("[policy.bank]\nholds = 64\n", "", "guard.toml: [policy.bank]"),
        ("", 'guard_policy = "gone"\n', "guard_policy is 'gone'"),
        ("", 'guard_policies = "gone.toml"\n', "gone.toml cannot be read"),
        ('[policy.bank]\nmodel = "always"\n', "", "'bank' asks a guard model"),
        ('[policy.bank]\ntools = "gone.toml"\n', "", "gone.toml cannot be read"),
    ],
)
def test_a_server_does_not_start_with_rules_that_are_wrong(
    freehold: Run, home: Path, policies: str, settings: str, named: str
) -> None:
    if policies:
        (home / "guard.toml").write_text(policies)
    (home / "freehold.toml").write_text(settings)
    done = freehold("serve", "--port", "0", "--temporary-key")
    assert done.returncode == 2
    assert named in done.stderr


def test_people_decide(freehold: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing waits" in freehold("guard", "review", "list").stdout
    monkeypatch.setenv("FREEHOLD_HOME", str(home))
    reviews = Reviews(open_keyring().url)
    about = Submission(key="k", policy="bank", side="prompt", text="a\x1b[2Jtext")
    verdict = Verdict(action="review", flagged=("harmful",), reasons=("harmful 0.9",))
    number, approved = reviews._submit(about, verdict, True)
    assert not approved
    (listed,) = json.loads(freehold("guard", "review", "list", "--json").stdout)
    assert (listed["id"], listed["categories"]) == (number, ["harmful"])
    shown = freehold("guard", "review", "show", number).stdout
    assert "harmful 0.9" in shown
    assert "\x1b" not in shown, "a text must not steer the terminal"
    assert f"approved {number}" in freehold("guard", "review", "approve", number).stdout
    one: Review = reviews.find(number)
    assert (one.state, one.content) == ("approved", None)
    assert freehold("guard", "review", "refuse", "gone").returncode == 2
    reviews.close()

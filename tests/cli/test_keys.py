"""``freehold keys`` as a shell runs it: limits given and changed, usage told and priced."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.cli.pricing import Price, read_prices
from freehold.errors import NotFoundError, UsageError
from freehold.serve.database import exclusive
from freehold.serve.keys import Keyring
from tests.cli.conftest import Run

FEW = ("--requests-per-minute", "3", "--token-budget", "1000")
USAGE = "INSERT INTO key_usage VALUES (:key, 'm', :day, 2, 1000000, 400000, 500000)"


def test_limits_are_given_listed_and_changed(freehold: Run) -> None:
    made = freehold("keys", "add", "team", *FEW, "--model", "a", "--expires", "30d", "--json")
    new = json.loads(made.stdout)
    end = datetime.fromisoformat(new["limits"].pop("expires"))
    assert timedelta(days=29) < end - datetime.now(UTC) < timedelta(days=31)
    assert new["limits"] == {"models": ["a"], "requests_per_minute": 3, "token_budget": 1000}
    shown = freehold("keys", "list").stdout
    assert "requests per minute 3" in shown
    changed = freehold("keys", "limit", "team", "--expires", "2020-01-31", "--json")
    assert json.loads(changed.stdout)["limits"] == {"expires": "2020-01-31T00:00:00+00:00"}
    assert "expired" in freehold("keys", "list").stdout
    assert "none" in freehold("keys", "limit", "team").stdout
    assert json.loads(freehold("keys", "list", "--json").stdout)[0]["limits"] == {}


@pytest.mark.parametrize(
    "words",
    [
        ("--expires", "soon"),
        ("--expires", "99999999999d"),
        ("--concurrency", "-1"),
        ("--model", ""),
    ],
)
def test_limits_that_cannot_be_are_named(freehold: Run, words: tuple[str, str]) -> None:
    done = freehold("keys", "add", "team", *words)
    assert done.returncode == 2
    assert words[0].strip("-")[:5] in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_is_told_and_priced(freehold: Run, tmp_path: Path) -> None:
    assert "nothing was used" in freehold("keys", "usage").stdout
    key = json.loads(freehold("keys", "add", "team", "--json").stdout)["id"]
    ring = Keyring(f"sqlite:///{tmp_path / 'home' / 'keys.sqlite'}")
    today = (datetime.now(UTC).date() - datetime(1970, 1, 1, tzinfo=UTC).date()).days
    with exclusive(ring._engine) as db:
        for day in (today, today - 1, today - 40):
            db.exec_driver_sql(USAGE.replace(":key", f"'{key}'").replace(":day", str(day)))
    (tmp_path / "prices.toml").write_text(
        '["some cloud"]\ninput = 2\ncached = 1\noutput = 10\n[other]\ninput = 1\noutput = 0\n'
    )
    words = ("keys", "usage", "--prices", str(tmp_path / "prices.toml"))
    (row,) = json.loads(freehold(*words, "--json").stdout)["usage"]
    assert (row["key"], row["name"], row["model"]) == (key, "team", "m")
    assert (row["requests"], row["prompt_tokens"], row["cached_tokens"]) == (4, 2_000_000, 800_000)
    # 1.2 million at 2, 0.8 at 1, and 1 million of answers at 10
    assert row["estimates"] == {"some cloud": pytest.approx(13.2), "other": pytest.approx(2.0)}
    shown = freehold(*words, "--days", "1").stdout
    assert "some cloud" in shown
    assert "6.60" in shown


def test_a_missing_price_list_is_named(freehold: Run) -> None:
    done = freehold("keys", "usage", "--prices", "nowhere.toml")
    assert done.returncode == 2
    assert "nowhere.toml" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "input = 1",
        "[a]",
        "[a]\ninput = 1",
        "[a]\ninput = -1\noutput = 1",
        "[a]\ninput = nan\noutput = 1",
        "[a]\ninput = true\noutput = 1",
        "[a]\ninput = 1\noutput = 1\nthrow = 1",
        "\n".join(f"[a{i}]\ninput = 1\noutput = 1" for i in range(17)),
        "not = [toml",
    ],
)
def test_prices_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_prices(path)


@given(st.binary(max_size=60))
def test_any_file_is_prices_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "prices.toml"
    path.write_bytes(content)
    told: list[Price] | UsageError
    try:
        told = read_prices(path)
    except UsageError as error:
        told = error
    assert isinstance(told, UsageError) or all(math.isfinite(one.input) for one in told)


def test_no_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_prices(tmp_path / "nowhere.toml")

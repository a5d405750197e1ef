"""The owner's file of policies, read strictly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import UsageError
from freehold.guard.policy import (
    ACTIONS,
    BUILT_IN,
    CATEGORIES,
    Policy,
    parse_policies,
    read_policies,
)


def test_a_policy_begins_as_the_one_it_is_like() -> None:
    found = parse_policies("""
        [policy.bank]
        like = "strict"
        refusal = "No."
        [policy.strict]
        like = "block"
        answer = {toxicity = "warn"}
        thresholds = {jailbreak = 0.8}
    """)
    strict, bank = found["strict"], found["bank"]
    assert strict.answer == BUILT_IN["block"].answer | {"toxicity": "warn"}
    assert strict.prompt == BUILT_IN["block"].prompt
    assert (bank.refusal, bank.thresholds) == ("No.", {"jailbreak": 0.8})
    assert bank.digest != strict.digest
    assert set(found) == {"warn", "block", "strict", "bank"}


def test_a_built_in_policy_can_be_changed() -> None:
    found = parse_policies('[policy.warn]\nprompt = {political = "warn"}')
    assert found["warn"].prompt == BUILT_IN["warn"].prompt | {"political": "warn"}


def test_the_vendors_politics_are_nobodys_unless_the_owner_says_so() -> None:
    for policy in BUILT_IN.values():
        assert policy.prompt.get("political", "allow") == "allow"
        assert policy.answer.get("political", "allow") == "allow"


def test_only_what_can_cut_or_mask_holds_answers_back() -> None:
    assert not BUILT_IN["warn"].holds
    assert BUILT_IN["block"].holds
    found = parse_policies("""
        [policy.a]
        labels = {iban = "mask"}
        [policy.b]
        labels = {iban = "mask"}
        answer = {secret = "allow"}
    """)
    assert found["a"].holds
    assert not found["b"].holds, "nothing looks for data there"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("policy = 1", "policy"),
        ("guard = 'on'", "guard"),
        ("[policy]\nx = 1", "policy.x"),
        ("[policy.x]\nunknown = 1", "unknown"),
        ("[policy.x]\nprompt = {harmfull = 'block'}", "prompt"),
        ("[policy.x]\nprompt = {harmful = 'kill'}", "prompt"),
        ("[policy.x]\nprompt = {harmful = 'mask'}", "prompt.harmful"),
        ("[policy.x]\nthresholds = {harmful = 2.0}", "thresholds.harmful"),
        ("[policy.x]\nthresholds = {harmful = nan}", "thresholds.harmful"),
        ("[policy.x]\nband = [0.9, 0.1]", "band"),
        ("[policy.x]\nhold = 0", "hold"),
        ("[policy.x]\nhold = '8'", "hold"),
        ("[policy.x]\nseconds = 0.0", "seconds"),
        ("[policy.x]\nrefusal = ''", "refusal"),
        ("[policy.x]\nlike = 'y'", "like"),
        ("[policy.x]\nlike = 1", "like"),
        ("[policy.x]\nlike = 'y'\n[policy.y]\nlike = 'x'", "like"),
        ("[policy.x]\nroles = ['robot']", "roles"),
        ("not toml", "TOML"),
    ],
)
def test_what_cannot_be_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_policies(text)


def test_a_file_is_named_by_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "guard.toml"
    with pytest.raises(UsageError, match=r"guard\.toml cannot be read"):
        read_policies(path)
    path.write_bytes(b"[policy.\xff]")
    with pytest.raises(UsageError, match=r"guard\.toml is not UTF-8"):
        read_policies(path)
    path.write_text("[policy.x]\nhold = 0")
    with pytest.raises(UsageError, match=r"guard.toml: \[policy.x\] hold is 0"):
        read_policies(path)


KEYS = st.sampled_from(["like", "prompt", "answer", "thresholds", "hold", "band", "roles", "x"])
VALUES = st.one_of(
    st.integers(-5, 5),
    st.floats(),
    st.sampled_from(['"block"', '"warn"', "[]", "[0.1, 0.2]", "true", '"x"', "[[1]]"]),
    st.builds(
        lambda c, a: f'{{{c} = "{a}"}}', st.sampled_from(CATEGORIES), st.sampled_from(ACTIONS)
    ),
)


@given(st.dictionaries(KEYS, VALUES, max_size=4) | st.text(max_size=60))
def test_any_file_is_read_or_refused(given_: dict[str, object] | str) -> None:
    lines = (
        given_ if isinstance(given_, str) else "\n".join(f"{k} = {v}" for k, v in given_.items())
    )
    try:
        found = parse_policies(f"[policy.x]\n{lines}")
    except UsageError:
        return
    assert BUILT_IN.keys() <= found.keys()


def test_every_key_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "guard-serving.md"
    told = set(re.findall(r"`([\w-]+)`", page.read_text(encoding="utf-8")))
    assert {*Policy.__struct_fields__, "like", *CATEGORIES, *ACTIONS} <= told


def test_answers_have_a_threshold_of_their_own_but_not_for_data() -> None:
    rules = parse_policies('[policy.bank]\nlike = "block"\nanswer_threshold = 0.8')["bank"]
    assert rules.limit("prompt", "harmful") == 0.5
    assert rules.limit("answer", "harmful") == 0.8
    assert rules.limit("answer", "personal") == 0.5
    with pytest.raises(UsageError, match=r"answer_threshold is 1\.5"):
        parse_policies("[policy.bank]\nanswer_threshold = 1.5")

"""Check digits against python-stdnum, which shares no code with ours."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from freehold.guard.pii import checks

N = 20_000


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(n))


def day(rng: random.Random) -> str:
    return f"{rng.randrange(100):02}{rng.randint(1, 12):02}{rng.randint(1, 31):02}"


RULES: list[tuple[str, str, Callable[[random.Random], str]]] = [
    ("luhn", "luhn", lambda rng: digits(rng, 16)),
    ("verhoeff", "verhoeff", lambda rng: digits(rng, 12)),
    ("pesel", "pl.pesel", lambda rng: day(rng) + digits(rng, 5)),
    ("nip", "pl.nip", lambda rng: rng.choice("123456789") + digits(rng, 9)),
    ("aadhaar", "in_.aadhaar", lambda rng: digits(rng, 12)),
    ("thai", "th.pin", lambda rng: digits(rng, 13)),
    ("steuer_id", "de.idnr", lambda rng: digits(rng, 11)),
    ("npwp", "id.npwp", lambda rng: digits(rng, 15)),
    ("mykad", "my.nric", lambda rng: day(rng) + digits(rng, 6)),
    ("ssn", "us.ssn", lambda rng: digits(rng, 9)),
]


@pytest.mark.parametrize(("ours", "theirs", "drawn"), RULES, ids=[rule[0] for rule in RULES])
def test_as_stdnum_says(ours: str, theirs: str, drawn: Callable[[random.Random], str]) -> None:
    check, oracle = getattr(checks, ours), import_module(f"stdnum.{theirs}").is_valid
    rng, valid = random.Random(ours), 0
    for _ in range(N):
        number = drawn(rng)
        assert check(number) == bool(oracle(number)), number
        valid += check(number)
    assert 20 < valid < N


def test_french_keys_as_stdnum_says() -> None:
    """Where it and we agree on what a month is; Corsica's letters included."""
    from stdnum.fr import nir

    rng, valid = random.Random(1), 0
    for _ in range(N):
        place = rng.choice(["75", "2A", "2B", "13"])
        number = f"{rng.choice('12')}{digits(rng, 2)}{rng.randint(1, 12):02}{place}{digits(rng, 8)}"
        if number[10:13] == "000":
            continue
        assert checks.nir(number) == bool(nir.is_valid(number)), number
        valid += checks.nir(number)
    assert valid > 50


def test_korean_and_chinese_keys_as_stdnum_says() -> None:
    """Dates in the past; for China the check character alone: its list of places is not ours."""
    from stdnum.cn import ric
    from stdnum.kr import rrn

    rng, valid = random.Random(2), 0
    for _ in range(N):
        born = f"{rng.randrange(50, 99)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
        number = f"{born}{rng.choice('12')}{rng.randint(0, 90):02}{digits(rng, 4)}"
        assert checks.rrn(number) == bool(rrn.is_valid(number)), number
        number = f"110101 19{born}{digits(rng, 3)}".replace(" ", "") + rng.choice("0123456789X")
        assert checks.ric(number) == (ric.calc_check_digit(number) == number[17]), number
        valid += checks.ric(number)
    assert valid > 500


def test_ibans_as_stdnum_says() -> None:
    from faker import Faker
    from stdnum import iban

    rng = random.Random(3)
    for locale in ("de_DE", "pl_PL", "fr_FR", "es_ES", "nl_NL", "it_IT"):
        fake = Faker(locale)
        fake.seed_instance(3)
        for _ in range(200):
            number = str(fake.iban())
            place = rng.randrange(4, len(number))
            changed = number[:place] + rng.choice("0123456789") + number[place + 1 :]
            for one in (number, changed):
                assert checks.iban(one) == iban.is_valid(one, check_country=False), one


def test_singapore_numbers_that_are_public() -> None:
    """Examples from public documentation; one letter away they are none."""
    for number in ("S1234567D", "S0000001I", "F1234567N", "G1234567X", "M1234567K", "T1234567J"):
        assert checks.nric(number)
        assert not checks.nric(number[:8] + ("A" if number[8] != "A" else "B"))


@pytest.mark.parametrize(
    ("number", "valid"),
    [
        ("3171011708450001", True),
        ("3171015708450001", True),  # a woman: day 17 + 40
        ("3171013202450001", False),  # no 32nd
        ("3171017208450001", False),  # 72 - 40 = 32
        ("0071011708450001", False),  # no such province
        ("3171011713450001", False),  # no 13th month
        ("3171011708450000", False),  # no such running number
        ("3171002902990001", False),  # no such district
        ("3171012902960001", True),  # 1996 had a 29 February
        ("3171012902990001", False),
    ],
)
def test_indonesian_structure(number: str, valid: bool) -> None:
    assert checks.nik(number) == valid


@pytest.mark.parametrize(
    ("number", "valid"),
    [
        *(("4111111111111111", True), ("4111111111111112", False), ("378282246310005", True)),
        *(("6011111111111117", True), ("5555555555554444", True), ("3530111333300000", True)),
        *(("1111111111111117", False), ("30569309025904", True), ("6200000000000005", True)),
    ],
)
def test_cards_of_networks(number: str, valid: bool) -> None:
    """The networks' published test numbers."""
    assert checks.card(number) == valid


def test_any_digits_are_harmless() -> None:
    rng, every = random.Random(4), [rule for rule, _, _ in RULES]
    lengths: dict[str, Any] = {name: len(drawn(rng)) for name, _, drawn in RULES}
    for digit in "0123456789":
        for name in every:
            assert getattr(checks, name)(digit * lengths[name]) in (True, False)

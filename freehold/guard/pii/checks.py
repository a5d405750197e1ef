"""Check digits and structure of identity numbers. Each takes the bare number: no separators, ASCII
digits and capitals of the right length, and says whether it can be one.

Sources: ISO/IEC 7812-1 (Luhn), ISO 13616 (IBAN) and ISO/IEC 7064 (mod 97-10, 11-10, 11-2), the
issuing offices' published rules for the rest. Tests compare with python-stdnum, which shares no
code with this.
"""

from __future__ import annotations

from calendar import monthrange
from collections import Counter
from collections.abc import Sequence
from itertools import cycle


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def _is_day(year: int, month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= monthrange(year, month)[1]


_DAYS = frozenset(
    f"{month:02}{day:02}"
    for month in range(1, 13)
    for day in range(1, monthrange(2001, month)[1] + 1)
)
"""Months and days of every year."""


def _is_any_centurys_day(yymmdd: str) -> bool:
    """29 February counts if either century had one: 2000 was a leap year."""
    day = yymmdd[2:6]
    return day in _DAYS or (day == "0229" and int(yymmdd[:2]) % 4 == 0)


_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(number: str) -> bool:
    digits = list(map(int, reversed(number)))
    return (sum(digits[::2]) + sum(_DOUBLED[digit] for digit in digits[1::2])) % 10 == 0


_ISSUERS = (
    *((4, 4, (13, 16, 19)), (51, 55, (16,)), (2221, 2720, (16,)), (34, 34, (15,)), (37, 37, (15,))),
    *((36, 36, (14, 16)), (38, 39, (14, 16)), (300, 305, (14, 16)), (3528, 3589, (16, 19))),
    *((6011, 6011, (16, 19)), (644, 659, (16, 19)), (62, 62, (16, 17, 18, 19)), (81, 81, (16,))),
    *((60, 60, (16,)), (508, 508, (16,)), (5018, 5018, (16,)), (5020, 5020, (16,))),
    *((5038, 5038, (16,)), (6304, 6304, (16,)), (6759, 6763, (16,)), (2200, 2204, (16,))),
)
"""First and last leading digits of card networks, and how long their numbers are."""


def _lengths() -> tuple[frozenset[int], ...]:
    """How long a card's number may be, by its first four digits."""
    found: list[set[int]] = [set() for _ in range(10_000)]
    for low, high, lengths in _ISSUERS:
        wide = 10 ** (4 - len(str(low)))
        for place in range(low * wide, (high + 1) * wide):
            found[place].update(lengths)
    return tuple(map(frozenset, found))


_LENGTHS = _lengths()


def card(number: str) -> bool:
    return len(number) in _LENGTHS[int(number[:4])] and len(set(number)) > 1 and luhn(number)


_IBANS = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN_LENGTHS = {country: length for length, them in _IBANS.items() for country in them.split()}
"""How long each country's IBANs are (SWIFT's registry)."""


def iban(number: str) -> bool:
    if IBAN_LENGTHS.get(number[:2]) != len(number) or not number[2:4].isdigit():
        return False
    moved = number[4:] + number[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def pesel(number: str) -> bool:
    """Poland. The month also tells the century."""
    century, month = divmod(int(number[2:4]), 20)
    if century > 4 or not _is_day(
        (1900, 2000, 2100, 2200, 1800)[century] + int(number[:2]), month, int(number[4:6])
    ):
        return False
    return _weighted(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def nip(number: str) -> bool:
    """Poland's tax number of businesses."""
    remainder = _weighted(number, (6, 5, 7, 2, 3, 4, 5, 6, 7)) % 11
    return number[0] != "0" and remainder == int(number[9])


def nric(number: str) -> bool:
    """Singapore's NRIC and FIN."""
    letters = {"S": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "M": "XWUTRQPNJLK"}
    kind = {"T": "S", "G": "F"}.get(number[0], number[0])
    offset = {"T": 4, "G": 4, "M": 3}.get(number[0], 0)
    total = offset + _weighted(number[1:8], (2, 7, 6, 5, 4, 3, 2))
    return letters[kind][total % 11] == number[8]


def _turned(left: int, right: int) -> int:
    turned = left % 5 + (right % 5 if left < 5 else -right % 5)
    return turned % 5 + 5 * ((left < 5) != (right < 5))


_TURNS = tuple(tuple(_turned(left, right) for right in range(10)) for left in range(10))
"""Multiplication in the dihedral group of the pentagon."""
_SHIFT = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _shifts() -> tuple[dict[str, int], ...]:
    """What a digit counts, by its place modulo 8."""
    rows = [list(range(10))]
    while len(rows) < 8:
        rows.append([_SHIFT[digit] for digit in rows[-1]])
    return tuple({str(digit): row[digit] for digit in range(10)} for row in rows)


_SHIFTED = _shifts()


def verhoeff(number: str) -> bool:
    """J. Verhoeff, Error Detecting Decimal Codes, 1969."""
    state = 0
    for character, shifted in zip(reversed(number), cycle(_SHIFTED), strict=False):
        state = _TURNS[state][shifted[character]]
    return state == 0


def aadhaar(number: str) -> bool:
    """India."""
    return number[0] not in "01" and number != number[::-1] and verhoeff(number)


def rrn(number: str) -> bool:
    """South Korea. Numbers given since October 2020 have no check digit: see ``rrn_form``."""
    total = _weighted(number, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5))
    return rrn_form(number) and (11 - total % 11) % 10 == int(number[12])


def rrn_form(number: str) -> bool:
    century = (18, 19, 19, 20, 20, 19, 19, 20, 20, 18)[int(number[6])]
    year = 100 * century + int(number[:2])
    return _is_day(year, int(number[2:4]), int(number[4:6]))


def thai(number: str) -> bool:
    remainder = _weighted(number, range(13, 1, -1)) % 11
    return number[0] not in "09" and (11 - remainder) % 10 == int(number[12])


def steuer_id(number: str) -> bool:
    """Germany: of the first ten digits one comes twice or three times, the others once."""
    often = sorted(Counter(number[:10]).values(), reverse=True)[:2]
    if number[0] == "0" or often not in ([2, 1], [3, 1]):
        return False
    state = 10
    for digit in number[:10]:
        state = ((state + int(digit)) % 10 or 10) * 2 % 11
    return (11 - state) % 10 == int(number[10])


def nir(number: str) -> bool:
    """France's social security number with its key: 15 places, Corsica with a letter."""
    digits = number.replace("2A", "19", 1).replace("2B", "18", 1)
    month = int(digits[3:5])
    return (
        digits[0] in "123478"
        and (1 <= month <= 12 or 20 <= month <= 42 or month >= 50)
        and digits[5:7] != "00"
        and 97 - int(digits[:13]) % 97 == int(digits[13:])
    )


def ric(number: str) -> bool:
    """China's resident identity number (GB 11643-1999)."""
    year, month, day = int(number[6:10]), int(number[10:12]), int(number[12:14])
    if not (11 <= int(number[:2]) <= 91 and 1850 <= year <= 2099 and _is_day(year, month, day)):
        return False
    total = _weighted(number[:17], [pow(2, 17 - place, 11) for place in range(17)])
    return "10X98765432"[total % 11] == number[17]


_NOT_PLACES = frozenset(
    ["00", "17", "18", "19", "20", "69", "70", "73", "80", "81", "94", "95", "96", "97"]
)


def mykad(number: str) -> bool:
    """Malaysia: date and place of birth; there is no check digit."""
    return _is_any_centurys_day(number) and number[6:8] not in _NOT_PLACES


_PROVINCES = frozenset(
    map(str, [*range(11, 22), *range(31, 37), *range(51, 54), *range(61, 66), *range(71, 77)])
) | frozenset(map(str, [81, 82, *range(91, 98)]))


def nik(number: str) -> bool:
    """Indonesia: province, regency, district, date of birth (women's days from 41) and a running
    number; there is no check digit."""
    if number[:2] not in _PROVINCES or number[4:6] == "00" or number[12:] == "0000":
        return False
    day = int(number[6:8])
    born = number[10:12] + number[8:10] + f"{day - 40 * (day > 40):02}"
    return 1 <= int(number[2:4]) <= 79 and _is_any_centurys_day(born)


def npwp(number: str) -> bool:
    """Indonesia's tax number, in its older form of 15 digits."""
    return luhn(number[:9])


def cccd(number: str) -> bool:
    """Vietnam: province and century; there is no check digit."""
    return 1 <= int(number[:3]) <= 96 and number[3] in "0123"


def ssn(number: str) -> bool:
    """United States: there is no check digit."""
    return (
        number[:3] not in ("000", "666")
        and number[0] != "9"
        and number[3:5] != "00"
        and number[5:] != "0000"
    )


def anything(_number: str) -> bool:
    """Numbers whose office published no rule: their form and the words beside them decide."""
    return True

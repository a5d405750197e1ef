"""Telephone numbers by their form: country codes and lengths (ITU-T E.164 and E.129).

Numbers without a country code have no check at all, so a word beside them must speak for them; the
forms people write (a leading zero, groups) only help.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_GROUPS = 8
FEWEST_DIFFERENT = 3
"""Digits that a number has, at least, that are not the same."""

_LENGTHS = {
    "1": (10, 10), "7": (10, 10), "20": (8, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9),
    "32": (8, 9), "33": (9, 9), "34": (9, 9), "36": (8, 9), "39": (6, 11), "40": (9, 9),
    "41": (9, 9), "43": (6, 13), "44": (9, 10), "45": (8, 8), "46": (7, 10), "47": (8, 8),
    "48": (9, 9), "49": (6, 12), "51": (8, 9), "52": (10, 10), "54": (10, 11), "55": (10, 11),
    "56": (9, 9), "57": (8, 10), "60": (8, 10), "61": (9, 9), "62": (7, 12), "63": (8, 10),
    "64": (8, 10), "65": (8, 8), "66": (8, 9), "81": (9, 10), "82": (8, 10), "84": (9, 10),
    "86": (9, 11), "90": (10, 10), "91": (10, 10), "92": (9, 10), "94": (9, 9), "95": (7, 10),
    "98": (10, 10), "212": (9, 9), "351": (9, 9), "352": (5, 11), "353": (7, 9), "358": (5, 12),
    "372": (7, 8), "380": (9, 9), "420": (9, 9), "421": (9, 9), "670": (7, 8), "673": (7, 7),
    "852": (8, 8), "853": (8, 8), "855": (8, 9), "856": (8, 10), "880": (6, 10), "886": (8, 9),
    "966": (8, 9), "971": (8, 9), "972": (8, 9),
}  # fmt: skip
"""Country codes with the fewest and most digits that follow them."""
_OTHERS = (
    *(211, 213, 216, 218, *range(220, 247), 248, 249, *range(250, 259), *range(260, 270), 290, 291),
    *(297, 298, 299, 350, 354, 355, 356, 357, 359, 370, 371, *range(373, 379), 381, 382, 383, 385),
    *(386, 387, 389, 423, *range(500, 510), 53, 58, *range(590, 600), 672, *range(674, 684)),
    *(*range(685, 693), 850, 93, 960, 961, 962, 963, 964, 965, 967, 968, 970, *range(973, 978)),
    *(992, 993, 994, 995, 996, 998),
)
LENGTHS = _LENGTHS | dict.fromkeys(map(str, _OTHERS), (6, 10))


def international(digits: str) -> bool:
    """Whether ``digits`` (after the plus sign) are a country code and as many as follow it."""
    for n in (1, 2, 3):
        if digits[:n] in LENGTHS:
            low, high = LENGTHS[digits[:n]]
            rest = digits[n:].removeprefix("0")
            return low <= len(rest) <= high
    return False


def phone_score(text: str, shape: Sequence[int]) -> float:
    """How much ``text`` (digits in groups of ``shape``, with a plus or bracket before them) looks
    like a telephone number with no word beside it; 0 where it cannot be one."""
    digits = "".join(filter(str.isdigit, text))
    if len(set(digits)) < FEWEST_DIFFERENT or text.count("(") != text.count(")"):
        return 0.0
    if text.startswith(("+", "(+")):
        return 0.85 if international(digits) else 0.0
    if text.startswith("00") and len(digits) >= 10:
        return 0.6 if international(digits[2:]) else 0.0
    return 0.0 if "/" in text and len(shape) > 2 else _national(digits, shape)


def _national(digits: str, shape: Sequence[int]) -> float:
    if digits[0] == "0" and 8 <= len(digits) <= 12:
        return 0.35 if 2 <= len(shape) <= 6 and max(shape) <= 8 else 0.15
    return 0.12 if 7 <= len(digits) <= 11 else 0.0

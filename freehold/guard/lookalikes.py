"""Which letters pass for which: the fold that makes ``pаssword`` (with a Cyrillic ``а``) plain.

The table of foreign scripts is our own, letter by letter, of those that common fonts draw alike.
Ornamented Latin letters (small capitals, strokes, squares, regional indicators) follow from their
names in Python's Unicode data.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_FOREIGN = {
    # Cyrillic
    "а": "a", "в": "b", "ь": "b", "с": "c", "ԁ": "d", "е": "e", "ё": "e", "є": "e", "ғ": "f",
    "г": "r", "һ": "h", "н": "h", "і": "i", "ї": "i", "ј": "j", "к": "k", "ӏ": "l", "м": "m",
    "п": "n", "и": "n", "о": "o", "р": "p", "ԛ": "q", "я": "r", "ѕ": "s", "т": "t", "ц": "u",
    "ѵ": "v", "ԝ": "w", "ш": "w", "х": "x", "у": "y", "ү": "y", "ѐ": "e", "ӧ": "o", "ӓ": "a",
    "А": "a", "В": "b", "С": "c", "Е": "e", "Ғ": "f", "Н": "h", "І": "i", "Ј": "j", "К": "k",
    "Ӏ": "l", "М": "m", "О": "o", "Р": "p", "Ѕ": "s", "Т": "t", "Х": "x", "У": "y", "Ү": "y",
    "З": "3", "з": "3", "Я": "r", "И": "n", "Ц": "u", "Ш": "w", "Ѵ": "v", "Ԝ": "w", "Ԛ": "q",
    # Greek
    "α": "a", "β": "b", "ϲ": "c", "ε": "e", "έ": "e", "η": "n", "ή": "n", "ι": "i", "ί": "i",
    "κ": "k", "ν": "v", "ο": "o", "ό": "o", "ρ": "p", "σ": "o", "ς": "s", "τ": "t", "υ": "u",
    "ύ": "u", "χ": "x", "γ": "y", "ω": "w", "ώ": "w", "μ": "u", "ά": "a", "ϳ": "j", "δ": "d",
    "Α": "a", "Β": "b", "Ε": "e", "Ζ": "z", "Η": "h", "Ι": "i", "Κ": "k", "Μ": "m", "Ν": "n",
    "Ο": "o", "Ρ": "p", "Τ": "t", "Υ": "y", "Χ": "x", "Σ": "e", "Λ": "a", "Ϲ": "c", "Ϝ": "f",
    # Armenian
    "օ": "o", "ս": "u", "ո": "n", "հ": "h", "ց": "g", "զ": "q", "յ": "j", "ր": "n", "ա": "w",
    "Տ": "s", "Ս": "u", "Օ": "o", "Լ": "l", "Ո": "n", "Ց": "g", "ք": "p", "ւ": "i",
    # Cherokee
    "Ꭺ": "a", "Ᏼ": "b", "Ꮯ": "c", "Ꭰ": "d", "Ꭼ": "e", "Ꮐ": "g", "Ꮋ": "h", "Ꭵ": "i", "Ꭻ": "j",
    "Ꮶ": "k", "Ꮮ": "l", "Ꮇ": "m", "Ꮲ": "p", "Ꭱ": "r", "Ꮪ": "s", "Ꭲ": "t", "Ꮩ": "v", "Ꮃ": "w",
    "Ꮍ": "y", "Ꮓ": "z", "Ꮎ": "o",
    # Lisu
    "ꓮ": "a", "ꓐ": "b", "ꓚ": "c", "ꓓ": "d", "ꓰ": "e", "ꓝ": "f", "ꓖ": "g", "ꓧ": "h", "ꓲ": "i",
    "ꓙ": "j", "ꓗ": "k", "ꓡ": "l", "ꓟ": "m", "ꓠ": "n", "ꓳ": "o", "ꓑ": "p", "ꓣ": "r", "ꓢ": "s",
    "ꓔ": "t", "ꓴ": "u", "ꓦ": "v", "ꓪ": "w", "ꓫ": "x", "ꓬ": "y", "ꓜ": "z",
    # Others that stand alone
    "ı": "i", "ȷ": "j", "ℓ": "l", "ꞵ": "b", "ꭓ": "x", "ɑ": "a", "ɡ": "g", "ɩ": "i", "ʋ": "v",
    "ß": "ss", "ƨ": "s", "ƽ": "s", "ǀ": "l", "ƿ": "p", "ʏ": "y", "ᴏ": "o", "ᴀ": "a",
}  # fmt: skip

_NAMED = re.compile(
    r"(?:LATIN (?:SMALL |CAPITAL )?LETTER (?:SMALL CAPITAL |SCRIPT |TURNED |REVERSED |SIDEWAYS )?"
    r"|REGIONAL INDICATOR SYMBOL LETTER |(?:NEGATIVE |CROSSED NEGATIVE )?"
    r"(?:SQUARED |CIRCLED |PARENTHESIZED )LATIN (?:SMALL |CAPITAL )LETTER "
    r"|MODIFIER LETTER (?:SMALL |CAPITAL ))([A-Z])(?: WITH .*)?$"
)
# The blocks where such names are.
_ORNAMENTED = (
    (0x0180, 0x02B0), (0x02B0, 0x0300), (0x1D00, 0x1DC0), (0x2C60, 0x2C80), (0xA720, 0xA800),
    (0xAB30, 0xAB70), (0x1DF00, 0x1DF30), (0x1F110, 0x1F1AA), (0x1F1E6, 0x1F200), (0xC0, 0x180),
    (0x1E00, 0x1F00),
)  # fmt: skip


@cache
def ornamented() -> dict[int, str]:
    """Latin letters with something to them, and the bare letter, as ``str.translate`` takes it."""
    found = {}
    for first, end in _ORNAMENTED:
        for code in range(first, end):
            match = _NAMED.match(unicodedata.name(chr(code), ""))
            if match:
                found[code] = match[1].lower()
    return found


@cache
def foreign() -> dict[int, str]:
    """Letters of other scripts that look Latin, as ``str.translate`` takes it."""
    return {ord(letter): latin for letter, latin in _FOREIGN.items()}

"""Ways to write the same text so that a filter may not see it: for tests and for the report."""

from __future__ import annotations

import base64
import codecs
import random
from collections.abc import Callable

Evasion = Callable[[str, random.Random], str]

_LOOKALIKE = str.maketrans("aceopxyijsABCEHKMOPTX", "асеорхуіјѕАВСЕНКМОРТХ")
_LEET = str.maketrans("aeiost", "431057")
_SMALL = str.maketrans("abcdefghijklmnoprtuvwyz", "ᴀʙᴄᴅᴇғɢʜɪᴊᴋʟᴍɴᴏᴘʀᴛᴜᴠᴡʏᴢ")
_ACCENTS = "\u0301\u0308\u0323\u0336\u0330"


def _between(text: str, sign: str) -> str:
    return sign.join(text)


def _tags(text: str, draw: random.Random) -> str:
    hidden = "".join(chr(0xE0000 + ord(sign)) for sign in text if 32 <= ord(sign) < 127)
    return "Hello! " + hidden


def _selectors(text: str, draw: random.Random) -> str:
    data = text.encode()
    return "Hello 😊" + "".join(
        chr(0xFE00 + byte) if byte < 16 else chr(0xE0100 + byte - 16) for byte in data
    )


def _bold(text: str, draw: random.Random) -> str:
    def one(sign: str) -> str:
        if "a" <= sign <= "z":
            return chr(0x1D41A + ord(sign) - 97)
        return chr(0x1D400 + ord(sign) - 65) if "A" <= sign <= "Z" else sign

    return "".join(map(one, text))


def _wide(text: str, draw: random.Random) -> str:
    return "".join(chr(ord(sign) + 0xFEE0) if 32 < ord(sign) < 127 else sign for sign in text)


def _case(text: str, draw: random.Random) -> str:
    return "".join(sign.upper() if draw.random() < 0.5 else sign.lower() for sign in text)


def _zalgo(text: str, draw: random.Random) -> str:
    return "".join(sign + draw.choice(_ACCENTS) if sign.isalpha() else sign for sign in text)


def _spaced(text: str, draw: random.Random) -> str:
    return "   ".join(_between(word, " ") for word in text.split())


def _dotted(text: str, draw: random.Random) -> str:
    return " ".join(_between(word, ".") for word in text.split())


EVASIONS: dict[str, Evasion] = {
    "upper case": lambda text, draw: text.upper(),
    "random case": _case,
    "zero width": lambda text, draw: _between(text, "\u200b"),
    "soft hyphens": lambda text, draw: _between(text, "\u00ad"),
    "tag characters": _tags,
    "variation selectors": _selectors,
    "full width": _wide,
    "mathematical bold": _bold,
    "look-alikes": lambda text, draw: text.translate(_LOOKALIKE),
    "small capitals": lambda text, draw: text.lower().translate(_SMALL),
    "combining marks": _zalgo,
    "leet": lambda text, draw: text.translate(_LEET),
    "spaced letters": _spaced,
    "dotted letters": _dotted,
    "base64": lambda text, draw: "Decode: " + base64.b64encode(text.encode()).decode(),
    "hex": lambda text, draw: "Decode: " + text.encode().hex(),
    "rot13": lambda text, draw: codecs.encode(text, "rot13"),
    "reversed": lambda text, draw: text[::-1],
    "percent": lambda text, draw: "".join(f"%{byte:02x}" for byte in text.encode()),
    "html entities": lambda text, draw: "".join(f"&#{ord(sign)};" for sign in text),
}
"""By name. Each takes a text and a source of chance, and gives the text a reader or a model can
still make out."""

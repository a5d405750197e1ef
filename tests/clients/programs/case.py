"""What each client is asked to do, and how its program tells what came of it.

A program runs in its client's own environment and knows nothing of Freehold but an address, a key
and a model's name. It prints one JSON document: the client's version, and for each of ``FEATURES``
``null`` or what went wrong.
"""

from __future__ import annotations

import importlib.metadata
import ipaddress
import json
import os
import sys
import traceback
from collections.abc import Callable

ADDRESS = os.environ["CLIENT_ADDRESS"]
KEY = os.environ["CLIENT_KEY"]
MODEL = os.environ["CLIENT_MODEL"]
EMBEDS = bool(os.environ["CLIENT_EMBEDS"])
"""Whether the server gives vectors of texts."""

FEATURES = ("chat", "streaming", "tools", "structured output")

QUESTION = "Name the four seasons of the year."
MOST = 48
"""Tokens of an answer."""

CITY = "Which city is the capital of France, and in which country and continent does it lie?"
CITY_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "country": {"type": "string"},
        "continent": {"enum": ["Africa", "America", "Asia", "Europe", "Oceania"]},
    },
    "required": ["city", "country", "continent"],
    "additionalProperties": False,
}

WEATHER = "What is the temperature in Prague now?"
TOOL = "get_temperature"
TOOL_TEXT = "The temperature in a city, in degrees Celsius."
TOOL_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "The city's name"}},
    "required": ["city"],
    "additionalProperties": False,
}
FOUND = {"city": "Prague", "celsius": 17}


def get_temperature(city: str) -> str:
    """The tool itself: what it says of Prague is in ``FOUND``."""
    assert "prague" in city.lower(), city
    return json.dumps(FOUND)


def check_call(name: str, arguments: object) -> str:
    """A call as it must be; returns the tool's result."""
    assert name == TOOL, name
    assert isinstance(arguments, dict), arguments
    assert arguments.keys() == {"city"}, arguments
    return get_temperature(arguments["city"])


def check_final(words: object) -> None:
    """The answer that was made of the tool's result."""
    assert isinstance(words, str), words
    assert "17" in words, words


def check_city(found: object) -> None:
    """``CITY``'s answer, as data."""
    assert isinstance(found, dict), found
    assert found.keys() == {"city", "country", "continent"}, found
    assert found["city"] == "Paris", found
    assert found["continent"] in CITY_SCHEMA["properties"]["continent"]["enum"], found


def check_streamed(pieces: list[str], whole: str) -> None:
    """A stream says, piece by piece, what the whole answer says."""
    assert len([piece for piece in pieces if piece]) > 3, pieces
    assert "".join(pieces) == whole, (pieces, whole)


def check_words(words: object) -> str:
    """``QUESTION``'s answer."""
    assert isinstance(words, str), words
    assert "spring" in words.lower(), words
    return words


def run(package: str, chat: Callable, streaming: Callable, tools: Callable, form: Callable) -> None:
    """Do all four, and print what came of them."""
    failed = {}
    for name, work in zip(FEATURES, (chat, streaming, tools, form), strict=True):
        try:
            work()
            failed[name] = None
        except Exception:
            failed[name] = traceback.format_exc()
    version = importlib.metadata.version(package)
    print(json.dumps({"version": version, "failed": failed}), file=_OUT)


def _stay_here(event: str, given: tuple) -> None:
    """No client may ask anybody but the server on this machine: not for prices, not for news."""
    if event == "socket.getaddrinfo":
        host = given[0]
    elif event == "socket.connect" and isinstance(given[1], tuple):
        host = given[1][0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else host or "localhost"
    try:
        here = ipaddress.ip_address(name).is_loopback
    except ValueError:
        here = name == "localhost"
    if not here:
        print(f"a client wanted to reach {name}", file=sys.stderr)
        os._exit(97)


sys.addaudithook(_stay_here)
_OUT, sys.stdout = sys.stdout, sys.stderr

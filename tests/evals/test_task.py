"""Task files: what is read, what is refused, and what a name stands for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import MalformedError, NotFoundError, UsageError
from freehold.evals import template
from freehold.evals.task import Task, parse, plain, shipped, suite_of

GOOD = """
name = "mine"
suite = "own"
about = "a task"
kind = "choice"

[ask]
prompt = "{question} {@so}"

[words.id]
so = "maka"

[data.id]
file = "mine/id.jsonl"
source = "me"
licence = "CC0-1.0"
"""


def test_every_shipped_task_names_its_data_source_licence_and_digest() -> None:
    tasks = shipped()
    assert len({task.name for task in tasks}) == len(tasks) > 40
    for task in tasks:
        assert task.data.source, task.name
        assert task.data.licence, task.name
        assert len(task.data.sha256) == 64, task.name


def test_a_family_becomes_a_task_for_each_language() -> None:
    names = {task.name for task in suite_of(["multilingual"], languages=["id", "th"])}
    assert {"xcopa-id", "xcopa-th", "belebele-id", "tydiqa-id", "xquad-th"} <= names
    assert not any(name.endswith(("-vi", "-zh")) for name in names)
    # One that there is in one language only is no matter of language.
    assert [t.name for t in suite_of(["math"], languages=["th"])] == ["gsm8k", "mgsm-th"]
    assert [task.name for task in suite_of(["mgsm-zh", "coding"])] == [
        "mgsm-zh",
        "humaneval",
        "mbpp",
    ]


def test_what_is_not_known_is_named() -> None:
    with pytest.raises(NotFoundError, match="'maths' is no suite"):
        suite_of(["maths"])
    with pytest.raises(UsageError, match="no task of these has data in xx"):
        suite_of(["xcopa"], languages=["xx"])
    with pytest.raises(NotFoundError, match=r"there is no task file none\.toml"):
        suite_of(["./none.toml"])


def test_an_owners_file_is_read() -> None:
    (task,) = parse(GOOD.encode(), file="mine.toml")
    assert (task.name, task.language, task.words) == ("mine", "id", {"so": "maka"})
    assert plain(task)["data"]["licence"] == "CC0-1.0"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('about = "a task"', 'abuot = "a task"', "unknown field `abuot`"),
        ('kind = "choice"', 'kind = "guess"', "Invalid enum value 'guess'"),
        ('name = "mine"', 'name = "../mine"', "matching regex"),
        ('file = "mine/id.jsonl"', 'file = "../id.jsonl"', "below the data folder"),
        ('file = "mine/id.jsonl"', 'file = "/etc/passwd"', "below the data folder"),
        ("{@so}", "{@thus}", "{@thus} is no word of this language"),
        ("{question}", "{question|shout}", "'shout' is no filter"),
        ("[ask]", "[ask]\nshots = 3", "go together"),
        ("[ask]", '[ask]\nprogram = "x"', "ask.program goes with"),
        ("[ask]", "[ask]\nmax_tokens = 0", ">= 1"),
        ('licence = "CC0-1.0"', 'licence = "CC0-1.0"\nsha256 = "abc"', "matching regex"),
        ('name = "mine"', 'name = "mine"\nname = "twice"', "not TOML"),
    ],
)
def test_a_flaw_is_refused_with_file_and_reason(old: str, new: str, why: str) -> None:
    assert old in GOOD
    with pytest.raises(MalformedError, match=r"^mine\.toml: ") as found:
        parse(GOOD.replace(old, new).encode(), file="mine.toml")
    assert why in str(found.value)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_task_or_refused(data: bytes) -> None:
    try:
        parse(data, file="fuzz")
    except MalformedError as error:
        told = str(error)
    else:
        return
    assert told.startswith("fuzz: ")


@given(st.data())
def test_a_damaged_task_is_a_task_or_refused(data: st.DataObject) -> None:
    text = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        tasks = parse(bytes(text), file="fuzz")
    except MalformedError:
        return
    assert all(isinstance(task, Task) for task in tasks)


_ROW = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
)


@given(st.text(alphabet="{}|@ab lines.letr", max_size=40), _ROW)
def test_a_template_is_filled_or_names_the_field(text: str, row: dict[str, object]) -> None:
    if template.flaw(text, {}):
        return
    try:
        template.fill(text, row, {})
    except UsageError as error:
        named = error.param
    else:
        return
    assert named is not None
    assert f"{{{named}" in text


def test_a_template_reaches_nothing_but_the_row() -> None:
    text = "{a.__class__} {0} {{a}} {a!r} {a:>9} {a}"
    assert template.fill(text, {"a": "x"}, {}) == "{a.__class__} {0} {x} {a!r} {a:>9} x"


def test_filters() -> None:
    row = {"text": "Es regnet. ", "list": ["b", " c"], "n": 1, "kind": "so"}
    filled = template.fill(
        "{text|bare}/{text|small}/{list|letters}/{n|letter}/{kind|word}/{list|lines}",
        row,
        {"so": "also"},
    )
    assert filled == "Es regnet/es regnet. /A. b\nB. c/B/also/b\n c"
    code = "import re\nfrom a import b\n\ndef f(): pass"
    assert template.fill("{code|imports}", {"code": code}, {}) == "import re\nfrom a import b"

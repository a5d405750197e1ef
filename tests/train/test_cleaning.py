"""What is taken out of the data, and what stays."""

from __future__ import annotations

import json
from pathlib import Path

from freehold.train.cleaning import Rules, clean, texts_of
from freehold.train.records import Record, record_of

LONG = (
    "A ship left the harbour in the morning with forty barrels of salted fish, three sacks of rye "
    "and a letter that nobody on board could read, and it came back in the spring without them."
)


def text(said: str, line: int = 1) -> Record:
    return Record(file="a.txt", line=line, text=said)


def test_of_the_same_and_nearly_the_same_the_first_stays() -> None:
    records = [text(LONG, 1), text("Something else altogether is said here.", 2)]
    records += [text(LONG, 3), text(LONG.replace("spring", "summer"), 4)]
    found = clean(records, Rules())
    assert [record.line for record in found.records] == [1, 2]
    assert found.left_out == {"the same as another": 1, "nearly the same as another": 1}
    assert "left out: 1 records, the same as another" in found.told


def test_what_the_evals_ask_is_left_out_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text(json.dumps({"question": LONG, "choices": ["yes", "no"]}), encoding="utf-8")
    avoid = tuple(texts_of([path]))
    assert avoid == (LONG,)
    spaced = LONG.upper().replace(" ", "\n")
    records = [
        text(f"Before. {LONG} Behind.", 1),
        text(spaced, 2),
        text(f"Only a part: {LONG[30:120]}", 3),
        text("A ship left the harbour in the evening.", 4),
    ]
    for record in records:
        found = clean([record], Rules(avoid=avoid))
        assert found.left_out["in the evals"] == (record.line != 4), record.line


def test_other_languages_are_left_out_and_what_is_not_known_stays() -> None:
    said = [
        "Kami pergi ke pasar setiap hari Minggu untuk membeli sayuran dan buah-buahan segar.",
        "We go to the market every Sunday to buy fresh vegetables and fruit for the week.",
        "\u0e15\u0e25\u0e32\u0e14\u0e40\u0e1b\u0e34\u0e14\u0e17\u0e38\u0e01\u0e27\u0e31\u0e19",
        "1 + 1 = 2",
    ]
    records = [text(one, n) for n, one in enumerate(said)]
    found = clean(records, Rules(language="id"))
    assert [record.line for record in found.records] == [0, 3]
    assert found.left_out["not in id"] == 2


def test_personal_data_is_hidden_in_every_part_of_a_message() -> None:
    iban, mail = "DE89 3704 0044 0532 0130 00", "rani@example.org"
    call = {"function": {"name": "pay", "arguments": json.dumps({"to": iban})}}
    record = record_of(
        {
            "messages": [
                {"role": "user", "content": f"Pay to IBAN {iban}, and tell {mail}."},
                {"role": "assistant", "content": f"Paid to {iban}.", "tool_calls": [call]},
            ]
        },
        file="x",
        line=1,
    )
    found = clean([record], Rules(mask=True))
    (hidden,) = found.records
    said = json.dumps(hidden.messages)
    assert iban not in said
    assert mail not in said
    # The same value has the same placeholder, wherever it stands.
    assert "Paid to [IBAN_1]." in said
    assert [message["role"] for message in hidden.messages] == ["user", "assistant"]
    assert sum(found.masked.values()) == 4
    assert clean([record], Rules()).records == [record]

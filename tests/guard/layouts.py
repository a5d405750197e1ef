"""The same values of ``documents.py`` in tables, JSON, code, logs and chats: other habits of
writing than letters and forms have. Beside each stand numbers that are nobody's."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.guard.documents import IDS, LOCALES, OTHERS, PHONES, Document, Gold, digits, faker, fill

LAYOUTS = ("csv", "tsv", "bars", "json", "code", "log", "chat", "headings")
HEADS = {
    "nik": "NIK", "pesel": "PESEL", "nric": "NRIC", "aadhaar": "Aadhaar", "rrn": "주민등록번호",
    "thai-id": "เลขบัตรประชาชน", "steuer-id": "Steuer-ID", "nir": "NIR", "ric": "身份证号",
    "mykad": "MyKad", "ph-sss": "SSS", "ph-philhealth": "PhilHealth", "ph-umid": "CRN",
    "email": "email", "card": "card", "iban": "IBAN", "phone": "phone",
}  # fmt: skip
KEYS = HEADS | {
    "aadhaar": "aadhaar_number", "rrn": "rrn", "thai-id": "thai_id", "steuer-id": "steuer_id",
    "ric": "身份证", "ph-sss": "sss_no", "card": "card_number", "phone": "phone_number",
}  # fmt: skip
SEPARATORS = {"csv": ",", "tsv": "\t", "bars": " | "}
ROWS = 3
Row = Sequence[tuple[str, str]]


class _Page:
    """A text that grows, and what of it is personal."""

    def __init__(self) -> None:
        self.text = ""
        self.gold: list[Gold] = []

    def say(self, text: str) -> None:
        self.text += text

    def put(self, label: str, value: str) -> None:
        self.gold.append(Gold(len(self.text), len(self.text) + len(value), label))
        self.text += value


def written(country: str, layout: str, seed: int) -> Document:
    """``ROWS`` people with everything that the country's people have."""
    rng = random.Random(f"{country} {layout} {seed}")
    fake = faker(LOCALES[country], rng)
    rows = []
    for _ in range(ROWS):
        row = [(label, make(rng, fake)) for label, make, _ in (*IDS[country], *OTHERS)]
        rows.append([*row, ("phone", fill(rng, rng.choice(PHONES[country])))])
    page = _Page()
    if layout in SEPARATORS:
        _table(page, SEPARATORS[layout], rows, rng)
    else:
        for row in rows:
            for label, value in row:
                before, after = _around(layout, label, rng)
                page.say(before)
                page.put(label, value)
                page.say(after)
    return Document(country=country, text=page.text, gold=tuple(page.gold))


def _table(page: _Page, separator: str, rows: Sequence[Row], rng: random.Random) -> None:
    heads = ["name", "order", *(HEADS[label] for label, _ in rows[0]), "amount", "updated", "host"]
    page.say(separator.join(heads) + "\n")
    for row in rows:
        page.say(f"Anna{separator}{digits(rng, 11)}")
        for label, value in row:
            page.say(separator)
            page.put(label, value)
        day = f"2026-03-{rng.randint(1, 28):02} 10:{rng.randrange(60):02}:09"
        host = ".".join(str(rng.randrange(256)) for _ in range(4))
        page.say(separator.join(["", f"{rng.randrange(10**7)}.50", day, host]) + "\n")


def _around(layout: str, label: str, rng: random.Random) -> tuple[str, str]:
    """What stands before a value, and behind it."""
    number, minute = digits(rng, rng.choice([9, 10, 11, 12, 16])), rng.randrange(60)
    return {
        "json": (f'{{"order_id": "{number}", "{KEYS[label]}": "', '"},\n'),
        "code": (f"order_{minute} = {number}\nuser.{KEYS[label]} = '", "'\n"),
        "log": (
            f"2026-03-14T10:{minute:02}:07.123Z INFO req={number} {KEYS[label]}=",
            f" status=200 ms={minute}\n",
        ),
        "chat": (
            f"[10:{minute:02}] budi: {HEADS[label].lower()} saya ",
            f" ya\n[10:59] anna: ok, order {number}\n",
        ),
        "headings": (f"{HEADS[label]}\n", "\n\n"),
    }[layout]

"""Documents with personal data in eleven countries' forms, and many numbers that only look like it.

Valid numbers come from Faker and python-stdnum, or from rules written out here in another way than
the recogniser's; nothing is imported from Freehold. Every document is drawn by its seed alone.
"""

from __future__ import annotations

import functools
import itertools
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from faker import Faker

COUNTRIES = ("ID", "PL", "SG", "IN", "KR", "TH", "DE", "FR", "CN", "MY", "PH")
LOCALES = {
    "ID": "id_ID", "PL": "pl_PL", "SG": "en_US", "IN": "en_IN", "KR": "ko_KR", "TH": "th_TH",
    "DE": "de_DE", "FR": "fr_FR", "CN": "zh_CN", "MY": "en_US", "PH": "en_PH",
}  # fmt: skip


@dataclass(frozen=True)
class Gold:
    """What is personal in a document, and where."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Document:
    country: str
    text: str
    gold: tuple[Gold, ...]


# --- valid numbers --------------------------------------------------------------------------------


@functools.cache
def _faker(locale: str) -> Faker:
    return Faker(locale)


def faker(locale: str, rng: random.Random) -> Faker:
    fake = _faker(locale)
    fake.seed_instance(rng.getrandbits(32))
    return fake


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(n))


def birthday(rng: random.Random) -> tuple[str, str, str]:
    return f"{rng.randrange(40, 100):02}", f"{rng.randint(1, 12):02}", f"{rng.randint(1, 28):02}"


def nik(rng: random.Random, _: Faker) -> str:
    place = rng.choice(["317101", "327502", "351510", "110201", "640301", "731104", "120705"])
    year, month, day = birthday(rng)
    day = str(int(day) + 40) if rng.random() < 0.5 else day
    return f"{place}{day}{month}{year}{rng.randint(1, 40):04}"


def nric(rng: random.Random, _: Faker) -> str:
    """By the remainder's complement: the published tables read from the other end."""
    first = rng.choice("STFG")
    number = digits(rng, 7)
    total = sum(int(a) * b for a, b in zip(number, [2, 7, 6, 5, 4, 3, 2], strict=True))
    total += {"T": 4, "G": 4}.get(first, 0)
    table = "ABCDEFGHIZJ" if first in "ST" else "KLMNPQRTUWX"
    return first + number + table[10 - total % 11]


def mykad(rng: random.Random, _: Faker) -> str:
    year, month, day = birthday(rng)
    number = f"{year}{month}{day}-{rng.choice(['01', '08', '10', '14', '12'])}-{digits(rng, 4)}"
    return number if rng.random() < 0.8 else number.replace("-", "")


def steuer_id(rng: random.Random, _: Faker) -> str:
    from stdnum.iso7064 import mod_11_10

    while True:
        used = rng.sample("0123456789", 9)
        used.insert(rng.randint(1, 9), rng.choice(used))
        number = "".join(used)
        if number[0] != "0" and not any(number[i] * 3 == number[i : i + 3] for i in range(8)):
            break
    number += mod_11_10.calc_check_digit(number)
    spaced = f"{number[:2]} {number[2:5]} {number[5:8]} {number[8:]}"
    return spaced if rng.random() < 0.6 else number


def nir(rng: random.Random, fake: Faker) -> str:
    from stdnum.fr import nir as rule

    while not rule.is_valid(number := fake.ssn()):
        pass
    cuts = (0, 1, 3, 5, 7, 10, 13, 15)
    spaced = " ".join(number[a:b] for a, b in itertools.pairwise(cuts))
    return spaced if rng.random() < 0.6 else number


def aadhaar(rng: random.Random, _: Faker) -> str:
    from stdnum import verhoeff

    number = rng.choice("23456789") + digits(rng, 10)
    number += verhoeff.calc_check_digit(number)
    spaced = f"{number[:4]} {number[4:8]} {number[8:]}"
    return spaced if rng.random() < 0.7 else number


def thai(rng: random.Random, fake: Faker) -> str:
    from stdnum.th import pin

    while not pin.is_valid(number := fake.ssn()):
        pass
    return number if rng.random() < 0.6 else number.replace("-", "")


def rrn(rng: random.Random, fake: Faker) -> str:
    from stdnum.kr import rrn as rule

    while not rule.is_valid(number := fake.ssn()):
        pass
    return number if rng.random() < 0.8 else number.replace("-", "")


def ric(_: random.Random, fake: Faker) -> str:
    return str(fake.ssn())


def pesel(_: random.Random, fake: Faker) -> str:
    return str(fake.pesel())


def iban(rng: random.Random, _: Faker) -> str:
    from stdnum import iban as rule

    fake = faker(rng.choice(["de_DE", "pl_PL", "fr_FR", "es_ES", "nl_NL", "it_IT"]), rng)
    while not rule.is_valid(number := str(fake.iban()), check_country=False):
        pass
    spaced = " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    return spaced if rng.random() < 0.6 else number


def card(rng: random.Random, _: Faker) -> str:
    fake = faker("en_US", rng)
    number = str(fake.credit_card_number(rng.choice(["visa16", "mastercard", "amex", "discover"])))
    if number[0] == "3":
        spaced = f"{number[:4]} {number[4:10]} {number[10:]}"
    else:
        spaced = " ".join(number[i : i + 4] for i in range(0, 16, 4))
    return rng.choice([spaced, spaced.replace(" ", "-"), number])


def email(rng: random.Random, fake: Faker) -> str:
    name = rng.choice(["anna.kowal", "budi_s", "j.tan88", "priya+work", "m.mueller", "li-wei"])
    return f"{name}{rng.randint(1, 99)}@{fake.domain_name()}"


PHONES = {
    "ID": ["+62 8##-####-####", "08##-####-####", "+62 21 ### ####"],
    "PL": ["+48 6## ### ###", "6## ### ###", "+48 22 ### ## ##"],
    "SG": ["+65 9### ####", "9### ####", "+65-6###-####"],
    "IN": ["+91 98### #####", "+91-9#########", "098########"],
    "KR": ["+82 10-####-####", "010-####-####", "02-###-####"],
    "TH": ["+66 8# ### ####", "08#-###-####", "02-###-####"],
    "DE": ["+49 30 #######", "0170 #######", "(030) #######", "+49 (0)89 ######"],
    "FR": ["+33 6 ## ## ## ##", "06 ## ## ## ##", "01.##.##.##.##"],
    "CN": ["+86 138 #### ####", "138########", "+86 10 #### ####"],
    "MY": ["+60 12-### ####", "012-### ####", "+60 3-#### ####"],
    "PH": ["+63 917 ### ####", "0917 ### ####", "(02) 8### ####"],
}


def fill(rng: random.Random, pattern: str) -> str:
    return "".join(rng.choice("123456789") if c == "#" else c for c in pattern)


def token(rng: random.Random, _: Faker) -> tuple[str, str]:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

    def drawn(n: int, pool: str = letters) -> str:
        return "".join(rng.choice(pool) for _ in range(n))

    return rng.choice(
        [
            ("AKIA" + drawn(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), "aws-key"),
            ("ghp_" + drawn(36), "github-token"),
            ("glpat-" + drawn(20), "gitlab-token"),
            ("hf_" + drawn(34), "huggingface-token"),
            ("sk_live_" + drawn(24), "stripe-key"),
            (f"eyJ{drawn(30)}.eyJ{drawn(60)}.{drawn(43)}", "jwt"),
            ("xoxb-" + "-".join((digits(rng, 12), digits(rng, 12), drawn(24))), "slack-token"),
        ]
    )


# --- what a document of each country says ---------------------------------------------------------

Maker = Callable[[random.Random, Faker], str]

IDS: dict[str, list[tuple[str, Maker, list[str]]]] = {
    "ID": [("nik", nik, ["NIK: {}", "No. KTP {}", "Nomor Induk Kependudukan (NIK) {}"])],
    "PL": [("pesel", pesel, ["PESEL: {}", "numer PESEL {}", "nr ewidencyjny PESEL: {}", "({})"])],
    "SG": [("nric", nric, ["NRIC No. {}", "NRIC/FIN: {}", "holder of {}", "FIN {}"])],
    "IN": [("aadhaar", aadhaar, ["Aadhaar No: {}", "Aadhaar number {}", "UIDAI {}"])],
    "KR": [("rrn", rrn, ["주민등록번호: {}", "주민등록번호 {}", "RRN {}"])],
    "TH": [("thai-id", thai, ["เลขประจำตัวประชาชน {}", "บัตรประชาชนเลขที่ {}", "Thai ID {}"])],
    "DE": [
        ("steuer-id", steuer_id, ["Steuer-ID: {}", "Steueridentifikationsnummer {}", "IdNr. {}"])
    ],
    "FR": [
        ("nir", nir, ["N° de sécurité sociale : {}", "NIR {}", "numéro INSEE : {}", "assuré {}"])
    ],
    "CN": [("ric", ric, ["身份证号:{}", "居民身份证号码 {}", "证件号码:{}", "姓名王伟,{}"])],
    "MY": [("mykad", mykad, ["No. Kad Pengenalan: {}", "MyKad {}", "NRIC No: {}", "IC No. {}"])],
    "PH": [
        ("ph-sss", lambda rng, fake: fake.sss(), ["SSS No. {}", "SSS number: {}"]),
        ("ph-philhealth", lambda rng, fake: fake.philhealth(), ["PhilHealth No. {}"]),
        ("ph-umid", lambda rng, fake: fake.umid(), ["UMID CRN {}", "CRN: {}"]),
    ],
}
PHONE_LABELS = {
    "ID": ["Telp. {}", "No. HP: {}", "WA {}"],
    "PL": ["tel. {}", "telefon: {}", "kom. {}"],
    "SG": ["Tel: {}", "Mobile {}", "call {}"],
    "IN": ["Mobile: {}", "Ph. no. / phone {}", "call me on {}"],
    "KR": ["전화 {}", "휴대폰: {}", "연락처 {}"],
    "TH": ["โทร. {}", "โทรศัพท์ {}", "มือถือ {}"],
    "DE": ["Tel.: {}", "Telefon {}", "Handy: {}"],
    "FR": ["Tél. : {}", "téléphone {}", "portable : {}"],
    "CN": ["电话:{}", "手机 {}", "联系电话 {}"],
    "MY": ["Tel: {}", "No. telefon {}", "H/P: {}"],
    "PH": ["Mobile: {}", "cellphone no. {}", "Tel. {}"],
}
OTHERS: list[tuple[str, Maker, list[str]]] = [
    ("email", email, ["E-mail: {}", "{}", "<{}>", "write to {}."]),
    ("card", card, ["Card: {}", "Visa {}", "card number {}, exp. 09/28", "Kreditkarte {}"]),
    ("iban", iban, ["IBAN {}", "IBAN: {}", "{}", "transfer to {}."]),
]
PROSE = {
    "ID": ["Dengan hormat, kami sampaikan data nasabah berikut.", "Mohon diproses sebelum Jumat."],
    "PL": ["Szanowni Państwo, przesyłam dane do umowy.", "Proszę o potwierdzenie do piątku."],
    "SG": ["Please update the customer's record.", "The form was signed at the Bedok branch."],
    "IN": ["Kindly verify the KYC details below.", "The branch in Pune has the originals."],
    "KR": ["고객 정보를 다음과 같이 보내드립니다.", "금요일까지 확인 부탁드립니다."],
    "TH": ["ขอส่งข้อมูลลูกค้าตามรายการด้านล่าง", "กรุณายืนยันภายในวันศุกร์"],
    "DE": ["Sehr geehrte Damen und Herren, anbei die Angaben.", "Bitte bis Freitag bestätigen."],
    "FR": ["Madame, Monsieur, voici les informations du dossier.", "Merci de confirmer vendredi."],
    "CN": ["请核对以下客户资料。", "请在周五之前确认。"],
    "MY": ["Sila kemas kini rekod pelanggan ini.", "Borang ditandatangani di cawangan Ipoh."],
    "PH": ["Please update the member's record.", "Paki-kumpirma po bago mag-Biyernes."],
}
NEAR = {
    "ID": ["No. pesanan {}", "Faktur {}", "Resi {}"],
    "PL": ["nr zamówienia {}", "Faktura {}", "nr przesyłki {}"],
    "SG": ["Order {}", "Invoice no. {}", "Tracking {}"],
    "IN": ["Order ID {}", "Invoice {}", "AWB {}"],
    "KR": ["주문번호 {}", "송장번호 {}", "일련번호 {}"],
    "TH": ["คำสั่งซื้อ {}", "พัสดุ {}", "ใบแจ้งหนี้ {}"],
    "DE": ["Bestellnummer {}", "Rechnung {}", "Sendungsnummer {}"],
    "FR": ["commande n° {}", "facture {}", "colis {}"],
    "CN": ["订单号 {}", "运单号 {}", "序列号 {}"],
    "MY": ["No. pesanan {}", "invois {}", "Tracking {}"],
    "PH": ["Order no. {}", "Invoice {}", "Waybill {}"],
}
CHECKED = {"pesel", "nric", "aadhaar", "thai-id", "steuer-id", "nir", "ric", "card", "iban"}
"""Kinds of which a number with a wrong digit is nobody's."""


def is_valid(label: str, number: str) -> bool:
    from stdnum import iban as iban_rule
    from stdnum import luhn
    from stdnum.cn import ric as ric_rule
    from stdnum.de import idnr
    from stdnum.fr import nir as nir_rule
    from stdnum.in_ import aadhaar as aadhaar_rule
    from stdnum.pl import pesel as pesel_rule
    from stdnum.th import pin

    if label == "nric":
        table = "ABCDEFGHIZJ" if number[0] in "ST" else "KLMNPQRTUWX"
        total = sum(int(a) * b for a, b in zip(number[1:8], [2, 7, 6, 5, 4, 3, 2], strict=True))
        return table[10 - (total + 4 * (number[0] in "TG")) % 11] == number[8]
    if label == "ric":  # the office's list of places, which python-stdnum has, is not asked here
        return ric_rule.calc_check_digit(number) == number[17]
    rules = {"pesel": pesel_rule, "aadhaar": aadhaar_rule, "thai-id": pin, "steuer-id": idnr}
    rules |= {"nir": nir_rule, "card": luhn}
    if label == "iban":
        return bool(iban_rule.is_valid(number, check_country=False))
    return bool(rules[label].is_valid(number))


def spoiled(rng: random.Random, label: str, number: str) -> str:
    """The same with one digit changed, so that its check fails."""
    while True:
        place = rng.choice([i for i, c in enumerate(number) if c.isdigit() and i > 3])
        changed = number[:place] + rng.choice("0123456789") + number[place + 1 :]
        if changed != number and not is_valid(label, changed):
            return changed


def near_miss(rng: random.Random, country: str) -> str:
    """Something with digits that is nobody's."""
    kind = rng.randrange(14)
    if kind < 4:
        n = rng.choice([8, 9, 10, 11, 12, 13, 14, 15, 16, 18])
        return rng.choice(NEAR[country]).format(digits(rng, n))
    year, month, day = 2000 + rng.randrange(26), rng.randint(1, 12), rng.randint(1, 28)
    return [
        f"{year}-{month:02}-{day:02}",
        f"{day:02}.{month:02}.{year} {rng.randrange(24):02}:{rng.randrange(60):02}",
        f"{rng.randint(1, 999)},{rng.randrange(1000):03},{rng.randrange(1000):03}.50",
        f"Rp {rng.randint(1, 99)}.{rng.randrange(1000):03}.{rng.randrange(1000):03},00",
        f"v{rng.randrange(20)}.{rng.randrange(30)}.{rng.randrange(20000)}.{rng.randrange(9999)}",
        str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        ".".join(str(rng.randrange(256)) for _ in range(4)),
        f"sha256:{rng.getrandbits(256):064x}",
        f"{rng.uniform(-90, 90):.6f}, {rng.uniform(-180, 180):.6f}",
        f"ISBN 978-{rng.randrange(10)}-{digits(rng, 4)}-{digits(rng, 4)}-{rng.randrange(10)}",
    ][kind - 4]


# --- documents ------------------------------------------------------------------------------------


def document(country: str, seed: int) -> Document:
    """One letter or form: two to five facts about people, and as many numbers about nobody."""
    rng = random.Random(f"{country} {seed}")
    fake = faker(LOCALES[country], rng)
    lines: list[list[tuple[str, str | None]]] = [[(prose, None)] for prose in PROSE[country]]

    def say(form: str, value: str, label: str | None) -> None:
        before, _, after = form.partition("{}")
        lines.append([(before, None), (value, label), (after, None)])

    facts = rng.sample([*IDS[country], *OTHERS], k=min(len(IDS[country]) + 3, rng.randint(2, 4)))
    for label, make, forms in facts:
        value = make(rng, fake)
        say(rng.choice(forms), value, label)
        if label in CHECKED and rng.random() < 0.35:
            say(rng.choice(forms), spoiled(rng, label, make(rng, fake)), None)
    if rng.random() < 0.7:
        number = fill(rng, rng.choice(PHONES[country]))
        say(rng.choice(PHONE_LABELS[country]), number, "phone")
    if rng.random() < 0.25:
        value, label = token(rng, fake)
        say(rng.choice(["key {}", "export TOKEN={}", "Authorization: Bearer {}"]), value, label)
    for _ in range(rng.randint(2, 7)):
        lines.append([(near_miss(rng, country), None)])
    rng.shuffle(lines)
    return _written(rng, country, lines)


def _written(
    rng: random.Random, country: str, lines: list[list[tuple[str, str | None]]]
) -> Document:
    text, gold = "", []
    for line in lines:
        for piece, label in line:
            if label is not None:
                gold.append(Gold(len(text), len(text) + len(piece), label))
            text += piece
        text += rng.choice(["\n", "\n", "; ", ", "])
    return Document(country=country, text=text, gold=tuple(gold))

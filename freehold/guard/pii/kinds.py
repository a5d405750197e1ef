"""What personal numbers look like: their shapes, their checks, the words people write by them.

``score`` is how sure one of this kind is with no word beside it: a date, a region and two check
digits need none, twelve digits with one check digit do. ``find`` adds and takes away for words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from freehold.guard.pii import checks


@dataclass(frozen=True, kw_only=True)
class Kind:
    """``shapes`` are lengths of groups of digits, ``gaps`` what may stand between the groups.
    ``score`` counts where there is one group, ``grouped`` where there are more."""

    name: str
    check: Callable[[str], bool]
    score: float
    shapes: tuple[tuple[int, ...], ...]
    gaps: str = "-"
    grouped: float = 0.0
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lettered:
    """A number with letters in it: ``pattern`` matches it whole, ``check`` gets it without blanks
    and hyphens."""

    name: str
    check: Callable[[str], bool]
    score: float
    pattern: re.Pattern[str]
    words: tuple[str, ...] = field(default=())


_CARD_WORDS = (
    *("card", "visa", "mastercard", "amex", "credit", "debit", "kreditkarte", "kartu", "karte"),
    *(
        "carte",
        "karta",
        "karty",
        "kartę",
        "kad",
        "thẻ",
        "บัตรเครดิต",
        "信用卡",
        "银行卡",
        "卡号",
        "카드",
    ),
)
KINDS = (
    Kind(
        name="card",
        check=checks.card,
        score=0.55,
        shapes=((13,), (14,), (15,), (16,), (19,), (4, 4, 4, 4), (4, 6, 5), (4, 4, 4, 4, 3)),
        gaps=" -",
        grouped=0.85,
        words=_CARD_WORDS,
    ),
    Kind(
        name="pesel",
        check=checks.pesel,
        score=0.55,
        shapes=((11,),),
        words=("pesel", "ewidencyjny"),
    ),
    Kind(
        name="nip",
        check=checks.nip,
        score=0.25,
        shapes=((10,), (3, 3, 2, 2), (3, 2, 2, 3)),
        grouped=0.5,
        words=("nip", "podatkowy", "podatkowej"),
    ),
    Kind(
        name="aadhaar",
        check=checks.aadhaar,
        score=0.35,
        shapes=((12,), (4, 4, 4)),
        gaps=" -",
        grouped=0.5,
        words=("aadhaar", "aadhar", "uidai", "uid", "आधार"),
    ),
    Kind(
        name="rrn",
        check=checks.rrn,
        score=0.4,
        shapes=((13,), (6, 7)),
        grouped=0.75,
        words=("rrn", "resident registration", "주민등록번호", "주민번호", "외국인등록번호"),
    ),
    Kind(
        name="rrn",
        check=checks.rrn_form,
        score=0.0,
        shapes=((6, 7),),
        grouped=0.35,
        words=("rrn", "resident registration", "주민등록번호", "주민번호", "외국인등록번호"),
    ),
    Kind(
        name="thai-id",
        check=checks.thai,
        score=0.4,
        shapes=((13,), (1, 4, 5, 2, 1)),
        gaps=" -",
        grouped=0.85,
        words=("thai id", "citizen id", "national id", "บัตรประชาชน", "ประจำตัวประชาชน", "ผู้เสียภาษี"),
    ),
    Kind(
        name="steuer-id",
        check=checks.steuer_id,
        score=0.45,
        shapes=((11,), (2, 3, 3, 3)),
        gaps=" ",
        grouped=0.6,
        words=(
            *("steuer", "steuer id", "steuerid", "steueridentifikationsnummer", "steuernummer"),
            *("identifikationsnummer", "idnr", "tin", "tax id"),
        ),
    ),
    Kind(
        name="nir",
        check=checks.nir,
        score=0.75,
        shapes=((15,), (13, 2), (1, 2, 2, 2, 3, 3, 2), (1, 2, 2, 2, 3, 5)),
        gaps=" ",
        grouped=0.85,
        words=("nir", "insee", "sécurité", "sociale", "securite", "immatriculation", "sécu"),
    ),
    Kind(
        name="ric",
        check=checks.ric,
        score=0.85,
        shapes=((18,), (6, 8, 4)),
        gaps=" -",
        grouped=0.85,
        words=("身份证", "身份證", "resident identity", "居民", "证件号"),
    ),
    Kind(
        name="mykad",
        check=checks.mykad,
        score=0.3,
        shapes=((12,), (6, 2, 4)),
        grouped=0.75,
        words=("mykad", "nric", "ic", "kad pengenalan", "kp", "pengenalan"),
    ),
    Kind(
        name="nik",
        check=checks.nik,
        score=0.35,
        shapes=((16,), (6, 6, 4), (4, 4, 4, 4)),
        gaps=" .-",
        grouped=0.35,
        words=("nik", "ktp", "kependudukan", "penduduk", "kk", "keluarga"),
    ),
    Kind(
        name="npwp",
        check=checks.npwp,
        score=0.25,
        shapes=((15,), (2, 3, 3, 1, 3, 3)),
        gaps=".-",
        grouped=0.7,
        words=("npwp", "wajib pajak"),
    ),
    Kind(
        name="cccd",
        check=checks.cccd,
        score=0.15,
        shapes=((12,), (3, 3, 3, 3)),
        gaps=" ",
        grouped=0.2,
        words=("cccd", "căn cước", "cmnd", "định danh", "can cuoc"),
    ),
    Kind(
        name="ph-sss",
        check=checks.anything,
        score=0.0,
        shapes=((10,), (2, 7, 1)),
        grouped=0.3,
        words=("sss", "social security"),
    ),
    Kind(
        name="ph-philhealth",
        check=checks.anything,
        score=0.0,
        shapes=((12,), (2, 9, 1)),
        grouped=0.35,
        words=("philhealth", "pin", "phic"),
    ),
    Kind(
        name="ph-umid",
        check=checks.anything,
        score=0.0,
        shapes=((12,), (4, 7, 1)),
        grouped=0.35,
        words=("umid", "crn", "gsis"),
    ),
    Kind(
        name="ph-tin",
        check=checks.anything,
        score=0.0,
        shapes=((9,), (12,), (3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 5)),
        grouped=0.3,
        words=("tin", "bir", "taxpayer", "tax identification"),
    ),
    Kind(
        name="us-ssn",
        check=checks.ssn,
        score=0.0,
        shapes=((9,), (3, 2, 4)),
        grouped=0.5,
        words=("ssn", "social security"),
    ),
)


def _alone(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])")


LETTERED = (
    Lettered(
        name="nric",
        check=checks.nric,
        score=0.75,
        pattern=_alone(r"[STFGM]\d{7}[A-Z]"),
        words=("nric", "fin", "work permit"),
    ),
    Lettered(
        name="ric",
        check=checks.ric,
        score=0.85,
        pattern=_alone(r"\d{17}X"),
        words=("身份证", "身份證", "resident identity", "居民", "证件号"),
    ),
    Lettered(
        name="nir",
        check=checks.nir,
        score=0.85,
        pattern=_alone(r"[12] ?\d\d ?\d\d ?2[AB] ?\d{3} ?\d{3} ?\d\d"),
        words=("nir", "insee", "sécurité", "sociale"),
    ),
    Lettered(
        name="in-pan",
        check=checks.anything,
        score=0.45,
        pattern=_alone(r"[A-Z]{3}[ABCFGHLJPT][A-Z]\d{4}[A-Z]"),
        words=("pan", "permanent account", "income tax"),
    ),
)

PHONE_WORDS = (
    *("phone", "tel", "telephone", "mobile", "cell", "call", "fax", "whatsapp", "hotline", "sms"),
    *(
        "telp",
        "telepon",
        "hp",
        "h p",
        "ponsel",
        "wa",
        "nomor hp",
        "telefon",
        "telefonu",
        "handy",
        "mobil",
    ),
    *(
        "rufnummer",
        "téléphone",
        "tél",
        "portable",
        "mobilna",
        "komórka",
        "kom",
        "điện thoại",
        "sđt",
        "đt",
    ),
    *("โทร", "โทรศัพท์", "มือถือ", "电话", "電話", "手机", "联系方式", "전화", "휴대폰", "연락처"),
    *("telefonnummer", "selepas", "bimbit", "cellphone", "contact", "hubungi", "फोन", "मोबाइल"),
)

IDENTITY_WORDS = (
    *("identity card", "id card", "identity number", "national id", "id number", "id no"),
    *("identification number", "personal number", "citizen id", "government id", "identity"),
)
"""Words for an identity number of any country."""
IDENTITIES = (
    *("pesel", "aadhaar", "rrn", "thai-id", "steuer-id", "nir", "ric", "mykad", "nik", "cccd"),
    *("nric", "us-ssn"),
)

AGAINST = (
    *("order", "invoice", "tracking", "serial", "ref", "reference", "version", "build", "isbn"),
    *("ean", "sku", "batch", "ticket", "article", "transaction", "amount"),
    *("total", "price", "balance", "shipment", "parcel", "awb", "booking", "hash", "commit"),
    *("session", "request", "pesanan", "faktur", "resi", "seri", "transaksi", "jumlah", "harga"),
    *("bestellung", "bestellnummer", "rechnung", "rechnungsnummer", "sendung", "artikel", "betrag"),
    *("seriennummer", "vorgang", "commande", "facture", "colis", "montant", "série", "référence"),
    *("zamówienie", "zamówienia", "faktura", "faktury", "przesyłki", "kwota", "seryjny"),
    *("đơn", "hóa đơn", "vận đơn", "invois", "siri", "订单", "订单号", "发票", "运单"),
    *(
        "序列号",
        "金额",
        "주문",
        "주문번호",
        "송장",
        "금액",
        "일련번호",
        "คำสั่งซื้อ",
        "ใบแจ้งหนี้",
        "พัสดุ",
        "ยอดเงิน",
    ),
    *(
        "checksum",
        "timestamp",
        "epoch",
        "req",
        "trace",
        "pid",
        "uuid",
        "txn",
        "port",
        "bytes",
        "rows",
        "qty",
    ),
)
"""What stands before numbers that are nobody's own."""

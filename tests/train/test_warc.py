"""WARC files: pages are found as another reader finds them, and nothing breaks the reader."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("resiliparse", reason="needs the extra web")

from freehold.errors import FreeholdError, UsageError
from freehold.train import pages, reading, warc
from freehold.train.records import MAX_CHARS
from freehold.train.warc import BrokenError, Fault, Page
from tests.train.archives import PAGE, answer, chunked, packed, record, sha1

BODY = PAGE % 1


def found(data: bytes) -> list[Page | Fault]:
    return list(warc.pages(io.BytesIO(data)))


def one(block: bytes, *fields: str, **given_: Any) -> Page | Fault:
    (only,) = found(record(block, "https://harbour.example/ships", *fields, **given_))
    return only


def test_only_pages_with_status_200_are_taken() -> None:
    data = b"".join(
        [
            record(b"software: x\r\n", kind="warcinfo", content="application/warc-fields"),
            record(b"GET / HTTP/1.1\r\n\r\n", kind="request", content="application/http"),
            record(answer(BODY), "https://harbour.example/a"),
            record(answer(b"gone", status="404 Not Found")),
            record(answer(b"", "Location: /b", status="301 Moved")),
            record(answer(b"\x89PNG", kind="image/png")),
            record(answer(BODY, kind="application/xhtml+xml")),
            record(b"a.example 127.0.0.1", "dns:a.example", content="text/dns"),
            record(answer(BODY), kind="revisit"),
            record(b"", kind="metadata"),
        ]
    )
    taken = found(data)
    assert [one.at for one in taken] == [
        data.index(b"WARC/1.1\r\nWARC-Type: response"),
        taken[1].at,
    ]
    assert isinstance(taken[0], Page)
    assert (taken[0].address, taken[0].charset) == ("https://harbour.example/a", "utf-8")
    assert taken[0].body == BODY


def test_another_reader_finds_the_same() -> None:
    """FastWARC's reader, over the same bytes, plain and packed."""
    fastwarc = pytest.importorskip("fastwarc.warc")
    records = [
        record(answer(PAGE % n), f"https://h.example/{n}", f"WARC-Payload-Digest: {sha1(PAGE % n)}")
        for n in range(5)
    ]
    for data in (b"".join(records), packed(records), gzip.compress(b"".join(records))):
        theirs = [
            (
                one.headers["WARC-Target-URI"],
                one.http_charset,
                one.verify_payload_digest(),
                one.reader.read(),
            )
            for one in fastwarc.ArchiveIterator(io.BytesIO(data))
        ]
        plain = data if data[:4] == b"WARC" else gzip.decompress(data)
        ours = [(one.address, one.charset, True, one.body) for one in found(plain)]  # type: ignore[union-attr]
        assert ours == theirs
        assert len(ours) == 5


def test_another_writer_is_read() -> None:
    """FastWARC writes, with digests of its own."""
    fastwarc = pytest.importorskip("fastwarc.warc")
    held = io.BytesIO()
    made = fastwarc.WarcRecord()
    made.init_headers(fastwarc.WarcRecordType.response)
    made.headers["WARC-Target-URI"] = "https://h.example/"
    made.is_http = True
    made.headers["Content-Type"] = "application/http; msgtype=response"
    made.set_bytes_content(answer(BODY))
    made.write(held, checksum_data=True)
    (page,) = found(held.getvalue())
    assert isinstance(page, Page)
    assert (page.address, page.body) == ("https://h.example/", BODY)
    assert b"Digest: sha1" in held.getvalue()
    with pytest.raises(AssertionError):
        assert found(held.getvalue().replace(b"forty", b"fifty"))[0] == page
    (fault,) = found(held.getvalue().replace(b"forty", b"fifty"))
    assert isinstance(fault, Fault)
    assert "has not the digest sha1:" in fault.reason


@pytest.mark.parametrize("field", ["WARC-Payload-Digest", "WARC-Block-Digest"])
@pytest.mark.parametrize("form", ["hex", "base32", "sha256"])
def test_digests(field: str, form: str) -> None:
    block = answer(BODY)
    of = block if "Block" in field else BODY
    digest = {
        "hex": f"sha1:{hashlib.sha1(of).hexdigest()}",  # noqa: S324
        "base32": sha1(of),
        "sha256": f"sha-256:{hashlib.sha256(of).hexdigest()}",
    }[form]
    assert isinstance(one(block, f"{field}: {digest}"), Page)
    wrong = one(answer(PAGE % 2), f"{field}: {digest}")
    assert isinstance(wrong, Fault)
    assert "has not the digest" in wrong.reason


def test_a_payload_digest_may_be_of_the_chunks_or_of_what_they_carry() -> None:
    sent = chunked(BODY, 50)
    block = answer(sent, "Transfer-Encoding: chunked")
    for of in (sent, BODY):
        assert isinstance(one(block, f"WARC-Payload-Digest: {sha1(of)}"), Page)


@given(st.binary(min_size=1, max_size=400), st.integers(1, 60))
def test_chunks_are_put_together_as_the_library_does(body: bytes, size: int) -> None:
    sent = answer(chunked(body, size), "Transfer-Encoding: chunked")

    class Socket:
        def makefile(self, *_: object) -> io.BytesIO:
            return io.BytesIO(sent)

    theirs = http.client.HTTPResponse(Socket())  # type: ignore[arg-type]
    theirs.begin()
    page = one(sent)
    assert isinstance(page, Page)
    assert page.body == theirs.read() == body


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY, wbits=-15)),
        ("identity", BODY),
        ("gzip, identity", gzip.compress(BODY)),
        ("gzip", BODY),  # the crawler unpacked it and left the field
    ],
)
def test_what_was_packed_is_unpacked(encoding: str, body: bytes) -> None:
    page = one(answer(body, f"Content-Encoding: {encoding}"))
    assert isinstance(page, Page)
    assert page.body == BODY


@pytest.mark.parametrize(
    ("block", "fields", "reason"),
    [
        (b"hello", (), "not with a status"),
        (b"", (), "not with a status"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html", (), "head does not end"),
        (answer(BODY, "nonsense"), (), "is no field"),
        (answer(BODY, "Content-Encoding: br"), (), "Content-Encoding is 'br'"),
        (answer(BODY, "Content-Encoding: gzip, gzip, gzip"), (), "packed 3 times"),
        (answer(gzip.compress(BODY)[:-9], "Content-Encoding: gzip"), (), "breaks off"),
        (answer(b"\x1f\x8b broken", "Content-Encoding: gzip"), (), "cannot be unpacked"),
        (
            answer(gzip.compress(bytes(pages.MAX_PAGE + 1)), "Content-Encoding: gzip"),
            (),
            "unpacks to more than",
        ),
        (answer(gzip.compress(b"") * 101, "Content-Encoding: gzip"), (), "more than 100 parts"),
        (answer(b"5\r\nab", "Transfer-Encoding: chunked"), (), "does not end after 5"),
        (answer(b"2\r\nab\r\n", "Transfer-Encoding: chunked"), (), "break off"),
        (answer(BODY, "Transfer-Encoding: rot13"), (), "only chunked"),
        (answer(BODY, "Content-Length: 99999"), (), "bytes of 99,999"),
        (answer(BODY, "Content-Length: 1", "Content-Length: 2"), (), "two lengths"),
        (answer(BODY), ("WARC-Block-Digest: crc32:0",), "no kind that is known"),
        (answer(BODY), ("WARC-Segment-Number: 1",), "several records"),
        (answer(b" " * (pages.MAX_PAGE + warc.MAX_HEAD)), (), "more than 4,194,304"),
    ],
)
def test_what_is_wrong_in_a_record_spoils_no_other(
    block: bytes, fields: tuple[str, ...], reason: str
) -> None:
    good = record(answer(BODY))
    first, fault, last = found(
        good + record(block, "https://harbour.example/ships", *fields) + good
    )
    assert isinstance(fault, Fault)
    assert reason in fault.reason
    assert fault.at == len(good)
    assert isinstance(first, Page)
    assert isinstance(last, Page)


def test_a_page_that_was_cut_on_purpose_is_taken() -> None:
    block = answer(BODY, "Content-Length: 99999")
    assert isinstance(one(block, "WARC-Truncated: length"), Page)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (record(answer(BODY))[:-1], "ends 1 bytes before"),
        (record(answer(BODY))[:300], "head has no end|ends"),
        (record(answer(BODY), length="-5"), "Content-Length is '-5'"),
        (record(answer(BODY), length="9" * 30), "Content-Length is '999"),
        (record(answer(BODY), length="9" * 18), "bytes before"),
        (record(answer(BODY), length="1e3"), "Content-Length is"),
        (record(answer(BODY), length="0x10"), "Content-Length is"),
        (record(answer(BODY), length="١٢"), "Content-Length is"),
        (record(answer(BODY), length="10"), "does not end after 10"),
        (record(answer(BODY)).replace(b"Content-Length", b"Content-Size", 1), "Length is ''"),
        (b"WARC/1.0\r\n" + b"a: b\r\n" * 20_000, "more than 65,536 bytes"),
        (b"WARC/1.0\r\n" + b"x" * 100_000, "more than 65,536 bytes"),
        (b"WARC/1.0\r\nno field\r\n\r\n", "is no field"),
        (b"WARC/9.9\r\n\r\n", "not with a WARC version"),
        (b"\r\n\r\n", "not with a WARC version"),
        (b"<html>", "not with a WARC version"),
    ],
)
def test_a_file_that_breaks_off_is_named_with_the_record(data: bytes, reason: str) -> None:
    good = record(answer(BODY))
    with pytest.raises(BrokenError, match=reason) as told:
        found(good + data)
    assert told.value.at == len(good)


def test_records_out_of_files(tmp_path: Path) -> None:
    """The name of a record has its place and its address, and a damaged one is told with both."""
    records = [record(answer(PAGE % n), f"https://h.example/{n}") for n in range(3)]
    records[1] = record(answer(b"caf\xe9"), "https://h.example/bad")
    for name, data in (("a.warc", b"".join(records)), ("a.warc.gz", packed(records))):
        (tmp_path / name).write_bytes(data)
        read = reading.read([tmp_path / name])
        assert [one.address for one in read.records] == [
            "https://h.example/0",
            "https://h.example/2",
        ]
        at = len(records[0]) + len(records[1])
        assert [one.where for one in read.records] == [f"{name}, byte 0", f"{name}, byte {at}"]
        (problem,) = read.problems
        assert str(problem) == (
            f"{name}, byte {len(records[0])}: https://h.example/bad: byte 3 of the page is not "
            "utf-8"
        )


def test_a_broken_file_is_refused_with_the_record(tmp_path: Path) -> None:
    records = [record(answer(PAGE % n)) for n in range(3)]
    (tmp_path / "a.warc.gz").write_bytes(packed(records)[:-20])
    at = len(records[0] + records[1])
    with pytest.raises(
        UsageError, match=rf"a\.warc\.gz is no sound WARC.* byte {at:,}: no sound gz"
    ):
        reading.read([tmp_path / "a.warc.gz"])
    (tmp_path / "b.warc").write_bytes(b"".join(records)[:-20])
    with pytest.raises(UsageError, match=rf"b\.warc is no sound WARC.* byte {at:,}: the file ends"):
        reading.read([tmp_path / "b.warc"])


def test_a_bomb_of_records_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.warc.gz"
    path.write_bytes(packed([record(bytes(40 << 20), kind="resource")]))
    with pytest.raises(UsageError, match="unpacks to more than"):
        reading.read([path])


def test_pages_as_files(tmp_path: Path) -> None:
    for name, data in (
        ("a.html", BODY),
        ("b.htm", b"<p>caf\xe9"),
        ("c.html.gz", gzip.compress(PAGE % 2)),
        ("d.html", b"<script>x</script>"),
    ):
        (tmp_path / name).write_bytes(data)
    read = reading.read([tmp_path])
    assert [(one.file, one.line) for one in read.records] == [("a.html", 1), ("c.html.gz", 1)]
    assert "number 2," in read.records[1].text
    assert [(one.file, one.kind) for one in read.problems] == [
        ("b.htm", "damaged"),
        ("d.html", "no text"),
    ]
    assert len(list(reading.values([tmp_path / "a.html"]))) == 1


def test_a_long_page_comes_in_parts(tmp_path: Path) -> None:
    said = "".join(f"<p>{'word ' * 8000}{n}.</p>" for n in range(5)) + f"<p>{'x' * 150_000}</p>"
    (tmp_path / "a.html").write_text(f"<html><body><main>{said}</main></body></html>")
    read = reading.read([tmp_path / "a.html"])
    assert [one.part for one in read.records] == list(range(1, len(read.records) + 1))
    assert len(read.records) > 3
    assert all(len(one.text) <= MAX_CHARS for one in read.records)
    whole = "".join("".join(one.text.split()) for one in read.records)
    assert (
        whole
        == ("word" * 8000 + "{}.") * 0
        + "".join("word" * 8000 + f"{n}." for n in range(5))
        + "x" * 150_000
    )


PIECES = [
    *(b"WARC/1.0\r\n", b"WARC/1.1\r\n", b"WARC-Type: response\r\n", b"Content-Length: 50\r\n"),
    *(b"Content-Length: 0\r\n", b"Content-Type: application/http\r\n", b"\r\n", b"\r\n\r\n", b"\n"),
    *(b"HTTP/1.1 200 OK\r\n", b"Content-Type: text/html\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n", b"5\r\nhello\r\n", b"0\r\n"),
    *(
        b"\x1f\x8b\x08",
        b" folded\r\n",
        b"WARC-Payload-Digest: sha1:AB\r\n",
        b"<p>x</p>",
        b"\xff\xfe",
    ),
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=25).map(b"".join))
@example(b"WARC/1.0\r\nContent-Length: 0\r\n\r\n\r\n\r\n" * 3)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    places = []
    try:
        places += [page.at for page in warc.pages(io.BytesIO(data))]
    except BrokenError as error:
        places.append(error.at)
    assert places == sorted(set(places))
    assert all(0 <= at < len(data) for at in places)


@settings(max_examples=150)
@given(st.data())
def test_no_damage_breaks_the_reader(data: st.DataObject) -> None:
    """Bytes of a good file changed, taken out or doubled, plain and packed."""
    import tempfile

    records = [
        record(
            answer(gzip.compress(PAGE % 1, mtime=0), "Content-Encoding: gzip"),
            "https://h.example/1",
            f"WARC-Block-Digest: {sha1(b'')}",
        ),
        record(answer(chunked(PAGE % 2, 40), "Transfer-Encoding: chunked"), "https://h.example/2"),
    ]
    name = data.draw(st.sampled_from(["a.warc", "a.warc.gz"]))
    whole = bytearray(packed(records) if name.endswith(".gz") else b"".join(records))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        n = data.draw(st.integers(0, 30))
        with_ = data.draw(st.binary(max_size=5) | st.just(bytes(whole[at : at + n]) * 2))
        whole[at : at + n] = with_
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(bytes(whole))
        told = []
        try:
            told += [item.file for item in reading.items(path)]
        except FreeholdError as error:
            told.append(str(error))
        assert all(name in one for one in told)

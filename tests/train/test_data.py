"""Corpora: what is declared is what is built, wherever it stopped, by however many processes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.errors import NotFoundError, UsageError
from freehold.train import pages
from freehold.train.data import build, declaration, optout, quality, sifting, stories, vocabulary
from freehold.train.data.declaration import Origin, Steps
from tests.train.archives import PAGE, answer, packed, record
from tests.train.conftest import declared

LONG = "The harbour master wrote down every ship that came in and what it carried for forty years."
OTHER = "Am Morgen legte ein Schiff an, das niemand erwartet hatte; der Meister schrieb es auf."
EVAL = "A train leaves the station at nine and travels for two hours at eighty kilometres an hour."


@pytest.fixture
def given_folder(tmp_path: Path) -> Path:
    """A folder of texts, and what is to be done to them."""
    texts = tmp_path / "texts"
    texts.mkdir()
    lines = [
        LONG,
        LONG,  # the same
        LONG.replace("forty", "fifty"),  # nearly the same
        OTHER,
        "short",
        f"Homework. {EVAL} How far does it go?",
        "Write to the keeper of the light at jane.doe@harbour.example, who answers every letter.",
        "A secret of the harbour that nobody wants to be learnt by any model of any kind at all.",
    ]
    (texts / "a.jsonl").write_text(
        "".join(json.dumps({"text": line}) + "\n" for line in lines) + '{"text": 3}\n',
        encoding="utf-8",
    )
    (texts / "b.txt").write_text(
        "The second file has a text of its own, about boats that go out.\n<|endoftext|>\n"
        "And one more after that, about boats that come home in the evening.\n",
        encoding="utf-8",
    )
    (tmp_path / "evals.jsonl").write_text(json.dumps({"question": EVAL}) + "\n", encoding="utf-8")
    (tmp_path / "no.txt").write_text("text:nobody wants to be learnt  # asked for\n")
    return tmp_path


def steps_of(**changes: Any) -> Steps:
    return Steps(languages=("en",), avoid=("evals.jsonl",), opt_out="no.txt", **changes)


def build_of(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    origin = Origin(name="texts", licence="CC-BY-4.0", path="texts", address="https://x.example")
    made = declared(
        sources=(origin,), steps=steps_of(), vocab=0, held_out=0.0, folder=folder, **changes
    )
    return build.build(made, out)


def test_every_step_leaves_out_what_it_is_for(given_folder: Path, tmp_path: Path) -> None:
    manifest = build_of(given_folder, tmp_path / "out")
    (source,) = manifest["sources"]
    assert source["left_out"] == {
        "damaged": 1,
        "in the evals": 1,
        "nearly the same as another": 1,
        "not in en": 1,
        "opted out": 1,
        "the same as another": 1,
        "too short": 1,
    }
    assert source["masked"] == {"email": 1}
    said = list(build.texts(tmp_path / "out" / build.DOCUMENTS))
    assert said[0] == LONG
    assert len(said) == source["documents"] == 4
    assert "jane.doe" not in "".join(said)
    assert (source["read"], source["licence"]) == (11, "CC-BY-4.0")
    first = source["files"][0]
    raw = (given_folder / "texts" / "a.jsonl").read_bytes()
    assert (first["sha256"], first["size"]) == (hashlib.sha256(raw).hexdigest(), len(raw))


def test_documents_say_where_they_are_from(given_folder: Path, tmp_path: Path) -> None:
    build_of(given_folder, tmp_path / "out")
    ids = [one["id"] for one in build.documents(tmp_path / "out" / build.DOCUMENTS)]
    assert ids == ["texts/a.jsonl:1", "texts/a.jsonl:7", "texts/b.txt:1", "texts/b.txt:3"]


def test_the_same_declaration_gives_the_same_corpus(corpus: Path, tmp_path: Path) -> None:
    build.build(declared(), tmp_path / "again")
    for name in (build.DOCUMENTS, build.HELD_OUT, build.TOKENIZER, build.MANIFEST, build.CROISSANT):
        assert (tmp_path / "again" / name).read_bytes() == (corpus / name).read_bytes(), name
    assert not (tmp_path / "again" / "work").exists()


def test_a_stopped_build_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sifted: list[str] = []
    whole = sifting._records

    def stops(unit: Any, *more: Any) -> Iterator[Any]:
        sifted.append(unit.origin.name)
        if len(sifted) == 2:
            raise KeyboardInterrupt
        yield from whole(unit, *more)

    monkeypatch.setattr(sifting, "_records", stops)
    with pytest.raises(KeyboardInterrupt):
        build.build(declared(), tmp_path / "out")
    build.build(declared(), tmp_path / "out")
    assert sifted == ["stories", "talks", "talks"]
    again = (tmp_path / "out" / build.DOCUMENTS).read_bytes()
    assert again == (corpus / build.DOCUMENTS).read_bytes()


def test_shares_make_the_same_corpus(corpus: Path, tmp_path: Path) -> None:
    for share in range(3):
        build.sift_share(declared(), tmp_path / "out", share, 3)
    build.build(declared(), tmp_path / "out")
    again = (tmp_path / "out" / build.MANIFEST).read_bytes()
    assert again == (corpus / build.MANIFEST).read_bytes()


def test_copies_are_held_out_together(tmp_path: Path) -> None:
    texts = [f"{LONG} It was the year {year}." for year in range(40)]
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts * 3), encoding="utf-8"
    )
    origin = Origin(name="texts", licence="CC0-1.0", path="texts.jsonl")
    steps = Steps(exact=False, near=False)
    made = declared(sources=(origin,), steps=steps, vocab=0, held_out=0.3, folder=tmp_path)
    build.build(made, tmp_path / "out")
    learnt = set(build.texts(tmp_path / "out" / build.DOCUMENTS))
    aside = list(build.texts(tmp_path / "out" / build.HELD_OUT))
    assert aside
    assert not learnt & set(aside)
    assert len(aside) == 3 * len(set(aside))


def test_what_is_on_neither_side_is_counted(tmp_path: Path) -> None:
    texts = [f"{LONG} It was the year {year}." for year in range(40)]
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8"
    )
    origin = Origin(name="texts", licence="CC0-1.0", path="texts.jsonl")
    made = declared(
        sources=(origin,), steps=Steps(near=False), vocab=0, held_out=0.3, folder=tmp_path
    )
    manifest = build.build(replace(made, most_held_out=3), tmp_path / "out")
    (told,) = manifest["sources"]
    gone = told["left_out"]["drawn to be held out, beyond the most"]
    assert gone > 0
    assert (told["held_out"], told["documents"] + told["held_out"] + gone) == (3, 40)


def test_a_pinned_file_must_be_that_file(given_folder: Path, tmp_path: Path) -> None:
    origin = Origin(name="one", licence="CC0-1.0", path="texts/b.txt", sha256="0" * 64)
    made = declared(sources=(origin,), vocab=0, folder=given_folder)
    with pytest.raises(UsageError, match="pins 0000"):
        build.build(made, tmp_path / "out")
    data = (given_folder / "texts" / "b.txt").read_bytes()
    pinned = replace(origin, sha256=hashlib.sha256(data).hexdigest())
    build.build(replace(made, sources=(pinned,)), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("[[source]]\nname='a'\nlicence='x'\npath='p'\ncolour='red'", "unknown member 'colour'"),
        ("[[source]]\nname='a'\npath='p'", "lacks licence"),
        ("[[source]]\nname='a'\nlicence='x'", "needs path or program"),
        ("[[source]]\nname='a'\nlicence='x'\nprogram='q'\ndocuments=1", "needs a program of"),
        ("[[source]]\nname='a'\nlicence=' '\npath='p'", "names no licence"),
        ("[[source]]\nname='A b'\nlicence='x'\npath='p'", "is no name"),
        ("held_out='much'\n[[source]]\nname='a'\nlicence='x'\npath='p'", "must be a float"),
        ("vocab=true\n[[source]]\nname='a'\nlicence='x'\npath='p'", "must be a int"),
        ("vocab=100\n[[source]]\nname='a'\nlicence='x'\npath='p'", "take more"),
        ("[steps]\nlanguages='en'\n[[source]]\nname='a'\nlicence='x'\npath='p'", "list of texts"),
        ("", "names no \\[\\[source\\]\\]"),
        ("[[[", "is no TOML"),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path: Path, change: str, reason: str) -> None:
    path = tmp_path / "corpus.toml"
    path.write_text(f"name = 'x'\n{change}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=reason):
        declaration.load(path)


def test_a_declaration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        declaration.load(tmp_path / "none.toml")


def test_the_manifest_is_croissant(corpus: Path) -> None:
    """The members that the specification, version 1.1, requires of a data set."""
    document = json.loads((corpus / build.CROISSANT).read_bytes())
    assert document["@type"] == "sc:Dataset"
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    for member in ("name", "description", "license", "url", "distribution", "recordSet"):
        assert document[member], member
    files = {one["@id"]: one for one in document["distribution"]}
    for one in files.values():
        data = (corpus / one["contentUrl"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(data).hexdigest()
        assert one["contentSize"] == f"{len(data)} B"
    fields = [field for record in document["recordSet"] for field in record["field"]]
    assert {field["source"]["fileObject"]["@id"] for field in fields} <= files.keys()


def test_a_tokenizer_is_read_back_with_the_same_ids(corpus: Path) -> None:
    """Ours against the library that trained it, and against transformers."""
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    path = corpus / build.TOKENIZER
    mine = vocabulary.load(path.read_bytes())
    library, other = Backend.from_file(str(path)), PreTrainedTokenizerFast(tokenizer_file=str(path))
    texts = ["Grüße, 東京!\r\n  12345 'll", "a\u0301"]
    texts += list(build.texts(corpus / build.DOCUMENTS))[:50]
    for text, ids in zip(texts, mine.encode_texts(texts), strict=True):
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert ids == other(text, add_special_tokens=False)["input_ids"]
        assert b"".join(map(mine.token_bytes, ids)).decode() == text.replace("a\u0301", "á")
    # What is written in a text is no token of that name.
    ids = mine.encode_texts(["a<|im_end|>b"])[0]
    assert mine.added_id("<|im_end|>") not in ids


@given(st.text())
def test_no_text_breaks_the_quality_rules(text: str) -> None:
    assert isinstance(quality.fault(text), str)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LONG, ""),
        ("x" * 40, "too short"),
        ("a b c d e f g h i j k l m n o p q r s t u v w x y z", "words of odd length"),
        ("# ## ### one #four #five #eleven #harbour #lighthouse #nobody", "too many symbols"),
        ("1234 5678 9012 3456 7890 1234 5678 9012 3456 7890 1234 abcd", "too few words"),
        (
            "- one thing out of many\n- another thing of them\n- the last thing of all",
            "bullets only",
        ),
        (
            "A line of it that goes on...\nAnother line of the story.\nAnd one more line.",
            "unfin",
        ),
        ("the same line again and again\n" * 5, "repeats"),
        ("今日は港に船が入ってきた。" * 6, ""),
    ],
)
def test_quality(text: str, reason: str) -> None:
    assert reason in quality.fault(text)
    assert bool(reason) == bool(quality.fault(text))


def test_opting_out(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"mine").hexdigest()
    path = tmp_path / "no.txt"
    path.write_text(f"# asked for\nsha256:{digest}\n\nminutes/2019-*.txt\ntext:by nobody else\n")
    found = optout.load(path)
    assert found.holds("x/y.txt", "mine")
    assert not found.holds("x/y.txt", "mine too")
    assert found.holds("minutes/2019-04.txt", "any")
    assert not found.holds("minutes/2020-04.txt", "any")
    assert found.holds("x/y.txt", "written by nobody else at all")
    path.write_text("sha256:12\n")
    with pytest.raises(UsageError, match="line 1"):
        optout.load(path)


def test_opting_out_by_address(tmp_path: Path) -> None:
    path = tmp_path / "no.txt"
    path.write_text(
        "host:Harbour.example\nhost:bücher.example\nhttps://News.example/Opinion/*\n"
        "*://blog.example/?.html\nhttps://odd.example/a[1].html\n",
        encoding="utf-8",
    )
    found = optout.load(path)

    def out(address: str) -> bool:
        return found.holds("web/a.warc.gz", "what it says", address)

    for address in (
        "https://harbour.example/ships",
        "http://HARBOUR.example:8080",
        "https://old.www.harbour.example./",
        "https://user@harbour.example/",
        "https://xn--bcher-kva.example/",
        "https://bücher.example/",
        "HTTPS://news.EXAMPLE/Opinion/1",
        "http://blog.example/1.html",
        "https://odd.example/a[1].html",
    ):
        assert out(address), address
    for address in (
        "",
        "https://notharbour.example/",
        "https://harbour.example.org/",
        "https://x.example/?of=harbour.example",
        "https://news.example/opinion/1",
        "http://news.example/Opinion/1",
        "http://blog.example/10.html",
        "https://odd.example/a1.html",
        "https://[broken",
    ):
        assert not out(address), address
    for wrong in ("host:", "host:a/b", "host:*.example", "a:b"):
        path.write_text(f"{wrong}\n")
        with pytest.raises(UsageError, match="line 1"):
            optout.load(path)


@given(st.text(), st.text())
def test_no_address_breaks_a_list(entry: str, address: str) -> None:
    found = optout.OptOut(hosts=frozenset([entry]), addresses=(entry,))
    assert isinstance(found.holds("x/y", "text", address), bool)


def test_a_file_is_opted_out_by_its_source(given_folder: Path, tmp_path: Path) -> None:
    (given_folder / "no.txt").write_text("texts/b.*\n")
    manifest = build_of(given_folder, tmp_path / "out")
    assert manifest["sources"][0]["left_out"]["opted out"] == 2
    ids = [one["id"] for one in build.documents(tmp_path / "out" / build.DOCUMENTS)]
    assert not [one for one in ids if "b.txt" in one]


def web_of(folder: Path, out: Path) -> dict[str, Any]:
    """A corpus of an archive and a page, some of them opted out."""
    pytest.importorskip("resiliparse", reason="needs the extra web")
    (folder / "web").mkdir(exist_ok=True)
    hosts = ("a.example", "b.example", "www.no.example", "c.example")
    records = [record(answer(PAGE % n), f"https://{host}/{n}") for n, host in enumerate(hosts)] + [
        record(answer(b"<script>x</script>")),
        record(answer(b"\xff", kind="text/html")),
    ]
    (folder / "web" / "crawl.warc.gz").write_bytes(packed(records))
    (folder / "web" / "page.html").write_bytes(PAGE % 9)
    (folder / "no.txt").write_text("host:no.example\nhttps://c.example/*\n")
    steps = Steps(opt_out="no.txt", near=False)
    origin = Origin(name="web", licence="CC0-1.0", path="web")
    made = declared(sources=(origin,), steps=steps, vocab=0, held_out=0.0, folder=folder)
    return build.build(made, out)


def test_a_corpus_of_pages(tmp_path: Path) -> None:
    manifest = web_of(tmp_path, tmp_path / "out")
    (source,) = manifest["sources"]
    assert source["left_out"] == {"damaged": 1, "no text": 1, "opted out": 2}
    assert source["extractor"] == pages.extractor()
    found = list(build.documents(tmp_path / "out" / build.DOCUMENTS))
    size = len(record(answer(PAGE % 0), "https://a.example/0"))
    assert [(one["id"], one.get("address")) for one in found] == [
        ("web/crawl.warc.gz:0", "https://a.example/0"),
        (f"web/crawl.warc.gz:{size}", "https://b.example/1"),
        ("web/page.html:1", None),
    ]
    assert "number 1, and what it carried" in found[1]["text"]
    croissant = json.loads((tmp_path / "out" / build.CROISSANT).read_bytes())
    named = {one["name"] for one in croissant["recordSet"][0]["field"]}
    assert named == {"id", "source", "address", "text", "messages"}
    again = web_of(tmp_path, tmp_path / "again")
    assert again == manifest


def test_another_extractor_sifts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.html").write_bytes(PAGE % 1)
    pytest.importorskip("resiliparse", reason="needs the extra web")
    unit = sifting.Unit(
        origin=Origin(name="web", licence="CC0-1.0", path="a.html"),
        steps=Steps(),
        place="a.html",
        work=tmp_path / "work",
        path=tmp_path / "a.html",
    )
    first = sifting.sift(unit)
    assert sifting.sift(unit) == first
    monkeypatch.setattr(pages, "extractor", lambda: "resiliparse 99")
    other = sifting.sift(unit)
    assert (other.extractor, other.sha256) == ("resiliparse 99", first.sha256)
    assert other.key != first.key


def test_stories_are_the_same_everywhere() -> None:
    """What the shipped corpus is made of: these digests are its promise."""
    said = "\n".join(stories.text(1, n) for n in range(50))
    spoken = json.dumps([stories.talk(1, n) for n in range(50)])
    assert hashlib.sha256(said.encode()).hexdigest() == STORIES
    assert hashlib.sha256(spoken.encode()).hexdigest() == TALKS


STORIES = "05db66e1a6cf6bda4f8d1edc0b70ba8e62df0efeaa911b8bd7e7f29364e54ac6"
TALKS = "ccf99ea9902aced7d562087cd1b7cc0c008cfb481cac62e5f3be4a4d112a1ab1"


def test_questions_have_their_answers_in_the_story() -> None:
    for number in range(200):
        told = stories.story(stories.Draw("x", number))
        assert told.hero.name != told.friend.name
        for name in (told.hero.name, told.friend.name, told.place, told.thing, told.mood):
            assert name in told.text


def test_a_changed_corpus_is_refused(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "corpus"
    shutil.copytree(corpus, other)
    (other / build.HELD_OUT).write_bytes(b"")
    with pytest.raises(UsageError, match="held-out"):
        build.load(other)
    with pytest.raises(NotFoundError):
        build.load(tmp_path)

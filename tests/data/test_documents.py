"""Streams of documents: every format, every epoch, and files that are damaged or not there."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omni.data import documents
from omni.data.documents import TextFiles
from omni.data.files import find
from omni.data.paragraphs import DOCUMENT, group_paragraphs
from omni.errors import OmniError


def parquet(path, texts, group=10, column="text"):
    pq.write_table(pa.table({column: texts}), path, row_group_size=group, compression="none")
    return str(path)


def jsonl(path, texts):
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)


def numbered(name, count):
    return [f"{name} document {i}" for i in range(count)]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + b"First. " * 300 + b"\n\nSecond.")
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"text": "First."}\n')
    for name in ("a.txt", "b.jsonl"):
        assert next(iter(TextFiles(path=str(tmp_path / name)))).startswith("First.")


def epoch(files, number=0):
    return files.read(range(number * len(files), (number + 1) * len(files)))


def damage(path, text):
    """Overwrite the page around `text`, so that it cannot be read."""
    content = bytearray(path.read_bytes())
    at = content.index(text.encode())
    content[at - 60 : at + 40] = b"\xff" * 100
    path.write_bytes(content)


def test_every_format_gives_its_documents(tmp_path):
    parquet(tmp_path / "a.parquet", numbered("parquet", 25))
    jsonl(tmp_path / "b.jsonl", numbered("jsonl", 3))
    jsonl(tmp_path / "c.jsonl.gz", numbered("packed", 3))
    (tmp_path / "d.txt").write_text("One paragraph,\nbroken.\n\n\nAnother one.\n")
    (tmp_path / "e.txt").write_text("held out")
    (tmp_path / "notes.md").write_text("not text to train on")
    files = TextFiles(path=str(tmp_path))
    wanted = [*numbered("parquet", 25), *numbered("jsonl", 3), *numbered("packed", 3)]
    wanted.append("One paragraph,\nbroken.\n\nAnother one.")
    assert len(files) == 32
    assert sorted(epoch(files)) == sorted(wanted)
    assert epoch(TextFiles(path=str(tmp_path), split="val")) == ["held out"]
    assert files.skipped == {}


def test_epochs_differ_and_a_place_is_always_the_same_document(tmp_path):
    path = [parquet(tmp_path / f"{name}.parquet", numbered(name, 25)) for name in "abc"]
    files = TextFiles(path=path, seed=3)
    epochs = [epoch(files, number) for number in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2]) == sorted(numbered("a", 25) + numbered("b", 25))
    assert len({tuple(texts) for texts in epochs}) == 3
    stream = [text for texts in epochs for text in texts]
    again = TextFiles(path=path, seed=3)
    for place in (149, 0, 50, 100, 77, 76, 148):
        assert again.read([place]) == [stream[place]]
    assert epoch(TextFiles(path=path, seed=4)) != epochs[0]


def test_files_are_shuffled_between_and_within_row_groups(tmp_path):
    texts = numbered("a", 40)
    found = epoch(TextFiles(path=[parquet(tmp_path / "a.parquet", texts), parquet(tmp_path / "b.parquet", ["b"])]))
    groups = [{int(text.split()[-1]) // 10 for text in found[i : i + 10]} for i in range(0, 40, 10)]
    assert all(len(group) == 1 for group in groups)  # one row group after the other: each is read once
    orders = {tuple(int(text.split()[-1]) % 10 for text in found[i : i + 10]) for i in range(0, 40, 10)}
    assert len(orders) == 4


def test_one_file_holds_out_every_hundredth_document(tmp_path):
    path = parquet(tmp_path / "a.parquet", numbered("a", 350), group=70)
    train, val = (epoch(TextFiles(path=path, split=split)) for split in ("train", "val"))
    assert {int(text.split()[-1]) for text in val} == {99, 199, 299}
    assert len(train) == 347
    assert set(train) | set(val) == set(numbered("a", 350))


def test_a_pattern_and_a_list_in_its_own_order(tmp_path):
    for name in ("b1", "a1", "a2"):
        jsonl(tmp_path / f"{name}.jsonl", [name])
    assert epoch(TextFiles(path=f"{tmp_path}/a*.jsonl", split="val")) == ["a2"]
    listed = [f"{tmp_path}/{name}.jsonl" for name in ("b1", "a2", "a1")]
    assert epoch(TextFiles(path=listed, split="val")) == ["a1"]


def test_another_column(tmp_path):
    path = [parquet(tmp_path / f"{name}.parquet", [name], column="content") for name in "ab"]
    assert epoch(TextFiles(path=path, text_field="content")) == ["a"]
    with pytest.raises(OmniError, match="no column 'text'; there are: content"):
        TextFiles(path=path)


def test_damage_in_the_middle_is_left_out_and_counted(tmp_path):
    path = [parquet(tmp_path / f"{name}.parquet", numbered(name, 30)) for name in "abc"]
    damage(tmp_path / "a.parquet", "a document 15")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-20])
    files = TextFiles(path=path)
    texts = [epoch(files, number) for number in range(2)]
    whole = numbered("a", 10) + numbered("a", 30)[20:]
    assert sorted(filter(None, texts[0])) == sorted(filter(None, texts[1])) == sorted(whole)
    assert texts[0].count(None) == 10
    assert set(files.skipped) == {f"{tmp_path}/a.parquet row group 1", f"{tmp_path}/b.parquet"}
    assert all(files.skipped.values())


def test_bad_lines_are_left_out_and_counted_by_file(tmp_path):
    lines = [
        '{"text": "good"}',
        "",
        "{",
        '{"txt": "x"}',
        '{"text": 5}',
        '{"text": "\\ud83d"}',
        "[]",
        "[" * 100_000,
        '{"text": "fine"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.txt").write_bytes("Grüße".encode("latin-1"))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 99)[:-9])
    jsonl(tmp_path / "d.jsonl", ["held out"])
    files = TextFiles(path=str(tmp_path))
    for number in range(2):
        assert sorted(filter(None, epoch(files, number))) == ["fine", "good"]
    assert set(files.skipped) == {f"{tmp_path}/a.jsonl", f"{tmp_path}/b.txt", f"{tmp_path}/c.jsonl.gz"}
    assert files.skipped[f"{tmp_path}/a.jsonl"].startswith("6 lines so far, the first met is 3: JSONDecodeError: ")


def test_a_jsonl_is_read_by_its_groups_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LINES", 10)
    texts = numbered("é", 34)
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    lines[12:12] = ["", "bad", "  "]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    jsonl(tmp_path / "b.jsonl", ["held out"])
    files = TextFiles(path=str(tmp_path))
    assert [group.count for group in files.groups] == [10, 10, 10, 5]
    assert sorted(filter(None, epoch(files))) == sorted(texts)
    assert "the first met is 14: " in files.skipped[f"{tmp_path}/a.jsonl"]
    assert sorted(TextFiles(path=str(tmp_path))) == sorted(texts)


def test_a_jsonl_without_the_key_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LINES", 10)
    path = jsonl(tmp_path / "a.jsonl", numbered("a", 500))
    with pytest.raises(OmniError, match=r"set text_field.\n.*a.jsonl: 10 lines so far, .* 1: KeyError: 'content'"):
        TextFiles(path=path, text_field="content")


def test_one_file_is_not_both_trained_on_and_held_out(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ["a"])
    (tmp_path / "link.jsonl").symlink_to(path)
    for other in (path, f"{tmp_path}/../{tmp_path.name}/a.jsonl", f"{tmp_path}/link.jsonl"):
        with pytest.raises(OmniError, match=r"is one file.*Name it once"):
            find([path, other])


def test_a_file_that_shrinks_during_the_run_leaves_its_places_empty(tmp_path):
    files = TextFiles(path=[jsonl(tmp_path / "a.jsonl", numbered("a", 9)), jsonl(tmp_path / "b.jsonl", ["b"])])
    jsonl(tmp_path / "a.jsonl", numbered("a", 4))
    texts = epoch(files)
    assert len(texts) == 9
    assert sorted(filter(None, texts)) == numbered("a", 4)


def test_an_empty_corpus_names_the_path_and_the_way_out(tmp_path):
    def refused(path, split="train"):
        with pytest.raises(OmniError) as caught:
            TextFiles(path=path, split=split)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert refused(f"{tmp_path}/empty").startswith(f"{tmp_path}/empty: holds no .parquet, .jsonl, .jsonl.gz, .txt file")
    assert refused(f"{tmp_path}/none.parquet").startswith(f"{tmp_path}/none.parquet: no such text file")
    assert "holds no" in refused(f"{tmp_path}/*.txt")
    assert "is none of" in refused(__file__)
    path = jsonl(tmp_path / "few.jsonl", numbered("a", 99))
    assert refused(path, "val") == (
        f"{path}: holds no document for split 'val', which takes a second file or 100 documents. Check path."
    )
    (tmp_path / "blank.txt").write_text(" \n\n ")
    assert "holds no document for split 'train'" in refused(f"{tmp_path}/blank.txt")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    assert f"no document can be read. Fetch the files again, or set text_field.\n  {tmp_path}/bad.parquet: " in refused(
        f"{tmp_path}/bad.parquet"
    )
    with pytest.raises(OmniError, match="split: is 'test'"):
        TextFiles(path=path, split="test")


def test_the_fingerprint_tells_another_corpus(tmp_path):
    path = [jsonl(tmp_path / f"{name}.jsonl", numbered(name, 5)) for name in "ab"]
    first = TextFiles(path=path)
    assert TextFiles(path=path).fingerprint == first.fingerprint
    others = [TextFiles(path=path, seed=1), TextFiles(path=path, split="val"), TextFiles(path=path[::-1])]
    jsonl(tmp_path / "a.jsonl", [*numbered("b", 4), "a longer one than that"])
    assert first.fingerprint not in {other.fingerprint for other in (*others, TextFiles(path=path))}
    rows = parquet(tmp_path / "c.parquet", numbered("c", 150))
    first = TextFiles(path=rows)
    parquet(tmp_path / "c.parquet", [text + "!" for text in numbered("c", 150)])
    assert TextFiles(path=rows).fingerprint != first.fingerprint


def test_paragraphs_are_grouped_and_long_ones_cut():
    assert list(group_paragraphs(["ab", "cd", "efghi"], separator=" ", limit=6)) == ["ab cd", "efghi"]
    sentences = [f"This is sentence number {i}." for i in range(300)]
    documents = list(group_paragraphs(["Before.", " ".join(sentences), "After."]))
    assert max(map(len, documents)) <= DOCUMENT
    assert documents[0] == "Before."
    assert documents[-1].endswith("sentence number 299.\n\nAfter.")
    assert " ".join(documents[1:]).replace("\n\n", " ") == " ".join([*sentences, "After."])
    assert "".join(group_paragraphs(["x" * 5000])) == "x" * 5000
    assert list(group_paragraphs([])) == []

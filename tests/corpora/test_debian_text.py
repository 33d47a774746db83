"""debian_text, from small packages: `apt-get` and `dpkg-deb` are played by scripts, and a package is a plain tar."""

import gzip
import hashlib
import io
import json
import os
import tarfile

import pyarrow.parquet as pq
import pytest

from omni.corpora import debian_text as module
from omni.corpora.debian_text import DebianText, bible, prepare_debian_text, read_dialogue
from omni.errors import OmniError

# Where the network is down, update says so and is content, unless it is told not to be; the lists are then empty.
APT_GET = """#!/bin/sh
echo "$@" >> {folder}/asked
[ "$LC_ALL" = C ] || {{ echo "E: Paket kann nicht gefunden werden" >&2; exit 100; }}
eval "what=\\${{$#}}"
if [ "$what" = update ]; then
    [ -e {folder}/down ] || exit 0
    case "$*" in *Error-Mode=any*) echo "E: Failed to fetch http://deb/InRelease" >&2; exit 100 ;; esac
    echo "W: Failed to fetch http://deb/InRelease" >&2; exit 0
fi
if [ -e {folder}/down ]; then
    case "$*" in *Dir::State=*) echo "E: Unable to locate package ${{what%%=*}}" >&2; exit 100 ;; esac
    echo half > cut_off.deb; echo "E: Failed to fetch http://deb/$what.deb" >&2; exit 100
fi
file={folder}/archive/$(echo "$what" | sed 's/=/_/; s/:/%3a/')_all.deb
case "$what" in *=*) ;; *) file=$(ls {folder}/archive/"$what"_*.deb 2>/dev/null) ;; esac
[ -e "$file" ] && exec cp "$file" .
if ls {folder}/archive/"${{what%%=*}}"_*.deb >/dev/null 2>&1; then
    echo "E: Version '${{what#*=}}' for '${{what%%=*}}' was not found" >&2
else
    echo "E: Unable to locate package ${{what%%=*}}" >&2
fi
exit 100
"""
# A package that was cut off ends with a mark, at which the archive ends too, without a word to tar.
DPKG_DEB = '#!/bin/sh\n[ "$1" = --fsys-tarfile ] && cat "$2" && ! grep -q "cut off here" "$2"\n'
QUIP = "It is not the fall that hurts you, my friend, it is the sudden stop that comes at the end of it ({})."
PAGE = "<h1>Title</h1>" + "".join(f"<p>{QUIP.format(f'page {i}')}</p>" for i in range(3))
PACKAGES = {
    "fortunes": ("1:1.99", {"usr/share/games/fortunes/wisdom": "\n%\n".join(QUIP.format(i) for i in range(400))}),
    "anarchism": ("15.3-3", {"usr/share/doc/html/secA1.html": PAGE, "usr/share/doc/html/index.html": PAGE}),
}
ROW = {"id": "aq_100006j1", "speaker": "joe", "text": "Could I have a hamburger?", "split": "train", "cer": 0.1}
ROWS = [
    ROW,
    ROW | {"id": "aq_100006p1", "speaker": "chef", "text": "Go away!"},
    ROW | {"id": "aq_110006p1", "speaker": "and", "text": "You can't fly."},
    ROW | {"text": "A test sentence.", "split": "test"},
    ROW | {"text": "Said off stage.", "split": "unlabelled"},
    ROW | {"text": "Paired with another sound.", "cer": 0.5},
]


def tar(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, text in files.items():
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


class World:
    """A machine with an archive of packages, the list that names them, and a manifest of dialogue."""

    def __init__(self, folder):
        self.folder, self.said = folder, []
        (folder / "archive").mkdir()
        (folder / "bin").mkdir()
        for name, script in (("apt-get", APT_GET.format(folder=folder)), ("dpkg-deb", DPKG_DEB)):
            (folder / "bin" / name).write_text(script)
            (folder / "bin" / name).chmod(0o755)
        self.list = [self.publish(name, *package) for name, package in PACKAGES.items()]
        (folder / "dialogue.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()))

    def publish(self, name, version, files):
        data = tar(files)
        (self.folder / "archive" / f"{name}_{version.replace(':', '%3a')}_all.deb").write_bytes(data)
        return {"name": name, "version": version, "licence": "any", "sha256": hashlib.sha256(data).hexdigest()}

    def prepare(self):
        (self.folder / "list.json").write_text(json.dumps(self.list))
        self.said.clear()
        paths = {"packages": f"{self.folder}/list.json", "dialogue": f"{self.folder}/dialogue.jsonl.gz"}
        return prepare_debian_text(self.folder / "text", report=self.said.append, **paths)

    def package(self, name):
        (path,) = (self.folder / "archive").glob(f"{name}_*.deb")
        return path

    def asked(self):
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def texts(self, split):
        documents = DebianText(folder=f"{self.folder}/text").documents(split)
        return documents.read(range(len(documents)))


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    return World(tmp_path)


def test_packages_become_documents(world):
    with pytest.raises(
        OmniError, match=r"text: the text is not there. Run: python -m omni.prepare dataset=debian_text"
    ):
        DebianText(folder=f"{world.folder}/text").documents("train")
    facts = world.prepare()
    assert facts["missing"] == []
    assert {name: fact["documents"] + fact["held_out"] for name, fact in facts["sources"].items()} == {
        "amazon_queen": 2,
        "anarchism": 1,
        "fortunes": 400,
    }
    train, val = world.texts("train"), world.texts("val")
    assert len(train) + len(val) == len({*train, *val}) == 403
    assert 0 < len(val) < 20
    assert "Joe: Could I have a hamburger?\nChef: Go away!" in train
    assert "Anderson: You can't fly." in train
    assert not any("test" in text or "off stage" in text or "another sound" in text for text in train + val)
    (page,) = [text for text in train if "page" in text]
    assert page.startswith("Title\n\nIt is not the fall")
    table = pq.read_table(world.folder / "text" / "documents.parquet")
    assert table.column_names == ["text", "source"]
    sources = table["source"].to_pylist()
    assert len(set(sources[: len(sources) // 2])) > 1  # sources are mixed


def test_what_is_there_is_neither_fetched_nor_made_again(world):
    facts = world.prepare()
    asked = world.asked()
    assert len(asked) == 2
    stamps = [(path, path.stat().st_mtime_ns) for path in sorted((world.folder / "text").glob("*.*"))]
    assert world.prepare() == facts
    assert world.said == [f"{world.folder}/text is there"]
    assert [(path, path.stat().st_mtime_ns) for path in sorted((world.folder / "text").glob("*.*"))] == stamps
    (world.folder / "text" / "held_out.parquet").unlink()
    before = (world.folder / "text" / "documents.parquet").read_bytes()
    world.prepare()
    assert (world.folder / "text" / "documents.parquet").read_bytes() == before
    assert world.asked() == asked


def test_a_package_that_is_there_is_not_fetched_when_another_failed(world):
    (world.folder / "archive" / "anarchism_15.3-3_all.deb").rename(world.folder / "kept")
    world.list[0], world.list[1] = world.list[1], world.list[0]
    (world.folder / "down").touch()
    with pytest.raises(OmniError, match=r"anarchism: apt-get could not download it: E: Failed to fetch.*by hand"):
        world.prepare()  # a dead network is not a release without the package
    assert list((world.folder / "text" / "packages").iterdir()) == []
    (world.folder / "kept").rename(world.folder / "text" / "packages" / "anarchism_15.3-3_all.deb")
    (world.folder / "down").unlink()
    (world.folder / "asked").unlink()
    assert set(world.prepare()["packages"]) == {"anarchism", "fortunes"}
    assert len(world.asked()) == 1


def test_the_held_out_documents_stay_the_same_when_the_corpus_grows(world):
    world.prepare()
    before = set(world.texts("val"))
    files = {"usr/share/games/fortunes/wisdom": "\n%\n".join(QUIP.format(i) for i in range(900))}
    world.list[0] = world.publish("fortunes", "2:2", files)
    for path in (world.folder / "text" / "packages").glob("fortunes*"):
        path.unlink()
    world.prepare()
    assert before < set(world.texts("val"))
    assert not before & set(world.texts("train"))


def test_a_changed_package_of_the_listed_version_is_refused(world):
    world.list[0]["sha256"] = "0" * 64
    with pytest.raises(OmniError, match=r"fortunes_1%3a1.99_all.deb: its sha256 is not the one in the list"):
        world.prepare()


def test_another_version_is_taken_and_told(world):
    world.list[0]["version"] = "1:1.98"
    facts = world.prepare()
    assert facts["packages"]["fortunes"]["file"] == "fortunes_1%3a1.99_all.deb"
    assert any("is another version than the listed 1:1.98" in line for line in world.said)
    assert sum(line.endswith(" update") for line in world.asked()) == 1  # fresh lists were asked before


def test_a_package_this_release_lacks_is_left_out_and_told(world):
    world.list.append(world.list[0] | {"name": "linux-doc-6.1"})
    facts = world.prepare()
    assert facts["missing"] == ["linux-doc-6.1"]
    assert "linux-doc-6.1 is left out: this release has no such package" in world.said
    world.list.append(world.list[0] | {"name": "dict-wn"})
    (world.folder / "asked").unlink()
    assert world.prepare()["missing"] == ["dict-wn", "linux-doc-6.1"]
    assert sum(line.endswith(" update") for line in world.asked()) == 1  # one for both
    world.list[-2] = world.publish("linux-doc-6.1", "6.1-1", {"usr/html/admin/a.html": PAGE.replace("page", "doc")})
    assert world.prepare()["missing"] == ["dict-wn"]
    world.list = world.list[-1:]
    with pytest.raises(OmniError, match="this release has none of its packages"):
        world.prepare()


def test_a_damaged_package_is_named(world):
    world.list[0]["version"] = "1:1.98"  # so that no hash gives it away first
    (world.folder / "archive" / "fortunes_1%3a1.99_all.deb").write_bytes(b"!<arch> not a package" * 40)
    with pytest.raises(OmniError, match=r"fortunes_1%3a1.99_all.deb: cannot be unpacked"):
        world.prepare()


def test_a_package_that_was_cut_off_is_no_shorter_one(world):
    world.list[0]["version"] = "1:1.98"
    path = world.package("fortunes")
    path.write_bytes(path.read_bytes() + b"cut off here")
    with pytest.raises(OmniError, match=r"fortunes_1%3a1.99_all.deb: cannot be unpacked \(dpkg-deb ended with 1\)"):
        world.prepare()


def test_the_listed_version_is_taken_where_there_are_several(world):
    world.prepare()
    (world.folder / "text" / "packages" / "fortunes_1%3a9_all.deb").write_bytes(b"another, which sorts behind it")
    assert world.prepare()["packages"]["fortunes"]["file"] == "fortunes_1%3a1.99_all.deb"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("dict-wn", {"usr/wn.dict.dz": gzip.compress(b"word\n    n 1: \n"), "usr/wn.index": "word\tA\tZ"}),
        ("dict-wn", {"usr/wn.dict.dz": gzip.compress(b"word"), "usr/wn.index": "word\tA*\tB"}),
        ("dict-wn", {"usr/wn.dict.dz": b"not gzip", "usr/wn.index": ""}),
        ("dict-wn", {"usr/wn.index": ""}),
        ("bible-kjv-text", {"usr/bible.data": b"\0" * 0x5B + b"\1" + b"\0\0\0\x60" + b"no compress"}),
        ("bible-kjv-text", {"usr/elsewhere": ""}),
        ("cataclysm-dda-data", {"usr/cataclysm-dda/json/a.json": "{"}),
        ("fortunes", {"usr/share/games/fortunes/wisdom": "Short."}),
    ],
)
def test_a_package_that_its_cleaner_does_not_know_is_named(world, name, files):
    for path in (world.folder / "archive").glob(f"{name}_*"):
        path.unlink()
    world.list = [world.publish(name, "2", files)]
    with pytest.raises(OmniError, match=rf"^{name}: .*/{name}_2_all.deb is not what its cleaner was made for \("):
        world.prepare()


def test_a_package_without_a_cleaner_is_refused_before_anything_is_fetched(world):
    world.list.append(world.list[0] | {"name": "vim"})
    with pytest.raises(OmniError, match="vim: there is no cleaner for it"):
        world.prepare()
    assert not world.asked()


def test_without_apt_the_error_says_what_else_there_is(world, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OmniError, match=r"no apt-get or dpkg-deb.*dataset=climbmix"):
        world.prepare()


def test_without_the_list_the_error_names_it(tmp_path):
    with pytest.raises(OmniError, match=r"none.json: cannot be read \(No such file or directory\)"):
        prepare_debian_text(tmp_path, report=print, packages="none.json")


def test_the_lines_of_the_dialogue_without_those_that_are_held_out(world):
    world.prepare()
    assert set(read_dialogue(world.folder / "text")) == {"Could I have a hamburger?", "Go away!", "You can't fly."}
    texts = {f"Joe: Said twice.\nJoe: Said {number} times.": "amazon_queen" for number in range(400)}
    module.write(texts | {"Said: in a fortune": "fortunes"}, world.folder / "text")
    lines = read_dialogue(world.folder / "text")
    assert "Said twice." not in lines
    assert 380 < len(lines) < 400
    assert "Said 1 times." in lines


def test_the_bible_is_unpacked():
    def compressed(text):  # letters alone, nine bits each, is something `compress` might have written
        bits = "".join(f"{ord(letter):09b}"[::-1] for letter in text)
        bits += "0" * (-len(bits) % 8)
        return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))

    pieces = [compressed("Holy Bible.\nGe1:1 In the beg"), compressed("inning.\nGe1:2 And the earth.\n")]
    starts = [0x64, 0x64 + len(pieces[0])]
    header = bytes(0x58) + b"".join(number.to_bytes(4, "big") for number in (2, *starts))
    assert list(bible([("bible.data", header + b"".join(pieces))])) == ["In the beginning. And the earth."]


def test_every_listed_package_has_a_cleaner_and_a_licence():
    listed = json.loads((module.Path(__file__).parents[2] / module.PACKAGES).read_text())
    assert {row["name"] for row in listed} == set(module.SOURCES)
    assert all(len(row["sha256"]) == 64 and row["licence"] and row["version"] for row in listed)

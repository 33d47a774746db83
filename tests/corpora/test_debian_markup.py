"""Markup to prose: what stays is sentences, what goes is everything around them."""

import pytest

from omni.corpora.debian_markup import (
    bible_documents,
    computing_documents,
    dictd_entries,
    fortune_documents,
    gcide_text,
    page_documents,
    reads_as_prose,
    wordnet_documents,
)

SENTENCE = "This is a sentence of the kind that a small model ought to read, and it is here {} times over."


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("It should be clear that this reference does not discuss the technical details of packages.", True),
        ('He said that "it is what it is, and that is what it will be."', True),
        ("Dies ist ein deutscher Satz, der hier nicht hingehört, und er endet mit einem Punkt.", False),
        ("Overview of the Debian Maintainer Tools", False),
        ("if (x == NULL) { return foo_bar(y, z_max); } else { goto out_free; } /* and so on */.", False),
        ("The usb_kill_urb and usb_unlink_urb and usb_submit_urb functions must not be called from it.", False),
        ("It is there.", False),
        ("See the table of contents and the list of all of the things below it:", False),
        ("It is at https://example.org/a/very/long/address/which/nobody/would/ever/say/aloud today.", False),
    ],
)
def test_what_reads_as_prose(text, prose):
    assert reads_as_prose(text) is prose


def test_a_page_is_its_paragraphs():
    html = f"""<html><head><title>x</title><style>p {{}}</style></head><body>
    <nav><p>{SENTENCE.format("nav")}</p></nav><div class="menu"><ul><li>Home</li></ul></div>
    <h1>1.2. The
      heading<a href="#x">¶</a></h1>
    <p>{SENTENCE.format("so  many")} It broke [<b>Op. Cit.</b>, p. 12] off, [w]ithout  end .
    <p>{SENTENCE.format("three &amp; four")}<pre>code()</pre>
    <table><tr><td><p>{SENTENCE.format("table")}</p></td></tr></table>
    <dl class="c function"><dt>int f(void)</dt><dd><p>{SENTENCE.format("function")}</p></dd></dl>
    <dl class="simple"><dt>word</dt><dd><p>{SENTENCE.format("list")}</p></dd></dl>
    <div class="para">{SENTENCE.format("div")}</div>
    <h2>An empty section</h2>
    <p>{SENTENCE.format("seen")}</p></body></html>"""
    seen = {SENTENCE.format("seen")}
    (document,) = page_documents(html, seen)
    assert document.split("\n\n") == [
        "The heading",
        SENTENCE.format("so many") + " It broke off, without end.",
        SENTENCE.format("three & four"),
        SENTENCE.format("list"),
        SENTENCE.format("div"),
    ]
    assert list(page_documents(html, seen)) == []


def test_a_long_page_is_cut_at_headings():
    sections = [
        f"<h2>Part {part}</h2>" + "".join(f"<p>{SENTENCE.format(f'{part} and {i}')}</p>" for i in range(15))
        for part in range(3)
    ]
    documents = list(page_documents("".join(sections), set()))
    assert [document.split("\n")[0] for document in documents] == ["Part 0", "Part 1", "Part 2"]


def test_a_dictionary_is_read_by_its_index():
    content = "0123word\n  é one\nother\n  two\n".encode()
    index = "00-database-info\tA\tE\nother\tS\tM\nword\tE\tO\nwords\tE\tO\n"  # base 64: S is 18, M 12, E 4, O 14
    assert list(dictd_entries(content, index)) == ["word\n  é one\n", "other\n  two\n"]


def test_wordnet_gives_each_sense_once():
    entries = [
        'appetite\n    n 1: a feeling of craving\n         something; "an appetite for life" [syn: {appetite},\n'
        "         {appetency}] [ant: {disgust}]\n    2: a hunger\n",
        'appetency\n    n 1: a feeling of craving\n         something; "an appetite for life" [syn: {appetite}]\n'
        "    v 1: to crave [ant: {loathe}]\n",
    ]
    assert "\n".join(wordnet_documents(entries)).split("\n") == [
        'appetite (noun): a feeling of craving something; "an appetite for life". Also: appetency.',
        "appetite (noun): a hunger.",
        "appetency (verb): to crave.",
    ]


def test_webster_without_his_signs():
    entry = (
        'Aback \\A*back"\\ ([.a]*b[a^]k"), adv. [Pref. a- + back; AS. on\n   b[ae]c at, on. See {Back}.]\n'
        '   1. (Naut.) Toward the back or rear; "Therewith aback she\n      started." --Chaucer.\n'
        "      [1913 Webster]\n\n   2. Behind; -- said of {sails}. --W. Smith.\n      [1913 Webster] Abacus"
    )
    assert gcide_text(entry) == (
        'Aback: Toward the back or rear; "Therewith aback she started."\nBehind; -- said of sails.'
    )


def test_computing_dictionaries_lose_labels_and_dates():
    entry = (
        "compiler\ncc\n\n   <programming, tool> A program that turns {source} into the code\n   of a machine.\n\n"
        '   ["Compilers", A. Aho, 1986].\n\n   (1994-11-07)\n'
    )
    jargon = "XON\n /X-on/, n.\n\n    A sign to go on with what was being sent before.\n"
    assert list(computing_documents([entry, jargon])) == [
        "compiler: A program that turns source into the code of a machine.\n\n"
        "XON: A sign to go on with what was being sent before."
    ]


def test_fortunes_are_joined_and_poems_are_not():
    text = (
        "A master was asked the question, `What is the Way?' by a curious\nmonk, and he said nothing at all to him.\n"
        "\t\t-- A Teacher\n%\nToo short.\n%\n"
        "There was a young man of the town\nWho was all of the time looking down,\nAnd it made him a clown.\n"
    )
    assert list(fortune_documents(text)) == [
        "A master was asked the question, 'What is the Way?' by a curious monk, and he said nothing at all to him."
        "\n-- A Teacher",
        "There was a young man of the town\nWho was all of the time looking down,\nAnd it made him a clown.",
    ]


def test_verses_become_chapters():
    text = (
        "Holy Bible.\nGe1:1 In the beginning.\nGe1:2 And the earth.\nGe2:1 Thus the heavens.\n1Jo1:1 That which was.\n"
    )
    assert list(bible_documents(text)) == ["In the beginning. And the earth.", "Thus the heavens.", "That which was."]

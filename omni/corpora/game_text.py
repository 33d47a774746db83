"""What free games tell and say, as documents of plain modern English: stories, conversations, descriptions.

Each function takes the files of one package. What a game fills in while it runs becomes a plain word, or the line goes.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from omni.corpora.debian_markup import join_lines, reads_as_prose
from omni.corpora.debian_packages import Files
from omni.data.paragraphs import DOCUMENT, group_paragraphs

SPACE_WORDS = {
    "first": "Alex", "last": "Morgan", "ship": "Swallow", "npc": "Heron", "origin": "New Boston", "planet": "Vinci",
    "destination": "Vinci", "system": "Vega", "stopovers": "Vega and Altair", "cargo": "food", "commodity": "food",
    "tons": "twenty tons", "capacity": "twenty tons", "bunks": "five", "passengers": "five passengers",
    "fare": "five passengers", "payment": "50,000 credits", "date": "Friday", "day": "Friday",
}  # fmt: skip
SURVIVOR_WORDS = {
    "name_g": "friend", "name_b": "jerk", "swear": "damn", "the_cataclysm": "the Cataclysm", "zombies": "zombies",
    "zombie": "zombie", "npcname": "Alex", "good": "great", "very": "very", "really": "really", "okay": "okay",
    "bad": "bad", "mypronoun": "I", "city": "Boston", "punc": ".", "shitty": "lousy", "dumb": "dumb", "sad": "sad",
    "fuck_you": "screw you", "ill_die": "I'll die", "get_lost": "get lost", "given_name": "Alex", "no": "no",
    "family_name": "Morgan", "full_name": "Alex Morgan", "its_safe": "It's safe", "ill_kill_you": "I'll kill you",
}  # fmt: skip
DUNGEON_WORDS = {
    "The_monster": "The monster", "the_monster": "the monster", "to_foe": "to you", "at_foe": "at you", "foe": "you",
    "player_name": "Alex", "The_something": "Something", "the_something": "something", "possessive": "its",
    "subjective": "it", "objective": "it", "reflexive": "itself", "foe,": "you,",
    "foe_name": "Alex", "The_weapon": "The sword", "the_weapon": "the sword", "player_only": "",
}  # fmt: skip


def fill_in(text: str, words: dict[str, str], variable: str = r"<(\w+)>") -> str:
    """`text` on one line with its variables as plain words; '' when there is one without a word."""
    text = re.sub(r"</?(?:color\w*|info|b|i|big|small|span|ref|header|bold|italic)\b[^>]*>", "", text)
    text = re.sub(variable, lambda match: words.get(match[1], "$"), text)
    text = join_lines(text)
    return "" if re.search(r"[<>$@{}|\\_]|%[a-z0-9]|https?:", text) or not re.search(r"[a-z]{2}", text) else text


def decoded(files: Files) -> Iterator[str]:
    for _, content in sorted(files):
        yield content.decode("utf-8", errors="replace")


def unseen(lines: Iterable[str], seen: set[str]) -> list[str]:
    """The lines met for the first time."""
    return [line for line in lines if line and not (line in seen or seen.add(line))]


def scenes(groups: Iterable[list[str]], separator: str = "\n") -> Iterator[str]:
    """Documents of whole scenes: several short ones share one, a long one is cut between its lines."""
    whole = (text for lines in groups for text in group_paragraphs(lines, separator=separator, limit=DOCUMENT))
    yield from (text for text in group_paragraphs(whole) if len(text) > 200)


def endless_sky(files: Files) -> Iterator[str]:
    """Missions, planets and ships: lines in backticks, of a choice the first answer."""
    seen: set[str] = set()
    for text in decoded(files):
        blocks = re.split(r"\n(?=\S)", text)
        yield from scenes((unseen(sky_lines(block), seen) for block in blocks), separator="\n\n")


def sky_lines(block: str) -> Iterator[str]:
    """What is told in one block of tab-indented keywords."""
    choice, answered = None, False
    for line in block.split("\n"):
        depth, line = len(line) - len(line.lstrip("\t")), line.strip()
        if line.startswith("#") or not line:
            continue
        if choice is not None and depth <= choice:
            choice, answered = None, False
        if line == "choice":
            choice = depth
        match = re.fullmatch(r"(?:(description|spaceport|dialog|log) )?(?:\"[^\"`]*\" )*`([^`]*)`", line)
        if not match or (choice is not None and answered):
            continue
        answered = choice is not None
        # The Wanderers' words have several meanings: "[treatment, strategy]", "[scientists? engineers?]".
        told = fill_in(re.sub(r"\[(\w[^,?\]]*)[^\]]*\]", r"\1", match[2]), SPACE_WORDS)
        if told and not re.match(r"[(\[].*[)\]]$", told):  # an answer that is not said: (Leave them alone.)
            yield told


WML = re.compile(
    r"\[(?P<start>event|story|scenario|/event|/story)\]|\bspeaker\s*=\s*\"?(?P<speaker>[^\"\n#]*)|"
    r"(?P<message>\[message\])|\b(?P<key>message|story|description)\s*=\s*"
    r"(?P<text>_\s*\"(?:[^\"]|\"\")*\"(?:\s*\+\s*_\s*\"(?:[^\"]|\"\")*\")*)"
)


def wesnoth(files: Files) -> Iterator[str]:
    """A campaign's scenarios: the story before, and who says what in each event."""
    seen: set[str] = set()
    for text in decoded(files):
        yield from scenes(unseen(lines, seen) for lines in wml_scenes(re.sub(r"(?m)^\s*#.*$", "", text)))


def wml_scenes(text: str) -> Iterator[list[str]]:
    lines: list[str] = []
    speaker = ""
    for match in WML.finditer(text):
        if match["start"]:
            yield lines
            lines = []
        elif match["message"]:
            speaker = ""
        elif match["speaker"] is not None:
            speaker = match["speaker"].strip().replace("_", " ")
        else:
            pieces = re.findall(r"\"((?:[^\"]|\"\")*)\"", match["text"])
            said = fill_in(re.sub(r"^[\w ]*\^", "", "".join(pieces).replace('""', '"')), {}, r"\$([\w.]+)\|?")
            named = match["key"] == "message" and re.fullmatch(r"[A-Z][\w' -]+", speaker)
            if match["key"] == "message" or reads_as_prose(said):
                lines.append(f"{speaker}: {said}" if said and named else said)
    yield lines


def cataclysm(files: Files) -> Iterator[str]:
    """Conversations, followed from answer to answer; missions; notes; and what things are."""
    rows: list[dict[str, Any]] = []
    for text in decoded(files):
        content = json.loads(text)
        rows += [row for row in (content if isinstance(content, list) else [content]) if isinstance(row, dict)]
    seen: set[str] = set()
    yield from scenes(unseen(lines, seen) for lines in conversations(rows))
    yield from scenes(unseen(mission_lines(row.get("dialogue") or {}), seen) for row in rows)
    notes = (text for row in rows if row.get("type") == "snippet" for text in strings(row.get("text"), "text", "str"))
    yield from group_paragraphs(unseen(filter(reads_as_prose, map(survivor, notes)), seen), limit=DOCUMENT // 2)
    told = (described(row) for row in rows if row.get("type") not in ("talk_topic", "mission_definition", "snippet"))
    yield from group_paragraphs(unseen(told, seen), separator="\n", limit=DOCUMENT // 2)


def survivor(text: str) -> str:
    return fill_in(re.sub(r"^[\"“]([^\"]*)[\"”]$", r"\1", text.strip()), SURVIVOR_WORDS).removeprefix("&")


def strings(value: Any, *keys: str) -> Iterator[str]:
    """Strings in lists, and in mappings under `keys`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item, *keys)
    elif isinstance(value, dict):
        for key in keys:
            yield from strings(value.get(key), *keys)


def conversations(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A stranger's lines and the player's answers; an answer is followed by the line that it leads to."""
    topics = {row["id"]: row for row in rows if row.get("type") == "talk_topic" and isinstance(row.get("id"), str)}
    met: set[str] = set()

    def follow(topic: str, asked: str) -> Iterator[str]:
        if topic not in topics or topic in met:
            return
        met.add(topic)
        for number, line in enumerate(strings(topics[topic].get("dynamic_line"), "yes", "no", "and")):
            told = survivor(line)
            if told:
                yield from [f"You: {asked}"] if asked and not number else []
                yield f"Stranger: {told}"
        for answer in topics[topic].get("responses", []):
            said = "".join(map(survivor, strings(answer.get("text"))))
            for target in strings(answer.get("topic")):
                yield from follow(target, said)

    for topic in topics:
        yield list(follow(topic, ""))


def mission_lines(dialogue: dict[str, Any]) -> Iterator[str]:
    order = ("describe", "offer", "accepted", "advice", "inquire", "success", "failure")
    texts = (survivor(text) for key in order for text in strings(dialogue.get(key)))
    return (f"Stranger: {text}" for text in texts if len(text) > 15)


def described(row: dict[str, Any]) -> str:
    name = next(strings(row.get("name"), "str", "str_sp", "male"), "")
    told = " ".join(strings(row.get("description"), "str"))
    told = survivor(told)
    return f"{name}: {told}" if name and reads_as_prose(told) else ""


def crossfire(files: Files) -> Iterator[str]:
    """What people, signs and books say on the maps."""
    seen: set[str] = set()
    for text in decoded(files):
        blocks = re.findall(r"^msg\n(.*?)^endmsg", text, flags=re.MULTILINE | re.DOTALL)
        if text.startswith("{") and '"msg"' in text:
            strings_in = re.findall(r'"msg"\s*:\s*\[((?:\s*"(?:[^"\\]|\\.)*"\s*,?)*)\s*\]', text)
            blocks += [re.sub(r'\\n|"\s*,\s*"|^"|"$', "\n", block.strip()).replace('\\"', '"') for block in strings_in]
        yield from scenes((unseen(map_lines(block), seen) for block in blocks), separator="\n\n")


def map_lines(block: str) -> Iterator[str]:
    for part in re.split(r"^@match.*$|^@(?:question|reply) \w+|\n\s*\n", block, flags=re.MULTILINE):
        part = fill_in(re.sub(r"\[/?[a-z]+(?:=[^\]]*)?\]", "", part), {})
        if reads_as_prose(part) and not part.startswith(("Created:", "Modified:")):
            yield part


def dungeon_crawl(files: Files) -> Iterator[str]:
    """Descriptions, and what monsters say: entries of a word and paragraphs between lines of %%%%."""
    seen: set[str] = set()
    for name, content in sorted(files):
        talk = "/database/" in name
        entries = re.split(r"(?m)^%%%%\s*$", re.sub(r"(?m)^#.*\n", "", content.decode("utf-8", errors="replace")))
        lines = (dungeon_lines(entry.strip(), talk) for entry in entries if "{{" not in entry)
        yield from scenes((unseen(entry, seen) for entry in lines), separator="\n" if talk else "\n\n")


def dungeon_lines(entry: str, talk: bool) -> Iterator[str]:
    word, _, rest = entry.partition("\n")
    for number, part in enumerate(re.split(r"\n\s*\n", rest.strip())):
        part = re.sub(r"(?m)^(?:w:\d+\s*|[A-Z]+(?: [A-Z]+)*:)", "", part)
        told = fill_in(part, DUNGEON_WORDS, r"@(\w+,?)@")
        told = re.sub(r"^The (?:monster|sword) says(?: to you)?, \"([^\"]*)\"$", r"\1", told)  # too often
        if reads_as_prose(told):
            headed = not talk and not number and re.fullmatch(r"[A-Za-z][\w' -]+", word) and "_" not in word
            yield f"{word}: {told}" if headed else told


CAMPAIGNS = ("did", "dm", "dw", "httt", "nr", "sof", "sota", "sotbe", "tsg", "utbs")
"""Those of Wesnoth's with the most text for their size; a Debian package each."""
CATACLYSM = r"/cataclysm-dda/(?:json|mods/\w+)/(?!.*(?:ascii_art|mapgen|TEST)).*\.json$"
CRAWL = r"/dat/(?:descript|database/(?=\w*(?:speak|spell|shout|flee|noise)))/?\w+\.txt$"
CROSSFIRE = r"/crossfire/maps/(?!editor|python|test|styles|world/|unlinked)"
ENDLESS_SKY = r"/endless-sky/data/(?!deprecated|interfaces|names|tooltips|help)[\w ]+\.txt$"
GAMES: dict[str, tuple[str, Callable[[Files], Iterable[str]]]] = {
    "cataclysm-dda-data": (CATACLYSM, cataclysm),
    "crawl-common": (CRAWL, dungeon_crawl),
    "crossfire-maps": (CROSSFIRE, crossfire),
    "endless-sky-data": (ENDLESS_SKY, endless_sky),
} | {f"wesnoth-1.16-{name}": (r"/data/campaigns/.*\.cfg$", wesnoth) for name in CAMPAIGNS}

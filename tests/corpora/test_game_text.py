"""What games tell, from snippets in the form of their files."""

import json

import pytest

from omni.corpora import game_text
from omni.corpora.game_text import cataclysm, crossfire, dungeon_crawl, endless_sky, fill_in, wesnoth

LONG = "The old captain looked at the sky for a long time before he said what all of them had been thinking, and {}."


def documents(function, *contents):
    return list(function([(f"/database/{i}speak.txt", content.encode()) for i, content in enumerate(contents)]))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Go to  <planet>,\n<last>!", "Go to Vinci, Morgan!"),
        ("<color_red>Hot</color>, <b>is it</b>?", "Hot, is it?"),
        ("Meet <somebody>.", ""),
        ("It took %d days.", ""),
        ("It is 99% full.", "It is 99% full."),
        ("...", ""),
    ],
)
def test_variables_become_words_or_the_line_goes(text, clean):
    assert fill_in(text, game_text.SPACE_WORDS) == clean


def test_endless_sky_tells_a_mission_with_the_first_answer():
    mission = f"""# {LONG.format("a comment")}
mission "Rescue"
	description `{LONG.format("<ship> flew")}`
	on offer
		conversation
			`"Will you help us, Captain <last>?"`
			choice
				`	"I will."`
					goto yes
				`	"I will not."`
			label yes
			`	The [healers, doctors] smile. The [end?] is near.`
				accept
	ship "Hawk"
"""
    assert documents(endless_sky, mission, mission) == [
        f'{LONG.format("Swallow flew")}\n\n"Will you help us, Captain Morgan?"\n\n"I will."\n\n'
        "The healers smile. The end is near."
    ]


def test_wesnoth_has_stories_and_speakers():
    quoted = LONG.format('a ""quoted"" word')
    scenario = f"""[story]
    story= _ "{quoted}"
[/story]
[event]
    [message]
        speaker=Konrad
        message= _ "female^Look, "+_"orcs!"
    [/message]
    [message]
        speaker=narrator
        message= _ "It grows dark."
    [/message]
    #   message= _ "A comment."
    [message]
        speaker=second_unit
        message= _ "Die, $unit.name|!"
    [/message]
    [message]
        message= _ "{LONG.format("ran")}"
    [/message]
    name= _ "not said"
[/event]
"""
    story, event = LONG.format('a "quoted" word'), f"Konrad: Look, orcs!\nIt grows dark.\n{LONG.format('ran')}"
    assert documents(wesnoth, scenario) == [f"{story}\n\n{event}"]


def test_cataclysm_follows_answers_to_the_next_line():
    rows = [
        {
            "type": "talk_topic",
            "id": "A",
            "dynamic_line": {"yes": "Well, <name_g>.", "no": f"&{LONG.format('sat')}"},
            "responses": [{"text": "Who are you?", "topic": "B"}, {"text": "Bye.", "topic": "TALK_DONE"}],
        },
        {"type": "talk_topic", "id": "B", "dynamic_line": [LONG.format("lied"), "<x>"], "responses": [{"topic": "A"}]},
        {"type": "mission_definition", "dialogue": {"offer": LONG.format("wept"), "success": LONG.format("sang")}},
        {"type": "snippet", "text": [f'"{LONG.format("slept")}"', {"text": "No prose"}]},
        {"type": "GENERIC", "name": {"str": "rope"}, "description": LONG.format("climbed")},
    ]
    assert documents(cataclysm, json.dumps(rows), json.dumps(rows[-1])) == [
        f"Stranger: Well, friend.\nStranger: {LONG.format('sat')}\nYou: Who are you?\nStranger: {LONG.format('lied')}",
        f"Stranger: {LONG.format('wept')}\nStranger: {LONG.format('sang')}",
        LONG.format("slept"),
        f"rope: {LONG.format('climbed')}",
    ]


def test_crossfire_has_messages_in_maps_and_in_dialogue_files():
    said = [LONG.format(word) for word in ("ate", "drank", "left", "stayed")]
    map_file = f"arch sign\nmsg\n@match *\n[b]{said[0]}[/b]\n@match hi\n{said[1]}\nendmsg\nend\nmsg\nRobe\nendmsg\n"
    rules = {"rules": [{"match": ["*"], "msg": [f"{said[2]}\n\n{said[3]}"], "replies": [["no", "No."]]}]}
    assert documents(crossfire, map_file) == ["\n\n".join(said[:2])]
    assert documents(crossfire, json.dumps(rules)) == ["\n\n".join(said[2:])]


def test_dungeon_crawl_has_descriptions_and_speech():
    entries = f"""%%%%
# a comment
Asterion

{LONG.format("fled")}
%%%%
_guard_

w:5
@The_monster@ says @to_foe@, "You should not have come here."

VISUAL:@The_monster@ screams, "{LONG.format("hid")}"

@The_monster@ hits @unknown@ with all of its might.
%%%%
lua

{{{{ return "You will not see any of it." }}}}
"""
    spoken = f'You should not have come here.\nThe monster screams, "{LONG.format("hid")}"'
    assert documents(dungeon_crawl, entries) == [f"{LONG.format('fled')}\n\n{spoken}"]
    described = list(dungeon_crawl([("/descript/monsters.txt", entries.encode())]))
    assert described[0].startswith(f"Asterion: {LONG.format('fled')}\n\n")

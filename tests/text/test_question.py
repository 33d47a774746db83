from omni.text.question import ask


def test_a_question_alone_is_itself():
    assert ask("What is it?") == "What is it?"


def test_choices_stand_a_line_each_behind_their_letters():
    assert ask("Which?", ["a cow", "a dog", "a bee", "an owl"]) == "Which?\nA. a cow\nB. a dog\nC. a bee\nD. an owl"


def test_a_letter_can_be_asked_for():
    asked = ask("Which?", ("up", "down"), letter=True)
    assert asked == "Which?\nA. up\nB. down\nAnswer with a letter."


def test_fewer_choices_than_letters():
    assert ask("Is it?", ["yes"]) == "Is it?\nA. yes"

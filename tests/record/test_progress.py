import io
import re
import time

import pytest
from rich.console import Console

from omni.record.progress import Progress, parameter_table


def plain(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True, _environ={"TERM": "xterm"})


def lines(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def steps(console: Console) -> list[int]:
    return [int(re.search(r"step +(\d+)/", line)[1]) for line in lines(console)]


@pytest.mark.parametrize("total", [100, 317, 5000])
def test_a_log_gets_ten_to_twenty_lines_with_the_first_and_the_last(total: int) -> None:
    console = plain()
    with Progress(total, 0, "w2", console) as progress:
        for step in range(1, total + 1):
            progress.update(step, {"lr": 0.1, "loss": 2.5})
    assert steps(console)[0] == 1
    assert steps(console)[-1] == total
    assert steps(console).count(total) == 1
    assert 10 <= len(lines(console)) <= 20


def test_more_than_was_expected_does_not_fill_a_log() -> None:
    console = plain()
    with Progress(64, 0, "encode", console) as progress:
        for clip in range(1, 9247):
            progress.update(clip, {})
    assert len(lines(console)) < 9246 / 4


@pytest.mark.parametrize("total", [1, 3])
def test_a_short_run_shows_each_step(total: int) -> None:
    console = plain()
    with Progress(total, 0, "w2", console) as progress:
        for step in range(1, total + 1):
            progress.update(step, {"loss": 2.5})
    assert steps(console) == list(range(1, total + 1))


def test_a_line_names_loss_speed_and_time_and_is_never_wrapped() -> None:
    console = plain(width=20)
    with Progress(100, 0, "w2 [bold] :smile:", console) as progress:
        time.sleep(0.05)
        progress.update(1, {"loss": 2.51234})
        progress.update(100, {"lr": 0.1})
    first, last = lines(console)
    assert re.fullmatch(r"w2 \[bold\] :smile:  step   1/100  loss 2\.5123  \d+\.\d steps/s  0:0\d left", first)
    assert re.search(r"step 100/100  loss 2\.5123  .* in all$", last)
    assert "\x1b" not in console.file.getvalue()


def test_a_resumed_run_counts_only_what_it_did_itself() -> None:
    console = plain()
    with Progress(1000, 990, "w2", console) as progress:
        time.sleep(0.1)
        progress.update(991, {"loss": float("nan")})
    (line,) = lines(console)
    assert "step  991/1000" in line
    assert "loss nan" in line
    # One step in a tenth of a second; 991 of them would be thousands a second.
    assert float(re.search(r"([\d.]+) steps/s", line)[1]) < 11


def test_slow_steps_are_told_in_seconds() -> None:
    console = plain()
    progress = Progress(10, 0, "w2", console)
    with progress:
        progress._began -= 7200
        progress.update(1, {"loss": 1.0})
    assert "7200.0 s/step  18:00:00 left" in lines(console)[0]


def test_the_last_step_is_shown_when_a_run_breaks_off() -> None:
    console = plain()

    def break_off() -> None:
        with Progress(1000, 0, "w2", console) as progress:
            for step in range(1, 33):
                progress.update(step, {"loss": 1.0})
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - ours, and only ours
        break_off()
    assert steps(console) == [1, 32]


@pytest.mark.parametrize("console", [plain(), terminal()])
def test_nothing_to_do_is_no_error(console: Console) -> None:
    with Progress(0, 0, "w2", console):
        pass
    with Progress(5, 5, "w2", console) as progress:
        progress.update(5, {})


def test_a_terminal_gets_a_bar() -> None:
    console = terminal()
    with Progress(50, 10, "w2 [bold]", console) as progress:
        for step in range(11, 51):
            progress.update(step, {"loss": 2.5})
    text = console.file.getvalue()
    assert "\x1b[" in text
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n").splitlines()
    last = [line for line in shown if line.strip()][-1]
    assert "w2 [bold]" in last
    assert "━" in last
    assert "50/50" in last
    assert "loss 2.5000" in last
    assert "steps/s" in last


def test_a_dumb_terminal_gets_lines() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with Progress(1, 0, "w2", console) as progress:
        progress.update(1, {"loss": 2.5})
    assert steps(console) == [1]
    assert "\x1b" not in console.file.getvalue()


@pytest.mark.parametrize("console", [plain(), terminal()])
def test_the_parameter_table_adds_up(console: Console) -> None:
    rows = [
        ("encoder", 20_590_592, 0),
        ("projector [lora]", 1_050_624, 1_050_624),
        ("backbone", 11_534_464, 7),
    ]
    console.print(parameter_table(rows))
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
    table = [line.split() for line in text.splitlines() if line.strip() and "─" not in line]
    assert table == [
        ["part", "parameters", "trainable"],
        ["encoder", "20,590,592", "frozen"],
        ["projector", "[lora]", "1,050,624", "1,050,624"],
        ["backbone", "11,534,464", "7"],
        ["all", "33,175,680", "1,050,631"],
    ]
    # Numbers end in one column.
    ends = {
        line.index(number) + len(number)
        for line in text.splitlines()
        for number in line.split()[-2:-1]
        if "," in number
    }
    assert len(ends) == 1

"""A real browser on the page: it records with a (fake) microphone, sends, reads the answer; uploads, stops, goes on."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni.serving.page import ASK

REPOSITORY = Path(__file__).parents[2]
CLIPS = REPOSITORY / "data" / "audio_smoke"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUESTION = "How many beeps are there?"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    line = [sys.executable, "-m", "omni.serve", "run=data/hearing", "port=0", "precision=fp32"]
    with subprocess.Popen(line, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield re.search(r"http://\S+", process.stdout.readline())[0]
        finally:
            process.kill()


HEARS = [
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
    f"--use-file-for-fake-audio-capture={CLIPS / 'high_beeps.wav'}",
]


@pytest.fixture
def page(url, request):
    """The page in a browser whose microphone hears a clip again and again, or one with other flags."""
    from playwright.sync_api import sync_playwright

    if BROWSER is None:
        pytest.fail("this test needs a browser: apt-get install chromium")
    flags = ["--no-sandbox", *getattr(request, "param", HEARS)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_context(viewport={"width": 1000, "height": 800}).new_page()
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_selector("textarea")
        yield page
        browser.close()


def answers(page) -> list[str]:
    return [each.inner_text().strip() for each in page.get_by_test_id("bot").all()]


def send(page, text: str, turn: int = 1) -> str:
    """Ask and wait for the answer to be whole."""
    page.locator("textarea").first.fill(text)
    page.get_by_test_id("submit-button").click()
    page.wait_for_function(f"document.querySelectorAll('[data-testid=bot]').length >= {turn}")
    page.get_by_test_id("submit-button").wait_for()
    page.wait_for_function("document.querySelector('#speed').innerText.includes('tokens a second')")
    return answers(page)[-1]


def test_it_records_sends_and_reads_the_answer_and_a_second_turn(page, tmp_path):
    page.get_by_test_id("microphone-button").click()
    page.get_by_label("Start recording").click()
    page.wait_for_timeout(2500)
    page.get_by_label("Stop recording").click()
    page.get_by_label("Attach audio").click()
    said = send(page, QUESTION)
    assert re.search(r"one|two|three|four|five|six|\d", said)
    assert page.get_by_test_id("waveform-Audio").count() == 1  # it can be played back
    speed = page.locator("#speed").inner_text()
    assert 0 < int(re.search(r"first token after (\d+) ms", speed)[1]) < 5000
    assert send(page, "What is said?", turn=2)
    assert answers(page)[0] == said
    page.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_an_upload_is_heard(page):
    page.locator("input[type=file]").first.set_input_files(CLIPS / "high_beeps.wav")
    page.wait_for_timeout(1500)
    assert re.search(r"one|two|three|four|five|six|\d", send(page, QUESTION))


def test_a_long_answer_is_stopped(page):
    page.locator("input[type=file]").first.set_input_files(CLIPS / "high_beeps.wav")
    page.wait_for_timeout(1500)
    page.get_by_text("Settings").click()
    page.get_by_label("number input for Temperature").fill("2")
    page.get_by_label("number input for Tokens").fill("500")
    page.locator("textarea").first.fill("Tell me a long story about the sea.")
    page.get_by_test_id("submit-button").click()
    page.locator("button.stop-button").click()
    page.wait_for_function("document.querySelector('#speed').innerText.includes('tokens a second')")
    before = answers(page)[-1]
    page.wait_for_timeout(1500)
    assert answers(page)[-1] == before  # nothing more comes


def test_an_error_is_an_answer_and_the_next_question_works(page, tmp_path):
    (tmp_path / "notes.wav").write_bytes(b"no sound at all")
    for turn, (file, told) in enumerate([(None, ASK), (tmp_path / "notes.wav", "notes.wav: is not wav")], start=1):
        if file:
            page.locator("input[type=file]").first.set_input_files(file)
            page.wait_for_timeout(1500)
        page.locator("textarea").first.fill(QUESTION)
        page.get_by_test_id("submit-button").click()
        page.get_by_test_id("bot").filter(has_text=told).wait_for()
        page.wait_for_function("!document.querySelector('textarea').disabled")
        assert len(answers(page)) == turn
    page.locator("input[type=file]").first.set_input_files(CLIPS / "high_beeps.wav")
    page.wait_for_timeout(1500)
    assert "wav" not in send(page, QUESTION, turn=3)


@pytest.mark.parametrize(
    ("page", "way"),
    [(["--deny-permission-prompts", "--use-fake-device-for-media-stream"], "Allow it"), ([], "Connect one")],
    indirect=["page"],
)
def test_a_microphone_that_is_denied_or_missing_is_said_on_the_page(page, way):
    page.get_by_test_id("microphone-button").click()
    page.get_by_role("alert").filter(has_text="No microphone").filter(has_text=way).wait_for()

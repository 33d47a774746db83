"""The page: record or bring a sound, ask, and see the answer come."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from omni.errors import OmniError
from omni.generation.sampling import Settings
from omni.serving.assistant import Assistant
from omni.serving.batcher import Answer
from omni.serving.ears import File

log = logging.getLogger("omni.serve")

USER = "omni"
"""Who logs in where a key is asked for, with that as the password."""
KEEP = 3600
"""Seconds that an uploaded sound stays on the server's disk, for the page to play it."""
DEFAULT_QUESTION = "What is said?"
ASK = "Record or bring a sound first: this model answers about what it hears."
REFUSED = "refused"
"""Marks what the page says itself in place of an answer: the model never reads that turn, or it would be refused again
with each question that follows."""
CSS = ".message .minimal-audio-player { height: 4rem !important }"
"""A player of one line; Gradio's own takes a third of the page."""
MICROPHONE = """() => {
  const tell = (why) => {
    const line = document.querySelector("#no-microphone") ?? document.createElement("p");
    Object.assign(line, {id: "no-microphone", role: "alert", textContent: `No microphone: ${why} Or bring a file.`});
    line.style.cssText = "text-align: center; color: #c23b32; margin: 1rem";
    document.body.prepend(line);
  };
  const media = navigator.mediaDevices;
  if (!media) return tell("browsers have one for pages at localhost or behind https alone.");
  const ask = media.getUserMedia.bind(media);
  const ways = {NotFoundError: "Connect one, and press again.", NotAllowedError: "Allow it beside the address."};
  media.getUserMedia = (wish) => ask(wish).catch((error) => {
    tell(`the browser says "${error.message}". ${ways[error.name] ?? ""}`);
    throw error;
  });
}"""
"""Gradio tells the console alone when there is none, or its use is denied."""


def mount_page(app: FastAPI, assistant: Assistant, *, about: str, key: str | None = None) -> FastAPI:
    """Put the page at / of an app.

    Args:
        about: what the model was trained on and cannot do, in markdown.
        key: what its users have to log in with; None lets everybody in.
    """
    auth = None if key is None else (USER, key)
    size = int(assistant.limits.max_body_mib * 2**20)
    app.add_middleware(CORSMiddleware)  # no origin but our own: else Gradio allows others, for the whole app
    blocks = page(assistant, about)
    # Without it Gradio takes any path on this machine that a client names for one that was uploaded.
    blocks.has_launched = True
    given = {"auth": auth, "max_file_size": size, "css": CSS, "js": MICROPHONE, "footer_links": []}
    return gr.mount_gradio_app(app, blocks, path="", **given)


def page(assistant: Assistant, about: str) -> gr.Blocks:
    """Conversation, settings, and how fast the last answer came."""
    with gr.Blocks(title="omni", analytics_enabled=False, delete_cache=(KEEP // 4, KEEP)) as blocks:
        speed = gr.Markdown("", render=False, elem_id="speed")
        gr.ChatInterface(
            reply_to(assistant),
            multimodal=True,
            title="omni: ask it about what it hears",
            chatbot=gr.Chatbot(
                height="55vh", show_label=False, render_markdown=False, sanitize_html=True, buttons=["copy"]
            ),
            textbox=gr.MultimodalTextbox(
                sources=["microphone", "upload"],
                file_types=["audio"],
                file_count="multiple",
                stop_btn=True,
                placeholder=f"Record or bring a sound, and ask. Without a question: {DEFAULT_QUESTION}",
            ),
            additional_inputs=settings(assistant.limits.max_tokens),
            additional_inputs_accordion=gr.Accordion("Settings", open=False, render=False),
            additional_outputs=[speed],
            concurrency_limit=None,
            analytics_enabled=False,
            api_visibility="private",
        )
        speed.render()
        with gr.Accordion("What this model was trained on, and what it cannot do", open=False):
            gr.Markdown(about)
    return blocks


def settings(most: int) -> list[gr.components.Component]:
    """How an answer is drawn, folded away; `most` is the tokens that one may have."""
    return [
        gr.Slider(0, 2, 0, step=0.1, label="Temperature", info="0: always the likeliest token", render=False),
        gr.Slider(0.05, 1, 1, step=0.05, label="Top p", info="The likeliest that hold this share", render=False),
        gr.Slider(1, most, min(128, most), step=1, label="Tokens", info="At most", render=False),
        gr.Number(0, label="Seed", info="Of what is drawn", precision=0, render=False),
    ]


def reply_to(assistant: Assistant) -> Any:
    """What the page calls for each turn."""

    async def reply(
        message: dict, history: list[dict], temperature: float, top_p: float, tokens: int, seed: int
    ) -> AsyncIterator[tuple[str | gr.ChatMessage, str]]:
        answer = None
        try:
            messages, sounds = conversation(message, history)
            if not sounds and assistant.hears:
                raise OmniError(ASK)
            settings = Settings(max_tokens=int(tokens), temperature=temperature, top_p=top_p, seed=int(seed or 0))
            answer = await assistant.chat(messages, sounds, settings)
            said = ""
            async for text in answer.texts():
                said += text
                yield said, speed_of(answer)
            yield said, speed_of(answer)
        except Exception as error:  # raised, it would leave the page without its conversation and its box disabled
            told = str(error) if isinstance(error, OmniError) else "The server failed at this; its log says why."
            if not isinstance(error, OmniError):
                log.exception("the page failed")
            yield gr.ChatMessage(told, metadata={"id": REFUSED}), ""
        finally:
            if answer is not None:
                assistant.close(answer)

    return reply


def conversation(message: dict, history: list[dict]) -> tuple[list[dict], list[File]]:
    """The turns so far that were answered and the new one, as `omni.text.chat` has them, and the sounds in them."""
    turns: list[dict] = []
    sounds: list[File] = []
    new = [*({"type": "file", "file": {"path": path}} for path in message["files"])]
    new = {"role": "user", "content": [*new, {"type": "text", "text": message["text"]}]}
    for turn in [*answered(history), new]:
        content = [{"type": "text", "text": turn["content"]}] if isinstance(turn["content"], str) else turn["content"]
        parts = []
        for part in content:
            if part["type"] == "file":
                sounds.append(read_file(Path(part["file"]["path"])))
                parts.append({"type": "audio"})
            elif part.get("text"):
                parts.append({"type": "text", "text": part["text"]})
        if turns and turns[-1]["role"] == turn["role"]:  # the page makes a turn of each file
            turns[-1]["content"] += parts
        else:
            turns.append({"role": turn["role"], "content": parts})
    for turn in turns:
        if turn["role"] == "user" and all(part["type"] == "audio" for part in turn["content"]):
            turn["content"].append({"type": "text", "text": DEFAULT_QUESTION})
    return turns, sounds


def answered(history: list[dict]) -> list[dict]:
    """What is left without the turns that were refused."""
    left: list[dict] = []
    for turn in history:
        if (turn.get("metadata") or {}).get("id") == REFUSED:
            while left and left[-1]["role"] == "user":  # the page makes a turn of each file
                left.pop()
        else:
            left.append(turn)
    return left


def read_file(path: Path) -> File:
    try:
        return File(path.name, path.read_bytes())
    except OSError:
        raise OmniError(f"{path.name}: is not kept any more; begin a new conversation") from None


def speed_of(answer: Answer) -> str:
    first = answer.laps.milliseconds()["time_to_first_token_ms"]
    return f"first token after {first:.0f} ms · {answer.tokens_per_second:.0f} tokens a second"

"""What a client may ask, as OpenAI's API has it."""

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from omni.generation.sampling import Settings
from omni.serving.errors import ApiError
from omni.serving.limits import Limits

MOST_PARTS, MOST_MESSAGES = 256, 4096
"""Of one message and of any conversation, whatever a server's own limit; more are not even looked at."""
LONGEST_STOP = 256  # characters
HARMLESS = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Parameters that say nothing about the answer."""


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Sound(BaseModel):
    """data: a file in base64. format: clients have to name it; what counts is what the file itself says."""

    data: str
    format: Literal["wav", "mp3", "flac", "ogg"]


class AudioPart(BaseModel):
    type: Literal["input_audio"]
    input_audio: Sound


Part = Annotated[TextPart | AudioPart, Field(discriminator="type")]


Parts = Annotated[list[Part], Field(max_length=MOST_PARTS, fail_fast=True)]
"""Looked at no further than the first that is wrong: a million errors would take seconds to tell."""


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Parts


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """A conversation and how to go on with it; temperature 0, the likeliest answer, unless told otherwise. top_k and
    min_tokens are not OpenAI's, but vLLM's."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    min_tokens: int = 0
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4, fail_fast=True)] | None = None

    def settings(self, limits: Limits) -> Settings:
        """How to draw its answer. Raises ApiError for what this server does not do, OmniError for what nobody can."""
        for name, value in self.model_extra.items():
            if name not in HARMLESS and not is_usual(name, value):
                raise ApiError(400, f"{name}: this server does not do that", param=name, code="unsupported_parameter")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if any(len(text) > LONGEST_STOP for text in stop):
            raise ApiError(400, f"stop: a text has at most {LONGEST_STOP} characters", param="stop")
        return Settings(
            max_tokens=min(self.max_completion_tokens or self.max_tokens or limits.max_tokens, limits.max_tokens),
            min_tokens=self.min_tokens,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k,
            seed=(self.seed or 0) % 2**63,
            until=tuple(stop),
        )

    def conversation(self, limits: Limits) -> tuple[list[dict], list[bytes]]:
        """The messages as `omni.text.chat` has them, and the sound files in them. Raises ApiError."""
        if len(self.messages) > limits.max_messages:
            raise ApiError(400, f"messages: {len(self.messages)}, {limits.max_messages} at most", param="messages")
        messages, sounds = [], []
        for number, message in enumerate(self.messages):
            role, content = message.role.replace("developer", "system"), message.content
            if not isinstance(content, str):
                content = [plain(part, f"messages.{number}", role, sounds) for part in content]
            messages.append({"role": role, "content": content})
        return messages, sounds


def is_usual(name: str, value: Any) -> bool:
    """Whether a parameter asks for no more than what is done anyway."""
    usual = {"n": 1, "response_format": {"type": "text"}, "modalities": ["text"], "tool_choice": "none"}
    return value is None or value == usual[name] if name in usual else not value


def plain(part: TextPart | AudioPart, where: str, role: str, sounds: list[bytes]) -> dict:
    """A part as `omni.text.chat` has it; its sound goes to `sounds`."""
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if role != "user":
        raise ApiError(400, f"{where}: only the user can bring sound, not the {role}", param=where)
    try:
        sounds.append(base64.b64decode(part.input_audio.data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{where}: input_audio.data is no base64 ({error})", param=where) from None
    return {"type": "audio"}

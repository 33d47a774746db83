"""What a client may ask, as OpenAI's API has it."""

import base64
import binascii
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from omni.generation.sampling import Settings
from omni.serving.ears import File
from omni.serving.errors import ApiError
from omni.serving.limits import Limits

MOST_PARTS, MOST_MESSAGES = 256, 4096
"""Of one message and of any conversation, whatever a server's own limit; more are not even looked at."""
LONGEST_STOP = 256  # characters
HARMLESS = {
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    "parallel_tool_calls",
}
"""Parameters that say nothing about the answer; the last one nothing without tools, which are refused."""
NEUTRAL: dict[str, tuple] = {
    **dict.fromkeys(("n", "best_of", "repetition_penalty", "length_penalty"), (1,)),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    **dict.fromkeys(("skip_special_tokens", "spaces_between_special_tokens", "add_generation_prompt"), (True,)),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
    "chunking_strategy": ("auto",),
    "timestamp_granularities[]": ("segment",),
}
"""What asks for no more than is done anyway, where it is not null; of all others, whatever is 0, false or empty."""


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Sound(BaseModel):
    """data: a file in base64. (Clients name a format besides; what counts is what the file itself says.)"""

    data: str


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
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    min_tokens: int | None = Field(None, ge=0)
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4, fail_fast=True)] | None = None

    def settings(self, limits: Limits) -> Settings:
        """How to draw its answer. Raises ApiError for what this server does not do, OmniError for what nobody can."""
        for name, value in self.model_extra.items():
            check_neutral(name, value)
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if not all(0 < len(text) <= LONGEST_STOP for text in stop):
            raise ApiError(400, f"stop: a text has from 1 to {LONGEST_STOP} characters", param="stop")
        return Settings(
            max_tokens=min(self.max_completion_tokens or self.max_tokens or limits.max_tokens, limits.max_tokens),
            min_tokens=self.min_tokens or 0,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k if self.top_k and self.top_k > 0 else None,  # -1 and 0: all, as vLLM has them
            seed=(self.seed or 0) % 2**63,
            until=tuple(stop),
        )

    def conversation(self, limits: Limits) -> tuple[list[dict], list[File]]:
        """The messages as `omni.text.chat` has them, and the sound files in them. Raises ApiError."""
        if len(self.messages) > limits.max_messages:
            raise ApiError(400, f"messages: {len(self.messages)}, {limits.max_messages} at most", param="messages")
        messages, sounds = [], []
        for number, message in enumerate(self.messages):
            role, content = message.role.replace("developer", "system"), message.content
            if not isinstance(content, str):
                places = (f"messages.{number}.content.{place}" for place in range(len(content)))
                content = [plain(part, where, role, sounds) for part, where in zip(content, places, strict=True)]
            messages.append({"role": role, "content": content})
        return messages, sounds


def check_neutral(name: str, value: Any) -> None:
    """Raise ApiError for a parameter that this server does not know and that asks for more than is done anyway."""
    neutral = value is None or value in NEUTRAL[name] if name in NEUTRAL else not value
    if name not in HARMLESS and not neutral:
        raise ApiError(400, f"{name}: this server does not do that", param=name, code="unsupported_parameter")


def plain(part: TextPart | AudioPart, where: str, role: str, sounds: list[File]) -> dict:
    """A part as `omni.text.chat` has it; its sound goes to `sounds`."""
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if role != "user":
        raise ApiError(400, f"{where}: only the user can bring sound, not the {role}", param=where)
    try:
        sounds.append(File(where, decode(part.input_audio.data)))
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{where}: input_audio.data is no base64 ({error})", param=where) from None
    return {"type": "audio"}


def decode(data: str) -> bytes:
    """Of base64, also of its URL-safe kind, in lines, without the padding at its end, or in a data URI."""
    data = re.sub(r"^\s*data:[^,]{,200};base64,", "", data, count=1, flags=re.IGNORECASE)
    data = "".join(data.split()).rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(data + "=" * (-len(data) % 4), validate=True)

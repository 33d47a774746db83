"""What a server lets a client ask for, and what it says when that is more."""

from dataclasses import dataclass, fields

from omni.errors import OmniError


@dataclass
class Limits:
    """What one client, and all together, may have of a server.

    Args:
        max_rows: answers written at the same time, in one batch.
        max_waiting: requests that wait for that; more are refused with 503.
        max_body_mib: size of a request.
        max_audio_seconds: of one clip.
        max_messages: of one conversation.
        max_tokens: of one answer; a request that asks for more gets so many.
        max_seconds: an answer that takes longer is ended where it is.

    Raises:
        OmniError: a limit that lets nothing through.
    """

    max_rows: int = 16
    max_waiting: int = 32
    max_body_mib: float = 16
    max_audio_seconds: float = 30
    max_messages: int = 64
    max_tokens: int = 512
    max_seconds: float = 60

    def __post_init__(self):
        for name in (field.name for field in fields(Limits)):
            value = getattr(self, name)
            if not value > 0 and not (name == "max_waiting" and value == 0):
                raise OmniError(f"{name}={value} must be above 0")


class BusyError(OmniError):
    """All places are taken; `retry_after` is in whole seconds."""

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after

"""Where the time goes until the first token is there."""

from time import perf_counter

PARTS = ("wait", "decode", "mel", "encode", "project", "queue", "prefill", "first_token")
"""In order: for the ears to be free, from bytes to a waveform, to a mel spectrogram, to encoder states, to soft tokens,
for a place in the batch, to read the prompt and draw a token, and on its way to who waits for it."""


class Laps:
    """Each lap begins where the last one ended, so that the parts add up to the whole."""

    def __init__(self):
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.last = perf_counter()

    def lap(self, part: str, at: float | None = None) -> None:
        """What went by since the last lap was spent on `part`; `at` is where it ended, now if not given."""
        at = perf_counter() if at is None else at
        self.parts[part] += at - self.last
        self.last = at

    def milliseconds(self) -> dict[str, float]:
        """Each part, and how long all took together."""
        told = {f"{part}_ms": round(1000 * seconds, 2) for part, seconds in self.parts.items()}
        return told | {"time_to_first_token_ms": round(sum(told.values()), 2)}

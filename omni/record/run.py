"""A run folder and its run.json: who ran what, from which code, and how it ended."""

import json
import logging
import math
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import omni
from omni.atomic import replace_text
from omni.errors import OmniError
from omni.record import provenance
from omni.record.folder import hold, release, suggest
from omni.record.gate import Verdict

log = logging.getLogger(__name__)

STATUSES = ("running", "passed", "failed", "interrupted")
# The order of run.json: how it went first, the caller's facts in the middle, the machine last.
HEAD = ("status", "error", "created", "seconds", "resumed")
TAIL = ("metrics", "gate", "argv", "cwd", "git", "versions", "platform", "host", "pid")
OWN = frozenset(HEAD + TAIL) - {"metrics", "gate"}


class Run:
    """One run folder, held by one process. Use as a context manager: once begun, how the block ends is the status."""

    def __init__(self, folder: Path, data: dict[str, Any], files: Mapping[str, str] | None = None) -> None:
        """Use `Run.start` or `Run.resume`."""
        self.folder = folder
        self._data = data
        self._files = files  # of a new run
        self._hold: int | None = None
        self._begun = False
        self._earlier_seconds = data.get("seconds") or 0.0
        self._began = time.monotonic()

    @classmethod
    def start(cls, folder: str | Path, *, config_yaml: str, facts: Mapping[str, Any]) -> Self:
        """A new run. Until `begin` nothing of it is on disk, so that what turns out not to run leaves nothing.

        `facts` (stage, signature, seed, device, parameters...) go into run.json beside what Run adds itself.
        Raises OmniError when the folder holds a run already.
        """
        # Not resolved: `outputs` may be a symlink to a bigger disk, and `latest` belongs beside the runs.
        folder = Path(folder).absolute()
        _refuse_own(facts)
        git, diff = provenance.read_git(Path(omni.__file__).parent)
        data = {"status": "running", "error": None, "created": datetime.now().astimezone().isoformat()}
        data |= {"resumed": 0, **facts, "metrics": None, "gate": None, "argv": provenance.command()}
        if (folder / "run.json").exists():
            raise _taken(folder)
        data |= {"git": git, "versions": provenance.versions()} | provenance.process()
        return cls(folder, data, {"config.yaml": config_yaml, "git.diff": diff})

    @classmethod
    def resume(cls, folder: str | Path) -> Self:
        """Take up a run that was killed, failed, interrupted or passed. Until `begin` its folder stays as it is, so
        that what turns out not to go on keeps its verdict.

        The command, code and versions of the first start stay in run.json; a difference is warned about.
        Raises OmniError when there is no run, it cannot be read, or its process still lives.
        """
        # Resolved: through `outputs/latest` we would write into whichever run starts next.
        folder = Path(folder).resolve()
        data = read_run(folder)
        try:
            held = hold(folder)
        except BlockingIOError as error:
            where = f"pid {data.get('pid')} on {data.get('host')}"
            raise OmniError(f"{folder} is still running ({where}). Wait for it or stop it first.") from error
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            # Read again under the lock: the run may have ended between the first reading and now.
            run = cls(folder, read_run(folder))
            run._hold = held
            run._compare()
        except BaseException:
            release(held)
            raise
        return run

    def begin(self) -> None:
        """Nothing stands in the way any more. A new run makes its folder: run.json, config.yaml, git.diff. In a resumed
        one the status is running, `resumed` one more, the verdict gone. A second time this does nothing.

        Raises OmniError when the folder holds a run already or cannot be written."""
        if self._begun:
            return
        if self._files is not None:
            self._create(self._files)
            return
        resumed = self._data.get("resumed", 0) + 1
        self._data |= {"status": "running", "error": None, "resumed": resumed, "metrics": None, "gate": None}
        self._data |= provenance.process()
        self._begun = True
        self._write()
        (self.folder / "error.txt").unlink(missing_ok=True)

    @property
    def data(self) -> dict[str, Any]:
        """A copy of what run.json holds."""
        return dict(self._data)

    def note(self, **facts: Any) -> None:
        """Add or replace facts, which run.json gets when it is written next: at the latest when the run ends."""
        _refuse_own(facts)
        self._data |= facts

    def update(self, **facts: Any) -> None:
        """Add or replace facts in run.json, and bring `seconds` up to date. Raises OmniError."""
        self.note(**facts)
        self._write()

    def finish(self, status: str, *, metrics: dict | None = None, gate: list[Verdict] | None = None) -> None:
        """Record the end: passed, failed or interrupted, the summarised metrics, the gate's verdicts."""
        if status not in STATUSES[1:]:
            raise ValueError(f"status must be one of {', '.join(STATUSES[1:])}, not {status!r}")
        self._data |= {"status": status, "metrics": metrics, "gate": gate}
        self._write()

    def close(self) -> None:
        """Let go of the folder, so that another process may resume it."""
        release(self._hold)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            if not self._begun:
                return
            if error is None:
                if self._data["status"] == "running":
                    self.finish("passed")
                return
            try:
                self._record_end(error)
            except (OSError, OmniError) as second:
                # The first error is the one to read; a full disk must not take its place.
                log.warning("the failure could not be recorded: %s", second)
        finally:
            self.close()

    def _compare(self) -> None:
        """With where and by what it was started."""
        started, here = self._data.get("cwd"), str(Path.cwd())
        if started not in (None, here):
            # A relative path in its configuration would now name other data.
            if Path(started).is_dir():
                raise OmniError(f"{self.folder} was started in {started}: go there first, its paths start there.")
            log.warning("resuming in %s a run that was started in %s", here, started)
        git, _ = provenance.read_git(Path(omni.__file__).parent)
        for key, now in (("git", git), ("versions", provenance.versions())):
            if self._data.get(key) != now:
                log.warning("resuming with other %s: %s at the start, %s now", key, self._data.get(key), now)

    def _record_end(self, error: BaseException) -> None:
        stopped = isinstance(error, KeyboardInterrupt)
        message = str(error).strip() if isinstance(error, OmniError | KeyboardInterrupt) else ""
        message = message or "".join(traceback.format_exception_only(error)).strip()
        self._data |= {"status": "interrupted" if stopped else "failed", "error": message.splitlines()[0]}
        try:
            if not stopped:
                trace = "".join(traceback.format_exception(error))
                replace_text(self.folder / "error.txt", f"{message}\n\n{trace}")
        finally:
            # The status is tried even when the traceback finds no room.
            self._write()

    def _create(self, files: Mapping[str, str]) -> None:
        path = self.folder / "run.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold = hold(self.folder)
            # Exclusive creation is what makes the folder ours; the lock only says whether we still live.
            with path.open("x", encoding="utf-8") as file:
                try:
                    file.write(self._text())
                    file.flush()
                    for name, text in files.items():
                        replace_text(self.folder / name, text)
                except OSError:
                    with suppress(OSError):
                        path.unlink()
                    raise
        except OSError as error:
            self.close()
            if self.folder.is_dir() and isinstance(error, FileExistsError | BlockingIOError):
                raise _taken(self.folder) from error
            raise _unwritable(self.folder, error) from error
        self._begun = True

    def _text(self) -> str:
        self._data["seconds"] = round(self._earlier_seconds + time.monotonic() - self._began, 3)
        facts = {key: value for key, value in self._data.items() if key not in HEAD + TAIL}
        head, tail = ({key: self._data.get(key) for key in part} for part in (HEAD, TAIL))
        return json.dumps(_plain(head | facts | tail), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _write(self) -> None:
        if not self._begun:
            return
        try:
            replace_text(self.folder / "run.json", self._text())
        except OSError as error:
            raise _unwritable(self.folder, error) from error


def read_run(folder: str | Path) -> dict[str, Any]:
    """What a run says of itself. Reads files only; raises OmniError when run.json is missing or broken."""
    path = Path(folder) / "run.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("status") not in STATUSES:
            raise ValueError("it holds no run status")
    except (FileNotFoundError, NotADirectoryError):
        raise OmniError(f"{folder} is no run folder: it has no run.json.{suggest(Path(folder))}") from None
    except (OSError, ValueError) as error:
        hint = "It may be half-written or edited: mend it by hand, or start again in another folder."
        raise OmniError(f"{path} cannot be read: {error}. {hint}") from error
    return data


def _refuse_own(facts: Mapping[str, Any]) -> None:
    if taken := OWN & facts.keys():
        raise ValueError(f"run.json keys that Run writes itself: {', '.join(sorted(taken))}")


def _taken(folder: Path) -> OmniError:
    return OmniError(f"{folder} already holds a run. Go on with it by resume={folder}, or choose another folder.")


def _unwritable(folder: Path, error: OSError) -> OmniError:
    return OmniError(f"{folder} cannot be written: {error}. Make room or allow it, or choose another folder.")


def _plain(value: Any) -> Any:
    """The value as JSON knows it; NaN and the infinities, which it does not know, become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    # A zero-dimensional array or tensor, told by its shape: this room imports no torch.
    return _plain(value.item()) if getattr(value, "ndim", None) == 0 else str(value)

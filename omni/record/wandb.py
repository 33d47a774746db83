"""Weights & Biases as a mirror of metrics.csv: it never asks, never blocks and never fails a run."""

# Absolute imports: inside this file `wandb` is the package, not this module.
import logging
import os
import queue
import re
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

REACH_SECONDS = 5
INIT_SECONDS = 20
FINISH_SECONDS = 30
MODES = ("auto", "online", "offline", "disabled")
NO_KEY = "no key; `wandb login` stores one"
OLD_MODES = {"run": "online", "dryrun": "offline"}

# No second copy of what the run folder keeps (output, git, code) or of the machine's load.
SETTINGS = {
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
    "init_timeout": INIT_SECONDS,
    "finish_timeout": FINISH_SECONDS,
}


class WandbLogger:
    """Mirrors a run to Weights & Biases, into `folder/wandb` when there is no key or no network.

    mode: auto is online with a key and offline without, unless WANDB_MODE decides; an offline copy goes
    up later by `wandb sync`. All of wandb lives in one thread of its own: making the logger costs an import,
    logging costs a queue entry, `finish` waits FINISH_SECONDS at most. Whatever goes wrong is one warning.
    A resumed run goes on under its old id; wandb keeps what it has for steps that are then repeated.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str,
        name: str,
        group: str | None = None,
        mode: str = "auto",
    ) -> None:
        """Raises ValueError for an unknown mode."""
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
        asked = os.environ.get("WANDB_MODE") if mode == "auto" else None
        self._mode = OLD_MODES.get(asked, asked) if asked else mode
        # Absolute now: the thread opens the folder later, and the process may change directory.
        self._folder = Path(folder).absolute()
        self._about = {"project": project, "name": name, "group": group}
        self._jobs: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._exit_code = 0
        self._thread = threading.Thread(target=self._work, name="wandb mirror", daemon=True)
        if self._mode != "disabled":
            self._start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the values of one step."""
        self._queue(lambda run, values=dict(values): run.log(values, step=step))

    def config(self, values: Mapping[str, Any]) -> None:
        """Queue the configuration."""
        self._queue(lambda run, values=dict(values): run.config.update(values, allow_val_change=True))

    def finish(self, status: str) -> None:
        """Send what is left and close, with an exit code of 1 unless the run passed."""
        if not self._thread.is_alive():
            return
        self._exit_code = int(status != "passed")
        self._jobs.put(None)
        # A little more than wandb gives itself, so that it can end in good order.
        self._thread.join(FINISH_SECONDS + 2)
        if self._thread.is_alive():
            log.warning("wandb is still busy and left behind; `wandb sync %s/wandb/*run-*`", self._folder)

    def _start(self) -> None:
        # wandb reports its own use to its makers, offline too, and a process would wait for that at its end.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            # Here and not in the thread: a data worker forked during an import waits for it for ever.
            import wandb  # noqa: F401
        except Exception as error:
            log.warning("wandb is off (%s); metrics.csv goes on", _first_line(error))
        else:
            self._thread.start()

    def _queue(self, job: Callable[[Any], None]) -> None:
        # A thread that gave up reads no more, and its queue would grow for the whole run.
        if self._thread.is_alive():
            self._jobs.put(job)

    def _work(self) -> None:
        try:
            run = self._open()
            while (job := self._jobs.get()) is not None:
                job(run)
            run.finish(exit_code=self._exit_code)
        except Exception as error:
            log.warning("wandb is off (%s); metrics.csv goes on", _first_line(error))

    def _open(self) -> Any:
        import wandb

        # For all that follows, logging in included: not a word on the console.
        wandb.setup(settings=wandb.Settings(silent=True))
        identity = self._read_id()
        if self._mode not in ("auto", "online"):
            return self._init(self._mode, identity)
        trouble = _trouble(wandb)
        if trouble is None:
            try:
                return self._init("online", identity)
            except Exception as error:
                trouble = _first_line(error)
                # wandb keeps the id of a run that did not come up.
                identity = secrets.token_hex(6)
        if self._mode == "online" or trouble != NO_KEY:
            log.warning("wandb stays offline (%s); `wandb sync` sends %s/wandb later", trouble, self._folder)
        return self._init("offline", identity)

    def _init(self, mode: str, identity: str) -> Any:
        import wandb

        # The x_ settings come and go between versions; an unknown one is refused.
        known = {key: value for key, value in SETTINGS.items() if key in wandb.Settings.model_fields}
        return wandb.init(
            **self._about,
            mode=mode,
            dir=str(self._folder),
            id=identity,
            resume="allow" if mode == "online" else None,
            # Neither the run of another logger nor one that a crash left open becomes ours.
            reinit="create_new",
            settings=wandb.Settings(**known),
        )

    def _read_id(self) -> str:
        """The id this folder had before, else a new one, kept for the next time."""
        path = self._folder / "wandb" / "omni_run_id"
        if path.exists() and re.fullmatch(r"[0-9a-f]{12}", kept := path.read_text().strip()):
            return kept
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fresh := secrets.token_hex(6))
        return fresh


def _trouble(wandb: Any) -> str | None:
    """Why going online would fail, or None. Asked first because wandb itself retries for minutes."""
    try:
        # Environment, settings file or netrc, wherever wandb itself looks; without a prompt it asks no one.
        if not wandb.login(prompt=False, verify=False):
            return NO_KEY
    except wandb.Error as error:
        return _first_line(error)
    address = wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(address, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # It answers.
    except OSError as error:
        return f"{address} does not answer: {_first_line(error)}"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

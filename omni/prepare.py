"""python -m omni.prepare: make what a configuration needs and does not find: its data, its tokenizer, encoder states.

python -m omni.prepare stage=w0_base dataset=debian_text       fetch the text, train a tokenizer on it
python -m omni.prepare dataset=climbmix dataset.shards=2       fetch two files of nanochat's corpus
python -m omni.prepare stage=w2_align                          fetch the clips, encode all splits; two at once share it

Takes the overrides that `python -m omni.train` will be given. What is there already is left as it is.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from omni.config.check import ConfigError
from omni.config.compose import compose
from omni.config.entry import report
from omni.config.fetch import prepare


def main() -> None:
    """The command. Exit status: 0, or 1 with an error that says what to do, in the words of `omni.train`."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.prepare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for omni.train")
    parser.add_argument("--config-dir", "-cd", metavar="FOLDER", help="more YAML, as for omni.train")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("omni").setLevel(logging.INFO)
    try:
        prepare(compose(arguments.overrides + own_conf(arguments.config_dir)))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        report(error, want_traceback=os.environ.get("HYDRA_FULL_ERROR") == "1")
        sys.exit(1)


def own_conf(folder: str | None) -> list[str]:
    """The override that lets YAML in a folder of the user's own count."""
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise ConfigError(f"--config-dir: {folder} is no folder")
    return [f"hydra.searchpath=['file://{Path(folder).absolute()}']"]


if __name__ == "__main__":
    main()

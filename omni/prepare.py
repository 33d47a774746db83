"""python -m omni.prepare: make what a configuration needs and does not find: its data, and its tokenizer.

python -m omni.prepare stage=w0_base dataset=debian_text       fetch the text, train a tokenizer on it
python -m omni.prepare dataset=climbmix dataset.shards=2       fetch two files of nanochat's corpus

Takes the overrides that `python -m omni.train` will be given. What is there already is left as it is.
"""

import argparse
import logging
import sys

from omni.config.compose import compose
from omni.config.fetch import fetch_dataset, train_tokenizer
from omni.errors import OmniError


def main() -> None:
    """The command. Exit status: 0, or 1 with an error that says what to do."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.prepare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for omni.train")
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("omni").setLevel(logging.INFO)
    try:
        cfg = compose(parser.parse_args().overrides)
        fetch_dataset(cfg)
        train_tokenizer(cfg)
    except OmniError as error:
        print(f"error: {error}".replace("\n", "\n  "), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

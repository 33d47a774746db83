"""python -m omni.config: look at configurations, check them, and see what a change does to every experiment.

python -m omni.config show experiment=w1_seed --key stage      what would run
python -m omni.config show --options                           what there is to choose from
python -m omni.config check                                    every stage, experiment and option
python -m omni.config snapshot                                 rewrite tests/snapshots after a change of conf/
python -m omni.config diff main                                what the working tree changes, by experiment
python -m omni.config diff outputs/latest                      what changed since that run
python -m omni.config schema                                   rewrite docs/schema, which editors read
"""

import argparse
import json
import shutil
import signal
import sys
import textwrap
from pathlib import Path

from omni.errors import OmniError

# The commands import what they need themselves: `diff` must start in a tree whose schema does not even import.


def main() -> None:
    """The command. Exit status: 0 well, 1 a problem or a difference, 2 a question that makes no sense."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `show | head` ends quietly
    arguments = parser().parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except OmniError as error:
        print(f"error: {error}".replace("\n", "\n  "), file=sys.stderr)
        sys.exit(2 if arguments.run is diff else 1)


def parser() -> argparse.ArgumentParser:
    """The five commands."""
    first, _, rest = __doc__.partition("\n\n")
    top = argparse.ArgumentParser(
        prog="python -m omni.config", description=first, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(run, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(run.__name__, help=text, description=text)
        made.set_defaults(run=run)
        return made

    showing = command(show, "print the composed and resolved configuration")
    showing.add_argument("--key", help="only this group or dotted key, as in stage or stage.lr")
    showing.add_argument("--options", action="store_true", help="list the groups and their options instead")
    checking = command(check, "say everything that is wrong; without overrides, of all that ships")
    for made in (showing, checking):
        made.add_argument(
            "overrides", nargs="*", metavar="OVERRIDE", help="as for omni.train: projector=conv stage.lr=3e-4"
        )
        made.add_argument("--config-dir", type=Path, help="a folder with options of your own")
    kept = command(snapshot, "render every stage and experiment into tests/snapshots").add_mutually_exclusive_group()
    kept.add_argument("--check", action="store_true", help="write nothing; show what is out of date and exit 1")
    kept.add_argument("--json", action="store_true", help="write nothing; print all of them as JSON")
    comparing = command(diff, "what differs, by experiment")
    comparing.add_argument("a", metavar="A", help="a run folder, a snapshot, a git revision, or . (the working tree)")
    comparing.add_argument("b", metavar="B", nargs="?", default=".", help="the same; the working tree when left out")
    comparing.add_argument("--merge-base", action="store_true", help="from where A and B part instead of from A")
    comparing.add_argument("--markdown", action="store_true", help="for a pull request")
    comparing.add_argument("--exit-code", action="store_true", help="exit 1 when there is a difference")
    editing = command(schema, "write the JSON schemas that editors complete and check the YAML by")
    editing.add_argument("--check", action="store_true", help="write nothing; show what is out of date and exit 1")
    return top


def show(arguments: argparse.Namespace) -> int:
    """Print a configuration, a part of it, or what there is to choose from."""
    from omni.config.compose import compose, part
    from omni.config.render import render

    if arguments.options:
        print_options()
        return 0
    cfg = compose(overrides_of(arguments))
    print(part(cfg, arguments.key) if arguments.key else render(cfg).rstrip())
    return 0


def print_options() -> None:
    """Each group with its options and what their YAML says of them."""
    from omni.config.compose import defaults, options
    from omni.config.json_schema import head_comment
    from omni.config.paths import conf_dir

    width = max(60, shutil.get_terminal_size((120, 24)).columns)
    for group in defaults():
        print(f"{group}=")
        for option in options(group):
            text = head_comment(conf_dir() / group / f"{option}.yaml")
            print(textwrap.fill(text, width, initial_indent=f"  {option:<18}", subsequent_indent=" " * 20))


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """The overrides, with the folder of the user's own options on hydra's search path."""
    folder = arguments.config_dir
    if folder is None:
        return arguments.overrides
    if not folder.is_dir():
        raise OmniError(f"--config-dir: {folder} is no folder")
    return [*arguments.overrides, f"hydra.searchpath=['file://{folder.resolve().as_posix()}']"]


def check(arguments: argparse.Namespace) -> int:
    """Check one configuration, or without overrides every stage, experiment and option."""
    from omni.config.check import check as check_config
    from omni.config.compose import choices, compose, problems

    given = overrides_of(arguments)
    if given:
        check_config(compose(given))
        print(f"{' '.join(arguments.overrides)}: fine")
        return 0
    said = {choice: problems(choice) for choice in choices()}
    failed = {choice: lines for choice, lines in said.items() if lines}
    for choice, lines in failed.items():
        print("\n  ".join([f"error: {choice}", *lines]), file=sys.stderr)
    print(f"{len(said) - len(failed)} of {len(said)} stages, experiments and options are fine")
    return 1 if failed else 0


def snapshot(arguments: argparse.Namespace) -> int:
    """Write, check or print the snapshots."""
    from omni.config.snapshot import MEND, as_json, snapshots

    if arguments.json:
        print(json.dumps(as_json()))
        return 0
    return write_or_check(snapshots(), "tests/snapshots/**/*.yaml", arguments.check, MEND)


def schema(arguments: argparse.Namespace) -> int:
    """Write or check the JSON schemas and the settings that point an editor to them."""
    from omni.config.json_schema import MEND, files

    return write_or_check(files(), "docs/schema/*.json", arguments.check, MEND)


def write_or_check(wanted: dict[str, str], pattern: str, only_check: bool, mend: str) -> int:
    """Bring generated files up to date, or show how far they are from it."""
    from omni.config.generated import checkout, drift, update

    if not only_check:
        said = update(checkout(), wanted, pattern)
        print("\n".join([*said, f"{len(wanted)} files, {len(said) or 'none'} of them new, changed or removed"]))
        return 0
    if found := drift(checkout(), wanted, pattern):
        print(found)
        print(f"error: out of date; `{mend}` mends it", file=sys.stderr)
        return 1
    print(f"{len(wanted)} files are up to date")
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """Print what differs between two sides."""
    from omni.config.diff import as_markdown, as_text, compare

    found = compare(arguments.a, arguments.b, from_merge_base=arguments.merge_base)
    print(as_markdown(found) if arguments.markdown else as_text(found))
    return 1 if arguments.exit_code and not found.is_same else 0


if __name__ == "__main__":
    main()

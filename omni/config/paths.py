"""Where the YAML lives: inside an installed wheel, or beside the package in a checkout."""

from pathlib import Path

import omni
from omni.errors import OmniError

VERSION_BASE = "1.3"
"""The hydra behaviour omni is written for."""


def conf_dir() -> Path:
    """The absolute path of the folder that holds `train.yaml`.

    Raises:
        OmniError: neither place holds it.
    """
    package = Path(omni.__file__).resolve().parent
    places = (package / "conf", package.parent / "conf")
    for place in places:
        if (place / "train.yaml").is_file():
            return place
    raise OmniError(f"no train.yaml in {places[0]} or {places[1]}: install omni again, or run it from a checkout")

"""Adapters on disk: a folder of their own, laid out as PEFT does it, and what a run's configuration tells of them."""

import json
import re
import shutil
from copy import copy
from pathlib import Path

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omni.atomic import replacing, replacing_folder
from omni.model.gpt import GPT
from omni.model.lora import ADAPTER, AdapterError, adapted_layers, adapter_state, add_lora
from omni.model.state import check_fit

MODEL, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""What PEFT calls them."""

PEFT_PREFIX = "base_model.model."  # before every name in a file of PEFT's
SETTINGS = {"rank", "alpha", "dropout", "targets", "dora"}


def save_adapter(backbone: GPT, folder: Path) -> int:
    """Write the adapters alone as a folder that PEFT reads too; returns their parameters.

    Raises:
        AdapterError: there are none, `folder` holds something else, or the disk refuses.
    """
    state, config = adapter_state(backbone), copy(backbone.peft_config[ADAPTER])
    config.target_modules = sorted(adapted_layers(backbone))  # PEFT shortens the names to a set, in no order
    try:
        if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {MODEL, CONFIG}):
            raise AdapterError(f"{folder}: there is something else than an adapter, so it is not replaced")
        with replacing_folder(folder.resolve()) as aside:
            config.save_pretrained(aside)
            with replacing(aside / MODEL) as temporary:
                save_file({f"{PEFT_PREFIX}{name}": tensor for name, tensor in state.items()}, temporary)
            shutil.copymode(aside / CONFIG, aside / MODEL)  # safetensors shuts out everybody else, whatever the umask
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{folder}: the adapter cannot be written ({error})") from error
    return sum(tensor.numel() for tensor in state.values())


def load_adapter(backbone: GPT, folder: Path) -> None:
    """Put the adapters in a folder beside the matrices of `backbone`, which has none, and freeze it.

    Raises:
        AdapterError: files are missing or damaged, or scale the adapters in another way.
        OmniError: they do not fit the backbone, which may then have adapters without these weights.
    """
    try:
        told = json.loads((folder / CONFIG).read_bytes())
        state = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in load_file(folder / MODEL).items()}
        settings = {"rank": told["r"], "alpha": told["lora_alpha"], "dropout": told["lora_dropout"]}
        if told["use_rslora"] or told["alpha_pattern"]:
            raise ValueError("use_rslora and alpha_pattern are not for omni")
        targets = sorted({name.split(".lora_")[0] for name in state})
        add_lora(backbone, **settings, targets=targets, dora=told["use_dora"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, AdapterError) as error:
        raise AdapterError(f"{folder}: the adapter cannot be loaded ({error})") from None
    check_fit(adapter_state(backbone), state, folder / MODEL)
    named = {re.sub(r"(\.lora_\w+)", rf"\1.{ADAPTER}", name): tensor for name, tensor in state.items()}
    backbone.load_state_dict(named, strict=False)


def read_settings(config: Path) -> dict:
    """What `add_lora` was given, out of `stage.lora` in a run's `config.yaml`.

    Raises:
        AdapterError: there is no such file, or the run has no adapters.
    """
    try:
        settings = yaml.safe_load(config.read_bytes())["stage"].get("lora")
        if settings is None:
            raise ValueError("this run has no adapters")
        if missing := SETTINGS ^ settings.keys():
            raise ValueError(f"{', '.join(sorted(missing))} missing or unknown")
        if type(settings["alpha"]) not in (int, float):
            raise ValueError(f"alpha {settings['alpha']!r} is no number")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise AdapterError(f"{config}: no settings of adapters under stage.lora ({error})") from None
    return settings

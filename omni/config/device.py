"""Where a run computes and in which arithmetic: what its configuration asks for, held against what is there."""

import importlib.metadata
import logging
from functools import cache
from typing import TYPE_CHECKING

from omni.config.check import ConfigError

if TYPE_CHECKING:  # torch is imported when something is built, not when a config is shown
    import torch

    from omni.model.omni import Omni

log = logging.getLogger("omni.device")


def pick_device(name: str) -> "torch.device":
    """The device of that name; "auto" is the first of cuda, mps and cpu that is there. CUDA multiplies fp32 as TF32.

    Raises:
        ConfigError: a device that is asked for by name and is not there.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there.get(name):
        found = ", ".join(device for device, available in there.items() if available)
        raise ConfigError(f"device: {name} is not available here (found: {found}); use device=auto")
    if name != "cuda":
        return torch.device(name)
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda", torch.cuda.current_device())  # by its number: in another thread "cuda" is the first GPU


def pick_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """The arithmetic of that name: "auto" is bf16 where the device multiplies it natively, else fp32; "fp8" has bf16
    beside it. The first time that a CPU has to emulate bf16 a warning says so."""
    import torch

    from omni.model.precision import multiplies_bf16

    if name == "fp32" or (name == "auto" and not multiplies_bf16(device)):
        return torch.float32
    if name == "bf16" and device.type == "cpu" and not multiplies_bf16(device):
        warn_of_emulation()
    return torch.bfloat16


@cache
def warn_of_emulation() -> None:
    log.warning("this CPU has no bf16: it is emulated, far slower than fp32; precision=auto takes what is fast")


def turn_to_fp8(model: "Omni", device: "torch.device") -> int:
    """Let the backbone multiply in fp8 where it trains; returns in how many layers.

    Raises:
        OmniError: this hardware does not, or there is no such layer.
    """
    from omni.model.fp8 import check_fp8, use_fp8

    check_fp8(device)
    trains = any(parameter.requires_grad for parameter in model.backbone.transformer.h.parameters())
    layers = use_fp8(model.backbone) if trains else 0
    if not layers:
        raise ConfigError(
            "precision: fp8 is for the matrices of a backbone that trains, 128 wide or more, and there are none; "
            "use precision=bf16"
        )
    return layers


def import_torch() -> None:
    """Import torch and torchaudio together, or say why they cannot be.

    Raises:
        ConfigError: with the remedy; the usual cause is a CPU-only torch beside the registry's CUDA torchaudio.
    """
    try:
        import torch  # noqa: F401
        import torchaudio  # noqa: F401
    except (ImportError, OSError) as error:
        versions = " and ".join(f"{name} {version_of(name)}" for name in ("torch", "torchaudio"))
        raise ConfigError(
            f"{versions} cannot be imported together ({error}). They must come from the same index and fit each "
            "other: pip install --force-reinstall 'torch>=2.11,<2.15' 'torchaudio==2.11.*'"
        ) from error


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"

"""python -m omni.export: a run's language model as one small folder to start other runs from.

python -m omni.export run=outputs/latest to=data/my_base       model.safetensors (bf16), config.json, tokenizer.json
python -m omni.train backbone.init_from=data/my_base ...       a run that starts from it (with its sizes)
"""

import json
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from omni.atomic import replace_text, replacing
from omni.config.arguments import run
from omni.config.trained import backbone_sizes, load_trained


@dataclass
class Export:
    """run: the run's folder. to: the folder to write."""

    run: str = MISSING
    to: str = MISSING


def main() -> None:
    """The command."""
    run(export, Export, doc=__doc__)


def export(asked: Export) -> None:
    """Write the backbone of a run, its sizes and its tokenizer."""
    trained = load_trained(asked.run, device="cpu")
    import torch
    from safetensors.torch import save_file

    folder = Path(asked.to)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in trained.model.backbone.state_dict().items()}
    with replacing(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    replace_text(folder / "config.json", json.dumps(backbone_sizes(trained.cfg), indent=2) + "\n")
    if hasattr(trained.tokenizer, "save"):
        trained.tokenizer.save(folder)
    print(f"{sum(tensor.numel() for tensor in tensors.values()):,} parameters in {folder}")


if __name__ == "__main__":
    main()

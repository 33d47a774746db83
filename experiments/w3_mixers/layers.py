"""What each layer of whisper-base knows of each category: ridge regression on statistics of eight parts of a sound.

python experiments/w3_mixers/layers.py        draws layers.png and prints the numbers

3,000 sounds of the training set, three quarters to learn from and one to ask; right is the likeliest of four choices.
"""

from collections import defaultdict
from pathlib import Path

import torch
from matplotlib.figure import Figure

from omni.instructions.dataset import AudioInstructions
from omni.instructions.questions import question_of
from omni.model.encoder import WhisperEncoder
from omni.model.texture import shares
from omni.record.style import DPI, INK

SOUNDS, PARTS, RIDGE = 3000, 8, 0.3
MADE = {"amazon_queen": "data/amazon_queen", "animals": "data/animals", "soundfont": "data/soundfont"}


def main() -> None:
    made = AudioInstructions(folder="data/audio_instructions", n=SOUNDS, **MADE)
    first = {}
    for place, clip in enumerate(made.clips):
        if len(clip.choices or ()) == 4:
            first.setdefault((clip.audio, clip.offset), place)
    encoder = WhisperEncoder(layers=[])
    kinds = defaultdict(list)
    for place in first.values():
        states_1KTD, lengths = encoder([made[place].waveform])
        question = question_of(made.clips[place])
        kinds[question.category, question.kind].append((question, statistics(states_1KTD.float(), lengths)))
    right = {kind: rights(items) for kind, items in kinds.items() if len(items) > 20}
    categories = list(dict.fromkeys(category for category, _ in right))
    table = torch.stack([torch.stack([r for (c, _), r in right.items() if c == name]).mean(0) for name in categories])
    for name, row in zip(categories, table.tolist(), strict=True):
        print(f"{name:10}", *(f"{value:5.0%}" for value in row))
    draw(categories, table)


def statistics(states_1KTD: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mean and deviation of each channel in each part, by layer (K, F)."""
    share_PT = shares(lengths, PARTS, states_1KTD.size(2))[0]
    mean_KPD = share_PT @ states_1KTD[0]
    spread_KPD = (share_PT @ states_1KTD[0].square() - mean_KPD.square()).clamp_min(1e-6).sqrt()
    return torch.cat([mean_KPD, spread_KPD], dim=-1).flatten(1).half()


def rights(items: list) -> torch.Tensor:
    """The share that is answered right, by layer (K,)."""
    questions, found_NKF = [question for question, _ in items], torch.stack([found for _, found in items]).float()
    answers = [question.choices[question.answer] for question in questions]
    classes = {text: number for number, text in enumerate(sorted(set(answers)))}
    target_NC = torch.eye(len(classes))[[classes[text] for text in answers]]
    known, scores = len(items) * 3 // 4, []
    for x_NF in found_NKF.unbind(1):
        x_NF = (x_NF - x_NF[:known].mean(0)) / x_NF[:known].std(0).clamp_min(1e-3)
        kernel_NN = x_NF @ x_NF[:known].T / x_NF.size(1)
        weight = torch.linalg.solve(kernel_NN[:known] + RIDGE * torch.eye(known), target_NC[:known])
        scored = []
        for question, row in zip(questions[known:], (kernel_NN[known:] @ weight).tolist(), strict=True):
            of_choices = [row[classes[text]] if text in classes else float("-inf") for text in question.choices]
            scored.append(of_choices.index(max(of_choices)) == question.answer)
        scores.append(sum(scored) / len(scored))
    return torch.tensor(scores)


def draw(categories: list[str], table: torch.Tensor) -> None:
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, cmap="Greens", vmin=0.25, vmax=1, aspect="auto")
    axes.set_xticks(range(table.size(1)), [*range(table.size(1))])
    axes.set_yticks(range(len(categories)), categories)
    for y, row in enumerate(table.tolist()):
        for x, value in enumerate(row):
            best = value == max(row)
            color = "white" if value > 0.7 else INK
            axes.text(x, y, f"{value:.0%}", ha="center", va="center", color=color, weight="bold" if best else "normal")
    axes.set_xlabel("what leaves layer (0: what enters the first; 6: the output)")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.savefig(Path(__file__).parent / "layers.png", dpi=DPI)


if __name__ == "__main__":
    main()

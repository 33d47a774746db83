"""Soft tokens that say how a sound sounds: statistics of its parts, over all layers that are kept.

What tells a voice, a pitch or an instrument is spread over seconds, and most of it is in the encoder's first layers;
the tokens of a projector each look at a moment, and were taught words. So a few more stand in front of them.

Shape letters: B batch, K encoder layers kept, T encoder frames, D encoder width, P parts, F statistics, H hidden width,
C backbone width, R rows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.model.precision import Linear

FLOOR = 1e-4
"""Of a variance, before its root is taken."""
FAR = 5.0
"""Deviations from the mean; what lies further is as good as there."""


class PartStatistics(nn.Module):
    """A soft token for each of some equal parts of a sound: mean and deviation of each layer's channels in it
    (statistics pooling, Snyder et al. 2018, x-vectors), standardised by their mean and deviation over all that was
    heard in training, through two layers that know which part it is.

    A forward pass in training leaves its mean and variance in `heard`; `take_in` makes them part of the running ones
    between steps. So a step's passes all know the steps before and themselves, whichever process takes them.

    Args:
        n_states, width: K and D of the encoder.
        out_dim: C.
        parts: P.
        hidden_dim: width between the two layers.
        dropout: the share of hidden units that are silenced in training.
    """

    def __init__(
        self, *, n_states: int, width: int, out_dim: int, parts: int = 8, hidden_dim: int = 256, dropout: float = 0.0
    ):
        super().__init__()
        self.n_states, self.parts, self.dropout = n_states, parts, dropout
        statistics = 2 * n_states * width
        # Channels of Whisper's inner states lie far from zero, and what tells sounds apart is small beside that.
        self.norm = nn.BatchNorm1d(statistics, affine=False, momentum=None)
        # Sums over the passes since the last step: how many, then the means and the variances.
        self.register_buffer("heard", torch.zeros(1 + 2 * statistics), persistent=False)
        self.fc1 = Linear(statistics, hidden_dim, bias=True)
        self.place_PH = nn.Parameter(torch.randn(parts, hidden_dim))
        self.fc2 = Linear(hidden_dim, out_dim, bias=True)
        nn.init.normal_(self.fc1.weight, std=statistics**-0.5)
        nn.init.normal_(self.fc2.weight, std=hidden_dim**-0.5)
        for linear in (self.fc1, self.fc2):
            nn.init.zeros_(linear.bias)

    @property
    def weights(self) -> Tensor:
        """How much each layer counts (K,), summing to 1: the energy of what reads its statistics, which are all as
        loud."""
        energy_K = self.fc1.weight.detach().float().view(len(self.fc1.weight), self.n_states, -1).square().sum((0, 2))
        return energy_K / energy_K.sum()

    def forward(self, states_BKTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Soft tokens (B, P, C)."""
        share_BPT = shares(lengths_B, self.parts, states_BKTD.size(2)).to(states_BKTD.dtype)
        loudness_BKT1 = torch.linalg.vector_norm(states_BKTD, dim=-1, keepdim=True).clamp_min(FLOOR)
        x_BKTD = states_BKTD * (states_BKTD.size(3) ** 0.5 / loudness_BKT1)
        mean_BKPD = share_BPT[:, None] @ x_BKTD
        square_BKPD = share_BPT[:, None] @ x_BKTD.square()
        spread_BKPD = (square_BKPD.float() - mean_BKPD.float().square()).clamp_min(FLOOR).sqrt()
        found_BPF = torch.cat([mean_BKPD.float(), spread_BKPD], dim=-1).transpose(1, 2).flatten(2)
        even_BPF = self.standardised(found_BPF.flatten(0, 1)).view_as(found_BPF).to(states_BKTD.dtype)
        hidden_BPH = F.gelu(self.fc1(even_BPF) + self.place_PH.to(even_BPF.dtype))
        return self.fc2(F.dropout(hidden_BPH, self.dropout, self.training))

    @torch.no_grad()
    def standardised(self, rows_RF: Tensor) -> Tensor:
        """Each statistic less its mean, over its deviation, of all that was heard in training so far.

        Not of this batch alone: clips of like length stand together, and with them those of one kind, whose mean is
        just what tells them from others.
        """
        mean_F, var_F = self.norm.running_mean, self.norm.running_var
        if self.training and len(rows_RF) > 1:
            own_var_F, own_mean_F = torch.var_mean(rows_RF, dim=0)
            self.heard += torch.cat([own_mean_F.new_ones(1), own_mean_F, own_var_F])
            share = 1 / (self.norm.num_batches_tracked + 1.0)
            mean_F, var_F = mean_F.lerp(own_mean_F, share), var_F.lerp(own_var_F, share)
        return F.batch_norm(rows_RF, mean_F, var_F).clamp(-FAR, FAR)

    @torch.no_grad()
    def take_in(self) -> None:
        """Make what `heard` holds, of one process or added up over several, part of the running statistics."""
        passes, sums_2F = self.heard[0], self.heard[1:]
        self.norm.num_batches_tracked += passes.long()
        share = passes / self.norm.num_batches_tracked.clamp(min=1)
        mean_F, var_F = (sums_2F / passes.clamp(min=1)).chunk(2)
        self.norm.running_mean.lerp_(mean_F, share)
        self.norm.running_var.lerp_(var_F, share)
        self.heard.zero_()


def shares(lengths_B: Tensor, parts: int, frames: int) -> Tensor:
    """How much each frame counts in each part (B, P, T): a part's frames alike, and together 1. A part of a sound that
    has fewer frames than parts has the frame nearest to it."""
    at_T = torch.arange(frames, device=lengths_B.device)
    edges_BP = torch.arange(parts + 1, device=lengths_B.device) * lengths_B[:, None] / parts
    first_BP1 = edges_BP[:, :-1, None].floor()
    last_BP1 = torch.maximum(edges_BP[:, 1:, None].ceil(), first_BP1 + 1)
    inside_BPT = ((at_T >= first_BP1) & (at_T < last_BP1)).float()
    return inside_BPT / inside_BPT.sum(-1, keepdim=True).clamp_min(1)

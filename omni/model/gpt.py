"""nanochat's GPT (karpathy/nanochat, commit 92d63d4), with room for audio in front of the text.

Shape letters: B batch, T positions (audio and text), L text tokens, S soft audio tokens, C width, H heads,
G key/value heads, E head width, V vocabulary.

What is unusual about it, in the order a token meets it:

- **smear**: a token takes in a learned share of its left neighbour's embedding, so bigrams are free;
- **x0**: every layer mixes the embedding back in (`resid_lambdas`, `x0_lambdas`);
- **value embeddings**: every other layer looks its values up by token id, besides computing them;
- **QK norm**, then times 1.2: attention logits stay bounded and sharp without a learned scale;
- **relu squared** in the MLP, parameter-free RMS norms, no biases;
- **backout**: the state of the middle layer is partly subtracted before the head, which cares about late features;
- **softcap**: logits are squeezed into +-15.

Audio joins after smear, as rows in front of each text: `[audio | text | padding]`. Rows are packed to the left, so
plain causal attention is right for a ragged batch: padding stands behind everything that is graded.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.errors import OmniError
from omni.model.attention import Attention, Rotary, rms_norm
from omni.model.precision import Embedding, Linear
from omni.text.tokenizer import IGNORE

SOFTCAP = 15.0
SMEAR_CHANNELS = 24
ROPE_REACH = 10
"""The rotary cache reaches this many times the context."""


def window_sizes(pattern: str, n_layer: int, sequence_len: int) -> list[int]:
    """How far back each layer looks, in tokens: the pattern of S(hort) and L(ong) tiled; the last layer is long."""
    short = math.ceil(sequence_len / 4 / 128) * 128
    sizes = [short if pattern[i % len(pattern)].upper() == "S" else sequence_len for i in range(n_layer)]
    return [*sizes[:-1], sequence_len]


class MLP(nn.Module):
    def __init__(self, n_embd: int):
        super().__init__()
        self.c_fc = Linear(n_embd, 4 * n_embd)
        self.c_proj = Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, n_embd: int, n_head: int, n_kv_head: int, *, window: int, value_embeds: bool):
        super().__init__()
        self.attn = Attention(n_embd, n_head, n_kv_head, window=window, value_embeds=value_embeds)
        self.mlp = MLP(n_embd)

    def forward(self, x_BTC: Tensor, values_BTC: Tensor | None, rotary: Rotary) -> Tensor:
        x_BTC = x_BTC + self.attn(rms_norm(x_BTC), values_BTC, rotary)
        return x_BTC + self.mlp(rms_norm(x_BTC))


class GPT(nn.Module):
    """The language model.

    Args:
        sequence_len: context in tokens, audio and text together.
        vocab_size: tokens; the tables are padded up to a multiple of 64, the logits cut back.
        n_layer, n_head, n_kv_head, n_embd: depth, heads, key/value heads, width.
        window_pattern: S and L, tiled over the layers (see `window_sizes`).
        audio_values: what value embeddings do at audio rows: "zero" adds nothing; "token0" looks up token 0,
            as omni's first version did (measured on a small model behind 300 rows: text loss 1.93 against 1.73).
        dtype: of the arithmetic; all weights stay fp32 (see `omni/model/precision.py`).

    Raises:
        OmniError: sizes that do not divide, or an unknown window letter.
    """

    def __init__(
        self,
        *,
        sequence_len: int = 2048,
        vocab_size: int = 32768,
        n_layer: int = 12,
        n_head: int = 6,
        n_kv_head: int = 6,
        n_embd: int = 768,
        window_pattern: str = "SSSL",
        audio_values: str = "zero",
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if n_embd % n_head or n_head % n_kv_head or (n_embd // n_head) % 2:
            raise OmniError(
                f"backbone: n_embd={n_embd}, n_head={n_head}, n_kv_head={n_kv_head} do not fit: n_embd must be a "
                "multiple of n_head (with an even quotient), n_head a multiple of n_kv_head"
            )
        if n_embd < SMEAR_CHANNELS:
            raise OmniError(f"backbone.n_embd: {n_embd} is too narrow, smear reads {SMEAR_CHANNELS} channels")
        if not window_pattern or set(window_pattern.upper()) - {"S", "L"}:
            raise OmniError(f"backbone.window_pattern: {window_pattern!r} must be made of S and L")
        self.sequence_len, self.vocab_size, self.n_embd = sequence_len, vocab_size, n_embd
        self.audio_values, self.dtype = audio_values, dtype
        rows = math.ceil(vocab_size / 64) * 64
        windows = window_sizes(window_pattern, n_layer, sequence_len)
        with_values = [i % 2 == (n_layer - 1) % 2 for i in range(n_layer)]
        self.transformer = nn.ModuleDict(
            {
                "wte": Embedding(rows, n_embd, compute_dtype=dtype),
                "h": nn.ModuleList(
                    Block(n_embd, n_head, n_kv_head, window=window, value_embeds=values)
                    for window, values in zip(windows, with_values, strict=True)
                ),
            }
        )
        kv_width = n_kv_head * (n_embd // n_head)
        self.value_embeds = nn.ModuleDict(
            {str(i): Embedding(rows, kv_width, compute_dtype=dtype) for i, values in enumerate(with_values) if values}
        )
        self.lm_head = Linear(n_embd, rows)
        self.smear_gate = Linear(SMEAR_CHANNELS, 1)
        self.smear_lambda = nn.Parameter(torch.zeros(1))
        self.backout_lambda = nn.Parameter(torch.zeros(1))
        self.resid_lambdas = nn.Parameter(torch.ones(n_layer))
        self.x0_lambdas = nn.Parameter(torch.zeros(n_layer))
        self.rotary = Rotary(n_embd // n_head, ROPE_REACH * sequence_len, dtype)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start at a loss of ln(vocab_size): every block writes zeros, the head almost nothing."""
        n_layer, bound = len(self.transformer.h), math.sqrt(3 / self.n_embd)
        nn.init.normal_(self.transformer.wte.weight, std=0.8)
        nn.init.normal_(self.lm_head.weight, std=0.001)
        for block in self.transformer.h:
            for matrix in (block.attn.c_q, block.attn.c_k, block.attn.c_v):
                nn.init.uniform_(matrix.weight, -bound, bound)
            nn.init.uniform_(block.mlp.c_fc.weight, -0.4 * bound, 0.4 * bound)
            nn.init.zeros_(block.attn.c_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.weight)
            if block.attn.ve_gate is not None:
                nn.init.uniform_(block.attn.ve_gate.weight, 0, 0.02)
        for table in self.value_embeds.values():
            nn.init.uniform_(table.weight, -bound, bound)
        nn.init.uniform_(self.smear_gate.weight, 0, 0.02)
        self.smear_lambda.fill_(0.0)
        self.backout_lambda.fill_(0.2)
        self.resid_lambdas.copy_(torch.linspace(1.15, 1.05, n_layer))
        self.x0_lambdas.copy_(torch.linspace(0.20, 0.05, n_layer))

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        *,
        audio_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Logits (B, L, V) in fp32; with targets the cross-entropy in nats.

        Args:
            idx: token ids (B, L); padding goes to the right of a row.
            targets: the ids to predict (B, L), -1 where nothing is graded.
            audio_features: soft tokens (B, S, C), placed in front of the text.
            audio_lengths: how many of the S count, per row (B,); all of them when absent.
            reduction: "mean" over graded tokens (0 when none is), "sum", or "none" for a flat (B * L,).

        Raises:
            OmniError: more positions than the rotary cache holds.
        """
        x_BTC, ids_BT, text_BL = self.embed(idx, audio_features, audio_lengths)
        x_BTC = self.blocks(x_BTC, ids_BT)
        if text_BL is not None:
            x_BTC = x_BTC.gather(1, text_BL[..., None].expand(-1, -1, x_BTC.size(-1)))
        logits_BLV = self.lm_head(x_BTC)[..., : self.vocab_size].float()
        logits_BLV = SOFTCAP * torch.tanh(logits_BLV / SOFTCAP)
        if targets is None:
            return logits_BLV
        targets = targets.reshape(-1)
        loss = F.cross_entropy(
            logits_BLV.flatten(0, 1),
            targets,
            ignore_index=IGNORE,
            reduction="none" if reduction == "none" else "sum",
        )
        # A batch with nothing to grade has a loss of 0, where the library's own mean would be 0/0.
        return loss / (targets != IGNORE).sum().clamp(min=1) if reduction == "mean" else loss

    def embed(
        self, idx_BL: Tensor, audio_BSC: Tensor | None, lengths_B: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows `[audio | text | padding]` (B, T, C), their ids (-1 at audio), and where the text stands (B, L)."""
        text_BLC = self.smear(rms_norm(self.transformer.wte(idx_BL)))
        if audio_BSC is None or audio_BSC.size(1) == 0:
            return text_BLC, idx_BL, None
        batch, soft, width = audio_BSC.shape
        if lengths_B is None:
            lengths_B = torch.full((batch,), soft, device=idx_BL.device)
        text_BL = lengths_B[:, None] + torch.arange(idx_BL.size(1), device=idx_BL.device)
        audio_BSC = rms_norm(audio_BSC.to(text_BLC.dtype))
        rows_BTC = torch.cat([audio_BSC, torch.zeros_like(text_BLC)], dim=1)
        rows_BTC = rows_BTC.scatter(1, text_BL[..., None].expand(-1, -1, width), text_BLC)
        ids_BT = idx_BL.new_full(rows_BTC.shape[:2], -1).scatter(1, text_BL, idx_BL)
        return rows_BTC, ids_BT, text_BL

    def smear(self, x_BLC: Tensor) -> Tensor:
        """Add to each token a gated share of its left neighbour, as that was before its own smear."""
        current, previous = x_BLC[:, 1:], x_BLC[:, :-1]
        gate = self.smear_lambda.to(x_BLC.dtype) * torch.sigmoid(self.smear_gate(current[..., :SMEAR_CHANNELS]))
        return torch.cat([x_BLC[:, :1], current + gate * previous], dim=1)

    def blocks(self, x_BTC: Tensor, ids_BT: Tensor) -> Tensor:
        """All layers, backout and the final norm."""
        if x_BTC.size(1) > ROPE_REACH * self.sequence_len:
            raise OmniError(
                f"{x_BTC.size(1)} positions of audio and text are more than the {ROPE_REACH * self.sequence_len} "
                f"the backbone can number (backbone.sequence_len={self.sequence_len}): use shorter audio or a "
                "projector that stacks more frames"
            )
        x0_BTC, middle = x_BTC, len(self.transformer.h) // 2
        resid, x0_share = self.resid_lambdas.to(x_BTC.dtype), self.x0_lambdas.to(x_BTC.dtype)
        for i, block in enumerate(self.transformer.h):
            x_BTC = resid[i] * x_BTC + x0_share[i] * x0_BTC
            x_BTC = block(x_BTC, self.look_up_values(i, ids_BT), self.rotary)
            if i == middle:
                middle_BTC = x_BTC
        return rms_norm(x_BTC - self.backout_lambda.to(x_BTC.dtype) * middle_BTC)

    def look_up_values(self, layer: int, ids_BT: Tensor) -> Tensor | None:
        """Value embeddings of a layer (B, T, G * E), or None where it has none."""
        if str(layer) not in self.value_embeds:
            return None
        values_BTC = self.value_embeds[str(layer)](ids_BT.clamp(min=0))
        if self.audio_values == "token0":
            return values_BTC
        return values_BTC * (ids_BT >= 0)[..., None]

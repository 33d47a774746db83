"""nanochat's GPT (karpathy/nanochat, commit 92d63d4), with room for audio anywhere in the text.

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

Audio joins after smear, among the embedded text: `[audio and text | padding]`. Rows are packed to the left, so plain
causal attention is right for a ragged batch: padding stands behind everything that is graded.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from omni.errors import OmniError
from omni.model.attention import Attention, Context, Rotary, rms_norm
from omni.model.kv_cache import Chunk, KVCache
from omni.model.mlp import MLP
from omni.model.precision import Embedding, Linear
from omni.model.stream import Stream, weave
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


class Block(nn.Module):
    def __init__(self, n_embd: int, n_head: int, n_kv_head: int, *, layer: int, window: int, value_embeds: bool):
        super().__init__()
        self.attn = Attention(n_embd, n_head, n_kv_head, layer=layer, window=window, value_embeds=value_embeds)
        self.mlp = MLP(n_embd)

    def forward(self, x_BTC: Tensor, values_BTC: Tensor | None, context: Context) -> Tensor:
        x_BTC = x_BTC + self.attn(rms_norm(x_BTC), values_BTC, context)
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
        checkpointing: keep of each block only its inputs for the backward pass, and run it again there (Chen et al.,
            2016): the same numbers for about a third more time and a sixth of the memory (depth 6, 2 x 512 tokens:
            383 MB kept in fp32 without, 62 with; 319 and 36 in bf16).
        dtype: of the arithmetic; all weights stay fp32 (see `omni/model/precision.py`).

    Attributes:
        sizes: what another GPT is built from to be the same function of the same weights.

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
        checkpointing: bool = False,
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
        self.sizes = {
            "sequence_len": sequence_len,
            "vocab_size": vocab_size,
            "n_layer": n_layer,
            "n_head": n_head,
            "n_kv_head": n_kv_head,
            "n_embd": n_embd,
            "window_pattern": window_pattern,
            "audio_values": audio_values,
        }
        self.sequence_len, self.vocab_size, self.n_embd = sequence_len, vocab_size, n_embd
        self.audio_values, self.checkpointing, self.dtype = audio_values, checkpointing, dtype
        rows = math.ceil(vocab_size / 64) * 64
        windows = window_sizes(window_pattern, n_layer, sequence_len)
        with_values = [i % 2 == (n_layer - 1) % 2 for i in range(n_layer)]
        self.transformer = nn.ModuleDict(
            {
                "wte": Embedding(rows, n_embd, compute_dtype=dtype),
                "h": nn.ModuleList(
                    Block(n_embd, n_head, n_kv_head, layer=i, window=windows[i], value_embeds=with_values[i])
                    for i in range(n_layer)
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

    def new_cache(self, rows: int = 1, columns: int = 0) -> KVCache:
        """An empty cache for `rows` rows, with room for `columns` positions before it has to grow."""
        n_layer, n_head, n_kv_head = (self.sizes[name] for name in ("n_layer", "n_head", "n_kv_head"))
        given = {"dtype": self.dtype, "device": self.lm_head.weight.device}
        return KVCache(
            torch.zeros(n_layer, 2, rows, n_kv_head, columns, self.n_embd // n_head, **given),
            torch.zeros(rows, self.n_embd, **given),
        )

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        *,
        audio_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        audio_positions: Tensor | None = None,
        kv_cache: KVCache | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Logits (B, L, V) of the text in fp32; with targets the cross-entropy in nats.

        Args:
            targets: the ids to predict (B, L), -1 where nothing is graded.
            reduction: "mean" over graded tokens (0 when none is), "sum", or "none" for a flat (B * L,).
            idx and the others: see `states`.

        Raises:
            ValueError: another reduction.
            OmniError: as `states`.
        """
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction: {reduction!r} is none of mean, sum, none")
        states_BLC = self.states(
            idx,
            audio_features=audio_features,
            audio_lengths=audio_lengths,
            audio_positions=audio_positions,
            kv_cache=kv_cache,
        )
        logits_BLV = self.logits(states_BLC)
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

    def states(
        self,
        idx: Tensor,
        *,
        audio_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        audio_positions: Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> Tensor:
        """What the head reads, at the text tokens (B, L, C).

        Args:
            idx: token ids (B, L); padding goes to the right of a row.
            audio_features: soft tokens (B, S, C).
            audio_lengths: how many of the S count, per row (B,); all of them when absent.
            audio_positions: where they stand (B, S), ascending, counted from the start of this call; text fills the
                other places in order. In front of the text when absent.
            kv_cache: what came before, for inference; this call is added to it, unless it fails. In a batch all of idx
                counts, in every row.

        Raises:
            OmniError: more positions than the rotary cache holds, or audio positions that do not fit the stream.
        """
        soft, letters = 0 if audio_features is None else audio_features.size(1), idx.size(1)
        columns = soft + letters
        self.check_reach(columns if kv_cache is None else max(kv_cache.lengths) + columns)
        plain_BLC = self.embed(idx)
        stream = Stream(self.smear(plain_BLC, None if kv_cache is None else kv_cache.previous_BC), idx)
        if soft:
            stream = weave(stream, rms_norm(audio_features.to(self.dtype)), audio_lengths, audio_positions)
        x_BTC = self.blocks(stream, None if kv_cache is None else kv_cache.open(columns))
        if kv_cache is not None:
            kv_cache.close(letters + (soft if audio_lengths is None else audio_lengths))
            if letters:
                kv_cache.previous_BC = plain_BLC[:, -1]
        return stream.text_only(x_BTC)

    def logits(self, states_BLC: Tensor) -> Tensor:
        """Logits (B, L, V) in fp32, capped."""
        logits_BLV = self.lm_head(states_BLC)[..., : self.vocab_size].float()
        return SOFTCAP * torch.tanh(logits_BLV / SOFTCAP)

    def embed(self, idx_BL: Tensor) -> Tensor:
        """The text before smear (B, L, C)."""
        return rms_norm(self.transformer.wte(idx_BL))

    def smear(self, x_BLC: Tensor, before_BC: Tensor | None = None) -> Tensor:
        """Add to each token a gated share of its left neighbour, as that was before its own smear; to the first one
        of `before_BC`, if there is one."""
        if before_BC is not None:
            return self.smear(torch.cat([before_BC[:, None], x_BLC], dim=1))[:, 1:]
        if x_BLC.size(1) == 1:  # oneDNN has no backward pass for nothing
            return x_BLC
        current, previous = x_BLC[:, 1:], x_BLC[:, :-1]
        gate = self.smear_lambda.to(x_BLC.dtype) * torch.sigmoid(self.smear_gate(current[..., :SMEAR_CHANNELS]))
        return torch.cat([x_BLC[:, :1], current + gate * previous], dim=1)

    def blocks(self, stream: Stream, chunk: Chunk | None) -> Tensor:
        """All layers, backout and the final norm."""
        positions = slice(0, stream.ids_BT.size(1)) if chunk is None else chunk.positions
        heard = None if self.audio_values == "token0" else stream.is_text_BT1
        context = Context(self.rotary(positions), heard, None if chunk is None else chunk.attend)
        x_BTC, x0_BTC, middle = stream.x_BTC, stream.x_BTC, len(self.transformer.h) // 2
        resid, x0_share = self.resid_lambdas.to(self.dtype).unbind(), self.x0_lambdas.to(self.dtype).unbind()
        for i, block in enumerate(self.transformer.h):
            x_BTC = torch.addcmul(x0_share[i] * x0_BTC, resid[i], x_BTC)
            values_BTC = self.value_embeds[str(i)](stream.ids_BT) if str(i) in self.value_embeds else None
            if self.checkpointing and torch.is_grad_enabled():
                # Blocks draw nothing, so there is no randomness to put back.
                x_BTC = checkpoint(block, x_BTC, values_BTC, context, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTC = block(x_BTC, values_BTC, context)
            if i == middle:
                middle_BTC = x_BTC
        return rms_norm(x_BTC - self.backout_lambda.to(x_BTC.dtype) * middle_BTC)

    def check_reach(self, positions: int) -> None:
        reach = ROPE_REACH * self.sequence_len
        if positions > reach:
            raise OmniError(
                f"{positions} positions of audio and text are more than the {reach} the backbone can number "
                f"(backbone.sequence_len={self.sequence_len}): use shorter audio or a projector that stacks more frames"
            )

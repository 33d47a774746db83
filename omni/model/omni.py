"""The pipeline: waveforms -> frozen Whisper -> projector -> GPT -> loss.

Shape letters: B batch, K encoder layers kept, T encoder frames, D encoder width, L text tokens, V vocabulary.
"""

from torch import Tensor, nn

from omni.errors import OmniError


class Omni(nn.Module):
    """A frozen encoder, a projector and a language model, called in that order.

    The encoder is called by whoever prepares the data (`omni/data/features.py`), since its states never change:
    `forward` starts from them.
    """

    def __init__(self, *, encoder: nn.Module, projector: nn.Module, backbone: nn.Module):
        super().__init__()
        self.encoder, self.projector, self.backbone = encoder, projector, backbone
        self.encoder.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "Omni":
        """Put projector and backbone into training mode; the encoder, whoever wrote it, stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(
        self,
        states_BKTD: Tensor,
        frames_B: Tensor,
        idx_BL: Tensor,
        targets_BL: Tensor | None = None,
        *,
        reduction: str = "mean",
    ) -> Tensor:
        """Logits (B, L, V) of the text behind the audio, or its loss when there are targets (see `GPT.forward`)."""
        soft_BSC, lengths_B = self.projector(states_BKTD.to(self.backbone.dtype), frames_B)
        return self.backbone(idx_BL, targets_BL, audio_features=soft_BSC, audio_lengths=lengths_B, reduction=reduction)

    def check_fits(self, clip_id: str, *, frames: int, tokens: int) -> None:
        """Raise OmniError when a clip and its text are longer than the backbone's context."""
        soft, room = self.projector.output_length(frames), self.backbone.sequence_len
        if soft + tokens > room:
            if tokens > room:
                raise OmniError(f"clip {clip_id!r}: a text of {tokens} tokens does not fit the context of {room}")
            raise OmniError(
                f"clip {clip_id!r}: {soft} soft tokens and {tokens} text tokens do not fit the context of {room}: "
                "shorten the clip (dataset.max_seconds refuses long ones), stack more frames (projector.stack), "
                "or raise backbone.sequence_len"
            )

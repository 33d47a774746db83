"""Audio among text: which rows of the stream are which.

Shape letters: B batch, S soft audio tokens, L text tokens, T = S + L positions, C width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from omni.errors import OmniError


class Stream(NamedTuple):
    """A batch of rows `[audio and text | padding]`.

    Attributes:
        x_BTC: the embeddings.
        ids_BT: the token ids, 0 at audio.
        text_BL, is_text_BT1: where the text stands; None where there is nothing else.
    """

    x_BTC: Tensor
    ids_BT: Tensor
    text_BL: Tensor | None = None
    is_text_BT1: Tensor | None = None

    def text_only(self, x_BTC: Tensor) -> Tensor:
        """The rows of the text, in order (B, L, C)."""
        if self.text_BL is None:
            return x_BTC
        return x_BTC.flatten(0, 1).index_select(0, flat(self.text_BL, x_BTC.size(1))).unflatten(0, self.text_BL.shape)


def weave(text: Stream, audio_BSC: Tensor, lengths_B: Tensor | None, positions_BS: Tensor | None) -> Stream:
    """Put audio at its positions (in front when there are none), and text in order at the others.

    Audio beyond a row's length goes behind everything.

    Raises:
        OmniError: positions that do not ascend, or lie beyond the end of a row.
    """
    (batch, soft), letters = audio_BSC.shape[:2], text.ids_BT.size(1)
    ids_BL = text.ids_BT
    order_S = torch.arange(soft, device=ids_BL.device)
    audio_BS = order_S.expand(batch, soft) if positions_BS is None else positions_BS
    if lengths_B is not None:
        audio_BS = torch.where(order_S < lengths_B[:, None], audio_BS, letters + order_S)
    if positions_BS is not None and not torch.compiler.is_compiling():  # which would break at what is looked at here
        check(audio_BS, letters + soft)
    is_text_BT = ids_BL.new_ones(batch, soft + letters).scatter(1, audio_BS, 0)
    text_BL = is_text_BT.argsort(dim=1, descending=True, stable=True)[:, :letters]
    both_BTC = torch.cat([audio_BSC, text.x_BTC], dim=1)
    places = flat(torch.cat([audio_BS, text_BL], dim=1), soft + letters)
    x_BTC = torch.empty_like(both_BTC).flatten(0, 1).index_copy(0, places, both_BTC.flatten(0, 1))
    ids_BT = ids_BL.new_zeros(batch, soft + letters).scatter(1, text_BL, ids_BL)
    return Stream(x_BTC.view_as(both_BTC), ids_BT, text_BL, is_text_BT[..., None])


def flat(places_BN: Tensor, columns: int) -> Tensor:
    """Places in rows of so many columns, as places in the rows laid end to end (B * N,)."""
    return (places_BN + columns * torch.arange(places_BN.size(0), device=places_BN.device)[:, None]).flatten()


def check(audio_BS: Tensor, end: int) -> None:
    ascending = torch.cat([audio_BS.new_full((audio_BS.size(0), 1), -1), audio_BS], dim=1).diff() > 0
    if not (ascending.all() and (audio_BS < end).all()):
        raise OmniError(
            "audio_positions: the positions of a row must ascend from 0 or more and stay within its audio and text"
        )

"""Items as key-value sentences, histories as one line of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_kd.models.side import Attributes

CLS, KEY, VALUE, PADDING = range(4)
"""Types of tokens."""
N_TYPES = 4


@dataclass(frozen=True)
class Line:
    """Tokens of B histories or items.

    Attributes
    ----------
    ids : int64 [B, T]
    types : int64 [B, T]
        CLS, KEY, VALUE or PADDING.
    places : int64 [B, T]
        1 for tokens of the newest item, 2 for those of the one before; 0 for CLS and padding.
    mask : bool [B, T]
        True at tokens.
    """

    ids: Tensor
    types: Tensor
    places: Tensor
    mask: Tensor


class ItemTokens(nn.Module):
    """Tokens of every item: key, value, key, value, ... cut to a length.

    Parameters
    ----------
    ids, types : int64 [n_items, T]
    length : int64 [n_items]
        0 for items without text.
    cls, padding : int
        Ids of the first token and of padding.
    """

    ids: Tensor
    types: Tensor
    length: Tensor

    def __init__(self, ids: Tensor, types: Tensor, length: Tensor, *, cls: int, padding: int) -> None:
        super().__init__()
        for name, value in (("ids", ids), ("types", types), ("length", length)):
            self.register_buffer(name, value, persistent=False)
        self._cls, self._padding = cls, padding

    def lay_out(self, items: Tensor, max_tokens: int) -> Line:
        """[CLS], then the tokens of the items in the order given, at most ``max_tokens`` in all.

        Parameters
        ----------
        items : int64 [B, N]
            Newest first; 0 is none.
        max_tokens : int
        """
        b, n = items.shape
        width = self.ids.shape[1]
        real = torch.arange(width, device=items.device) < self.length[items][..., None]
        real &= (items > 0)[..., None]
        place = torch.arange(1, n + 1, device=items.device)[None, :, None].expand(b, n, width)
        flat = real.reshape(b, -1)
        longest = min(int(flat.sum(1).max()), max_tokens - 1)
        order = (~flat).to(torch.uint8).sort(dim=1, stable=True).indices[:, :longest]
        mask = flat.gather(1, order)

        def line(values: Tensor, first: int, empty: int) -> Tensor:
            rest = values.reshape(b, -1).gather(1, order).masked_fill(~mask, empty)
            return torch.cat([rest.new_full((b, 1), first), rest], 1)

        ids = line(self.ids[items], self._cls, self._padding)
        types = line(self.types[items], CLS, PADDING)
        return Line(ids, types, line(place, 0, 0), torch.cat([mask.new_ones(b, 1), mask], 1))


def tokenise(attributes: Attributes, tokenizer: Any, *, per_attribute: int, per_item: int) -> ItemTokens:
    """Flatten every item to its keys and values.

    Parameters
    ----------
    attributes : sequence
        Keys and values by item id.
    tokenizer : transformers tokenizer
    per_attribute, per_item : int
        Tokens of one attribute (key included) and of one item, at most.
    """
    known: dict[str, list[int]] = {}

    def pieces(text: str) -> list[int]:
        if text not in known:
            known[text] = list(tokenizer.encode(text, add_special_tokens=False))
        return known[text]

    rows: list[list[tuple[int, int]]] = []
    for item in attributes:
        row: list[tuple[int, int]] = []
        for key, value in item:
            pair = [(token, KEY) for token in pieces(key)] + [(token, VALUE) for token in pieces(value)]
            row += pair[:per_attribute]
        rows.append(row[:per_item])
    width = max(1, *(len(row) for row in rows))
    padding = int(tokenizer.pad_token_id or 0)
    ids, types = _grid(rows, 0, width, padding), _grid(rows, 1, width, PADDING)
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    length = torch.tensor([len(row) for row in rows])
    return ItemTokens(ids, types, length, cls=int(first), padding=padding)


def _grid(rows: Sequence[Sequence[tuple[int, int]]], which: int, width: int, empty: int) -> Tensor:
    return torch.tensor([[pair[which] for pair in row] + [empty] * (width - len(row)) for row in rows])


def newest_first(item_seq: Tensor, length: Tensor, n: int) -> Tensor:
    """The last ``n`` items of right-padded histories, newest first; 0 where there are fewer.

    Parameters
    ----------
    item_seq : int64 [B, L]
    length : int64 [B]

    Returns
    -------
    int64 [B, n]
    """
    column = length[:, None] - 1 - torch.arange(n, device=item_seq.device)
    return item_seq.gather(1, column.clamp_min(0)) * (column >= 0)

"""All item names as a tree of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_kd.errors import SpecError


class Trie:
    """Token sequences of items; node 0 is the root.

    Parameters
    ----------
    sequences : sequence of list of int
        By item id; item 0 (padding) is left out. Every sequence ends in the end token, so that none begins
        another.

    Attributes
    ----------
    tokens : int64 [n_nodes, C]
        Tokens that may follow a node; -1 where there are fewer than C.
    children : int64 [n_nodes, C]
        Node behind each of them; 0 where there is none.
    item : int64 [n_nodes]
        Item that is complete at a node, else 0.

    Raises
    ------
    SpecError
        Two items have one name.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        following: list[dict[int, int]] = [{}]
        item_at: list[int] = [0]
        for item, sequence in enumerate(sequences[1:], 1):
            node = 0
            for token in sequence:
                if token not in following[node]:
                    following[node][token] = len(following)
                    following.append({})
                    item_at.append(0)
                node = following[node][token]
            if item_at[node] or following[node]:
                raise SpecError(f"P5: items {item_at[node]} and {item} have one name; use another indexing")
            item_at[node] = item
        width = max(len(children) for children in following)
        self.tokens = torch.full((len(following), width), -1)
        self.children = torch.zeros((len(following), width), dtype=torch.long)
        for node, children in enumerate(following):
            for place, (token, child) in enumerate(sorted(children.items())):
                self.tokens[node, place], self.children[node, place] = token, child
        self.item = torch.tensor(item_at)
        self.depth = max(len(sequence) for sequence in sequences[1:])

    def to(self, device: str | torch.device) -> Trie:
        """Move the tables."""
        self.tokens, self.children, self.item = (
            table.to(device) for table in (self.tokens, self.children, self.item)
        )
        return self

    def allowed(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and nodes that may follow, each int64 [..., C]."""
        return self.tokens[nodes], self.children[nodes]

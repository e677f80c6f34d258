"""Several layers as one: what the distillation reads from a backbone that shows all its blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recbole_kd.errors import SpecError
from recbole_kd.models.names import find

Join = Callable[[Sequence[Tensor]], Tensor]


def concatenated(layers: Sequence[Tensor]) -> Tensor:
    """[..., H_1 + ... + H_k]: the projection weighs the layers; one linear map contains the average."""
    return torch.cat(list(layers), -1)


def averaged(layers: Sequence[Tensor]) -> Tensor:
    """[..., H]: every layer the same; all must be equally wide."""
    return torch.stack(list(layers)).mean(0)


LAYER_JOINS: dict[str, Join] = {
    "concatenated": concatenated,
    "averaged": averaged,
}


def join(layers: Sequence[Tensor], name: str) -> Tensor:
    """Join hidden states [..., H_i]; one layer is passed on as it is."""
    return layers[0] if len(layers) == 1 else find(LAYER_JOINS, name, "distill.layers_joined")(layers)


def joined_width(chosen: Sequence[int], widths: dict[int, int], name: str) -> int:
    """Width of the joined layers.

    Parameters
    ----------
    chosen : sequence of int
        Layer numbers: 1..n for the blocks, -1 for the output.
    widths : dict
        Layer number -> width.
    name : str
        Key of :data:`LAYER_JOINS`.

    Raises
    ------
    SpecError
        No such layer or joining, none, a layer named twice, or an average over different widths.
    """
    blocks = max(widths)
    for layer in chosen:
        if layer not in widths:
            raise SpecError(
                f"distill.layer: {layer}, but the backbone has layers 1..{blocks} and -1 (output)."
            )
    if not chosen:
        raise SpecError("distill.layer: [] names none; name at least one layer.")
    if len(set(chosen)) < len(chosen):
        raise SpecError(f"distill.layer: {list(chosen)} names a layer twice; name each once.")
    how = find(LAYER_JOINS, name, "distill.layers_joined")
    sizes = [widths[layer] for layer in chosen]
    if how is averaged and len(set(sizes)) > 1:
        raise SpecError(
            f"distill.layers_joined: averaged, but layers {list(chosen)} have widths {sizes}; "
            "use concatenated, or layers of one width."
        )
    return int(join([torch.empty(size, device="meta") for size in sizes], name).shape[-1])

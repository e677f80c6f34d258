"""Distillation in RecBole's own prefix mode: the same classes under RecBole's ``Trainer``."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from recbole_kd.errors import SpecError
from recbole_kd.models.mixin import padded_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recbole_kd.training.spec import DistillSpec


class PrefixLossMixin:
    """``calculate_loss`` for RecBole's padded prefix rows.

    Every row is one piece: its hidden states are pooled and compared with the user's profile, early
    prefixes included (the profile has then seen later train items of that user; never the test part).
    RecBole's Trainer knows no schedule: between epochs, set ``distil_alpha``, or ``distil_active`` to False.
    """

    def calculate_loss(self, interaction: Any) -> Tensor:
        """L_rec of the RecBole class, plus the distillation term while phase 1 lasts.

        The hidden states are taken from RecBole's own forward pass, so a step costs one pass.
        """
        model: Any = self
        if model.distil_head is None or model.distil_alpha == 0 or not model.distil_active:
            plain: Tensor = super().calculate_loss(interaction)  # type: ignore[misc]
            return plain
        _refuse(model.distil_spec)
        with _captured(model.block_stack()) as outputs:
            loss_rec: Tensor = super().calculate_loss(interaction)  # type: ignore[misc]
        layers = _as_layers(outputs[0], model.n_blocks(), model.distil_spec.layers)
        batch = padded_batch(
            interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN], interaction[model.USER_ID]
        )
        loss_distil = model.distil_loss(layers, batch)
        total: Tensor = model.total_loss(loss_rec, loss_distil, model.distil_alpha)
        return total


@contextmanager
def _captured(module: nn.Module) -> Iterator[list[Any]]:
    """Collect the outputs of ``module`` while the block runs."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    try:
        yield outputs
    finally:
        handle.remove()


def _refuse(spec: DistillSpec) -> None:
    """Refuse what one loss per batch of prefix rows cannot do."""
    if spec.prefixes != "last":
        raise SpecError(
            f"distill.prefixes: {spec.prefixes}, but in prefix mode every prefix is a row of its own; "
            "use prefixes: last."
        )
    if spec.gradient_conflict != "ignore":
        raise SpecError(
            f"distill.gradient_conflict: {spec.gradient_conflict}, but RecBole's Trainer takes one loss; "
            "use gradient_conflict: ignore."
        )


def _as_layers(output: Any, n_blocks: int, wanted: Sequence[int]) -> list[Tensor]:
    """Bring the output of a TransformerEncoder (list) or nn.GRU (tuple, last layer only) to a list."""
    if isinstance(output, list):
        return output
    if hidden := [layer for layer in wanted if layer not in (-1, n_blocks)]:
        raise SpecError(
            f"distill.layer: {hidden[0]}, but in prefix mode nn.GRU shows only its last layer ({n_blocks})."
        )
    return [output[0]] * n_blocks

"""Pre-training over several datasets: one catalogue of their train parts, and a loop that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.data.types import Sequences, Split
from recbole_kd.errors import StoreError
from recbole_kd.models.batch import Batch, SequenceBatches
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.side import Attributes
from recbole_kd.training.checkpoint import DAMAGE, read, write
from recbole_kd.training.spec import PretrainSpec

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """What pre-training may see of one dataset: its train sequences and its item texts.

    Attributes
    ----------
    train : Sequences
    n_items : int
        Padding included.
    texts, altered : float32 [n_items, D] or None
        Item vectors, and those of the same texts with words dropped.
    attributes : sequence of pairs of str, one per item, or None
        Keys and values of every item; empty for padding.
    """

    train: Sequences
    n_items: int
    texts: Tensor | None = None
    altered: Tensor | None = None
    attributes: Attributes | None = None

    @classmethod
    def of(cls, split: Split, **texts: Any) -> Part:
        """The train part of a split; validation and test are never touched."""
        return cls(split.train, split.dataset.n_items, **texts)


@dataclass(frozen=True)
class Corpus:
    """Several parts on one catalogue; attributes as in :class:`Part`."""

    train: Sequences
    texts: Tensor | None
    altered: Tensor | None
    attributes: Attributes | None


def merge(parts: Sequence[Part]) -> Corpus:
    """Put parts side by side: no user and no item is shared, id 0 stays padding.

    Raises
    ------
    ValueError
        Parts whose vectors have different widths.
    """
    shift = np.cumsum([0] + [part.n_items - 1 for part in parts])
    people = np.cumsum([0] + [len(part.train) for part in parts])
    lengths = np.concatenate([part.train.lengths for part in parts])
    train = Sequences(
        np.arange(1, people[-1] + 1),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([part.train.items + by for part, by in zip(parts, shift, strict=False)]),
    )
    attributes: list[Sequence[tuple[str, str]]] = [()]
    for part in parts:
        attributes += list(part.attributes or ())[1:]
    return Corpus(
        train,
        _stacked([part.texts for part in parts]),
        _stacked([part.altered for part in parts]),
        tuple(attributes) if len(attributes) > 1 else None,
    )


def _stacked(tables: Sequence[Tensor | None]) -> Tensor | None:
    known = [table for table in tables if table is not None]
    if len(known) < len(tables):
        return None
    if len({table.shape[1] for table in known}) > 1:
        raise ValueError("item vectors of different widths")
    return torch.cat([known[0][:1] * 0, *(table[1:] for table in known)])


class Pretrainable(Protocol):
    """What the loop asks of a model."""

    def step_loss(self, batch: Batch, dropout: ByteDropout, rng: np.random.Generator) -> Tensor:
        """Loss of one batch."""
        ...

    def learned(self) -> dict[str, Tensor]:
        """What fine-tuning begins with."""
        ...


def pretrain(
    model: Any,
    corpus: Corpus,
    spec: PretrainSpec,
    *,
    max_len: int,
    packed: bool,
    device: str,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Run ``spec.epochs`` epochs, without validation, from the last finished epoch of ``checkpoint``.

    Every epoch draws from a stream of its own, so that a resumed run ends where an uninterrupted one does.

    Parameters
    ----------
    model : nn.Module with the methods of :class:`Pretrainable`
    corpus : Corpus
    spec : PretrainSpec
    max_len : int
    packed : bool
        Whether several pieces share a row.
    device : str
    checkpoint : Path, optional
        Written after every epoch.
    progress : callable, optional
        ``(epochs done, epochs)``.

    Returns
    -------
    dict
        ``model.learned()``.
    list of float
        Mean loss of every epoch.

    Raises
    ------
    FloatingPointError
        If the loss becomes NaN or infinite.
    StoreError
        If the checkpoint is damaged.
    """
    model.to(device).train()
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(wanted, lr=spec.learning_rate, weight_decay=spec.weight_decay)
    batches = SequenceBatches(corpus.train, max_len, spec.batch_size, shift=True, packed=packed)
    losses = _resumed(checkpoint, model, optimizer)
    for epoch in range(len(losses) + 1, spec.epochs + 1):
        order, masks, dropout = np.random.SeedSequence([spec.seed, epoch]).spawn(3)
        rng, drop = np.random.default_rng(masks), ByteDropout(int(dropout.generate_state(1, np.uint64)[0]))
        total, steps = torch.zeros((), dtype=torch.float64, device=device), 0
        with torch.random.fork_rng(devices=[]), torch.autograd.set_detect_anomaly(False):
            torch.manual_seed(int(dropout.generate_state(2)[1]))
            for batch in batches.epoch(np.random.default_rng(order)):
                loss = model.step_loss(batch.to(device), drop, rng)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total, steps = total + loss.detach(), steps + 1
        losses.append(float(total) / max(1, steps))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of pre-training became {losses[-1]} in epoch {epoch}")
        if checkpoint is not None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            write(checkpoint, state)
        if progress:
            progress(epoch, spec.epochs)
    model.eval()
    return {name: value.detach().cpu().clone() for name, value in model.learned().items()}, losses


def _resumed(checkpoint: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    if checkpoint is None or not checkpoint.is_file():
        return []
    try:
        stored = read(checkpoint)
    except DAMAGE as error:
        raise StoreError(
            f"{checkpoint}: damaged ({error}); delete it and run the same command again"
        ) from error
    model.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    return list(stored["losses"])


def in_batch_infonce(query: Tensor, key: Tensor, temperature: float, alike: Tensor) -> Tensor:
    """L = -mean_i log exp(q_i k_i / tau) / sum_{j = i or not alike_ij} exp(q_i k_j / tau).

    Parameters
    ----------
    query, key : float [B, D]
        Of unit length.
    temperature : float
    alike : bool [B, B]
        Pairs that are no negatives of each other; the diagonal does not matter.
    """
    logits = query @ key.t() / temperature
    others = alike & ~torch.eye(len(alike), dtype=torch.bool, device=alike.device)
    own = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits.masked_fill(others, float("-inf")), own)


def load_learned(model: nn.Module, state: dict[str, Tensor], prefixes: Iterable[str]) -> None:
    """Put pre-trained parameters into the modules of ``model`` that they came from.

    Raises
    ------
    ValueError
        A parameter that is missing, superfluous or of another shape.
    """
    own = dict(model.state_dict())
    wanted = {name for name in own if name.startswith(tuple(prefixes))}
    wrong = [n for n in wanted ^ set(state) if n not in state or n not in own]
    wrong += [n for n in wanted & set(state) if own[n].shape != state[n].shape]
    if wrong:
        raise ValueError(f"pre-trained parameters do not fit: {', '.join(sorted(wrong)[:3])}")
    model.load_state_dict(state, strict=False)

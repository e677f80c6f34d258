"""What turns a RecBole backbone into a student: sequence-mode training and a removable head."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.models.batch import Batch
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.head import DistillationHead
from recbole_kd.models.joint_head import JointHead
from recbole_kd.models.layers import join, joined_width
from recbole_kd.models.list_head import ListHead, item_scores, last_prediction
from recbole_kd.models.pooling import Tokens, pool
from recbole_kd.models.rec_loss import RecLoss
from recbole_kd.models.tiled_cross_entropy import exact_cross_entropy
from recbole_kd.training.spec import DistillSpec

HEAD = "distil_head"


class DistillationMixin:
    """Adds to a RecBole sequential model, left of it in the bases, without changing its parameters.

    A backbone implements :meth:`encode`, :meth:`final` and :meth:`prepare`; its class attributes say how
    its batches look. ``forward``, ``predict`` and ``full_sort_predict`` stay RecBole's.

    Layers are numbered alike in all backbones: 1..n are the outputs of block (GRU layer) 1..n, -1 is the
    vector that is compared with the item embeddings.
    """

    shift: ClassVar[bool]
    packed: ClassVar[bool]

    softmax_dtype: torch.dtype | None = None
    sampled_loss: RecLoss | None = None
    _known_on_host: tuple[nn.Module, Tensor] | None = None
    distil_head: DistillationHead | ListHead | JointHead | None
    distil_active: bool = True
    loss_is_its_own: ClassVar[bool] = False  # a system whose loss takes no teacher and no sampled loss
    distil_alpha: float
    distil_spec: DistillSpec

    def encode(self, batch: Batch, dropout: ByteDropout | None) -> list[Tensor]:
        """Outputs of block 1..n, each [B, L, H]."""
        raise NotImplementedError

    def final(self, x: Tensor) -> Tensor:
        """Map outputs of the last block [..., H] to vectors comparable with items [..., E]."""
        raise NotImplementedError

    def target_states(self, batch: Batch, at: Tensor, dropout: ByteDropout | None) -> Tensor:
        """Vectors comparable with items at the positions where ``at`` [B, L] is True, [T, E]."""
        return self.final(self.encode(batch, dropout)[-1][at])

    def prepare(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Choose inputs and targets of a training step (masked-item models hide items here)."""
        return batch

    def item_weights(self) -> Tensor:
        """Vectors of all input tokens [n_items (+ mask token), E]; a system may compute them from text."""
        model: Any = self
        weights: Tensor = model.item_embedding.weight
        return weights

    def input_vectors(self, batch: Batch) -> Tensor:
        """What stands for every item of a batch before positions are added, [B, L, E]."""
        return F.embedding(batch.item_seq, self.item_weights(), padding_idx=0)

    def item_table(self) -> tuple[Tensor, Tensor | None]:
        """Item embeddings [n_items, E] and output bias [n_items] or None."""
        return self.item_weights(), None

    def serve_batch(
        self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None
    ) -> tuple[Batch, Tensor]:
        """Lay histories out for serving.

        Returns
        -------
        Batch
            One piece per row.
        int64 [B]
            Column whose output is compared with the items.
        """
        return padded_batch(item_seq, item_seq_len, user), item_seq_len - 1

    def serve_states(self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None = None) -> Tensor:
        """Vectors compared with the items when serving, [B, E]; as ``full_sort_predict``, only faster.

        Parameters
        ----------
        item_seq : int64 [B, L]
            Right-padded histories.
        item_seq_len : int64 [B]
        user : int64 [B], optional
            User ids; read only by models that know the user besides the history.
        """
        batch, at = self.serve_batch(item_seq, item_seq_len, user)
        last = self.encode(batch, None)[-1]
        return self.final(last[torch.arange(last.shape[0], device=last.device), at])

    def attach_teacher(self, spec: DistillSpec, vectors: Tensor, weight: Tensor, seed: int) -> None:
        """Put a distillation head on the model.

        Parameters
        ----------
        spec : DistillSpec
        vectors : float [n_users, D] or [n_users, K, D]
        weight : bool or float, [n_users] or [n_users, K]
            0 where there is no profile.
        seed : int
            Initialises the head only.

        Raises
        ------
        SpecError
            For a layer that the backbone does not have, or dimensions that do not fit.
        """
        model: Any = self
        widths = dict.fromkeys(range(1, self.n_blocks() + 1), int(model.hidden_size))
        widths[-1] = int(model.item_embedding.weight.shape[1])
        dim = joined_width(spec.layers, widths, spec.layers_joined)
        self.distil_spec, self.distil_alpha = spec, spec.alpha
        head = DistillationHead(spec, dim, vectors.float(), weight, seed, int(model.max_seq_length))
        self.distil_head = head.to(model.item_embedding.weight.device)

    def attach_lists(
        self, spec: DistillSpec, items: Tensor, score: Tensor, weight: Tensor, seed: int
    ) -> None:
        """Put a head on the model that compares its scores with ranked lists.

        Parameters
        ----------
        spec : DistillSpec
            Objective of kind ``lists``.
        items : int64 [n_users, K]
            Best first; 0 where a list is shorter.
        score : float [n_users, K]
        weight : bool or float, [n_users] or [n_users, 1]
            0 where there is no list.
        seed : int
            Of what the head draws.
        """
        table = self.item_table()[0]
        self.distil_spec, self.distil_alpha = spec, spec.alpha
        self.distil_head = ListHead(spec, items, score, weight, len(table), seed).to(table.device)

    def attach_both(
        self,
        spec: DistillSpec,
        lists: tuple[Tensor, Tensor, Tensor],
        vectors: tuple[Tensor, Tensor],
        seed: int,
    ) -> None:
        """Put a head on the model that learns lists and, by ``spec.also``, vectors of the same teacher.

        Parameters
        ----------
        lists : items, score, weight as of :meth:`attach_lists`
        vectors : vectors, weight as of :meth:`attach_teacher`
        """
        assert spec.also is not None
        changes = {"objective": spec.also.objective, "objective_args": spec.also.objective_args}
        self.attach_teacher(spec.model_copy(update=changes), *vectors, seed)
        of_vectors = self.distil_head
        self.attach_lists(spec, *lists, seed)
        of_lists = self.distil_head
        assert isinstance(of_vectors, DistillationHead)
        assert isinstance(of_lists, ListHead)
        self.distil_head = JointHead(of_lists, of_vectors, spec.also.weight)

    def n_blocks(self) -> int:
        """Number of blocks (GRU layers)."""
        model: Any = self
        return int(model.n_layers)

    def block_stack(self) -> nn.Module:
        """RecBole module that runs the blocks; its output is what prefix mode distils."""
        model: Any = self
        stack: nn.Module = model.trm_encoder
        return stack

    def drop_head(self) -> None:
        """Remove the head: what is left is the plain backbone."""
        self.distil_head = None

    def student_state(self) -> dict[str, Tensor]:
        """State dict without the head; loads, strict, into the plain RecBole class."""
        model: Any = self
        return {k: v for k, v in model.state_dict().items() if not k.startswith(HEAD + ".")}

    def carried_state(self) -> dict[str, Any]:
        """What training carries from step to step outside the state dict (``training/checkpoint.py``)."""
        return {} if self.sampled_loss is None else {"sampled_loss": self.sampled_loss.state_dict()}

    def load_carried_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`carried_state` gave."""
        if self.sampled_loss is not None:
            self.sampled_loss.load_state_dict(state["sampled_loss"])

    def sequence_losses(
        self, batch: Batch, dropout: ByteDropout | None, rng: np.random.Generator, *, distil: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Losses of one batch in sequence mode.

        Returns
        -------
        L_rec : scalar
            Mean cross-entropy over all positions that carry a target.
        L_distil : scalar or None
            None if ``distil`` is False or there is no head.
        """
        batch = self.prepare(batch, rng) if batch.at is None else batch
        distil = distil and self.distil_head is not None and self.distil_alpha > 0
        layers, state, target = self._chosen_states(batch, dropout, every_layer=distil)
        items, bias = self.item_table()
        # Autocast is over here: softmax and losses have a precision of their own.
        with torch.autocast(state.device.type, enabled=False):
            loss_rec = self.rec_loss(state.to(items.dtype), items, target, bias)
            if not distil:
                return loss_rec, None
            return loss_rec, self.distil_loss([x.to(items.dtype) for x in layers], batch)

    def _chosen_states(
        self, batch: Batch, dropout: ByteDropout | None, *, every_layer: bool
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Layers (if asked for), vectors at the positions with a target, and these targets.

        Where ``batch.at`` names the positions, nothing depends on values that lie on the device.
        """
        if batch.at is not None:
            layers = self.encode(batch, dropout)
            state = self.final(layers[-1].flatten(0, 1).index_select(0, batch.at))
            return layers, state, batch.target.flatten().index_select(0, batch.at)
        carries = batch.target > 0
        if every_layer:
            layers = self.encode(batch, dropout)
            return layers, self.final(layers[-1][carries]), batch.target[carries]
        return [], self.target_states(batch, carries, dropout), batch.target[carries]

    def rec_loss(self, state: Tensor, items: Tensor, target: Tensor, bias: Tensor | None) -> Tensor:
        """L_rec of states [T, E] whose next items are ``target`` [T]: exact, or the sampled loss chosen."""
        if self.sampled_loss is not None:
            return self.sampled_loss(state, items, target, bias)
        return exact_cross_entropy(state, items, target, bias, dtype=self.softmax_dtype)

    def distil_loss(self, layers: list[Tensor], batch: Batch) -> Tensor | None:
        """Distillation loss of the pieces of a batch, from the outputs of block 1..n.

        None if nobody in the batch has a profile: there is then nothing to trade L_rec against.
        """
        if self.distil_head is None:
            raise ValueError("no teacher attached")
        if not self._anybody_known(batch):
            return None
        head = self.distil_head
        if isinstance(head, JointHead):
            of_vectors = self._head_loss(head.vectors, layers, batch)
            return self._head_loss(head.lists, layers, batch) + head.weight * of_vectors
        return self._head_loss(head, layers, batch)

    def _head_loss(self, head: DistillationHead | ListHead, layers: list[Tensor], batch: Batch) -> Tensor:
        if isinstance(head, ListHead):
            state = self.final(layers[-1][last_prediction(batch)])
            of_lists: Tensor = head(item_scores(state, *self.item_table()), batch.user)
            return of_lists
        states = head.states(self._distilled_layers(layers), batch)
        user = batch.user if states.piece is None else batch.user[states.piece]
        loss: Tensor = head(states.state, user, states.share)
        return loss

    def _anybody_known(self, batch: Batch) -> bool:
        """Whether a user of the batch has a profile; answered on the host where the batch allows it."""
        head = self.distil_head
        assert head is not None
        if batch.host_user is None:
            return bool(head.known[batch.user].any())
        if self._known_on_host is None or self._known_on_host[0] is not head:
            self._known_on_host = head, head.known.cpu() > 0
        return bool(self._known_on_host[1][batch.host_user].any())

    def distil_state(self, layers: list[Tensor], batch: Batch) -> Tensor:
        """Pooled state of every whole piece, [P, H], as distilled but before any projection.

        Without a head that pools (none, or one over ranked lists): the mean of the final output.
        """
        if not isinstance(self.distil_head, DistillationHead):
            tokens = Tokens(self.final(layers[-1]), batch.segment, batch.position, batch.length)
            return pool(tokens, "mean", decay=0.0)
        hidden = self._distilled_layers(layers)
        return self.distil_head.pooled(hidden, batch.segment, batch.position, batch.length)

    def _distilled_layers(self, layers: list[Tensor]) -> Tensor:
        """The chosen layers, joined, [B, L, H]."""
        chosen = [self.final(layers[-1]) if k == -1 else layers[k - 1] for k in self.distil_spec.layers]
        return join(chosen, self.distil_spec.layers_joined)

    def loss_terms(
        self, loss_rec: Tensor, loss_distil: Tensor | None, alpha: float
    ) -> tuple[Tensor, Tensor | None]:
        """(1 - alpha) * L_rec and alpha * beta * L_distil (Severin et al., ECIR 2026), or L_rec and None.

        beta is stopgrad(L_rec / L_distil) if the spec scales the loss, else 1.
        """
        if loss_distil is None or alpha == 0:
            return loss_rec, None
        if self.distil_spec.scale_distil_loss:
            loss_distil = loss_distil * (loss_rec.detach() / (loss_distil.detach() + 1e-8))
        return (1 - alpha) * loss_rec, alpha * loss_distil

    def total_loss(self, loss_rec: Tensor, loss_distil: Tensor | None, alpha: float) -> Tensor:
        """Sum of :meth:`loss_terms`."""
        rec, distil = self.loss_terms(loss_rec, loss_distil, alpha)
        return rec if distil is None else distil + rec


def padded_batch(item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None = None) -> Batch:
    """View RecBole's right-padded rows as a batch of one piece per row without targets."""
    b, width = item_seq.shape
    column = torch.arange(width, device=item_seq.device).expand(b, width)
    real = column < item_seq_len[:, None]
    row = torch.arange(b, device=item_seq.device)[:, None].expand(b, width)
    return Batch(
        item_seq=item_seq,
        target=torch.zeros_like(item_seq),
        position=column,
        segment=torch.where(real, row, b),
        user=item_seq_len.new_zeros(b) if user is None else user,
        length=item_seq_len,
        start=torch.zeros_like(item_seq_len),
        history=item_seq_len,
        single=True,
    )

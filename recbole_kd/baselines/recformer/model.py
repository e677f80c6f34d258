"""Recformer as a model of its own: fine-tuning in two stages on an item matrix that is read, not learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from recbole_kd.baselines.recformer.encoder import LanguageEncoder, load_encoder
from recbole_kd.baselines.recformer.tokens import ItemTokens, newest_first, tokenise
from recbole_kd.baselines.trained import SequenceTrained
from recbole_kd.errors import SpecError
from recbole_kd.models.batch import Batch
from recbole_kd.models.cross_entropy import catalogue_cross_entropy
from recbole_kd.models.dropout import ByteDropout
from recbole_kd.models.side import Attributes, SideInputs

_ITEMS_AT_ONCE = 256
_HPARAMS = (
    *("layers", "train_layers", "train_words", "pooling", "max_items", "max_tokens"),
    *("tokens_per_attribute", "tokens_per_item", "temperature", "precision"),
)


def make_encoder(hparams: Mapping[str, Any], source: str) -> tuple[LanguageEncoder, Any]:
    """Encoder with the sizes of ``hparams``, and its tokenizer."""
    model, tokenizer = load_encoder(source)
    encoder = LanguageEncoder(
        model,
        layers=hparams["layers"],
        train_layers=hparams["train_layers"],
        train_words=bool(hparams["train_words"]),
        max_items=int(hparams["max_items"]),
        pooling=str(hparams["pooling"]),
        precision=str(hparams["precision"]),
    )
    return encoder, tokenizer


def make_tokens(hparams: Mapping[str, Any], attributes: Attributes, tokenizer: Any) -> ItemTokens:
    """Tokens of every item, cut to the sizes of ``hparams``."""
    return tokenise(
        attributes,
        tokenizer,
        per_attribute=int(hparams["tokens_per_attribute"]),
        per_item=int(hparams["tokens_per_item"]),
    )


class Recformer(SequenceTrained, nn.Module):
    """s = enc([CLS], items newest first as "key value key value ..."), v_i = enc([CLS], item i).

    Next item i with probability softmax_i cos(s, v_i) / tau over the catalogue. No ids: the matrix of v is
    encoded, no gradient flows into it. Stage 1 encodes it anew before every epoch and keeps the best epoch by
    validation; stage 2 goes on from there with the matrix of that epoch. One prefix of every sequence
    (window) is drawn per epoch.

    When serving, the language encoder reads the history: no language model, but more work than a lookup.
    """

    packed: ClassVar[bool] = False
    averaged: ClassVar[bool] = False  # the item matrix is that of the epoch's first weights
    item_matrix: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__()
        self.hparams = {name: config[name] for name in _HPARAMS}
        self._n_items = int(dataset.num("item_id"))
        self.stage = 1
        # Replaced by what the inputs bring.
        self.encoder: Any = nn.Identity()
        self.tokens: Any = nn.Identity()
        self.register_buffer("item_matrix", torch.zeros(self._n_items, 1))

    def attach_side(self, side: SideInputs, seed: int) -> None:
        """Load the encoder, tokenise the items; begin with what pre-training left, if there was one.

        Raises
        ------
        SpecError
            The encoder cannot be loaded or has another shape than the pre-trained parameters.
        """
        if side.attributes is None or side.language_encoder is None:
            return
        self.encoder, tokenizer = make_encoder(self.hparams, side.language_encoder)
        self.tokens = make_tokens(self.hparams, side.attributes, tokenizer)
        if side.pretrained is not None:
            load_trained(self.encoder, side.pretrained)
        self.item_matrix = torch.zeros(self._n_items, self.encoder.words.shape[1])

    @property
    def phase(self) -> str:
        """What ``history`` calls the epoch."""
        return f"stage {self.stage}"

    def begin_epoch(self) -> None:
        """Stage 1 encodes the item matrix anew; stage 2 leaves it."""
        if self.stage == 1:
            self.item_matrix = self.encoded_items()

    def next_stage(self, best: Mapping[str, Tensor]) -> bool:
        """Go on from the best epoch of stage 1 with its item matrix; False after stage 2."""
        if self.stage == 2:
            return False
        self.load_state_dict(best)
        self.stage = 2
        return True

    def carried_state(self) -> dict[str, Any]:
        """The stage; its item matrix is a buffer."""
        return {"stage": self.stage}

    def load_carried_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`carried_state` gave."""
        self.stage = state["stage"]

    @torch.no_grad()
    def encoded_items(self) -> Tensor:
        """v_i / tau of all items [n_items, H], without dropout; zeros for padding and items without text."""
        was_training = self.training
        self.eval()
        device = self.item_matrix.device
        rows = []
        for begin in range(0, self._n_items, _ITEMS_AT_ONCE):
            items = torch.arange(begin, min(begin + _ITEMS_AT_ONCE, self._n_items), device=device)
            vectors = self.read(items[:, None])
            rows.append(vectors * (self.tokens.length[items] > 0)[:, None])
        self.train(was_training)
        return torch.cat(rows) / float(self.hparams["temperature"])

    def read(self, items: Tensor) -> Tensor:
        """Unit vector of items [B, N] in one line, newest first."""
        out: Tensor = self.encoder(self.tokens.lay_out(items, int(self.hparams["max_tokens"])))
        return out

    def item_table(self) -> tuple[Tensor, Tensor | None]:
        """The item matrix."""
        return self.item_matrix, None

    def sequence_losses(
        self, batch: Batch, dropout: ByteDropout | None, rng: np.random.Generator, *, distil: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy of the item after one prefix of every row; there is never a distillation term."""
        length, target = draw_prefixes(batch, rng)
        state = self.read(newest_first(batch.item_seq, length, int(self.hparams["max_items"])))
        loss = catalogue_cross_entropy(state, self.item_matrix, target, dtype=self.softmax_dtype)
        return loss, None

    def serve_states(self, item_seq: Tensor, item_seq_len: Tensor, user: Tensor | None = None) -> Tensor:
        """Unit vectors of histories, [B, H]."""
        return self.read(newest_first(item_seq, item_seq_len, int(self.hparams["max_items"])))


def draw_prefixes(batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A uniform prefix of every row of an unpacked batch.

    Returns
    -------
    length : int64 [B]
    target : int64 [B]
        The item after it.
    """
    drawn = rng.integers(1, batch.length.cpu().numpy() + 1)
    length = torch.from_numpy(drawn).to(batch.item_seq.device)
    return length, batch.target.gather(1, length[:, None] - 1).squeeze(1)


def trained_names(encoder: nn.Module) -> list[str]:
    """Parameters that training changes."""
    return [name for name, p in encoder.named_parameters() if p.requires_grad]


def load_trained(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put what pre-training changed into an encoder of the same kind.

    Raises
    ------
    SpecError
    """
    own = dict(encoder.named_parameters())
    wanted = trained_names(encoder)
    wrong = [n for n in {*wanted, *state} if n not in own or n not in state or own[n].shape != state[n].shape]
    if wrong:
        raise SpecError(f"pre-trained parameters do not fit the encoder: {', '.join(sorted(wrong)[:3])}")
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)

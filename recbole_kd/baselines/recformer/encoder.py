"""A Hugging Face encoder that is told which token is a key and which item it belongs to."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_kd.baselines.recformer.tokens import N_TYPES, Line
from recbole_kd.errors import SpecError
from recbole_kd.models.cross_entropy import resolve_precision

POOLINGS = ("cls", "mean")
PRECISIONS = ("auto", "float32", "bfloat16")
_SPREAD = 0.02


class LanguageEncoder(nn.Module):
    """Input = word + token position (both the encoder's) + type + place of the item, then its blocks.

    A Longformer attends globally from and to the first token, and locally otherwise.

    Parameters
    ----------
    model : transformers encoder
        Of a class that takes ``inputs_embeds``.
    layers : int or None
        Blocks that are kept, counted from the input; None keeps all.
    train_layers : int or None
        Blocks that are trained, counted from the output; None trains all.
    train_words : bool
        Whether the encoder's own embeddings are trained.
    max_items : int
    pooling : {"cls", "mean"}
        The first token's state, or the mean over the tokens.
    precision : {"auto", "float32", "bfloat16"}
        Of the blocks' products in training steps; item matrices and ranks are float32. auto: bfloat16 where
        the processor multiplies it natively. (The authors train in float16.)
    """

    def __init__(
        self,
        model: Any,
        *,
        layers: int | None,
        train_layers: int | None,
        train_words: bool,
        max_items: int,
        pooling: str,
        precision: str,
    ) -> None:
        super().__init__()
        for name, value, known in (("pooling", pooling, POOLINGS), ("precision", precision, PRECISIONS)):
            if value not in known:
                raise SpecError(f"hparams.{name}: {value!r} is not one of {', '.join(known)}")
        self.model = model
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        width = int(model.config.hidden_size)
        self.types = nn.Embedding(N_TYPES, width)
        self.places = nn.Embedding(max_items + 1, width)
        for table in (self.types, self.places):
            nn.init.normal_(table.weight, std=_SPREAD)
        self._pooling = pooling
        self._precision = precision
        self._global = str(model.config.model_type) == "longformer"
        self._choose(layers, train_layers, train_words)

    def _choose(self, layers: int | None, train_layers: int | None, train_words: bool) -> None:
        """Cut the stack of blocks and say what is trained."""
        holder, name, stack = _stack(self.model)
        if layers is not None and not 1 <= layers <= len(stack):
            raise SpecError(f"hparams.layers: {layers} of the encoder's {len(stack)} blocks cannot be kept")
        kept = stack[: layers or len(stack)]
        setattr(holder, name, kept)
        self.model.config.num_hidden_layers = len(kept)
        trained = len(kept) if train_layers is None else train_layers
        for block in list(kept)[: max(0, len(kept) - trained)]:
            block.requires_grad_(False)
        self.model.embeddings.requires_grad_(train_words)

    @property
    def words(self) -> Tensor:
        """Word embeddings, [vocabulary, H]."""
        table: Tensor = self.model.get_input_embeddings().weight
        return table

    def states(self, line: Line) -> Tensor:
        """State of every token, [B, T, H]."""
        vectors = F.embedding(line.ids, self.words) + self.types(line.types) + self.places(line.places)
        more = {"global_attention_mask": global_attention(line.mask)} if self._global else {}
        with self._products(vectors.device):
            out: Tensor = self.model(
                inputs_embeds=vectors, attention_mask=line.mask.long(), **more
            ).last_hidden_state
        return out.float()

    def _products(self, device: torch.device) -> AbstractContextManager[Any]:
        if not self.training or resolve_precision(self._precision, str(device)) == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def forward(self, line: Line) -> Tensor:
        """Unit vector of every line, [B, H]."""
        states = self.states(line)
        if self._pooling == "cls":
            return F.normalize(states[:, 0], dim=-1)
        weight = line.mask[..., None].to(states.dtype)
        return F.normalize((states * weight).sum(1) / weight.sum(1), dim=-1)


def global_attention(mask: Tensor) -> Tensor:
    """1 at the first token, 0 elsewhere, int64 [B, T]."""
    first = torch.zeros_like(mask, dtype=torch.int64)
    first[:, 0] = 1
    return first


def _stack(model: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """Where the blocks of a transformers encoder are."""
    n = int(model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            parent, _, name = path.rpartition(".")
            return model.get_submodule(parent), name, module
    raise SpecError(
        f"hparams.encoder: the blocks of a {type(model).__name__} are not found; use a BERT-like one"
    )


def load_encoder(source: str) -> tuple[Any, Any]:
    """Encoder and tokenizer of a folder or a name.

    Raises
    ------
    SpecError
        It cannot be loaded.
    """
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        # Fused attention of some encoders drops what padding needs; float32 whatever the file holds.
        model = AutoModel.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0][:160]
        raise SpecError(f"hparams.encoder '{source}': cannot be loaded ({first})") from error
    return model, tokenizer

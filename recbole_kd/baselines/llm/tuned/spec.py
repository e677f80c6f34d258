"""What the parameters of a tuned language model may say; defaults in ``properties/ranker``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recbole_kd.strict import Strict


class LoraSpec(Strict):
    """Low-rank adapters (Hu et al., ICLR 2022): W + (alpha / rank) B A on the named projections."""

    rank: int = Field(ge=1)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        min_length=1, description="names of the projections, q_proj and the like"
    )
    quantise: Literal["none", "4bit", "8bit"] = Field(
        description="of the frozen weights (QLoRA); needs bitsandbytes and a GPU"
    )


class TuneSpec(Strict):
    """Optimisation: AdamW, linear warm-up, then linear decay to 0."""

    epochs: int = Field(ge=0, description="0: the model as it is")
    batch_size: int = Field(ge=1, description="examples per step")
    micro_batch: int = Field(ge=1, description="examples in memory at once; gradients are summed")
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup: float = Field(ge=0, lt=1, description="share of all steps")
    clip: float | None = Field(gt=0, description="norm of the gradient; null: not clipped")
    patience: int = Field(ge=1, description="epochs without a better validation value")
    save_every: int = Field(ge=1, description="steps between two checkpoints; epochs end with one, too")

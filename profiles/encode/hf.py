"""Any transformers encoder with explicit pooling and truncation (MiniLM, mpnet, E5, BGE, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.encode.lanes import in_lanes
from profiles.llm.sources import locate, quiet_loading
from profiles.progress import Progress
from profiles.spec import EncoderSpec
from recbole_kd.errors import SpecError

_AT_ONCE = 1024


def encode(texts: Sequence[str], spec: EncoderSpec, progress: Progress | None = None) -> NDArray[np.float32]:
    """Encode with ``AutoModel`` and pool the last hidden states; on a CPU a batch per core at a time.

    Raises
    ------
    SpecError
        No model or pooling named, or the model cannot be loaded.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    if not spec.model or not spec.pooling:
        raise SpecError("encoder: kind transformers needs 'model' and 'pooling'")
    quiet_loading()
    device = pick_device(spec.device)
    source = str(locate(spec.model))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source, dtype=getattr(torch, spec.dtype)).to(device).eval()
    except (OSError, ValueError) as error:
        raise SpecError(
            f"encoder.model '{spec.model}': cannot be loaded ({str(error).splitlines()[0][:160]})"
        ) from error
    tokenizer.padding_side = "right"
    limit = _limit(spec, model.config)
    pool = _POOLING[spec.pooling]
    one_at_a_time = Lock()  # a fast tokenizer refuses two callers

    def run(start: int) -> NDArray[np.float32]:
        with one_at_a_time:
            batch = tokenizer(
                list(texts[start : start + spec.batch_size]),
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=limit,
            ).to(device)
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state.float()  # [B, L, D]
            vectors: NDArray[np.float32] = pool(hidden, batch["attention_mask"]).cpu().numpy()
        return vectors

    parts: list[NDArray[np.float32]] = []
    for vectors in in_lanes(run, range(0, len(texts), spec.batch_size), device):
        parts.append(vectors)
        if progress:
            progress(min(len(parts) * spec.batch_size, len(texts)), len(texts))
    return np.concatenate(parts).astype(np.float32)


def cut(texts: Sequence[str], spec: EncoderSpec) -> NDArray[np.bool_]:
    """Whether each text is longer than what :func:`encode` reads of it, bool [N]."""
    from transformers import AutoConfig

    source = str(locate(str(spec.model)))
    limit = _limit(spec, AutoConfig.from_pretrained(source))
    return longer(texts, source, limit)


def longer(texts: Sequence[str], source: str, limit: int) -> NDArray[np.bool_]:
    """Whether each text has more than ``limit`` tokens, begin and end markers included, bool [N]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    found = np.zeros(len(texts), np.bool_)
    for start in range(0, len(texts), _AT_ONCE):
        # Not verbose: it would warn of what is looked for.
        part = tokenizer(list(texts[start : start + _AT_ONCE]), verbose=False)["input_ids"]
        found[start : start + len(part)] = [len(ids) > limit for ids in part]
    return found


def _limit(spec: EncoderSpec, config: Any) -> int:
    return spec.max_tokens or int(getattr(config, "max_position_embeddings", 512))


def pick_device(name: str) -> str:
    """Resolve ``auto`` to the best device there is."""
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _mean(hidden: Any, mask: Any) -> Any:
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # [B, L, 1]
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def _cls(hidden: Any, mask: Any) -> Any:
    return hidden[:, 0]


def _last(hidden: Any, mask: Any) -> Any:
    import torch

    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]


_POOLING = {"mean": _mean, "cls": _cls, "last": _last}

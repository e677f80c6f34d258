"""The README beside an exported model."""

from __future__ import annotations

from typing import Any

from recbole_kd.serving.recbole_config import not_in_recbole
from recbole_kd.serving.student import Trained

INPUTS = ("item_seq", "item_seq_len")

_HEAD = """# {model} from run {run}

Trained as `{trained_as}`. `{file}`: {about}.

The distillation head is gone: {parameters:,} parameters and {flops:,} floating-point operations per request
(matrix products, full history), as many as RecBole's plain {model}. Largest difference of a score from the
trained student, over several batches: {largest_difference:.1e} (relative where scores exceed 1).

"""
_GRAPH = """Input: `item_seq` int64 [batch, {max_item_list_length}], the last {max_item_list_length} item ids
of each user, oldest first, padded with 0 on the right; `item_seq_len` int64 [batch], at least 1. Output:
`scores` float32 [batch, {n_items}], one per item id; column 0 is padding and means nothing. The batch may
have any size.
{items}

```python
{code}
```
"""
_TOKENS = "`items.json` lists the item tokens by id."
_NO_TOKENS = "The dataset was not at hand when this was written, so there is no list of item tokens by id."

_CODE = {
    "torchscript": """\
import json
import torch

model = torch.jit.load("model.ts")
tokens = json.load(open("items.json", encoding="utf-8"))
history = tokens[1:4]
item_seq = torch.zeros(1, {L}, dtype=torch.int64)
item_seq[0, : len(history)] = torch.tensor([tokens.index(token) for token in history])
scores = model(item_seq, torch.tensor([len(history)]))
scores[:, 0] = -torch.inf
print([tokens[i] for i in scores[0].topk(10).indices])""",
    "torch-export": """\
import json
import torch

model = torch.export.load("model.pt2").module()
tokens = json.load(open("items.json", encoding="utf-8"))
history = tokens[1:4]
item_seq = torch.zeros(1, {L}, dtype=torch.int64)
item_seq[0, : len(history)] = torch.tensor([tokens.index(token) for token in history])
scores = model(item_seq, torch.tensor([len(history)]))
scores[:, 0] = -torch.inf
print([tokens[i] for i in scores[0].topk(10).indices])""",
    "onnx": """\
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
tokens = json.load(open("items.json", encoding="utf-8"))
history = tokens[1:4]
item_seq = np.zeros((1, {L}), np.int64)
item_seq[0, : len(history)] = [tokens.index(token) for token in history]
given = {{"item_seq": item_seq, "item_seq_len": np.array([len(history)], np.int64)}}
scores = session.run(["scores"], given)[0]
scores[:, 0] = -np.inf
print([tokens[i] for i in np.argsort(-scores[0])[:10]])""",
}
_RECBOLE = """`recbole.yaml` reads the same dataset into the same model; ids are then those of the training.
{items}

```python
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.utils import get_model

config = Config(model="{model}", dataset="{dataset}", config_file_list=["recbole.yaml"])
dataset = create_dataset(config)
model = get_model("{model}")(config, dataset)
model.load_state_dict(torch.load("model.pth", weights_only=True)["state_dict"], strict=True)
model.eval()
```

RecBole's `Trainer.evaluate(data, load_best_model=True, model_file="model.pth")` reads the file too.
{notes}"""
_BERT = (
    "RecBole 1.2.1 drops the first item of every history when its BERT4Rec scores; the student here does "
    "not. Put one more item in front of histories shorter than {L}, and the scores are the same."
)
_NOTES = "\nWhat differs from the run:\n\n{lines}\n"
_ABOUT = {
    "recbole": "a state dict for RecBole's own class",
    "torchscript": "TorchScript by `torch.jit.trace`, which torch 2.13 calls deprecated (its successor is "
    "the format `torch-export`) and which libtorch reads",
    "torch-export": "a program of `torch.export`",
    "onnx": "ONNX",
}


def readme(trained: Trained, name: str, about: dict[str, Any]) -> str:
    """Markdown text for an export of format ``name``; ``about`` is its ``export.json``."""
    head = _HEAD.format(**about | {"about": _ABOUT[name]})
    items = _TOKENS if about["items"] else _NO_TOKENS
    if name != "recbole":
        return head + _GRAPH.format(**about | {"items": items, "code": _CODE[name].format(L=trained.max_len)})
    notes = not_in_recbole(trained)
    if trained.backbone == "BERT4Rec":
        notes.append(_BERT.format(L=trained.max_len))
    listed = _NOTES.format(lines="\n".join(f"- {n[0].upper()}{n[1:]}" for n in notes)) if notes else ""
    names = {"model": trained.backbone, "dataset": trained.spec.dataset.name}
    return head + _RECBOLE.format(items=items, notes=listed, **names)

"""``train``: one model on one dataset with RecBole's flat configuration keys.

Precedence as in RecBole: command line, then configuration files (the last one first), then the
defaults of ``properties/``. Keys that RecBole knows and that change nothing here are named and
ignored; any other unknown key is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recbole_kd.benchmark import properties, rooms
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, load_marked, merge
from recbole_kd.benchmark.resolve import DEFAULTS, resolve
from recbole_kd.benchmark.spec import PlannedCell
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import SpecError

# RecBole keys without effect here: this suite logs, stores and evaluates in its own way.
_NO_EFFECT = {
    "benchmark_filename", "checkpoint_dir", "encoding", "gpu_id", "load_col", "log_wandb",
    "loss_decimal_place", "metric_decimal_place", "nproc", "repeatable", "reproducibility",
    "save_dataloaders", "save_dataset", "show_progress", "state", "train_neg_sample_args",
    "valid_metric_bigger", "wandb_project", "worker",
}  # fmt: skip
_VARIANT = ("teacher", "embeddings", "trust_unverified", "profile")
_PARTS = ("hparams", "train", "distill")


@dataclass
class Flat:
    """RecBole's flat configuration, sorted into ours."""

    variant: MarkedDict
    dataset: MarkedDict
    seed: int | None = None
    use_gpu: bool | None = None
    metrics: list[str] = field(default_factory=lambda: ["Recall", "MRR", "NDCG", "HR"])
    topk: list[int] = field(default_factory=lambda: [10])
    ignored: list[str] = field(default_factory=list)

    def metric_names(self) -> list[str]:
        """Every metric at every k, as RecBole prints them."""
        names = ["HR" if m.lower() == "hit" else m for m in self.metrics]
        return [f"{name}@{k}" for name, k in itertools.product(names, self.topk)]


def read_config(files: Sequence[str], extra: Sequence[str]) -> MarkedDict:
    """Merge configuration files and ``--key=value`` arguments.

    Raises
    ------
    SpecError
        A file cannot be read, or an argument has another form.
    """
    merged = MarkedDict(Mark("command line", 1))
    for name in files:
        merged = merge(merged, load_marked(Path(name)))
    for argument in extra:
        key, sign, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not sign:
            raise SpecError(f"train: '{argument}' is not --key=value, e.g. --learning_rate=0.001")
        merged.put(key, yaml.safe_load(value), Mark(f"--{key}", 1))
    return merged


def sort_keys(config: MarkedDict, model: str, dataset: str) -> Flat:
    """Sort flat keys into hyper-parameters, optimisation, distillation and dataset.

    Raises
    ------
    SpecError
        A key that neither the model nor RecBole has; the message offers the nearest one.
    """
    distilled = model.endswith("KD")
    defaults = rooms.model_defaults(model.removesuffix("KD"), distilled, "--model")
    homes = {key: part for part in reversed(_PARTS) for key in (defaults.get(part) or {})}
    mark = config.mark
    flat = Flat(MarkedDict(mark), MarkedDict(mark))
    special = {
        "seed": lambda v: setattr(flat, "seed", v),
        "use_gpu": lambda v: setattr(flat, "use_gpu", v),
        "metrics": lambda v: setattr(flat, "metrics", [v] if isinstance(v, str) else v),
        "topk": lambda v: setattr(flat, "topk", [v] if isinstance(v, int) else v),
    }
    known = {*homes, *special, *_DATASET, *_VARIANT, *_NO_EFFECT}
    for key, value in config.items():
        where = config.where(key)
        if key in homes:
            _part(flat.variant, homes[key], where).put(key, value, where)
        elif key in special:
            special[key](value)
        elif key in _DATASET:
            flat.dataset = merge(flat.dataset, _DATASET[key](value, dataset, where))
        elif key in _VARIANT:
            flat.variant.put(key, value, where)
        elif key in _NO_EFFECT:
            flat.ignored.append(key)
        else:
            raise SpecError(f"{where}: {model} has no '{key}'{did_you_mean(key, known)}")
    if distilled and not {"teacher", "embeddings"} & set(flat.variant):
        raise SpecError(f"--model {model}: name a teacher, --teacher=template, or a file, --embeddings=FILE")
    return flat


def _part(variant: MarkedDict, name: str, mark: Mark) -> MarkedDict:
    if name not in variant:
        variant.put(name, MarkedDict(mark), mark)
    found = variant[name]
    assert isinstance(found, MarkedDict)
    return found


def _one(path: str, value: Any, mark: Mark) -> MarkedDict:
    """Mapping with ``value`` at a dotted path."""
    head, _, rest = path.partition(".")
    result = MarkedDict(mark)
    result.put(head, _one(rest, value, mark) if rest else value, mark)
    return result


def _data_path(value: Any, dataset: str, mark: Mark) -> MarkedDict:
    return merge(_one("source", "path", mark), _one("path", str(Path(value).resolve() / dataset), mark))


def _at_least(path: str, value: Any, mark: Mark) -> MarkedDict:
    """RecBole's interval, such as ``"[5,inf)"``, of which the lower bound is supported."""
    text = str(value).replace(" ", "")
    low = text[1:].split(",")[0]
    if not (text.startswith("[") and text.endswith((",inf)", ",inf]")) and low.isdigit()):
        raise SpecError(f"{mark}: '{value}' is not supported; write an interval such as '[5,inf)'")
    return _one(path, int(low), mark)


def _eval_args(value: Any, dataset: str, mark: Mark) -> MarkedDict:
    """RecBole's default protocol for sequential models is ours; others are chosen in the dataset YAML."""
    given = value if isinstance(value, dict) else {}
    split = given.get("split", {"LS": "valid_and_test"})
    full = str(given.get("mode", "full")) == "full"
    if split != {"LS": "valid_and_test"} or not full or given.get("order", "TO") != "TO":
        raise SpecError(
            f"{mark}: only leave-one-out in time order with full ranking ({{split: {{LS: valid_and_test}}, "
            "order: TO, mode: full}) comes as eval_args; choose another split in the dataset YAML"
        )
    return _one("split.protocol", "leave-one-out", mark)


_DATASET: dict[str, Any] = {
    "MAX_ITEM_LIST_LENGTH": lambda v, d, m: _one("max_item_list_length", v, m),
    "data_path": _data_path,
    "USER_ID_FIELD": lambda v, d, m: _one("fields.user", v, m),
    "ITEM_ID_FIELD": lambda v, d, m: _one("fields.item", v, m),
    "TIME_FIELD": lambda v, d, m: _one("fields.time", v, m),
    "user_inter_num_interval": lambda v, d, m: _at_least("filter.min_user_inter", v, m),
    "item_inter_num_interval": lambda v, d, m: _at_least("filter.min_item_inter", v, m),
    "eval_args": _eval_args,
}


def plan_cell(model: str, dataset: str, flat: Flat) -> tuple[PlannedCell, tuple[str, ...]]:
    """The one cell that ``train`` runs, and the metrics it prints."""
    mark = flat.variant.mark
    data = load_marked(properties.find("experiment", DEFAULTS))
    name = "kd" if model.endswith("KD") else "plain"
    given: dict[str, Any] = {
        "experiment": "train",
        "datasets": [dataset],
        "dataset": flat.dataset,
        "backbones": [model.removesuffix("KD")],
        "baseline": name,
        "controls": [],
        "metrics": flat.metric_names(),
    }
    for key, value in given.items():
        data.put(key, value, mark)
    data.put("seeds", data["seeds"][:1] if flat.seed is None else [flat.seed], mark)
    variants = MarkedDict(mark)
    variants.put(name, flat.variant, mark)
    data.put("variants", variants, mark)
    experiment = resolve(data, Path("train"))
    return experiment.cells[0], tuple(experiment.spec.metrics)

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

from recbole_kd.benchmark import properties, rooms
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, load_marked, merge, parse_value
from recbole_kd.benchmark.resolve import DEFAULTS, resolve
from recbole_kd.benchmark.spec import ExperimentSpec, PlannedCell
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import SpecError

# RecBole keys without effect here: this suite logs, stores and evaluates in its own way.
_NO_EFFECT = {
    "ITEM_LIST_LENGTH_FIELD", "LABEL_FIELD", "LIST_SUFFIX", "NEG_PREFIX", "POSITION_FIELD",
    "benchmark_filename", "checkpoint_dir", "dataloaders_save_path", "dataset_save_path", "encoding",
    "group_offset", "ip", "load_col", "log_wandb", "loss_decimal_place", "metric_decimal_place", "nproc",
    "port", "repeatable", "reproducibility", "save_dataloaders", "save_dataset", "seq_separator",
    "show_progress", "state", "train_neg_sample_args", "unload_col", "unused_col", "valid_metric_bigger",
    "wandb_project", "worker", "world_size",
}  # fmt: skip
# RecBole keys of which this suite knows one setting; with another one the numbers would not be RecBole's.
_ONLY: dict[str, tuple[Any, ...]] = {
    "learner": ("adam",), "eval_step": (1,), "shuffle": (True,), "enable_amp": (False,),
    "enable_scaler": (False,), "require_pow": (False,), "transform": (None,), "field_separator": ("\t",),
    "rm_dup_inter": (None,), "filter_inter_by_user_or_item": (True,), "threshold": (None,),
    "seq_len": (None,), "preload_weight": (None,), "numerical_features": ([],), "normalize_field": (None,),
    "normalize_all": (None, False), "discretization": (None,), "additional_feat_suffix": (None,),
}  # fmt: skip
# RecBole's name of a metric, in lower case -> ours, and whether it is divided by k: with one target per
# user precision is the hit rate over k, and average precision the reciprocal rank.
_METRICS = {"hit": ("HR", False), "precision": ("HR", True), "map": ("MRR", False)}
# Whose settings a folder without a YAML gets, but for the filter: RecBole's default has none.
_OWN = "own-dataset"
_DATA_PATH = "dataset"
_VARIANT = ("teacher", "embeddings", "trust_unverified", "profile")
_PARTS = ("hparams", "train", "distill")


@dataclass
class Flat:
    """RecBole's flat configuration, sorted into ours."""

    variant: MarkedDict
    dataset: MarkedDict
    seed: int | None = None
    use_gpu: bool | None = None
    gpu_id: str | int | None = None
    metrics: list[str] = field(default_factory=lambda: ["Recall", "MRR", "NDCG", "Hit", "Precision"])
    topk: list[int] = field(default_factory=lambda: [10])
    ignored: list[str] = field(default_factory=list)

    def shown(self) -> list[tuple[str, str, int]]:
        """Every metric at every k: as RecBole prints it, as it is called here, and what divides it."""
        listed = []
        for name, k in itertools.product(self.metrics, self.topk):
            ours, per_k = _METRICS.get(name.lower(), (name, False))
            listed.append((f"{name.lower()}@{k}", f"{ours}@{k}", k if per_k else 1))
        return listed

    def metric_names(self) -> list[str]:
        """Metrics of the cell."""
        return list(dict.fromkeys(ours for _, ours, _ in self.shown()))


def read_config(files: Sequence[str], extra: Sequence[str]) -> MarkedDict:
    """Merge configuration files and ``--key=value`` arguments; a value is YAML, so it may be a mapping.

    Raises
    ------
    SpecError
        A file cannot be read, or an argument has another form.
    """
    merged = MarkedDict(Mark("command line", 1))
    given: dict[str, str] = {}
    for name in files:
        merged = merge(merged, load_marked(Path(name)))
    for argument in extra:
        key, sign, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not sign:
            raise SpecError(f"train: '{argument}' is not --key=value, e.g. --learning_rate=0.001")
        if given.setdefault(key, value) != value:
            raise SpecError(f"train: --{key} is given twice, as '{given[key]}' and as '{value}'")
        merged.put(key, parse_value(value, f"--{key}"), Mark(f"--{key}", 1))
    return merged


def chosen_names(config: MarkedDict, model: str | None, dataset: str | None) -> tuple[str, str]:
    """Model and dataset: of the command line, else of the configuration, else RecBole's own dataset.

    Raises
    ------
    SpecError
        No model is named.
    """
    model = model or config.get("model")
    if not model:
        raise SpecError("train: name a model, --model=SASRec, or 'model' in a configuration file")
    return str(model), str(dataset or config.get("dataset") or "ml-100k")


def sort_keys(config: MarkedDict, model: str, dataset: str) -> Flat:
    """Sort flat keys into hyper-parameters, optimisation, distillation and dataset.

    Raises
    ------
    SpecError
        A key that neither the model nor RecBole has; the message offers the nearest one.
    """
    distilled = model.endswith("KD")
    config = config.without("model", "dataset")
    defaults = rooms.model_defaults(model.removesuffix("KD"), distilled, "--model")
    homes = {key: part for part in reversed(_PARTS) for key in (defaults.get(part) or {})}
    mark = config.mark
    flat = Flat(MarkedDict(mark), MarkedDict(mark))
    special = {
        "seed": lambda v: setattr(flat, "seed", v),
        "use_gpu": lambda v: setattr(flat, "use_gpu", v),
        "gpu_id": lambda v: setattr(flat, "gpu_id", v),
        "metrics": lambda v: setattr(flat, "metrics", [v] if isinstance(v, str) else v),
        "topk": lambda v: setattr(flat, "topk", [v] if isinstance(v, int) else v),
    }
    known = {*homes, *special, *_DATASET, *_VARIANT, *_NO_EFFECT, *_ONLY}
    flat.dataset = _without_yaml(dataset, config, mark)
    for key, value in config.items():
        where = config.where(key)
        if key in homes:
            _part(flat.variant, homes[key], where).put(key, _own_form(key, value), where)
        elif key in special:
            special[key](value)
        elif key in _DATASET:
            flat.dataset = merge(flat.dataset, _DATASET[key](value, dataset, where))
        elif key in _VARIANT:
            flat.variant.put(key, value, where)
        elif key in _ONLY:
            _check_only(key, value, where)
        elif key in _NO_EFFECT:
            flat.ignored.append(key)
        else:
            raise SpecError(f"{where}: {model} has no '{key}'{did_you_mean(key, known)}")
    if distilled and not {"teacher", "embeddings"} & set(flat.variant):
        raise SpecError(f"--model {model}: name a teacher, --teacher=template, or a file, --embeddings=FILE")
    return flat


def _own_form(key: str, value: Any) -> Any:
    """RecBole writes a gradient clip as ``{'max_norm': 5}``."""
    if key == "clip_grad_norm" and isinstance(value, dict) and set(value) <= {"max_norm", "norm_type"}:
        return value.get("max_norm") if value.get("norm_type", 2) == 2 else value
    return value


def _check_only(key: str, value: Any, where: Mark) -> None:
    if value not in _ONLY[key]:
        raise SpecError(f"{where}: '{key}' = {value!r} is not supported; leave it out ({_ONLY[key][0]!r})")


def _without_yaml(dataset: str, config: MarkedDict, mark: Mark) -> MarkedDict:
    """What a folder of atomic files that has no YAML here takes in place of one (RecBole's defaults)."""
    if dataset in properties.names("dataset") or dataset.endswith((".yaml", ".yml")):
        return MarkedDict(mark)
    folder = Path(str(config.get("data_path", _DATA_PATH))).resolve() / dataset
    file = folder / f"{dataset}.inter"
    if not file.is_file():
        return MarkedDict(mark)
    with file.open(encoding="utf-8") as lines:
        columns = {name.split(":")[0] for name in lines.readline().rstrip("\n").split("\t")}
    rating = config.get("RATING_FIELD", "rating")
    values = {
        "name": dataset,
        "source": "path",
        "path": str(folder),
        "fields.rating": rating if rating in columns else None,
        "text": None,
        "filter.min_user_inter": 0,
        "filter.min_item_inter": 0,
    }
    result = MarkedDict(mark)
    for path, value in values.items():
        result = merge(result, _one(path, value, mark))
    return result


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


def _val_interval(value: Any, dataset: str, mark: Mark) -> MarkedDict:
    """RecBole's ``{rating: "[3,inf)"}``; the field of the ratings is the only one that can filter."""
    interval = next(iter(value.values())) if isinstance(value, dict) and len(value) == 1 else None
    text = str(interval).replace(" ", "")
    low = text[1:].split(",")[0]
    try:
        least = float(low)
    except ValueError:
        least = float("nan")
    if least != least or not (text.startswith("[") and text.endswith((",inf)", ",inf]"))):
        raise SpecError(f"{mark}: '{value}' is not supported; write {{rating: '[3,inf)'}}")
    return merge(_one("filter.min_rating", least, mark), _one("fields.rating", next(iter(value)), mark))


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
    "RATING_FIELD": lambda v, d, m: _one("fields.rating", v, m),
    "val_interval": _val_interval,
    "TIME_FIELD": lambda v, d, m: _one("fields.time", v, m),
    "user_inter_num_interval": lambda v, d, m: _at_least("filter.min_user_inter", v, m),
    "item_inter_num_interval": lambda v, d, m: _at_least("filter.min_item_inter", v, m),
    "eval_args": _eval_args,
}


def plan_cell(model: str, dataset: str, flat: Flat) -> tuple[PlannedCell, ExperimentSpec]:
    """The one cell that ``train`` runs, and the experiment of one cell that it stands in."""
    mark = flat.variant.mark
    data = load_marked(properties.find("experiment", DEFAULTS))
    name = "kd" if model.endswith("KD") else "plain"
    given: dict[str, Any] = {
        "experiment": "train",
        "datasets": [_OWN if "name" in flat.dataset else dataset],
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
    return experiment.cells[0], experiment.spec

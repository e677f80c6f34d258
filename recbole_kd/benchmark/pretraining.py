"""Pre-training as an artefact: resolved into a cell, built once per results folder, kept, resumed."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_kd.baselines import PRETRAINED
from recbole_kd.benchmark import rooms
from recbole_kd.benchmark.locks import wait_lock
from recbole_kd.benchmark.marked_yaml import Mark, MarkedDict, merge
from recbole_kd.benchmark.spec import ITEMS_SOURCE, CellSpec, corpus_content, teacher_content
from recbole_kd.benchmark.validate import check_keys, validated
from recbole_kd.data.spec import DatasetSpec
from recbole_kd.errors import SpecError, StoreError
from recbole_kd.strict import digest
from recbole_kd.training.spec import PretrainSpec, StudentSpec

if TYPE_CHECKING:
    from torch import Tensor

    from recbole_kd.baselines.pretraining import Part

PRETRAIN, SELF = "pretrain", "self"
# Raised when the same spec and data would give other parameters.
_FORMAT = 1


def pretrain_spec(base: PretrainSpec, given: MarkedDict | None, mark: Mark) -> PretrainSpec:
    """Lay what a variant says over the defaults of a system or model.

    Raises
    ------
    SpecError
        An unknown key.
    """
    if given is None:
        return base
    defaults = base.canonical()
    check_keys(given, defaults, "pretrain key")
    args = given.get("args")
    if isinstance(args, MarkedDict):
        check_keys(args, defaults["args"], "pretrain args key")
    below = MarkedDict(mark)
    for key, value in defaults.items():
        below.put(key, MarkedDict(mark, value) if isinstance(value, dict) else value, mark)
    return validated(PretrainSpec, merge(below, given), "pretrain")


def resolved(
    spec: PretrainSpec,
    student: StudentSpec,
    inputs: dict[str, Any],
    dataset: DatasetSpec,
    source: dict[str, str],
    mark: Mark,
) -> dict[str, Any] | None:
    """What enters the cell: everything that the pre-trained parameters depend on; ``None`` without datasets.

    Raises
    ------
    SpecError
        An unknown dataset, or item vectors that have no space in common.
    """
    if not spec.datasets:
        return None
    corpora = []
    for name in spec.datasets:
        known = name in (SELF, dataset.name)
        found, files = (dataset, source) if known else rooms.dataset(name, mark)
        if found.text is None:
            raise SpecError(f"{mark}: pretrain.datasets: '{found.name}' has no item texts; set 'text' there")
        corpora.append({"dataset": found.canonical(), "source": files})
    alone = len(corpora) == 1 and corpora[0]["dataset"] == dataset.canonical()
    if not alone or spec.args.get("word_drop"):
        _check_common_space(inputs, mark)
    return {
        "spec": {k: v for k, v in spec.canonical().items() if k != "datasets"},
        "corpora": corpora,
        "student": _read_of(student),
        "max_item_list_length": dataset.max_item_list_length,
    }


def of_student(inputs: dict[str, Any] | None, student: StudentSpec) -> dict[str, Any] | None:
    """Inputs of a cell whose student has changed: it is pre-trained with its own hyper-parameters."""
    if inputs is None or PRETRAIN not in inputs:
        return inputs
    return {**inputs, PRETRAIN: {**inputs[PRETRAIN], "student": _read_of(student)}}


def _read_of(student: StudentSpec) -> dict[str, Any]:
    return {"hparams": student.hparams, "params": _params(student)}


def _params(student: StudentSpec) -> dict[str, Any]:
    """A system's parameters without those that only fine-tuning reads."""
    after = ("setting", "freeze_encoder")
    return {k: v for k, v in (student.system.params if student.system else {}).items() if k not in after}


def _check_common_space(inputs: dict[str, Any], mark: Mark) -> None:
    items = inputs.get("items")
    if items and (items["encoder"]["kind"] == "tfidf" or items["reduction"]["kind"] != "none"):
        raise SpecError(
            f"{mark}: pretrain: item vectors '{items['name']}' are fitted on the texts at hand, so others "
            "lie elsewhere; name unreduced vectors of a text encoder, or pretrain: "
            "{datasets: [self], args: {word_drop: 0}}"
        )


def trained_on(cell: CellSpec) -> str | None:
    """One line for the protocol; ``None`` where nothing could be pre-trained."""
    said = (cell.inputs or {}).get(PRETRAIN)
    name = cell.student.model if cell.student.system is None else cell.student.system.name
    if said is None:
        return "none" if name in PRETRAINED else None
    names = ", ".join(c["dataset"]["name"] for c in said["corpora"])
    return f"train part of {names}, {said['spec']['epochs']} epochs"


def build(results: Path, cell: CellSpec) -> Path:
    """Make (or find) the pre-trained parameters of a cell; an interrupted job goes on where it stopped.

    Raises
    ------
    UserError
    """
    from safetensors.torch import save

    from recbole_kd.benchmark.artefacts import write_bytes_atomic

    inputs = cell.inputs or {}
    name = cell.student.model if cell.student.system is None else cell.student.system.name
    key = _key(cell, name)
    path = results / "cache" / "pretrained" / f"{name}-{key}.safetensors"
    if path.is_file():
        return path
    with wait_lock(results, f"pretrain-{key}"):
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = path.with_suffix(".partial")
        state, losses = _pretrain(results, cell, name, checkpoint)
        corpora = [c["dataset"]["name"] for c in inputs[PRETRAIN]["corpora"]]
        said = {"format": _FORMAT, "datasets": corpora, "epochs": len(losses), "loss": losses}
        write_bytes_atomic(path, save(state, {"recbole_kd": json.dumps(said)}))
        checkpoint.unlink(missing_ok=True)
    return path


def _key(cell: CellSpec, name: str) -> str:
    inputs = cell.inputs or {}
    said = inputs[PRETRAIN]
    content = {
        **said,
        "corpora": [corpus_content(c) for c in said["corpora"]],
        "format": _FORMAT,
        "by": name,
        "items": teacher_content(inputs["items"]) if "items" in inputs else None,
        "attributes": inputs.get("attributes"),
        **({ITEMS_SOURCE: inputs[ITEMS_SOURCE]} if ITEMS_SOURCE in inputs else {}),
        **({"student_source": cell.student_source} if cell.student_source else {}),
    }
    return digest(content)


def _pretrain(
    results: Path, cell: CellSpec, name: str, checkpoint: Path
) -> tuple[dict[str, Tensor], list[float]]:
    import torch

    from recbole_kd.baselines.pretraining import merge as merged
    from recbole_kd.baselines.pretraining import pretrain
    from recbole_kd.benchmark.executor import limit_threads

    limit_threads()  # as every training: with two threads beside other work a step took seven times as long
    said = (cell.inputs or {})[PRETRAIN]
    spec = PretrainSpec(datasets=[c["dataset"]["name"] for c in said["corpora"]], **said["spec"])
    corpus = merged([_part(results, cell, c, spec) for c in said["corpora"]])
    module, _, attribute = PRETRAINED[name].partition(":")
    made = getattr(importlib.import_module(module), attribute)
    length = int(said["max_item_list_length"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = made(corpus, _hparams(cell), said["student"]["params"], spec, length)
    return pretrain(
        model,
        corpus,
        spec,
        max_len=length,
        packed=made.packed,
        device="cuda" if torch.cuda.is_available() else "cpu",
        checkpoint=checkpoint,
        progress=rooms.progress(f"pre-training of {name}", "epochs"),
    )


def _hparams(cell: CellSpec) -> dict[str, Any]:
    """What the key of the parameters says; a language encoder by its place on this machine."""
    from recbole_kd.benchmark.inputs import ATTRIBUTES, language_encoder

    inputs = cell.inputs or {}
    hparams: dict[str, Any] = inputs[PRETRAIN]["student"]["hparams"]
    return hparams | ({"encoder": language_encoder(cell.student)} if ATTRIBUTES in inputs else {})


def _part(results: Path, cell: CellSpec, corpus: dict[str, Any], spec: PretrainSpec) -> Part:
    """Train sequences and texts of one dataset; its validation and test part stay in their file."""
    import torch

    from recbole_kd.baselines.pretraining import Part
    from recbole_kd.benchmark import inputs
    from recbole_kd.benchmark.artefacts import read_split, split_file
    from recbole_kd.data.item_attributes import load_item_attributes
    from recbole_kd.data.item_vectors import load_item_vectors

    there = cell.model_copy(
        update={
            "dataset": DatasetSpec.model_validate(corpus["dataset"]),
            "dataset_source": corpus["source"],
        }
    )
    split = read_split(split_file(results, there))
    texts: dict[str, Any] = {}
    drop = float(spec.args.get("word_drop") or 0)
    wanted = {"texts": None} | ({"altered": (drop, spec.seed)} if drop else {})
    if inputs.ITEMS in (cell.inputs or {}):
        for field, words in wanted.items():
            path = inputs.build_items(results, there, split, words)
            texts[field] = torch.from_numpy(load_item_vectors(path, split.dataset).vectors)
    if inputs.ATTRIBUTES in (cell.inputs or {}):
        path = inputs.build_attributes(results, there, split)
        texts["attributes"] = load_item_attributes(path, split.dataset)[0]
    return Part.of(split, **texts)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Parameters, what the manifest says of them and their digest.

    Raises
    ------
    StoreError
        The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said = json.loads((file.metadata() or {}).get("recbole_kd", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run the same command again") from error
    content = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    return state, {k: said[k] for k in ("datasets", "epochs") if k in said}, content

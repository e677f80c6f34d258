"""``export``: the student of a run as a RecBole checkpoint, TorchScript, torch.export or ONNX.

An export is a folder that exists whole or not at all: the model, ``items.json`` (item tokens by id),
``export.json`` (where it comes from, what it costs, how far it is from torch) and a README that says how
to serve it. Nothing is written that does not give the student's scores.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import StoreError, UserError
from recbole_kd.serving import readme
from recbole_kd.serving.cost import serving_cost
from recbole_kd.serving.recbole_config import recbole_settings
from recbole_kd.serving.student import Scorer, Trained, build_plain, requests

TOLERANCE = 1e-5
"""Largest difference of a score from the student's, absolute and relative to the largest score."""
MANIFEST = "export.json"
_BATCHES = (1, 2, 7)

Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes
    ----------
    file : str
        Name of the model file.
    write : callable
        ``(student, path)``.
    load : callable
        ``(student, path) -> (item_seq, item_seq_len) -> scores``; reads the file back as a server does.
    about : str
    """

    file: str
    write: Callable[[Trained, Path], None]
    load: Callable[[Trained, Path], Score]
    about: str


def _example(trained: Trained) -> tuple[Tensor, Tensor]:
    # Neither 1 nor a size of the model, so that no dimension is mistaken for a constant.
    lengths = np.array([trained.max_len, 1, max(1, trained.max_len // 2)])
    return requests(trained.n_items, trained.max_len, lengths, seed=1)


def _dynamic() -> tuple[dict[int, Any], dict[int, Any]]:
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    return {0: batch}, {0: batch}


def _scorer(trained: Trained) -> Scorer:
    scorer = Scorer(trained.model).eval()
    return scorer.requires_grad_(False)


def _write_recbole(trained: Trained, path: Path) -> None:
    state = {k: v.detach().cpu().clone() for k, v in trained.model.student_state().items()}
    torch.save({"state_dict": state, "other_parameter": None}, path)


def _load_recbole(trained: Trained, path: Path) -> Score:
    plain = build_plain(trained)
    plain.load_state_dict(torch.load(path, weights_only=True)["state_dict"], strict=True)

    def score(item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        scores: Tensor = plain.full_sort_predict({plain.ITEM_SEQ: item_seq, plain.ITEM_SEQ_LEN: item_seq_len})
        return scores

    return score


def with_an_item_to_drop(item_seq: Tensor, item_seq_len: Tensor) -> tuple[Tensor, Tensor]:
    """Histories as RecBole's BERT4Rec wants them: it drops the first item of every one (1.2.1).

    One more item is put in front where the row has room; a full row loses its oldest item anyway.
    """
    room = item_seq_len < item_seq.shape[1]
    longer = torch.where(room[:, None], item_seq.roll(1, 1), item_seq)
    longer[room, 0] = 1
    return longer, item_seq_len + room


def _write_torchscript(trained: Trained, path: Path) -> None:
    with warnings.catch_warnings():
        # torch 2.13 calls all of TorchScript deprecated; the format is still what libtorch reads.
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(_scorer(trained), _example(trained), check_trace=False)
        traced.save(str(path))


def _load_torchscript(trained: Trained, path: Path) -> Score:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded: Score = torch.jit.load(str(path))
    return loaded


def _write_program(trained: Trained, path: Path) -> None:
    program = torch.export.export(_scorer(trained), _example(trained), dynamic_shapes=_dynamic())
    torch.export.save(program, path)


def _load_program(trained: Trained, path: Path) -> Score:
    loaded: Score = torch.export.load(path).module()
    return loaded


def _write_onnx(trained: Trained, path: Path) -> None:
    _need("onnx", "onnxscript")
    # The exporter says on its logger which of torchvision's operators it cannot register; nobody asked.
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _scorer(trained),
            _example(trained),
            dynamo=True,
            dynamic_shapes=_dynamic(),
            input_names=list(readme.INPUTS),
            output_names=["scores"],
            verbose=False,
        )
    logger.setLevel(level)
    assert program is not None
    program.save(str(path), external_data=False)


def _load_onnx(trained: Trained, path: Path, threads: int = 1) -> Score:
    _need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def score(item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        given = dict(zip(readme.INPUTS, (item_seq.numpy(), item_seq_len.numpy()), strict=True))
        return torch.from_numpy(session.run(None, given)[0])

    return score


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise UserError(
                f"--to onnx needs '{package}', which is not installed: pip install -e '.[export]'"
            )


TARGETS: dict[str, Target] = {
    "recbole": Target("model.pth", _write_recbole, _load_recbole, "a checkpoint of RecBole's own class"),
    "torchscript": Target("model.ts", _write_torchscript, _load_torchscript, "TorchScript, for libtorch"),
    "torch-export": Target(
        "model.pt2", _write_program, _load_program, "torch.export, TorchScript's successor"
    ),
    "onnx": Target("model.onnx", _write_onnx, _load_onnx, "ONNX, for onnxruntime and others"),
}
"""Format -> how it is written and read back. A new format is two functions and one line."""


def get_target(name: str) -> Target:
    """Format by name.

    Raises
    ------
    UserError
    """
    if name not in TARGETS:
        raise UserError(f"--to {name}: no such format{did_you_mean(name, TARGETS)}")
    return TARGETS[name]


@torch.no_grad()
def largest_difference(trained: Trained, target: Target, path: Path) -> float:
    """Largest difference between the scores of an exported file and the student's, relative above 1."""
    score, gap = target.load(trained, path), 0.0
    for batch in _BATCHES:
        lengths = np.linspace(trained.max_len, 1, batch).astype(np.int64)
        given = requests(trained.n_items, trained.max_len, lengths, seed=batch)
        expected = Scorer(trained.model)(*given)
        if target.file == TARGETS["recbole"].file and trained.backbone == "BERT4Rec":
            given = with_an_item_to_drop(*given)
        scale = max(1.0, float(expected.abs().max()))
        gap = max(gap, float((score(*given) - expected).abs().max()) / scale)
    return gap


def export(trained: Trained, name: str, folder: Path, tokens: list[str] | None) -> dict[str, Any]:
    """Write an export and return what its ``export.json`` says.

    Parameters
    ----------
    trained : Trained
    name : str
        A key of ``TARGETS``.
    folder : Path
        Replaced where it is an earlier export; anything else is left alone.
    tokens : list of str or None
        Item tokens by id.

    Raises
    ------
    UserError
        Unknown format, a missing package, or ``folder`` is something else than an export.
    StoreError
        The file does not give the student's scores, costs more than the plain backbone, or cannot be written.
    """
    target = get_target(name)
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: exists and is no export; choose another folder with --out")
    scratch = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        scratch.mkdir(parents=True)
        about = _fill(trained, name, target, scratch, tokens)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(scratch, folder)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror}); choose another with --out"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return about


def _fill(
    trained: Trained, name: str, target: Target, folder: Path, tokens: list[str] | None
) -> dict[str, Any]:
    target.write(trained, folder / target.file)
    gap = largest_difference(trained, target, folder / target.file)
    if not gap <= TOLERANCE:
        raise StoreError(f"export to {name}: a score is {gap:.2g} off the student's; nothing was written")
    cost = serving_cost(trained)
    if cost["parameters"] != cost["plain_parameters"] or cost["flops"] != cost["plain_flops"]:
        raise StoreError(f"export to {name}: the student is not a plain {trained.backbone}: {cost}")
    about = {
        "format": 1,
        "to": name,
        "file": target.file,
        "run": str(trained.manifest["cell"]),
        "model": trained.backbone,
        "trained_as": trained.label,
        "max_item_list_length": trained.max_len,
        "n_items": trained.n_items,
        "items": None if tokens is None else "items.json",
        "largest_difference": gap,
        **cost,
        "test": trained.manifest["metrics"]["test"],
        "torch": torch.__version__,
    }
    if tokens is not None:
        (folder / "items.json").write_text(json.dumps(tokens, ensure_ascii=False, indent=0), encoding="utf-8")
    if name == "recbole":
        text = yaml.safe_dump(recbole_settings(trained), sort_keys=False, allow_unicode=True)
        (folder / "recbole.yaml").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(readme.readme(trained, name, about), encoding="utf-8")
    (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about

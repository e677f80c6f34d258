"""A trained student from its run directory; no dataset, profile or language model is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from recbole_kd.benchmark import rundir
from recbole_kd.benchmark.spec import CellSpec
from recbole_kd.benchmark.validate import validated
from recbole_kd.errors import SpecError, StoreError, UserError
from recbole_kd.models.build import _RECBOLE_FIELDS, BACKBONES, build_student


class Scorer(nn.Module):
    """What a server calls: histories in, a score for every item out.

    Parameters
    ----------
    student : RecBole model with :class:`~recbole_kd.models.mixin.DistillationMixin`
    """

    def __init__(self, student: Any) -> None:
        super().__init__()
        self.student = student

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """Scores of all items.

        Parameters
        ----------
        item_seq : int64 [B, L]
            Right-padded with 0.
        item_seq_len : int64 [B]
            At least 1.

        Returns
        -------
        float32 [B, n_items]
            Column 0 is padding.
        """
        items, bias = self.student.item_table()
        scores: Tensor = self.student.serve_states(item_seq, item_seq_len) @ items.t()
        return scores if bias is None else scores + bias


@dataclass(frozen=True)
class Trained:
    """A run's student, in evaluation mode, and what is needed to feed it.

    Attributes
    ----------
    run : Path
    spec : CellSpec
    manifest : dict
    model : RecBole model without head
    n_items, max_len : int
        Padding included; longest history that is read.
    """

    run: Path
    spec: CellSpec
    manifest: dict[str, Any]
    model: Any
    n_items: int
    max_len: int

    @property
    def backbone(self) -> str:
        """Name of the RecBole class."""
        return self.spec.student.model.removesuffix("KD")

    @property
    def label(self) -> str:
        """How the experiment that ran it called it."""
        written = self.manifest.get("written_as") or {}
        named = [str(written[k]) for k in ("dataset", "backbone", "variant") if k in written]
        return " ".join([*named, f"seed {self.spec.seed}"])


def find_run(text: str, results: Path) -> Path:
    """Run directory of a path, of a cell digest, or of the beginning of a digest.

    Raises
    ------
    UserError
        There is none, or several.
    """
    path = Path(text)
    if (path / rundir.MANIFEST).is_file():
        return path
    folder = rundir.runs_folder(results)
    found = [run for run in rundir.finished(results) if run.name.startswith(text)] if text else []
    if len(found) != 1:
        what = f"{len(found)} runs begin so" if found else "no such run"
        raise UserError(f"{text}: {what} in {folder}; give a run directory or its digest")
    return found[0]


def read_spec(run: Path) -> CellSpec:
    """The resolved cell of a run directory.

    Raises
    ------
    StoreError
        It was written by a version with other fields.
    """
    raw = yaml.safe_load((run / "spec.yaml").read_text(encoding="utf-8"))
    try:
        return validated(CellSpec, raw, f"{run / 'spec.yaml'}")
    except SpecError as error:
        raise StoreError(f"{error}; the run is of another version, run its cell again") from error


def load_student(run: Path, device: str = "cpu") -> Trained:
    """Build the student of a run from ``spec.yaml`` and ``model.safetensors``.

    Raises
    ------
    StoreError
        The run directory is damaged, or its parameters are not those of its backbone.
    UserError
        It holds another model, such as one that RecBole's own Trainer trained.
    """
    from safetensors.torch import load_file

    manifest = rundir.read_manifest(run)
    fault = rundir.fault(run, str(manifest.get("cell")))
    if fault is not None:
        raise StoreError(fault)
    spec = read_spec(run)
    model = spec.student.model
    if spec.ranker is not None:
        raise UserError(f"{run}: holds the re-ranker '{spec.ranker['spec']['name']}', which is no student")
    if model.removesuffix("KD") not in BACKBONES:
        raise UserError(
            f"{run}: holds '{model}'; only runs of {', '.join(BACKBONES)}, plain or distilled, are read here"
        )
    state = load_file(run / "model.safetensors", device=device)
    max_len = spec.dataset.max_item_list_length

    def build(n_items: int) -> Any:
        return build_student(
            model, spec.student.hparams, n_items=n_items, max_len=max_len, seed=0, device=device
        )

    try:
        # BERT4Rec's table has a row for the mask token; how many rows are extra is the class's business.
        n_items = int(state["item_embedding.weight"].shape[0]) - (len(build(2).item_embedding.weight) - 2)
        student = build(n_items)
        student.load_state_dict(state, strict=True)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(
            f"{run / 'model.safetensors'}: not the parameters of a plain {model} ({reason})"
        ) from error
    student.eval()
    return Trained(run, spec, manifest, student, n_items, max_len)


class _Sizes:
    """The one thing a RecBole sequential model asks its dataset."""

    def __init__(self, n_items: int) -> None:
        self._n_items = n_items

    def num(self, field: str) -> int:
        return self._n_items


def build_plain(trained: Trained) -> Any:
    """RecBole's own class in the size of a student, with fresh parameters."""
    from recbole_kd.models import upstream

    config = {
        **_RECBOLE_FIELDS,
        **trained.spec.student.hparams,
        "MAX_ITEM_LIST_LENGTH": trained.max_len,
        "device": torch.device("cpu"),
    }
    return getattr(upstream, trained.backbone)(config, _Sizes(trained.n_items)).eval()


def item_tokens(trained: Trained, results: Path) -> list[str]:
    """Item token of every id, padding first.

    Raises
    ------
    UserError
        The results have no stored split of the run, and the dataset is not there to make it again.
    """
    from recbole_kd.benchmark.artefacts import read_split, split_file

    dataset = read_split(split_file(results, trained.spec)).dataset
    if dataset.digest != trained.manifest.get("dataset_digest") or dataset.n_items != trained.n_items:
        raise StoreError(f"{trained.run}: the dataset is not the one that the run was trained on")
    return [str(token) for token in dataset.item_tokens]


def requests(n_items: int, max_len: int, lengths: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """Histories of the given lengths with random items.

    Returns
    -------
    item_seq : int64 [B, max_len]
    item_seq_len : int64 [B]
    """
    draw = torch.Generator().manual_seed(seed)
    length = torch.from_numpy(np.clip(lengths, 1, max_len).astype(np.int64))
    item_seq = torch.randint(1, n_items, (len(length), max_len), generator=draw)
    item_seq[torch.arange(max_len) >= length[:, None]] = 0
    return item_seq, length

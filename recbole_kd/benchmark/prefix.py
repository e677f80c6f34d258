"""Any RecBole sequential model as a plain baseline: RecBole's dataset, loaders and Trainer, our ranks."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_kd.benchmark.marked_yaml import MarkedDict, load_marked
from recbole_kd.benchmark.validate import did_you_mean
from recbole_kd.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from recbole_kd.data.recbole_view import PrefixData
    from recbole_kd.data.types import EvalSet, Split
    from recbole_kd.ranking import Ranks
    from recbole_kd.training.fit import FitResult, OnEpoch
    from recbole_kd.training.spec import StudentSpec

MARK = "recbole:"
# RecBole models that need item features, a knowledge graph or pre-training besides the interactions, or (CPR)
# that read the target while they score.
_NEED_MORE = {
    "DIEN", "DIN", "FDSA", "GRU4RecCPR", "GRU4RecF", "GRU4RecKG", "KSR", "S3Rec", "SASRecCPR", "SASRecF",
}  # fmt: skip


def _package() -> Path:
    found = importlib.util.find_spec("recbole")
    if found is None or not found.submodule_search_locations:
        raise SpecError("recbole 1.2.1 is not installed; run 'make env'")
    return Path(found.submodule_search_locations[0])


def available() -> list[str]:
    """Names of the RecBole sequential models that need nothing but interactions (recbole is not imported)."""
    package = _package()
    modules = {p.stem for p in (package / "model" / "sequential_recommender").glob("*.py")}
    names = (p.stem for p in (package / "properties" / "model").glob("*.yaml"))
    return sorted(n for n in names if n.lower() in modules and n not in _NEED_MORE)


def hparams_of(name: str, asked_at: object) -> MarkedDict:
    """RecBole's own defaults of a model.

    Raises
    ------
    SpecError
        RecBole has no such sequential model, or it needs more than interactions.
    """
    if name in _NEED_MORE:
        raise SpecError(
            f"{asked_at}: RecBole's {name} needs more than interactions, which this suite does not feed"
        )
    known = available()
    if name not in known:
        raise SpecError(f"{asked_at}: RecBole has no sequential model '{name}'{did_you_mean(name, known)}")
    return load_marked(_package() / "properties" / "model" / f"{name}.yaml")


def fit_prefix(
    split: Split,
    spec: StudentSpec,
    *,
    seed: int,
    device: str,
    max_item_list_length: int,
    folder: Path,
    on_epoch: OnEpoch | None = None,
) -> FitResult:
    """Train a RecBole model with RecBole's Trainer to its early stopping.

    Parameters
    ----------
    folder : Path
        For the Trainer's checkpoints.

    Raises
    ------
    DataError
        The split is not leave-one-out, the only one that RecBole makes.
    SpecError
        The model does not take these hyper-parameters.
    """
    from recbole_kd.compat import PrefixTrainer
    from recbole_kd.training.fit import FitResult

    data, model = _prepared(split, spec, seed, device, max_item_list_length, folder)
    trainer = PrefixTrainer(data.config, model)
    history: list[dict[str, Any]] = []
    began = time.perf_counter()

    def note(epoch: int, score: float) -> None:
        row = {
            "epoch": epoch + 1,
            "phase": "plain",
            "loss": float(trainer.train_loss_dict[epoch]),
            f"valid_{spec.train.valid_metric.lower()}": float(score),
            "seconds": time.perf_counter() - began - sum(r["seconds"] for r in history),
        }
        history.append(row)
        if on_epoch:
            on_epoch(row)

    trainer.fit(data.train, data.valid, verbose=False, saved=True, show_progress=False, callback_fn=note)
    trainer._load(trainer.saved_model_file)
    model.eval()
    scores = [row[f"valid_{spec.train.valid_metric.lower()}"] for row in history]
    return FitResult(
        model=model,
        state_dict={key: value.detach().cpu() for key, value in model.state_dict().items()},
        history=history,
        best_epoch=1 + max(range(len(scores)), key=scores.__getitem__),
        epochs=len(history),
        stopped_early=len(history) < spec.train.epochs,
        seconds={"train": sum(row["seconds"] for row in history)},
        n_parameters=sum(p.numel() for p in model.parameters()),
    )


def _prepared(
    split: Split, spec: StudentSpec, seed: int, device: str, max_item_list_length: int, folder: Path
) -> tuple[PrefixData, Any]:
    """RecBole's loaders and its fresh model, both from the same seed."""
    from recbole.utils import get_model, init_seed

    from recbole_kd.data.recbole_view import recbole_loaders

    name = spec.model.removeprefix(MARK)
    init_seed(seed, True)
    data = recbole_loaders(
        split,
        name,
        _settings(spec, get_model(name), seed),
        max_item_list_length=max_item_list_length,
        checkpoint_dir=folder,
        device=device,
    )
    init_seed(seed, True)
    model = _model(name, data, device)
    return data, model


def _model(name: str, data: PrefixData, device: str) -> Any:
    from recbole.utils import get_model

    try:
        return get_model(name)(data.config, data.train.dataset).to(device)
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"hparams: RecBole's {name} does not take them ({error})") from error


def rebuild_prefix(
    split: Split,
    spec: StudentSpec,
    state: Mapping[str, Tensor],
    seed: int,
    device: str,
    max_item_list_length: int,
    folder: Path,
) -> Any:
    """The model of :func:`fit_prefix` from its stored parameters, in evaluation mode.

    Parameters
    ----------
    folder : Path
        RecBole wants one for checkpoints; nothing is left there.
    """
    _, model = _prepared(split, spec, seed, device, max_item_list_length, folder)
    model.load_state_dict(state, strict=True)
    return model.eval()


def _settings(spec: StudentSpec, model: Any, seed: int) -> dict[str, Any]:
    from recbole.utils import InputType

    train = spec.train
    train.refuse_average("RecBole's own Trainer")
    train.refuse_course("RecBole's own Trainer")
    settings = {
        **spec.hparams,
        "seed": seed,
        "reproducibility": True,
        "learning_rate": train.learning_rate,
        "weight_decay": train.weight_decay,
        "train_batch_size": train.train_batch_size,
        "eval_batch_size": train.eval_batch_size,
        "epochs": train.epochs,
        "stopping_step": train.stopping_step,
        "valid_metric": train.valid_metric,
        "clip_grad_norm": None if train.clip_grad_norm is None else {"max_norm": train.clip_grad_norm},
    }
    pairwise = getattr(model, "input_type", None) == InputType.PAIRWISE and "loss_type" not in spec.hparams
    if pairwise or spec.hparams.get("loss_type") == "BPR":
        uniform = {
            "distribution": "uniform",
            "sample_num": 1,
            "alpha": 1.0,
            "dynamic": False,
            "candidate_num": 0,
        }
        settings["train_neg_sample_args"] = uniform
    return settings


def rank_prefix(model: Any, part: EvalSet, *, max_len: int, batch_size: int, device: str) -> Ranks:
    """Rank every target with a RecBole model's ``full_sort_predict``."""
    import torch
    from recbole.data.interaction import Interaction

    from recbole_kd.ranking import rank_all

    users = torch.from_numpy(part.history.users)
    begin = 0

    def score(item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        # rank_all asks for the rows in order, so that the next users are these.
        nonlocal begin
        rows = slice(begin, begin + len(item_seq))
        begin = rows.stop
        columns = {
            model.USER_ID: users[rows].to(device),
            model.ITEM_SEQ: item_seq,
            model.ITEM_SEQ_LEN: item_seq_len,
        }
        scores: Tensor = model.full_sort_predict(Interaction(columns))
        return scores.view(len(item_seq), -1)[:, : model.n_items]

    with torch.no_grad():
        return rank_all(score, part, max_len=max_len, batch_size=batch_size, device=device)

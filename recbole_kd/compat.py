"""RecBole 1.2.1 on current numpy, torch and pandas: every shim, and nothing outside RecBole changes.

=================================  ============================================================
upstream issue                     what is done about it here
=================================  ============================================================
RecBole #1604, #2203, #2215:       ``Config`` would write removed aliases (``np.float_``) into
numpy without ``np.float``         numpy. Here the three modules that say ``np.float`` while
                                   running get a numpy namespace of their own that has it.
RecBole #2212, #2215: torch >=     ``PrefixTrainer`` saves tensors and plain numbers only and
2.6 refuses RecBole's checkpoints  loads with ``weights_only=True``; ``torch.load`` stays as
                                   it is.
RecBole #2215: quick_start         ``recbole.quick_start`` is never imported.
imports ray, ray needs np.bool8
(none): pandas 3 makes             Blank cells are refused by ``recbole_kd.data.atomic``
``Dataset._fill_nan`` a no-op      before RecBole reads anything; pandas stays below 3.
(none): ``Config`` reads           The command line is not read, strings are not evaluated,
``sys.argv``, evaluates strings,   the YAML loader is a private ``SafeLoader``, the device is
alters ``yaml.FullLoader``, sets   what the caller says and the environment is left alone.
``CUDA_VISIBLE_DEVICES``
(none): checkpoints are named by   ``PrefixTrainer`` names its file by a random number and
the second; a TensorBoard folder   opens no TensorBoard writer.
appears in the current one
(none): importing any sequential   ``recbole_kd.models.upstream`` puts the switch back. The one
model turns torch's anomaly        shim elsewhere: students need no trainer, and this module
detection on (``sine.py``)         loads RecBole's.
=================================  ============================================================
"""

from __future__ import annotations

import os
import re
import types
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import recbole.data.dataset.dataset as _dataset_module
import recbole.data.interaction as _interaction_module
import recbole.evaluator.metrics as _metrics_module
import recbole.trainer.trainer as _trainer_module
import torch
import yaml
from recbole.config import Config
from recbole.trainer import Trainer

_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


def _give_recbole_its_numpy() -> None:
    """Let the three RecBole modules that say ``np.float`` while running see one that has it."""
    own = types.ModuleType("numpy")
    own.__dict__.update(np.__dict__)
    own.__dict__["float"] = np.float64
    for module in (_dataset_module, _interaction_module, _metrics_module):
        module.np = own


_give_recbole_its_numpy()


class _RecBoleLoader(yaml.SafeLoader):
    """Reads RecBole's property files; ``1e-12`` is a number there."""


_RecBoleLoader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))


class ShimmedConfig(Config):
    """RecBole's ``Config`` without side effects; made by :func:`recbole_config`."""

    def compatibility_settings(self) -> None:
        """Leave numpy alone."""

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return _RecBoleLoader

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _convert_config_dict(self, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        return dict(config_dict)

    def _init_device(self) -> None:
        device = torch.device(self.final_config_dict.get("device", "cpu"))
        self.final_config_dict |= {
            "device": device,
            "use_gpu": device.type == "cuda",
            "gpu_id": str(device.index or 0),
            "single_spec": True,
            "local_rank": 0,
        }


def recbole_config(model: str | type, dataset: str, config_dict: Mapping[str, Any]) -> Config:
    """Build a RecBole ``Config``.

    Parameters
    ----------
    model : str or type
        RecBole's model name, or a class; a subclass takes the properties of its RecBole parent.
    dataset : str
        Stem of the atomic files below ``config_dict["data_path"]``.
    config_dict : mapping
        Values as they are (strings are not evaluated). ``device`` is a torch device, default cpu.
    """
    return ShimmedConfig(model=recbole_name(model), dataset=dataset, config_dict=dict(config_dict))


def recbole_name(model: str | type) -> str:
    """Name of the RecBole class behind ``model``.

    Raises
    ------
    TypeError
        A class without a RecBole model among its parents.
    """
    if isinstance(model, str):
        return model
    for cls in model.__mro__:
        if cls.__module__.startswith("recbole.model."):
            return cls.__name__
    raise TypeError(f"{model.__name__} has no RecBole model among its parents")


class _Silent:
    """Stands where RecBole wants a TensorBoard writer."""

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Record nothing."""

    def add_hparams(self, *args: Any, **kwargs: Any) -> None:
        """Record nothing."""


@contextmanager
def _without_tensorboard() -> Iterator[None]:
    kept = _trainer_module.get_tensorboard
    _trainer_module.get_tensorboard = lambda logger: _Silent()
    try:
        yield
    finally:
        _trainer_module.get_tensorboard = kept


class PrefixTrainer(Trainer):
    """RecBole's ``Trainer`` with checkpoints that torch loads with ``weights_only=True``."""

    def __init__(self, config: Config, model: torch.nn.Module) -> None:
        with _without_tensorboard():
            super().__init__(config, model)
        self.saved_model_file = os.path.join(self.checkpoint_dir, f"{config['model']}-{uuid.uuid4().hex}.pth")

    def _train_epoch(self, *args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            # RecBole builds a GradScaler by its old name in every epoch; torch says so every time.
            warnings.filterwarnings("ignore", message=".*GradScaler", category=FutureWarning)
            return super()._train_epoch(*args, **kwargs)

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = Path(kwargs.pop("saved_model_file", self.saved_model_file))
        state = {
            "model": self.config["model"],
            "epoch": int(epoch),
            "cur_step": int(self.cur_step),
            "best_valid_score": float(self.best_valid_score),
            "state_dict": self.model.state_dict(),
            "other_parameter": self.model.other_parameter(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = path.with_name(f".{path.name}.tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def _load(self, path: str | Path) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["state_dict"])
        self.model.load_other_parameter(state.get("other_parameter"))
        return state

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Continue from a checkpoint of this class."""
        self.saved_model_file = str(resume_file)
        state = self._load(resume_file)
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.optimizer.load_state_dict(state["optimizer"])

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Evaluate as RecBole does; the best checkpoint is loaded first where asked for."""
        if eval_data and load_best_model:
            self._load(model_file or self.saved_model_file)
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

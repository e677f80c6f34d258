"""Building students; the registry of backbones."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from recbole_kd.baselines import SYSTEMS, TRAINED
from recbole_kd.errors import SpecError
from recbole_kd.models.side import SideInputs
from recbole_kd.training.spec import SystemSpec

BACKBONES: dict[str, str] = {
    "SASRec": "recbole_kd.models.sasrec:SASRecKD",
    "GRU4Rec": "recbole_kd.models.gru4rec:GRU4RecKD",
    "BERT4Rec": "recbole_kd.models.bert4rec:BERT4RecKD",
}
"""Backbone -> student class. A new backbone is one file and one line."""

_RECBOLE_FIELDS: dict[str, Any] = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "loss_type": "CE",
    "MASK_ITEM_SEQ": "Mask_item_id_list",
    "POS_ITEMS": "Pos_item_id",
    "NEG_ITEMS": "Neg_item_id",
    "MASK_INDEX": "MASK_INDEX",
}


class _Catalogue:
    """What a RecBole sequential model asks its dataset: how many items (and users) there are."""

    def __init__(self, n_items: int, n_users: int = 0) -> None:
        self._sizes = {"item_id": n_items, "user_id": n_users}
        self.user_num = n_users

    def num(self, field: str) -> int:
        return self._sizes[field]


def backbone_of(model: str) -> str:
    """Return the backbone's name of ``SASRec`` or ``SASRecKD``.

    Raises
    ------
    SpecError
        If no backbone of that name is registered.
    """
    name = model.removesuffix("KD")
    known = {**BACKBONES, **TRAINED}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"model: no backbone {model!r}{hint} Known: {', '.join(known)}.")
    return name


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def student_class(model: str, system: str | None = None) -> Any:
    """Class of the student called ``SASRec`` or ``SASRecKD``, with a system's class laid on it.

    Raises
    ------
    SpecError
        No such backbone or system, or the system cannot be laid on this backbone.
    """
    name = backbone_of(model)
    plain = _imported({**BACKBONES, **TRAINED}[name])
    if system is None:
        return plain
    if system not in SYSTEMS:
        near = difflib.get_close_matches(system, SYSTEMS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"system: no system {system!r}{hint} Known: {', '.join(SYSTEMS)}.")
    mixin = _imported(SYSTEMS[system])
    if name not in BACKBONES or name not in mixin.backbones:
        raise SpecError(f"system: {system} is for {', '.join(mixin.backbones)}, not for {name}.")
    return type(f"{mixin.__name__}{plain.__name__}", (mixin, plain), {"__module__": mixin.__module__})


def build_student(
    model: str,
    hparams: Mapping[str, Any],
    *,
    n_items: int,
    max_len: int,
    seed: int,
    device: str = "cpu",
    system: SystemSpec | None = None,
    side: SideInputs | None = None,
) -> Any:
    """Build a student with RecBole's own constructor and initialisation.

    Parameters
    ----------
    model : str
        ``SASRec`` or ``SASRecKD``: the same class; a head is attached later.
    hparams : mapping
        RecBole's keys (``properties/model/<name>.yaml``).
    n_items : int
        Padding included.
    max_len : int
        RecBole's ``MAX_ITEM_LIST_LENGTH``.
    seed : int
        Seeds torch's global generator for the initial weights.
    device : str
    system : SystemSpec, optional
        Laid on the backbone; its own parameters are initialised from a stream of their own, so that the
        backbone's are those of the plain one with the same seed.
    side : SideInputs, optional
        Vectors that the system or the model reads, and the number of users.

    Raises
    ------
    SpecError
        For an unknown backbone or a missing hyper-parameter.
    """
    cls = student_class(model, None if system is None else system.name)
    n_users = 0 if side is None else side.n_users
    config = {**_RECBOLE_FIELDS, **hparams, "MAX_ITEM_LIST_LENGTH": max_len, "device": torch.device(device)}
    torch.manual_seed(seed)
    try:
        student = cls(config, _Catalogue(n_items, n_users))
    except KeyError as error:
        raise SpecError(f"hparams: {model} needs {error.args[0]!r} (see properties/model/).") from error
    if hasattr(student, "attach_side"):
        student.attach_side(side or SideInputs(n_users), seed)
    if system is not None:
        student.attach_system(system.params, side or SideInputs(n_users), seed)
    return student.to(device)

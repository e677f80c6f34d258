"""Building students; the registry of backbones."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import torch

from recbole_kd.errors import SpecError

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
    """The one thing a RecBole sequential model asks its dataset: how many items there are."""

    def __init__(self, n_items: int) -> None:
        self._n_items = n_items

    def num(self, field: str) -> int:
        if field != _RECBOLE_FIELDS["ITEM_ID_FIELD"]:
            raise KeyError(field)
        return self._n_items


def backbone_of(model: str) -> str:
    """Return the backbone's name of ``SASRec`` or ``SASRecKD``.

    Raises
    ------
    SpecError
        If no backbone of that name is registered.
    """
    name = model.removesuffix("KD")
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SpecError(f"model: no backbone {model!r}{hint} Known: {', '.join(BACKBONES)}.")
    return name


def student_class(model: str) -> Any:
    """Class of the student called ``SASRec`` or ``SASRecKD``."""
    module, _, attribute = BACKBONES[backbone_of(model)].partition(":")
    return getattr(importlib.import_module(module), attribute)


def build_student(
    model: str, hparams: Mapping[str, Any], *, n_items: int, max_len: int, seed: int, device: str = "cpu"
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

    Raises
    ------
    SpecError
        For an unknown backbone or a missing hyper-parameter.
    """
    cls = student_class(model)
    config = {**_RECBOLE_FIELDS, **hparams, "MAX_ITEM_LIST_LENGTH": max_len, "device": torch.device(device)}
    torch.manual_seed(seed)
    try:
        student = cls(config, _Catalogue(n_items))
    except KeyError as error:
        raise SpecError(f"hparams: {model} needs {error.args[0]!r} (see properties/model/).") from error
    return student.to(device)

"""The configuration with which plain RecBole reads the same data into the same model."""

from __future__ import annotations

from typing import Any

from recbole_kd.serving.student import Trained


def recbole_settings(trained: Trained) -> dict[str, Any]:
    """RecBole's keys for the dataset, the protocol and the model of a run.

    A filter or split that RecBole does not know is left out; the README says so
    (:func:`not_in_recbole`).
    """
    dataset, student = trained.spec.dataset, trained.spec.student
    fields, kept = dataset.fields, dataset.filter
    columns = [fields.user, fields.item, *([fields.rating] if fields.rating else []), fields.time]
    settings: dict[str, Any] = {
        "USER_ID_FIELD": fields.user,
        "ITEM_ID_FIELD": fields.item,
        "TIME_FIELD": fields.time,
        **({"RATING_FIELD": fields.rating} if fields.rating else {}),
        "load_col": {"inter": columns},
        "MAX_ITEM_LIST_LENGTH": trained.max_len,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        **student.hparams,
        "learning_rate": student.train.learning_rate,
        "train_batch_size": student.train.train_batch_size,
        "eval_batch_size": student.train.eval_batch_size,
        "metrics": ["Recall", "NDCG", "MRR"],
        "topk": [10],
        "valid_metric": student.train.valid_metric,
    }
    if kept.min_rating is not None and fields.rating:
        settings["val_interval"] = {fields.rating: f"[{kept.min_rating:g},inf)"}
    for key, least in (("user", kept.min_user_inter), ("item", kept.min_item_inter)):
        if least:
            settings[f"{key}_inter_num_interval"] = f"[{least},inf)"
    if dataset.split.protocol == "leave-one-out":
        settings["eval_args"] = {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "mode": "full",
            "group_by": "user",
        }
    return settings


def not_in_recbole(trained: Trained) -> list[str]:
    """What of the run's protocol RecBole's configuration cannot say."""
    dataset, found = trained.spec.dataset, []
    if dataset.split.protocol != "leave-one-out":
        found.append(f"the split '{dataset.split.protocol}': RecBole has no such protocol")
    counts = dataset.filter.min_user_inter or dataset.filter.min_item_inter
    if counts and not dataset.filter.iterate:
        found.append("the count filter: here it was applied once, RecBole repeats it until nothing changes")
    found.append("times: RecBole keeps them in float32, so that events close in time may change places")
    return found

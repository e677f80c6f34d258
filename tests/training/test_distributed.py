"""Rows dealt out to processes sum to the gradient of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recbole_kd.errors import SpecError
from recbole_kd.models.batch import SequenceBatches
from recbole_kd.training.distributed import Shards
from recbole_kd.training.spec import InBatchSpec
from tests.students import BACKBONES, MAX_LEN, distill_spec, student, student_spec, tiny_split


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("world", [1, 2, 3, 20])
def test_gradients_of_the_parts_sum_to_that_of_the_whole(name, world):
    model, split = student(name), tiny_split()
    batches = SequenceBatches(split.train, MAX_LEN, 6, shift=model.shift, packed=model.packed)
    rng = np.random.default_rng(5)
    batch = model.prepare(next(iter(batches.epoch(np.random.default_rng(2)))), rng)

    def gradient(part, share):
        model.zero_grad()
        loss, _ = model.sequence_losses(part, None, rng, distil=False)
        (loss * share).backward()
        return torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()]
        )

    from recbole_kd.models.resident import on_device

    (whole,) = on_device([batch], "cpu", 1)
    parts = [Shards(rank, world).take(batch) for rank in range(world)]
    total = sum(
        gradient(moved, share)
        for part, share in parts
        if len(part.item_seq)
        for moved in on_device([part], "cpu", 1)
    )
    assert sum(share for _, share in parts) == pytest.approx(1.0)
    torch.testing.assert_close(total, gradient(whole, 1.0), rtol=1e-4, atol=1e-6)


def test_what_needs_whole_batches_is_refused():
    with pytest.raises(SpecError, match="whole batches"):
        Shards(0, 2).check(student_spec("SASRec", distill_spec()))
    with pytest.raises(SpecError, match="in-batch"):
        Shards(0, 2).check(student_spec("SASRec", loss=InBatchSpec(name="in-batch", log_q=True)))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["SASRec", "BERT4Rec"])
def test_two_processes_equal_one(tmp_path, repo_root, model):
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(60):
        rows += [f"u{user}\ti{(user + 3 * t) % 37}\t{t}" for t in range(5 + user % 9)]
    (tmp_path / "small.inter").write_text("\n".join(rows) + "\n")
    (tmp_path / "small.yaml").write_text(
        f"name: small\ndomain: generic\nsource: path\npath: {tmp_path}\n"
        "fields: {user: user_id, item: item_id, rating: null, time: timestamp}\ntext: null\n"
        "filter: {min_rating: null, min_user_inter: 0, min_item_inter: 0, iterate: true}\n"
        "split: {protocol: leave-one-out, seed: 1, quantile: 0.8, valid_user_share: 0.2}\n"
        "max_item_list_length: 10\n"
    )
    found = {}
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", "-m", "recbole_kd.benchmark.distributed", "--cpu"]
        command += ["--dataset", str(tmp_path / "small.yaml"), "--model", model, "--out", str(out)]
        for change in ("epochs=2", "train_batch_size=6"):
            command += ["--set", f"train.{change}"]
        for change in ("hidden_dropout_prob=0.0", "attn_dropout_prob=0.0", "hidden_size=16"):
            command += ["--set", f"hparams.{change}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo_root)}
        subprocess.run(command, check=True, cwd=repo_root, env=environment, capture_output=True, timeout=300)
        history = json.loads((out / "summary.json").read_text())["history"]
        found[processes] = history, load_file(out / "model.safetensors")
    for one, two in zip(found[1][0], found[2][0], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for key, weight in found[1][1].items():
        torch.testing.assert_close(found[2][1][key], weight, rtol=0, atol=1e-3, msg=key)

"""The other systems, on the same split, ranks and statistics. One file each, one line here.

Four kinds, by how they meet the rest:

- ``COMPUTED`` have a closed form: ``compute(split, hparams, side) -> Scorer``.
- ``TRAINED`` are backbones of their own, trained in sequence mode by ``recbole_kd.training.fit``.
- ``GENERATIVE`` write the next item: a module with ``check``, ``fit`` and ``rebuilt``.
- ``SYSTEMS`` are laid on a backbone (``system: NAME`` in a variant): text initialisation, gates, user tokens.

Defaults are in ``properties/model/<Name>.yaml`` and ``properties/system/<name>.yaml``.
"""

from __future__ import annotations

COMPUTED: dict[str, str] = {
    "Pop": "recbole_kd.baselines.pop:compute",
    "ItemKNN": "recbole_kd.baselines.itemknn:compute",
    "EASE": "recbole_kd.baselines.ease:compute",
    "ProfileNearest": "recbole_kd.baselines.profile_nearest:compute",
}
"""name -> function; ranks whole histories, so that users who were never trained on are served."""

TRAINED: dict[str, str] = {
    "BPR": "recbole_kd.baselines.bpr:BPR",
    "FPMC": "recbole_kd.baselines.fpmc:FPMC",
    "NARM": "recbole_kd.baselines.narm:NARM",
    "Caser": "recbole_kd.baselines.caser:Caser",
    "Recformer": "recbole_kd.baselines.recformer.model:Recformer",
}
"""name -> class with the methods that training and ranking call of a student."""

GENERATIVE: dict[str, str] = {"P5": "recbole_kd.baselines.p5.system"}
"""name -> module with ``check``, ``fit`` and ``rebuilt``: models that write the next item."""

SYSTEMS: dict[str, str] = {
    "text-init": "recbole_kd.baselines.text_init:TextInit",
    "text-adapter": "recbole_kd.baselines.text_adapter:TextAdapter",
    "text-gate": "recbole_kd.baselines.text_gate:TextGate",
    "kar": "recbole_kd.baselines.kar:KAR",
    "profile-token": "recbole_kd.baselines.profile_token:ProfileToken",
    "llm-esr": "recbole_kd.baselines.llm_esr:LLMESR",
    "unisrec": "recbole_kd.baselines.unisrec:UniSRec",
    "rlmrec-items": "recbole_kd.baselines.rlmrec:RLMRecItems",
}
"""name -> class that is put left of a backbone's."""

PRETRAINED: dict[str, str] = {
    "unisrec": "recbole_kd.baselines.unisrec_pretraining:UniSRecPretraining",
    "Recformer": "recbole_kd.baselines.recformer.pretraining:RecformerPretraining",
}
"""System or model -> module that pre-trains it; ``pretrain`` in its file says on what."""

WEIGHTS: dict[str, str] = {"P5": "weights", "Recformer": "encoder"}
"""Model -> hyper-parameter that names a language model's folder, file or place on the hub."""

SERVING: dict[str, str] = {
    "ProfileNearest": "vectors",
    "profile-token": "vectors",
    "kar": "vectors",
    "Recformer": "language encoder",
    "P5": "language model",
}
"""What a system needs for every user it serves; the others need ``nothing``. Vectors are profiles, written by
whatever wrote the teacher's texts; a language encoder reads the history itself; item vectors are folded into
the item table when training ends."""

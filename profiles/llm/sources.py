"""Where model files are, and turning a GGUF file into a folder that loads in a second."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from recbole_kd.errors import SpecError

CACHE_VARIABLE = "RECBOLE_KD_CACHE"
_CHUNK, _PARTS = 1 << 20, 64
_COUNTS = (".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".txt", ".jinja", ".py")


def quiet_loading() -> None:
    """Switch off the bars that transformers draws while it loads weights."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def cache_folder() -> Path:
    """Folder for converted models: ``$RECBOLE_KD_CACHE``, or ``~/.cache/recbole_kd``."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "recbole_kd")


def locate(model: str) -> Path | str:
    """Resolve a model name.

    Parameters
    ----------
    model : str
        ``package:NAME/REST`` (a file or folder inside an installed package, which is not imported),
        a path, or else a name for the Hugging Face hub, returned as it is.

    Raises
    ------
    SpecError
        The package is not installed, or the path does not exist.
    """
    if model.startswith("package:"):
        name, _, rest = model.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise SpecError(
                f"model '{model}': package {name.replace('_', '-')} is not installed; pip install it"
            )
        path = Path(next(iter(found.submodule_search_locations))) / rest
        if not path.exists():
            raise SpecError(f"model '{model}': {rest} is not in the installed package; check its version")
        return path
    path = Path(model).expanduser()
    if path.exists():
        return path
    if model.endswith(".gguf") or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise SpecError(f"model '{model}': no such file or folder; check the path")
    return model


def weights_digest(path: Path) -> str:
    """16 hex digits over a model file, or over the files of a model folder (:func:`weights_files`).

    A file of more than 1 GiB counts with its name, its size and 64 mebibytes spread over it: reading 20 GB
    twice to name them would cost more than the first hundred profiles.
    """
    state = hashlib.sha256()
    for file in weights_files(path):
        size = file.stat().st_size
        if path.is_dir():
            state.update(f"{file.relative_to(path).as_posix()}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= 1 << 30:
                while chunk := stream.read(_CHUNK):
                    state.update(chunk)
            else:
                for part in range(_PARTS):
                    stream.seek((size - _CHUNK) * part // (_PARTS - 1))
                    state.update(stream.read(_CHUNK))
    return state.hexdigest()[:16]


def weights_files(path: Path) -> list[Path]:
    """The file itself, or what decides a model in a folder: weights, configuration, vocabulary, code.

    Folders inside count (the modules of sentence-transformers), hidden ones do not.
    """
    if path.is_file():
        return [path]
    inside = ((p, p.relative_to(path)) for p in path.rglob("*") if p.suffix in _COUNTS and p.is_file())
    return sorted(p for p, name in inside if not any(part.startswith(".") for part in name.parts))


def from_gguf(path: Path, digest: str) -> Path:
    """Convert a GGUF file once; the folder is cached under its digest.

    transformers de-quantises the file on every load (20 to 50 s for 135M weights); the bf16 folder
    loads in under a second. Conversion writes to a temporary folder and renames it.
    """
    target = cache_folder() / "models" / f"{path.stem}-{digest}"
    if (target / "source.json").is_file():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_loading()
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=torch.float32
        )
        # The weights are plain tensors by now; with the flags left, save_pretrained refuses.
        model.hf_quantizer = None
        for flag in ("is_quantized", "quantization_method"):
            if hasattr(model, flag):
                delattr(model, flag)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.to(torch.bfloat16).save_pretrained(work)
        tokenizer.save_pretrained(work)
        (work / "source.json").write_text(json.dumps({"file": path.name, "sha256_16": digest}) + "\n")
        try:
            os.replace(work, target)
        except OSError:
            if not (target / "source.json").is_file():  # else another process was first
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target

"""Is everything here that a sweep needs? Checks look, say what they found, write synthetic data at most."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

from recbole_kd.benchmark import machine, properties
from recbole_kd.errors import AbsentDataError, UserError

OK, WARN, FAIL, SKIPPED = "ok", "warn", "FAIL", "skipped"
# Where the openai client, and with it the back-end 'openai', finds its endpoint and its key.
ENDPOINT, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
Finding = tuple[str, str]


class Check(NamedTuple):
    """Result of one look."""

    state: str
    name: str
    detail: str


def checks(load: bool = True) -> list[Check]:
    """Run every check; one that breaks counts as failed and does not stop the others.

    Parameters
    ----------
    load : bool
        Also load the encoder, which takes seconds.
    """
    found = []
    for name, look in _CHECKS.items():
        if name in _LOADS and not load:
            found.append(Check(SKIPPED, name, "not loaded (--no-load)"))
            continue
        try:
            state, detail = look()
        except Exception as error:
            state, detail = FAIL, f"{type(error).__name__}: {error}"
        found.append(Check(state, name, machine.redact(detail)))
    return found


def _python() -> Finding:
    have = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return (OK, have) if good else (FAIL, f"{have}; 3.11, 3.12 or 3.13 is needed")


def _versions() -> Finding:
    have = {k: v for k, v in machine.versions().items() if k != "python"}
    missing = [name for name, value in have.items() if value is None]
    text = ", ".join(f"{name} {value}" for name, value in have.items() if value is not None)
    return (FAIL, f"not installed: {', '.join(missing)}; run 'make env'") if missing else (OK, text)


def _pandas() -> Finding:
    have = machine.versions()["pandas"] or "0"
    if int(have.split(".")[0]) >= 3:
        return (
            FAIL,
            f"pandas {have}: RecBole 1.2.1 leaves blank cells unfilled under pandas 3; install pandas<3",
        )
    return OK, f"pandas {have} (RecBole needs < 3)"


def _shims() -> Finding:
    import recbole_kd.compat  # noqa: F401

    loaded = [name for name in ("ray", "recbole.quick_start") if name in sys.modules]
    return (
        (FAIL, f"imported by mistake: {', '.join(loaded)}") if loaded else (OK, "RecBole imports without ray")
    )


def _devices() -> Finding:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return OK, f"{machine.usable_cores()} cores; GPUs: {', '.join(gpus) or 'none'}"


def _properties() -> Finding:
    """Resolve every experiment and study; one whose dataset was never brought waits, it does not fail."""
    from recbole_kd.benchmark.resolve import load_experiment
    from recbole_kd.benchmark.study import load as studies

    counts, waiting, wrong = {}, [], []
    for name in properties.names("experiment"):
        title = name.removeprefix(studies.PREFIX)
        try:
            cells = load_experiment(name).cells if title == name else studies.load_study(title).cells()
        except AbsentDataError:
            waiting.append(name)
        except UserError as error:
            wrong.append(f"{name}: {error}")
        else:
            counts[name] = len(cells)
    if wrong:
        return FAIL, "; ".join(wrong)
    said = ", ".join(f"{name}: {count} cells" for name, count in counts.items())
    return OK, said + (f"; without their dataset: {', '.join(waiting)}" if waiting else "")


def _datasets() -> Finding:
    """Read the datasets that are here; say of those that experiments name where their files go."""
    from recbole_kd.benchmark import rooms
    from recbole_kd.benchmark.resolve import read_experiment
    from recbole_kd.data.load import load_dataset, load_item_texts

    experiments = [properties.find("experiment", name) for name in properties.names("experiment")]
    wanted = {name for path in experiments for name in read_experiment(path)["datasets"]}
    here, absent = [], []
    for name in properties.names("dataset"):
        try:
            spec, _ = rooms.dataset(name)
        except AbsentDataError as error:
            absent += [str(error)] if name in wanted else []
            continue
        # Too large for the memory by its owner's word: then not for a quick look either.
        if spec.memory is None:
            load_dataset(spec)
            load_item_texts(spec)
        here.append(name)
    return (WARN if absent else OK), "; ".join([f"here: {', '.join(here) or 'none'}", *absent])


def _dask() -> Finding:
    return _package("distributed", "the runner needs it; run 'make env'", FAIL)


def _local_llm() -> Finding:
    return _package("transformers", "only for profiles by a local model: install recbole-kd[llm-local]")


def _api() -> Finding:
    state, detail = _package("openai", "only for profiles through an API: install recbole-kd[api]")
    keys = sorted(name for name in os.environ if name.endswith("_API_KEY"))
    return state, f"{detail}; keys in the environment: {', '.join(keys) or 'none'}"


def _encoder() -> Finding:
    """Load the encoder that profiles have by default and let it encode a sentence."""
    from profiles.encode import encode_texts
    from recbole_kd.benchmark.rooms import teacher_spec

    spec = teacher_spec("template", None).encoder
    vectors = encode_texts(["They like slow films about families."], spec)
    return OK, f"{spec.model or spec.kind}: {vectors.shape[1]} dimensions, {len(vectors)} sentence encoded"


def _endpoint() -> Finding:
    """Ask the endpoint that the environment names for its models; costs nothing, sends no text."""
    base = os.environ.get(ENDPOINT, "").strip()
    if not base:
        return OK, f"not set: {ENDPOINT} names none; an API profile uses its own base_url"
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlsplit
    from urllib.request import Request, urlopen

    parts = urlsplit(base)
    # User and password are left out, the query is not said: both may be secrets.
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("http", "https") or not host:
        return FAIL, f"{ENDPOINT} is not an http(s) address"
    said = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
    request = Request(f"{said}/models")  # noqa: S310 - the scheme was looked at
    # Unredirected: the key goes to this host and to no other.
    request.add_unredirected_header("Authorization", f"Bearer {os.environ.get(KEY, '').strip() or 'none'}")
    try:
        with urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            return OK, f"reachable: {said} (status {answer.status})"
    except HTTPError as error:
        if error.code in (401, 403):
            return FAIL, f"refused: {said} (status {error.code}); check the key in {KEY}"
        return WARN, f"reachable: {said}, but /models gave status {error.code}"
    except (URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        return FAIL, f"not reachable: {said} ({type(reason).__name__}); start it, or unset {ENDPOINT}"


def _tuning() -> Finding:
    return _package("optuna", "only for 'tune': install recbole-kd[hpo]")


def _package(name: str, mend: str, otherwise: str = WARN) -> Finding:
    return (
        (OK, f"{name} is installed") if find_spec(name) else (otherwise, f"{name} is not installed; {mend}")
    )


_CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "versions": _versions,
    "pandas": _pandas,
    "RecBole shims": _shims,
    "devices": _devices,
    "experiments": _properties,
    "datasets": _datasets,
    "dask": _dask,
    "encoder": _encoder,
    "local language model": _local_llm,
    "API client": _api,
    "LLM endpoint": _endpoint,
    "tuning": _tuning,
}
_LOADS = ("encoder",)
# Seconds.
_PATIENCE = 5.0

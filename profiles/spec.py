"""What a profile YAML may say (``properties/profile/*.yaml``) and how it is found."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from profiles.history import AsOf
from profiles.yamlfile import load_mapping, merge, validated
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

PROPERTIES = Path(__file__).resolve().parents[1] / "properties" / "profile"
ENVIRONMENT = "RECBOLE_KD_PROPERTIES"
# Back-ends whose calls are answered by an endpoint.
_ENDPOINTS = ("openai", "batch-file")


class Decoding(Strict):
    """How a model picks tokens; temperature 0 is greedy."""

    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: int = Field(ge=1)
    repetition_penalty: float = Field(ge=1, description="on generated tokens only; 1 is off")
    no_repeat_ngram: int = Field(ge=0, description="on generated tokens only; 0 is off")
    seed: int


class HistorySpec(Strict):
    """How much of a history one call sees, and what happens to the rest."""

    strategy: str = Field(description="recent, sampled, agg_after or agg_with")
    max_items: int | None = Field(ge=1, description="items per call; null: no limit")
    max_tokens: int | None = Field(
        ge=64, description="prompt tokens per call by the model's tokenizer; null: no limit"
    )
    seed: int = Field(description="which items are sampled")


class ApiSpec(Strict):
    """An OpenAI-compatible endpoint; the key is read from the environment and never stored."""

    base_url: str | None = Field(description="null: the client's default")
    key_variable: str = Field(description="name of the environment variable that holds the key")
    concurrency: int = Field(ge=1)
    requests_per_minute: int | None = Field(ge=1)
    tokens_per_minute: int | None = Field(ge=1)
    timeout: float = Field(gt=0, description="seconds per attempt")
    attempts: int = Field(ge=1)
    tokenizer: str | None = Field(None, description="to count with: folder, hub, .gguf; null: 4 chars each")
    extra_body: dict[str, Any] | None = Field(None, description="passed on as it is, e.g. for vLLM")


class WriterSpec(Strict):
    """Who writes the texts."""

    backend: str = Field(description="template, local, openai or batch-file")
    model: str | None = Field(
        description="folder, hub name, .gguf file, 'package:NAME/FILE', or an endpoint's model"
    )
    revision: str | None = Field(description="expected digest of the weights; null: whatever is found")
    prompt: str = Field(description="a kind of profiles/prompts/kinds")
    domain: str | None = Field(description="null: the dataset's own")
    decoding: Decoding
    history: HistorySpec
    batch_size: int = Field(ge=1, description="local: calls generated together")
    device: str = Field(description="local: auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    api: ApiSpec | None = None

    @model_validator(mode="after")
    def _api_where_needed(self) -> WriterSpec:
        if self.backend in _ENDPOINTS and (self.api is None or not self.model):
            raise ValueError(f"backend {self.backend} needs 'model' and the section 'api'")
        return self

    @model_validator(mode="after")
    def _penalties_are_sent(self) -> WriterSpec:
        penalised = self.decoding.repetition_penalty != 1 or self.decoding.no_repeat_ngram != 0
        if self.backend in _ENDPOINTS and penalised:
            raise ValueError(
                f"backend {self.backend} sends neither repetition_penalty nor no_repeat_ngram; set them to "
                "1 and 0, and what the endpoint takes of its own into api.extra_body"
            )
        return self


class EncoderSpec(Strict):
    """Text to vector."""

    kind: str = Field(description="transformers, sentence-transformers, parts, openai or tfidf")
    model: str | None = Field(description="folder, hub name or 'package:NAME/FOLDER'")
    pooling: Literal["mean", "cls", "last"] | None
    normalise: bool = Field(description="unit length")
    max_tokens: int | None = Field(ge=1, description="longer texts are cut here")
    prefix: str = Field(description="put before every text (E5: 'query: ')")
    batch_size: int = Field(ge=1)
    device: str
    dtype: Literal["float32", "bfloat16"]
    dimension: int | None = Field(None, ge=1, description="tfidf: rank of the SVD")
    seed: int = Field(0, description="tfidf: start of the SVD")
    api: ApiSpec | None = None

    @model_validator(mode="after")
    def _api_where_needed(self) -> EncoderSpec:
        if self.kind == "openai" and (self.api is None or not self.model):
            raise ValueError("encoder kind openai needs 'model' and the section 'api'")
        return self


class ReductionSpec(Strict):
    """Fewer dimensions, fitted on the users of the file."""

    kind: str = Field(description="none, pca, pca-whitening or umap")
    n_components: int | None = Field(ge=1)
    seed: int


class PlaceboSpec(Strict):
    """A control that keeps everything but the information."""

    kind: str = Field(description="shuffled, random or constant")
    seed: int


class CorruptionSpec(Strict):
    """Damage of a known dose."""

    kind: str
    rate: float = Field(ge=0, le=1)
    seed: int
    strength: float | None = Field(None, gt=0, description="noise only: signal-to-noise ratio of powers")

    @model_validator(mode="after")
    def _strength_of_noise(self) -> CorruptionSpec:
        if (self.strength is None) == (self.kind == "noise"):
            said = (
                "needs 'strength', a signal-to-noise ratio" if self.kind == "noise" else "takes no 'strength'"
            )
            raise ValueError(f"corruption {self.kind} {said}")
        return self


class RefreshSpec(Strict):
    """When profiles are written anew; the student sees what the last writing saw."""

    policy: str = Field(description="never, every-n, most-active or drift")
    n: int | None = Field(None, ge=1, description="every-n: new interactions")
    share: float | None = Field(None, gt=0, le=1, description="most-active: users per checkpoint")
    checkpoints: int | None = Field(None, ge=1, description="most-active: equal parts of the stream")
    threshold: float | None = Field(None, ge=0, description="drift: cosine distance")


class TeacherSpec(Strict):
    """Everything between a split and an embedding file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str
    as_of: AsOf | None
    refresh: RefreshSpec | None = Field(None, description="as_of is where it begins")
    writer: WriterSpec
    corruption: tuple[CorruptionSpec, ...]
    encoder: EncoderSpec
    reduction: ReductionSpec
    placebo: PlaceboSpec | None
    trust_unverified: bool = Field(
        False, description="read by the student's side; a built teacher never needs it"
    )

    @property
    def uses_llm(self) -> bool:
        """Whether a language model writes the texts."""
        return self.writer.backend != "template"

    @property
    def is_placebo(self) -> bool:
        """Whether the vectors are a control without information about the user."""
        return self.placebo is not None


def profile_names() -> list[str]:
    """Names of all profile YAMLs; files that begin with ``_`` are parts."""
    return sorted({p.stem for root in _roots() for p in root.glob("*.yaml") if not p.stem.startswith("_")})


def load_teacher_mapping(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a profile YAML, laid over the one that it ``extends``; not yet validated.

    ``overrides`` may itself say ``extends: NAME``, which exchanges the base: ``shuffled`` with
    ``{"extends": "template"}`` is the shuffled template.
    """
    return _load(name, dict(overrides or {}), ())


def load_teacher_spec(name: str, overrides: Mapping[str, Any] | None = None) -> TeacherSpec:
    """Read ``properties/profile/<name>.yaml`` (or a path).

    Raises
    ------
    SpecError
        Unknown name, bad YAML, unknown key, bad value.
    """
    spec = validated(TeacherSpec, load_teacher_mapping(name, overrides), f"profile '{name}'")
    return check_names(spec, f"profile '{name}'")


def check_names(spec: TeacherSpec, where: str) -> TeacherSpec:
    """Look up every registry name in ``spec``, so that a slip of the pen costs no run."""
    from profiles.corrupt import CORRUPTIONS
    from profiles.encode import ENCODERS
    from profiles.llm import BACKENDS
    from profiles.placebo import PLACEBOS
    from profiles.prompts import DOMAINS, load_prompt
    from profiles.reduce import REDUCTIONS
    from profiles.refresh import POLICIES
    from profiles.registry import Registry
    from profiles.strategies import STRATEGIES

    named: list[tuple[Registry[Any], str]] = [
        (BACKENDS, spec.writer.backend),
        (STRATEGIES, spec.writer.history.strategy),
        (ENCODERS, spec.encoder.kind),
        (REDUCTIONS, spec.reduction.kind),
        *((CORRUPTIONS, c.kind) for c in spec.corruption),
        *([(POLICIES, spec.refresh.policy)] if spec.refresh else []),
        *([(PLACEBOS, spec.placebo.kind)] if spec.placebo else []),
    ]
    try:
        for registry, entry in named:
            registry.check(entry)
        load_prompt(spec.writer.prompt, spec.writer.domain or DOMAINS[0])
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
    return spec


def _roots() -> list[Path]:
    named = os.environ.get(ENVIRONMENT)
    candidates = [Path(named) / "profile"] if named else []
    candidates += [Path("properties") / "profile", PROPERTIES]
    return [path for path in candidates if path.is_dir()]


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
    else:
        for root in _roots():
            if (root / f"{name}.yaml").is_file():
                return root / f"{name}.yaml"
    near = difflib.get_close_matches(name, profile_names(), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else f"; use one of {', '.join(profile_names())}"
    raise SpecError(f"no profile '{name}'{hint}")


def _load(name: str, over: dict[str, Any], chain: tuple[str, ...]) -> dict[str, Any]:
    if name in chain:
        raise SpecError(f"profile '{name}': 'extends' goes round in circles: {' -> '.join((*chain, name))}")
    data = load_mapping(_find(name))
    base = over.pop("extends", None) or data.get("extends")
    data.pop("extends", None)
    if base is not None:
        data = merge(_load(str(base), {}, (*chain, name)), data)
    return merge(data, over)

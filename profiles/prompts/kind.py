"""What is asked of the writer (``kinds/*.yaml``) and what counts as an answer."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field

from profiles.prompts.domain import Domain, load_domain
from profiles.yamlfile import read_yaml
from recbole_kd.errors import SpecError
from recbole_kd.strict import Strict

FOLDER = Path(__file__).parent / "kinds"
KINDS: tuple[str, ...] = tuple(sorted({path.stem.split(".")[0] for path in FOLDER.glob("*.yaml")}))

_SMALL = re.compile(r"^[A-Z][a-z]+(?:'s)?(?: (?:&|[A-Z]?[a-z]+))*$")


class Kind(Strict):
    """A kind of prompt; ``system``, ``user``, ``opening``, ``update`` and ``merge`` are Jinja texts."""

    version: int
    description: str
    writes: Literal["profile", "aspects"] = Field(description="one profile per user, or one per aspect")
    system: str | None = Field(description="system message; null for the no-LLM template")
    user: str | None
    opening: str = Field(description="first words of the answer, given to the model")
    update: str | None = Field(None, description="agg_with: revise a profile with further items")
    merge: str | None = Field(None, description="agg_after: one profile from profiles of parts")
    sentences: int | None = Field(description="answers are cut after so many sentences; null keeps all")


@dataclass(frozen=True)
class Message:
    """What goes to the model for one call.

    Attributes
    ----------
    system, user : str
    opening : str
        First words of the answer; part of the text, not billed as output.
    """

    system: str
    user: str
    opening: str

    def chat(self) -> list[dict[str, str]]:
        """Messages in the form of chat APIs, without the opening."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]

    @cached_property
    def digest(self) -> str:
        """Content address of the call."""
        parts = "\x1f".join((self.system, self.user, self.opening))
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Prompt:
    """A kind in the words of a domain.

    Attributes
    ----------
    name : str
        ``domain/kind``.
    version : str
        ``domain/kind@kind version.domain version:hash``; the hash is of both files.
    """

    def __init__(self, kind_name: str, kind: Kind, kind_hash: str, domain: Domain) -> None:
        self.kind = kind
        self.domain = domain
        self.name = f"{domain.name}/{kind_name}"
        both = hashlib.sha256((kind_hash + domain.hash).encode()).hexdigest()[:8]
        self.version = f"{self.name}@{kind.version}.{domain.version}:{both}"
        texts = {part: getattr(kind, part) for part in ("system", "user", "opening", "update", "merge")}
        self._templates = {part: _compiled(text) for part, text in texts.items() if text is not None}

    @property
    def needs_llm(self) -> bool:
        """Whether a model must answer; False for templates that are complete as rendered."""
        return self.kind.user is not None

    @property
    def profiles_per_user(self) -> int:
        """Number of profiles that one user gets."""
        return len(self.domain.aspects) if self.kind.writes == "aspects" else 1

    def messages(self, context: dict[str, Any], part: str = "user") -> list[Message]:
        """Render one message per profile of a user.

        Parameters
        ----------
        context : dict
            Facts and items (``profiles.write.context``).
        part : {"user", "update", "merge"}
        """
        aspects: list[Any] = list(self.domain.aspects) if self.kind.writes == "aspects" else [None]
        return [self._message(context | {"aspect": aspect}, part) for aspect in aspects]

    def supports(self, part: str) -> bool:
        """Whether the kind says how to ``update`` or ``merge``."""
        return part in self._templates

    def _message(self, context: dict[str, Any], part: str) -> Message:
        rendered = {name: self._render(name, context) for name in ("system", part, "opening")}
        return Message(rendered["system"], rendered[part], rendered["opening"])

    def _render(self, part: str, context: dict[str, Any]) -> str:
        if part not in self._templates:
            return ""
        try:
            text = self._templates[part].render(d=self.domain, **context)
        except TemplateError as error:
            raise SpecError(f"prompt {self.name}, field {part}: {error}") from error
        return re.sub(r"[ \t]+", " ", re.sub(r"\n{3,}", "\n\n", text)).strip()


@lru_cache(maxsize=256)
def _compiled(text: str) -> Template:
    """A template of the sandbox; a sweep asks for the same few again and again."""
    environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"words": words, "listed": listed}
    return environment.from_string(text)


def words(name: str) -> str:
    """Write a category as running text: ``Sci-Fi`` stays, ``Children's`` becomes ``children's``."""
    return name.lower() if _SMALL.match(name) else name


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Join names: ``a``, ``a and b``, ``a, b and c``."""
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def load_prompt(kind: str, domain: str | Domain) -> Prompt:
    """Read ``kinds/<kind>.<domain>.yaml``, or else ``kinds/<kind>.yaml``.

    Raises
    ------
    SpecError
        Unknown kind or domain.
    """
    chosen = load_domain(domain) if isinstance(domain, str) else domain
    if kind not in KINDS:
        raise SpecError(
            f"unknown prompt '{kind}'; use one of {', '.join(KINDS)}, or add {kind}.yaml to kinds/"
        )
    own = FOLDER / f"{kind}.{chosen.name}.yaml"
    path = own if own.is_file() else FOLDER / f"{kind}.yaml"
    file_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    return Prompt(kind, read_yaml(path, Kind), file_hash, chosen)

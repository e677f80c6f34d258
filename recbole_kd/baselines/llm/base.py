"""The interface of a ranker: histories, titles and candidates in; a score per candidate and its price out.

A ranker is a subclass of :class:`LLMRanker` in a file of its own, a line in ``RANKERS``
(``recbole_kd/baselines/llm/__init__.py``) and its defaults in ``properties/ranker/<name>.yaml``:

```yaml
ranker: my-ranker
llm: {profile: smollm2, decoding: {max_new_tokens: 200}}   # or null
params: {history: 20}
```

In an experiment it is a variant of the retriever's backbone, compared with that backbone's baseline:

```yaml
candidates: {retriever: {backbone: SASRec, variant: plain}, top: 20, max_users: 100}
variants:
  plain: {}
  mine: {ranker: my-ranker, params: {history: 10}, llm: {batch_size: 4}, inputs: {teacher: smollm2}}
```

``inputs.teacher`` puts the stored profile texts of that teacher into :attr:`Context.profiles`.

What runs, in this order: ``ranker = Class(params, context)``; ``ranker.fit()`` (training, where there is
any; it may use ``context.split``, ``context.sets("valid")`` and ``context.retrieve``); ``ranker.rank(sets)``
for every part that is reported. The runner turns scores into ranks (``candidates.reranked``) and writes the
run directory. A ranker must not read ``sets.eval_set.targets``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_kd.baselines.llm.candidates import CandidateSets, Floats
from recbole_kd.data.types import EvalSet, IntArray, Split

if TYPE_CHECKING:
    from torch import Tensor

    from profiles.llm.base import Backend
    from profiles.progress import Progress
    from profiles.prompts.kind import Message
    from profiles.spec import WriterSpec

OnEpoch = Callable[[dict[str, Any]], None]


@dataclass
class Usage:
    """What every user's answer took; arrays [n], in the order of the candidate sets.

    Attributes
    ----------
    calls, prompt_tokens, completion_tokens : int64 [n]
    seconds : float64 [n]
        Time of the model; users of one batch share the time of the batch.
    usd : float64 [n]
        NaN where the model has no price; 0 for weights on this machine.
    unparsed : int64 [n]
        Candidates that no answer placed, so that they kept the retriever's order.
    """

    calls: IntArray
    prompt_tokens: IntArray
    completion_tokens: IntArray
    seconds: Floats
    usd: Floats
    unparsed: IntArray

    @classmethod
    def zeros(cls, n: int) -> Usage:
        """Nothing used yet."""
        counts = [np.zeros(n, np.int64) for _ in range(4)]
        return cls(counts[0], counts[1], counts[2], np.zeros(n), np.zeros(n), counts[3])


@dataclass(frozen=True)
class Ranking:
    """What a ranker says about the candidates of one part.

    Attributes
    ----------
    scores : float64 [n, N]
        Higher is better; equal scores share their places. No NaN where there is a candidate.
    usage : Usage
    counts : dict
        What else must stand in the manifest (answers without any title, AUC, ...).
    """

    scores: Floats
    usage: Usage
    counts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """How much a cell asks, for :meth:`LLMRanker.work`.

    Attributes
    ----------
    users, top : int
        Asked users of all parts together, and candidates of each.
    positions : int
        Of the train part, roughly: interactions of the file.
    max_new_tokens : int
        Longest answer that the model's decoding allows.
    """

    users: int
    top: int
    positions: int
    max_new_tokens: int


@dataclass(frozen=True)
class Work:
    """Tokens that a language model on this machine goes through for a cell; rough, for the time of ``plan``.

    Attributes
    ----------
    read, written, learned : float
        Of prompts; of answers, one after the other; of training examples, over all epochs.
    """

    read: float = 0.0
    written: float = 0.0
    learned: float = 0.0


TITLE = 10
"""Tokens of a title and what separates it from the next, roughly; for :class:`Work`."""


@dataclass(frozen=True)
class Fitted:
    """What training a ranker gave; the zero-shot ones return ``Fitted()``.

    Attributes
    ----------
    state : dict of str to Tensor
        Goes into ``model.safetensors`` (adapters, not base weights).
    history : list of dict
        One row per epoch: ``epoch``, ``phase``, ``loss``, ``valid_ndcg@10``, ``seconds``, ...
    best_epoch, epochs, stopped_early, n_parameters : as in ``recbole_kd.training.fit.FitResult``
    seconds : dict
        ``train`` and ``valid``.
    """

    state: Mapping[str, Tensor] = field(default_factory=dict)
    history: Sequence[dict[str, Any]] = ()
    best_epoch: int = 1
    epochs: int = 1
    stopped_early: bool = True
    n_parameters: int = 0
    seconds: Mapping[str, float] = field(default_factory=lambda: {"train": 0.0, "valid": 0.0})


@dataclass(frozen=True)
class Context:
    """Everything that a ranker may know.

    Attributes
    ----------
    split : Split
    titles : list of str
        Title of every item id, cleaned (untrusted text made one line without markers); ``titles[0]`` is "".
    domain : str
        Name of the prompt domain: movies, beauty, games, generic.
    llm : WriterSpec or None
        The model that the ranker's file names.
    profiles : dict of int to str
        User id -> profile text, where ``inputs.teacher`` names a teacher; all passed the leakage guard.
    seed : int
        Of the cell: sampling, shuffles, training.
    device : str
    max_len : int
        The dataset's ``max_item_list_length``.
    store : Path
        SQLite store of answered calls, shared by all rankers of a results folder.
    sets : callable
        ``sets("valid" | "test") -> CandidateSets`` of the asked users.
    retrieve : callable
        ``retrieve(eval_set) -> CandidateSets`` of the same retriever, for any histories (train prefixes).
    progress : callable
        ``progress(done, total)`` in users.
    on_epoch : callable or None
        To be called with every row of ``Fitted.history``.
    """

    split: Split
    titles: list[str]
    domain: str
    llm: WriterSpec | None
    profiles: Mapping[int, str]
    seed: int
    device: str
    max_len: int
    store: Path
    sets: Callable[[str], CandidateSets]
    retrieve: Callable[[EvalSet], CandidateSets]
    progress: Progress
    on_epoch: OnEpoch | None = None

    @cached_property
    def backend(self) -> Backend:
        """The back-end of ``llm``: ``write`` answers, ``count_tokens`` counts; a local one can ``load()``
        (tokenizer, model)."""
        from profiles.llm import BACKENDS

        assert self.llm is not None
        made: Backend = BACKENDS[self.llm.backend](self.llm)
        return made


class LLMRanker(ABC):
    """A ranker of candidates.

    Parameters
    ----------
    params : mapping
        Of ``properties/ranker/<name>.yaml``, with the variant's laid over; all keys are there.
    context : Context
    """

    def __init__(self, params: Mapping[str, Any], context: Context) -> None:
        self.params = params
        self.context = context

    @classmethod
    def check(cls, params: Mapping[str, Any], llm: WriterSpec | None) -> None:
        """Refuse bad values before anything runs.

        Raises
        ------
        SpecError
        """
        return

    @classmethod
    def source(cls, params: Mapping[str, Any], domain: str) -> dict[str, str]:
        """What else decides the numbers (prompt file, ...) -> version; part of the cell's address."""
        return {}

    @classmethod
    def work(cls, params: Mapping[str, Any], scope: Scope) -> Work:
        """What a cell costs a local model, roughly; nothing where no model is asked."""
        return Work()

    def fit(self) -> Fitted:
        """Train, where there is anything to train."""
        return Fitted()

    def restore(self, run: Path) -> None:
        """Read what :meth:`fit` made from a finished run directory, so as to serve with it (loop-latency).

        Raises
        ------
        NotImplementedError
            The ranker is trained but does not say how.
        """
        if type(self).fit is not LLMRanker.fit:
            raise NotImplementedError(f"{type(self).__name__} cannot be read back from its run")

    def messages(self, sets: CandidateSets) -> list[list[Message]] | None:
        """What would be asked about every user, to be priced by ``plan``; None where no answer is bought."""
        return None

    @abstractmethod
    def rank(self, sets: CandidateSets) -> Ranking:
        """Score the candidates of every user."""

    def measured(self, sets: CandidateSets) -> dict[str, Any]:
        """Measures of the ranker's own paper, for the manifest; called after ``rank``, may read targets."""
        return {}


def places_to_scores(order: NDArray[np.int64], sets: CandidateSets, row: int) -> Floats:
    """Scores from an order that may be partial: those placed come first, the others in the retriever's order.

    Parameters
    ----------
    order : int64 [m]
        0-based places of candidates of ``row``, best first, each at most once.

    Returns
    -------
    float64 [N]
    """
    scores = sets.retriever_scores()[row]
    # Any number above every -slot keeps the placed ones in front.
    scores[order] = np.arange(len(order), 0, -1)
    return scores

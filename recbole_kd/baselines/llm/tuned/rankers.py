"""TALLRec and LlamaRec behind the interface of re-rankers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_kd.baselines.llm.base import TITLE, Fitted, LLMRanker, Ranking, Scope, Usage, Work
from recbole_kd.baselines.llm.candidates import CandidateSets, Floats, reranked
from recbole_kd.baselines.llm.tuned.examples import other_items, some_users
from recbole_kd.baselines.llm.tuned.llamarec import LlamaRec, LlamaRecSpec
from recbole_kd.baselines.llm.tuned.lm import (
    AnswerModel,
    adapter_state,
    check_llm,
    load_adapters,
    load_model,
    with_adapters,
)
from recbole_kd.baselines.llm.tuned.loop import Task, tune
from recbole_kd.baselines.llm.tuned.spec import LoraSpec, TuneSpec
from recbole_kd.baselines.llm.tuned.tallrec import TallRec, TallRecSpec
from recbole_kd.metrics import per_user
from recbole_kd.strict import Strict, digest

if TYPE_CHECKING:
    from profiles.spec import WriterSpec

_VALID, _NEGATIVES = 1, 4  # streams of the seed
_FOLDER = "tuned"
# Tokens of the published prompts without titles; of TALLRec's question behind the target; of a letter.
_TALLREC, _BEHIND, _LLAMAREC, _LETTER = 110, 15, 60, 4


class TunedRanker(LLMRanker):
    """What both share: model with adapters, training, checkpoint beside the store of answers."""

    Spec: type[Strict]
    name: str

    @classmethod
    def check(cls, params: Mapping[str, Any], llm: WriterSpec | None) -> None:
        """See :class:`LLMRanker`."""
        # The validator lives with the runner, as for datasets.
        from recbole_kd.benchmark.validate import validated

        spec: Any = validated(cls.Spec, params, "params")
        check_llm(llm, spec.lora)

    @cached_property
    def spec(self) -> Any:
        """Validated parameters."""
        return self.Spec.model_validate(dict(self.params))

    @cached_property
    def lm(self) -> AnswerModel:
        """The model with fresh adapters."""
        lora: LoraSpec = self.spec.lora
        tokenizer, model = load_model(self.context.llm, lora, self.context.device)
        return AnswerModel(tokenizer, with_adapters(model, lora, self.context.seed))

    def restore(self, run: Path) -> None:
        """Take the adapters that a run directory holds, instead of tuning."""
        from safetensors.torch import load_file

        load_adapters(self.lm.model, load_file(run / "model.safetensors"))

    def _tuned(self, task: Task, selected_on: Any) -> Fitted:
        """Train ``task``; ``selected_on`` is what else decides the choice of the epoch."""
        spec: TuneSpec = self.spec.tune
        context = self.context
        assert context.llm is not None
        content = {
            "ranker": self.name,
            "params": self.spec.canonical(),
            # Models of the hub share one revision unless the spec states it; a folder keeps its name when its
            # weights, which the revision digests, are exchanged.
            "model": [context.llm.model, context.backend.revision],
            "split": context.split.digest,
            "titles": context.titles,
            "domain": context.domain,
            "seed": context.seed,
            "selected_on": selected_on,
        }
        name = digest(content, 16)
        found = tune(
            task,
            spec,
            seed=context.seed,
            file=context.store.parent / _FOLDER / f"{self.name}-{name}.safetensors",
            fingerprint=name,
            on_epoch=context.on_epoch,
            tell=context.progress,
        )
        return Fitted(
            state=adapter_state(self.lm.model),
            history=found.history,
            best_epoch=found.best_epoch,
            epochs=found.epochs,
            stopped_early=found.stopped_early,
            n_parameters=found.n_parameters,
            seconds=found.seconds,
        )


class TallRecRanker(TunedRanker):
    """A yes/no question for every candidate (:class:`TallRec`); candidates are ordered by the odds of yes.

    The published AUC stands in the manifest as ``auc``: on the asked users' targets (with a random item for
    each where there are no ratings), whether or not the retriever found them.
    """

    Spec = TallRecSpec
    name = "tallrec"

    @classmethod
    def work(cls, params: Mapping[str, Any], scope: Scope) -> Work:
        """A question per example and validation user; the history once and every candidate; the AUC."""
        asks = _TALLREC + TITLE * params["history"]
        read = scope.users * (2 * asks + scope.top * (TITLE + _BEHIND))
        return _tuning(params, params["shots"] or scope.positions, asks, read, scope)

    @cached_property
    def system(self) -> TallRec:
        """Questions about this split."""
        from profiles.prompts import load_domain

        domain = load_domain(self.context.domain)
        words = {"person": domain.person, "item": domain.item}
        context = self.context
        return TallRec(self.lm, context.titles, words, context.split, self.spec, context.seed)

    def fit(self) -> Fitted:
        """Tune on ``shots`` questions; the epoch with the best validation AUC is kept."""
        metric, validate = self.system.validator()
        return self._tuned(
            Task(self.lm.model, len(self.system), self.system.loss, validate, metric), self.system.labels
        )

    def rank(self, sets: CandidateSets) -> Ranking:
        """See :class:`LLMRanker`."""
        self.lm.model.eval()
        scores, usage = np.full(sets.items.shape, -np.inf), Usage.zeros(len(sets))
        for row, user in enumerate(sets.users.tolist()):
            begin = time.perf_counter()
            candidates = sets.items[row][sets.real[row]].tolist()
            found, tokens = self.system.scores(user, sets.eval_set.history.row(row), candidates)
            scores[row, sets.real[row]] = found
            usage.calls[row], usage.prompt_tokens[row] = len(candidates), tokens
            usage.seconds[row] = time.perf_counter() - begin
            self.context.progress(row + 1, len(sets))
        return Ranking(scores, usage)

    def measured(self, sets: CandidateSets) -> dict[str, Any]:
        """The published measure, which needs the targets' own labels."""
        auc = self.system.auc(sets.eval_set, np.arange(len(sets)))
        return {"auc": None if np.isnan(auc) else round(auc, 6), "labels": self.system.labels}


class LlamaRecRanker(TunedRanker):
    """One prompt with lettered candidates (:class:`LlamaRec`), ordered by the logits of the letters.

    Candidates beyond the letters keep the retriever's order behind the lettered ones.
    """

    Spec = LlamaRecSpec
    name = "llamarec"

    @classmethod
    def work(cls, params: Mapping[str, Any], scope: Scope) -> Work:
        """A prompt per example, validation user and user."""
        asks = _LLAMAREC + (TITLE + _LETTER) * (params["history"] + params["candidates"])
        return _tuning(params, params["examples"] or scope.positions, asks, scope.users * asks, scope)

    @cached_property
    def system(self) -> LlamaRec:
        """Prompts of this split."""
        context = self.context
        return LlamaRec(self.lm, context.titles, context.split, self.spec, context.seed)

    def fit(self) -> Fitted:
        """Tune on positions of the train part; the epoch with the best validation NDCG@10 is kept."""
        metric, validate, selected_on = self._validator()
        return self._tuned(
            Task(self.lm.model, len(self.system), self.system.loss, validate, metric), selected_on
        )

    def rank(self, sets: CandidateSets) -> Ranking:
        """See :class:`LLMRanker`."""
        self.lm.model.eval()
        usage, scores = Usage.zeros(len(sets)), np.full(sets.items.shape, -np.inf)
        for begin in range(0, len(sets), self.spec.eval_batch):
            rows = np.arange(begin, min(begin + self.spec.eval_batch, len(sets)))
            started = time.perf_counter()
            scores[rows], usage.prompt_tokens[rows] = self._scored(sets.take(rows))
            usage.calls[rows] = 1
            usage.seconds[rows] = (time.perf_counter() - started) / len(rows)
            self.context.progress(int(rows[-1]) + 1, len(sets))
        return Ranking(scores, usage)

    def _scored(self, sets: CandidateSets) -> tuple[Floats, list[int]]:
        """Scores of all candidates [n, N] and tokens of the prompts."""
        histories = [sets.eval_set.history.row(row) for row in range(len(sets))]
        candidates = [sets.items[row][sets.real[row]].tolist() for row in range(len(sets))]
        found, tokens = self.system.scores(histories, candidates)
        scores: Floats = np.full(sets.items.shape, -np.inf)
        lettered = min(scores.shape[1], found.shape[1])
        scores[:, :lettered] = found[:, :lettered]
        for row in range(len(sets)):
            rest = np.flatnonzero(sets.real[row])[lettered:]
            scores[row, rest] = scores[row, :lettered].min() + sets.retriever_scores()[row, rest]
        return scores, tokens

    def _validator(self) -> tuple[str, Callable[[], float], Any]:
        """NDCG@10 on validation users whose target the retriever found, as published.

        Where it found none of them, the target stands among random items instead, and the measure is called
        ``ndcg@10_random``.
        """
        sets, seed = self.context.sets("valid"), self.context.seed
        stream = int(np.random.SeedSequence([seed, _VALID]).generate_state(1)[0])
        found = np.flatnonzero(sets.target_places() >= 0)
        if not len(found):
            return "ndcg@10_random", self._among_random(sets, stream), "random"
        chosen = found[some_users(sets.take(found).eval_set, self.spec.valid_users, stream)]
        asked = sets.take(chosen)

        def value() -> float:
            size = self.spec.eval_batch
            parts = [asked.take(np.arange(i, min(i + size, len(asked)))) for i in range(0, len(asked), size)]
            scores = np.concatenate([self._scored(part)[0] for part in parts])
            return float(per_user(reranked(asked, scores).rank, "NDCG@10").mean())

        return "ndcg@10", value, [asked.users.tolist(), asked.items.tolist()]

    def _among_random(self, sets: CandidateSets, stream: int) -> Callable[[], float]:
        part, system = sets.eval_set, self.system
        rows = some_users(part, self.spec.valid_users, stream).tolist()
        histories, candidates, places = [], [], []
        for row in rows:
            history, target = part.history.row(row), int(part.targets[row])
            rng = np.random.default_rng([self.context.seed, _NEGATIVES, row])
            others = other_items(np.append(history, target), system.catalogue, self.spec.candidates - 1, rng)
            listed = rng.permutation(np.append(others, target)).tolist()
            histories.append(history)
            candidates.append(listed)
            places.append(listed.index(target))

        def value() -> float:
            scores, _ = system.scores(histories, candidates)
            own = np.take_along_axis(scores, np.array(places)[:, None], 1)
            ranks = (scores > own).sum(1) + ((scores == own).sum(1) + 1) / 2
            return float(per_user(ranks, "NDCG@10").mean())

        return value


def _tuning(params: Mapping[str, Any], examples: int, tokens: int, read: float, scope: Scope) -> Work:
    """Training and validation beside what is read for the ranks; ``tokens`` of an example."""
    epochs = params["tune"]["epochs"]
    valid = (epochs + 1) * (params["valid_users"] or scope.users) * tokens
    return Work(read + valid, learned=epochs * examples * tokens)

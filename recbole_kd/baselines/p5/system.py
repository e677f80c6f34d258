"""Train P5 on the sequential prompts and score the catalogue by constrained beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from recbole_kd.baselines.llm.tuned.examples import some_users, train_positions
from recbole_kd.baselines.llm.tuned.loop import Task, Tell, Tuned, tune
from recbole_kd.baselines.llm.tuned.spec import TuneSpec
from recbole_kd.baselines.p5.beam import search
from recbole_kd.baselines.p5.indexing import INDEXINGS
from recbole_kd.baselines.p5.model import CachedDecoder, P5Model, pretrained_t5, random_t5
from recbole_kd.baselines.p5.trie import Trie
from recbole_kd.baselines.p5.words import Ids, PretrainedWords, Words, encode, padded
from recbole_kd.baselines.scorer import Scorer
from recbole_kd.data.types import EvalSet, IntArray, Split
from recbole_kd.errors import SpecError
from recbole_kd.metrics import per_user, standard_name
from recbole_kd.ranking import rank_rows
from recbole_kd.strict import Strict, digest
from recbole_kd.training.fit import FitResult, OnEpoch
from recbole_kd.training.spec import StudentSpec, TrainSpec

_WHOLE, _ORDER, _VALID, _PROMPT = 1, 2, 3, 4  # streams of the seed


class P5Spec(Strict):
    """``hparams`` of ``properties/model/P5.yaml``."""

    weights: str | None = Field(description="folder or hub name of a T5; null: a small one, random weights")
    d_model: int = Field(ge=1, description="this and the next four: shape of the random one")
    d_kv: int = Field(ge=1)
    d_ff: int = Field(ge=1)
    n_layers: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    indexing: Literal["random", "sequential", "collaborative"]
    clusters: int = Field(ge=2, description="collaborative: children of a node")
    cluster_size: int = Field(ge=2, description="collaborative: largest leaf, and tokens in use")
    history: int = Field(ge=1)
    examples: int | None = Field(ge=1, description="positions of an epoch; null: all")
    micro_batch: int = Field(ge=1)
    warmup: float = Field(ge=0, lt=1)
    save_every: int = Field(ge=1)
    beam: int = Field(ge=1, description="items that are ranked; the others share the mean of what is left")
    valid_users: int | None = Field(ge=1)
    dataset_word: str = Field(pattern=r"^\S+$", description="{dataset} of the prompts")
    answer: str = Field(description="{dataset} and {target}")
    seen: tuple[str, ...] = Field(min_length=1, description="prompts of the training")
    unseen: tuple[str, ...] = Field(description="prompts that training never shows")
    ask: str = Field(pattern=r"^(seen|unseen):\d+$", description="prompt of validation and test")

    @model_validator(mode="after")
    def _asked_prompt_exists(self) -> P5Spec:
        kind, _, number = self.ask.partition(":")
        if int(number) >= len(getattr(self, kind)):
            raise ValueError(f"ask: there is no prompt {self.ask}; {kind} has {len(getattr(self, kind))}")
        return self

    @property
    def asked(self) -> str:
        """Template of ``ask``."""
        kind, _, number = self.ask.partition(":")
        listed: tuple[str, ...] = getattr(self, kind)
        return listed[int(number)]


class P5:
    """The system: names of items, words, trie, model.

    A training example is a place of a train history; its prompt is drawn from ``seen`` for every epoch anew.
    Users stand in the prompts by number; one whom training never saw has a number like others.

    Parameters
    ----------
    split : Split
    spec : P5Spec
    seed : int
    device : str
    """

    def __init__(self, split: Split, spec: P5Spec, seed: int, device: str) -> None:
        self.split, self.spec, self.seed, self.device = split, spec, seed, device
        self.names = INDEXINGS[spec.indexing](split, seed, spec.clusters, spec.cluster_size)
        texts = [*spec.seen, *spec.unseen, spec.answer, spec.dataset_word, "item_ user_ ,", *self.names]
        self.words: Words | PretrainedWords
        if spec.weights is None:
            self.words = Words(texts)
            shape = {key: getattr(spec, key) for key in _SHAPE}
            t5 = random_t5(self.words.size, self.words.pad, self.words.eos, shape, seed)
        else:
            from profiles.llm.sources import locate

            tokenizer, t5 = pretrained_t5(locate(spec.weights), spec.dropout)
            self.words = PretrainedWords(tokenizer, texts)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.words.adopt(t5)
        self.model = P5Model(t5, torch.Generator().manual_seed(_stream(seed, _WHOLE))).to(device)
        self.sequences = [[], *(self._name_ids(item) for item in range(1, split.dataset.n_items))]
        self.trie = Trie(self.sequences).to(device)
        positions = train_positions(split.train, 1)
        self.positions = positions.take(np.random.default_rng([seed, _ORDER]).permutation(len(positions)))
        if not len(self.positions):
            raise SpecError("P5: no train history has two items, so there is nothing to train on")

    def __len__(self) -> int:
        """Examples of an epoch."""
        return min(self.spec.examples or len(self.positions), len(self.positions))

    def _name_ids(self, item: int) -> Ids:
        text = self.spec.answer.format(dataset=self.spec.dataset_word, target=f"item_{self.names[item]}")
        return encode(self.words, text)[0]

    def prompt(self, template: str, user: int, history: IntArray) -> str:
        """Text of a prompt with the latest ``history`` items."""
        items = [f"item_{self.names[item]}" for item in history[-self.spec.history :].tolist()]
        return template.format(dataset=self.spec.dataset_word, user_id=user, history=" , ".join(items))

    def batch(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, word numbers and mask of prompts, each int64 [B, S]."""
        read = [encode(self.words, prompt) for prompt in prompts]
        ids = torch.tensor(padded([ids for ids, _ in read], self.words.pad))
        words = torch.tensor(padded([words for _, words in read], 0))
        mask = torch.tensor(padded([[1] * len(ids) for ids, _ in read], 0))
        return ids.to(self.device), words.to(self.device), mask.to(self.device)

    def example(self, index: int, epoch: int) -> tuple[str, int]:
        """Prompt and target of a training example; reads the train part only."""
        place = ((epoch - 1) * len(self) + index) % len(self.positions)
        row, at = int(self.positions.rows[place]), int(self.positions.at[place])
        items, user = self.split.train.row(row), int(self.split.train.users[row])
        rng = np.random.default_rng([self.seed, _PROMPT, epoch, row, at])
        template = self.spec.seen[int(rng.integers(len(self.spec.seen)))]
        return self.prompt(template, user, items[:at]), int(items[at])

    def loss(self, examples: IntArray, epoch: int) -> Tensor:
        """Mean token loss of the targets' names."""
        prompts, targets = zip(*(self.example(int(i), epoch) for i in examples), strict=True)
        names = torch.tensor(padded([self.sequences[t] for t in targets], self.words.pad), device=self.device)
        return self.model.loss(*self.batch(prompts), names, self.words.pad)

    @torch.no_grad()
    def score(self, part: EvalSet, rows: slice) -> Tensor:
        """log p of the items in the beam, -inf for all others, float [B, n_items]: these share one rank."""
        self.model.eval()
        users = part.history.users[rows].tolist()
        prompts = [
            self.prompt(self.spec.asked, user, part.history.row(row))
            for user, row in zip(users, range(rows.start, rows.start + len(users)), strict=True)
        ]
        ids, words, mask = self.batch(prompts)

        def begin() -> CachedDecoder:
            return CachedDecoder(self.model, self.model.read(ids, words, mask), mask)

        items, found = search(begin, len(prompts), self.model.start, self.trie, self.spec.beam)
        scores = torch.full((len(prompts), self.split.dataset.n_items), -torch.inf, device=self.device)
        return scores.scatter_(1, items, found).index_fill_(
            1, torch.tensor([0], device=self.device), -torch.inf
        )

    def tokens(self, part: EvalSet, row: int) -> tuple[int, int]:
        """Tokens of a user's prompt, and those that the search tries: the beam at every depth."""
        prompt = self.prompt(self.spec.asked, int(part.history.users[row]), part.history.row(row))
        width = min(self.spec.beam, self.split.dataset.n_items - 1)
        return len(encode(self.words, prompt)[0]), width * self.trie.depth

    def validator(self, batch_size: int) -> Callable[[], float]:
        """NDCG@10 of a seeded sample of validation users, among all items."""
        rows = some_users(self.split.valid, self.spec.valid_users, _stream(self.seed, _VALID))
        part = self.split.valid.take(rows)

        def value() -> float:
            ranks = rank_rows(
                lambda rows: self.score(part, rows), part, batch_size=batch_size, device=self.device
            )
            return float(per_user(ranks.rank, _METRIC).mean())

        return value


_LOOP, _METRIC = "P5's own loop", "NDCG@10"
_SHAPE = ("d_model", "d_kv", "d_ff", "n_layers", "n_heads", "dropout")


def check(spec: StudentSpec) -> None:
    """Refuse bad values and missing weights before anything runs.

    Raises
    ------
    SpecError
    """
    from recbole_kd.benchmark.validate import validated

    own = validated(P5Spec, spec.hparams, "P5 hparams")
    _check_train(spec.train)
    if own.weights is not None:
        from profiles.llm.sources import locate

        locate(own.weights)


def _check_train(train: TrainSpec) -> None:
    """Refuse what the loop of tuned language models would leave unread."""
    train.refuse_course(_LOOP)
    train.refuse_average(_LOOP)
    if train.loss is not None:
        raise SpecError(f"train.loss: {train.loss.name}, but P5 has a loss of its own; leave it out")
    said = {"valid_metric": standard_name(train.valid_metric), "softmax_precision": train.softmax_precision}
    for key, value in {"valid_metric": _METRIC, "softmax_precision": "float32"}.items():
        if said[key] != value:
            raise SpecError(f"train.{key}: {said[key]}, but {_LOOP} has {value}; set it to that")


def fit(
    split: Split,
    spec: StudentSpec,
    *,
    seed: int,
    device: str,
    folder: Path,
    on_epoch: OnEpoch | None = None,
    tell: Tell | None = None,
) -> tuple[FitResult, Scorer]:
    """Train P5, going on from a checkpoint in ``folder`` where there is one of the same training.

    Returns
    -------
    FitResult
    Scorer
        Scores of whole histories; also users who were never trained on.
    """
    own, train = P5Spec.model_validate(spec.hparams), spec.train
    _check_train(train)
    system = P5(split, own, seed, device)
    how = TuneSpec(
        epochs=train.epochs,
        batch_size=train.train_batch_size,
        micro_batch=own.micro_batch,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        warmup=own.warmup,
        clip=train.clip_grad_norm,
        patience=train.stopping_step,
        save_every=own.save_every,
    )
    name = _checkpoint(split, spec, seed, system.words.size)
    task = Task(
        system.model, len(system), system.loss, system.validator(train.eval_batch_size), _METRIC.lower()
    )
    tuned = tune(
        task,
        how,
        seed=seed,
        file=folder / f"p5-{name}.safetensors",
        fingerprint=name,
        on_epoch=on_epoch,
        tell=tell,
    )
    scorer = Scorer(system.score, weights_of(system.model), tuned.n_parameters)
    return _result(tuned, scorer), scorer


def _checkpoint(split: Split, spec: StudentSpec, seed: int, words: int) -> str:
    """Digest of what a training depends on; a folder's name stays when its weights are exchanged."""
    from profiles.content import digest_of_weights

    weights = spec.hparams["weights"]
    found = None if weights is None else digest_of_weights(str(weights))
    return digest([split.digest, spec.canonical(), seed, words, *([found] if found else [])], 16)


def weights_of(model: P5Model) -> dict[str, Tensor]:
    """What is worth storing: every weight once (the word vectors are tied)."""
    return {name: value.detach() for name, value in model.named_parameters()}


def rebuilt(split: Split, spec: StudentSpec, state: dict[str, Tensor], seed: int, device: str) -> P5:
    """The trained system of a run directory.

    Raises
    ------
    RuntimeError
        The weights are of another system.
    """
    system = P5(split, P5Spec.model_validate(spec.hparams), seed, device)
    wanted = dict(system.model.named_parameters())
    if wanted.keys() != state.keys():
        raise RuntimeError(f"{len(wanted.keys() ^ state.keys())} weights are missing or too many")
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(state[name])
    system.model.eval()
    return system


def _result(tuned: Tuned, scorer: Scorer) -> FitResult:
    history: list[dict[str, Any]] = tuned.history
    return FitResult(
        model=scorer,
        state_dict=scorer.state,
        history=history,
        best_epoch=tuned.best_epoch,
        epochs=tuned.epochs,
        stopped_early=tuned.stopped_early,
        seconds=tuned.seconds,
        n_parameters=tuned.n_parameters,
    )


def _stream(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])

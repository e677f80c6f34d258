"""Models on this machine through transformers: a folder, a hub name or a GGUF file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from profiles.llm.base import Backend, Reply, Request
from profiles.llm.sources import from_gguf, locate, quiet_loading, weights_digest
from profiles.prompts.kind import Message
from profiles.spec import WriterSpec
from recbole_kd.errors import SpecError

_log = logging.getLogger(__name__)


class LocalBackend(Backend):
    """Batched generation with transformers.

    Requests are sorted by length, so that a batch wastes little on padding. A batch that does not
    fit into memory is halved until it does.

    Attributes
    ----------
    model : str
        Name of the file, folder or hub entry.
    revision : str
        Digest of the weights (``profiles.llm.sources.weights_digest``; of a hub model ``hub``, unless
        the spec states one) and the precision, which both decide what is written.
    """

    def __init__(self, spec: WriterSpec) -> None:
        super().__init__(spec)
        if not spec.model:
            raise SpecError("writer.model: back-end 'local' needs a folder, a hub name or a .gguf file")
        self.model = Path(spec.model).name
        # A stated revision names the weights without reading them; loading checks it.
        self.revision = f"{spec.revision or self._found_revision()}/{self._dtype()}"
        self._loaded: tuple[Any, Any] | None = None
        self._lengths: dict[str, int] = {}

    def _found_revision(self) -> str:
        source = locate(str(self.spec.model))
        return weights_digest(source) if isinstance(source, Path) else "hub"

    def load(self) -> tuple[Any, Any]:
        """Load tokenizer and model on first use.

        Raises
        ------
        SpecError
            The weights are not those of ``revision``, or cannot be loaded.
        """
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM

            quiet_loading()
            folder = self._folder()
            device = self._device()
            dtype = self._dtype()
            try:
                model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
            except (OSError, ValueError) as error:
                raise SpecError(
                    f"model '{self.spec.model}': cannot be loaded ({_first_line(error)})"
                ) from error
            # What the folder sets beside them (penalties, top_k, ...) would be laid over our decoding.
            model.generation_config = _only_special_tokens(model.generation_config)
            self._loaded = (self._tokenizer(), model.to(device).eval())
        return self._loaded

    def _folder(self) -> str:
        source = locate(str(self.spec.model))
        if isinstance(source, str):
            return source
        found = weights_digest(source)
        if self.spec.revision and found != self.spec.revision:
            raise SpecError(
                f"model '{self.spec.model}': weights have revision {found}, writer.revision says "
                f"{self.spec.revision}; set revision: null or install the expected version"
            )
        return str(from_gguf(source, found) if source.suffix == ".gguf" else source)

    def _tokenizer(self) -> Any:
        if not hasattr(self, "_tok"):
            from transformers import AutoTokenizer

            try:
                self._tok = AutoTokenizer.from_pretrained(self._folder(), padding_side="left")
            except (OSError, ValueError) as error:
                raise SpecError(f"model '{self.spec.model}': no tokenizer ({_first_line(error)})") from error
            if self._tok.pad_token_id is None:
                self._tok.pad_token = self._tok.eos_token
        return self._tok

    def _device(self) -> str:
        import torch

        if self.spec.device != "auto":
            return self.spec.device
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    def _dtype(self) -> str:
        # Measured on two CPU kinds: bf16 decodes about twice as fast as fp32 at batch 16.
        return "bfloat16" if self.spec.dtype == "auto" else self.spec.dtype

    def _text(self, message: Message) -> str:
        tokenizer = self._tokenizer()
        if tokenizer.chat_template:
            head = tokenizer.apply_chat_template(message.chat(), tokenize=False, add_generation_prompt=True)
        else:
            head = "\n\n".join(part for part in (message.system, message.user) if part) + "\n\n"
        return str(head) + message.opening

    def prompt_text(self, message: Message) -> str:
        """What the model continues: the rendered chat, opening included."""
        return self._text(message)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens by the model's own tokenizer."""
        if not texts:
            return []
        return [len(ids) for ids in self._tokenizer()(list(texts), add_special_tokens=False)["input_ids"]]

    def count_prompt_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the rendered chat, opening included."""
        return self.count_tokens([self._text(m) for m in messages])

    def plan(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Sort by token count, longest first (memory trouble shows at once), and cut."""
        lengths = self.count_prompt_tokens([r.message for r in requests])
        order = sorted(range(len(requests)), key=lambda i: (-lengths[i], requests[i].key))
        size = self.spec.batch_size
        return [[requests[i] for i in order[s : s + size]] for s in range(0, len(order), size)]

    def write(self, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        """Generate batch after batch."""
        for batch in batches:
            yield self._fitting(list(batch))

    def _fitting(self, batch: list[Request]) -> list[Reply]:
        try:
            return self._generate(batch)
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not _out_of_memory(error):
                raise
        _free_memory()
        half = (len(batch) + 1) // 2
        _log.warning("out of memory with %d calls at once: going on with %d", len(batch), half)
        return self._fitting(batch[:half]) + self._fitting(batch[half:])

    def _generate(self, batch: list[Request]) -> list[Reply]:
        import torch
        from transformers import LogitsProcessorList

        from profiles.llm.penalties import GeneratedOnlyPenalties

        tokenizer, model = self.load()
        started = time.perf_counter()
        encoded = tokenizer(
            [self._text(r.message) for r in batch],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        ).to(model.device)
        width = encoded["input_ids"].shape[1]
        d = self.decoding
        options: dict[str, Any] = {"do_sample": False}
        if d.temperature > 0:
            # transformers keeps the 50 likeliest tokens unless it is told not to.
            options = {"do_sample": True, "temperature": d.temperature, "top_p": d.top_p, "top_k": 0}
            torch.manual_seed(_batch_seed(d.seed, batch))
        with torch.inference_mode():
            output = model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=d.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList(
                    [GeneratedOnlyPenalties(width, d.repetition_penalty, d.no_repeat_ngram)]
                ),
                **options,
            )
        seconds = (time.perf_counter() - started) / len(batch)
        ends = _end_tokens(model, tokenizer)
        prompts = encoded["attention_mask"].sum(1).tolist()
        rows = output[:, width:].tolist()
        return [
            _reply(request, row, ends, tokenizer, prompt, seconds)
            for request, row, prompt in zip(batch, rows, prompts, strict=True)
        ]


def _reply(
    request: Request, row: list[int], ends: set[int], tokenizer: Any, prompt: int, seconds: float
) -> Reply:
    stop = next((i for i, token in enumerate(row) if token in ends), None)
    kept = row if stop is None else row[:stop]
    text = tokenizer.decode(kept, skip_special_tokens=True)
    billed = len(kept) + (stop is not None)
    return Reply(request.key, text, prompt, billed, seconds, "length" if stop is None else "stop")


def _only_special_tokens(found: Any) -> Any:
    """A generation config that says how texts begin, end and are filled up, and nothing of decoding."""
    from transformers import GenerationConfig

    kept = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{key: getattr(found, key, None) for key in kept})


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {int(e) for e in [*listed, tokenizer.eos_token_id] if e is not None}


def _batch_seed(seed: int, batch: Sequence[Request]) -> int:
    # The same batch draws the same numbers, whatever ran before it.
    return (seed * 1_000_003 + int(batch[0].message.digest, 16)) % 2**63


def _out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError)
        or "out of memory" in str(error).lower()
        or "alloc" in str(error).lower()
    )


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__

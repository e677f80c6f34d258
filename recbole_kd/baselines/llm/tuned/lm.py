"""A causal language model with adapters, and the logits that it gives to an answer."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_kd.baselines.llm.tuned.spec import LoraSpec
from recbole_kd.errors import SpecError, StoreError

if TYPE_CHECKING:
    from profiles.spec import WriterSpec

Ids = list[int]


class AnswerModel:
    """Reads the next-token logits after a prompt.

    Parameters
    ----------
    tokenizer, model
        As transformers gives them; any causal model.

    Attributes
    ----------
    device : torch.device
    """

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model
        self.device = next(model.parameters()).device
        # What fills up a batch is masked out: any id will do.
        self._fill = int(tokenizer.pad_token_id or tokenizer.eos_token_id or 0)

    def encode(self, text: str) -> Ids:
        """Token ids of a prompt, with whatever the tokenizer puts in front of a text (LLaMA's <s>)."""
        return list(self.tokenizer(text)["input_ids"])

    def cut(self, text: str, limit: int) -> str:
        """The first ``limit`` tokens of a text, as text."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= limit:
            return text
        return str(self.tokenizer.decode(ids[:limit], skip_special_tokens=True)).strip()

    def answers(self, prompt: str, words: Sequence[str]) -> Ids:
        """Token with which each answer begins behind ``prompt``.

        Raises
        ------
        SpecError
            The tokenizer joins answer and prompt, or two answers begin alike.
        """
        begin = self.encode(prompt)
        found = []
        for word in words:
            whole = self.encode(prompt + word)
            if whole[: len(begin)] != begin or len(whole) <= len(begin):
                raise SpecError(
                    f"prompt ends in {prompt[-12:]!r}: the tokenizer joins it with the answer {word!r}; "
                    "end the template in a line break or without a blank"
                )
            found.append(whole[len(begin)])
        if len(set(found)) < len(found):
            raise SpecError(
                f"answers {', '.join(words)}: two begin with the same token; the model needs others"
            )
        return found

    def logits(self, prompts: Sequence[Ids]) -> Tensor:
        """Next-token logits of a batch, float32 [B, V]; filled up on the left, gradients flow."""
        length = max(len(p) for p in prompts)
        ids = torch.full((len(prompts), length), self._fill)
        mask = torch.zeros((len(prompts), length), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = torch.tensor(prompt)
            mask[row, length - len(prompt) :] = 1
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        out = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
            use_cache=False,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()

    @torch.no_grad()
    def logits_of_shared(self, prompts: Sequence[Ids], tokens: Ids, batch_size: int) -> Tensor:
        """Logits of some tokens behind prompts that begin alike, float32 [B, len(tokens)].

        The common beginning is read once and its keys and values serve all prompts: with 20 candidates behind
        one history that is most of the work.
        """
        shared = _common(prompts)
        if shared < 8 or len(prompts) < 2:
            parts = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
            return torch.cat([self.logits(part)[:, tokens] for part in parts])
        beginning = torch.tensor([prompts[0][:shared]], device=self.device)
        rows = []
        for begin in range(0, len(prompts), batch_size):
            part = [p[shared:] for p in prompts[begin : begin + batch_size]]
            if begin == 0:
                read = self.model(input_ids=beginning, use_cache=True, logits_to_keep=1).past_key_values
            rows.append(self._behind(_repeated(read, len(part)), shared, part)[:, tokens])
        return torch.cat(rows)

    def _behind(self, read: Any, shared: int, rests: Sequence[Ids]) -> Tensor:
        """Logits after each rest; filled up on the right, where causal attention does not look."""
        length = max(len(r) for r in rests)
        ids = torch.full((len(rests), length), self._fill)
        for row, rest in enumerate(rests):
            ids[row, : len(rest)] = torch.tensor(rest)
        places = torch.arange(shared, shared + length)[None].expand(len(rests), -1)
        out = self.model(
            input_ids=ids.to(self.device),
            position_ids=places.to(self.device),
            past_key_values=read,
            use_cache=True,
        )
        last = torch.tensor([len(r) - 1 for r in rests], device=self.device)
        return out.logits[torch.arange(len(rests), device=self.device), last].float()


def _common(prompts: Sequence[Ids]) -> int:
    """Length of the common beginning that leaves every prompt at least one token."""
    limit = min(len(p) for p in prompts) - 1
    first = prompts[0]
    return next((i for i in range(limit) if any(p[i] != first[i] for p in prompts)), limit)


def _repeated(read: Any, n: int) -> Any:
    """A copy of cached keys and values for ``n`` rows; the original is not lengthened."""
    import copy

    copied = copy.deepcopy(read)
    copied.batch_repeat_interleave(n)
    return copied


def load_model(llm: WriterSpec | None, lora: LoraSpec, device: str) -> tuple[Any, Any]:
    """Tokenizer and frozen model that a ranker's ``llm`` names, quantised where ``lora`` asks for it.

    Raises
    ------
    SpecError
        It is no local model, cannot be loaded, or cannot be quantised here.
    """
    check_llm(llm, lora)
    assert llm is not None
    here = llm.model_copy(update={"device": device if llm.device == "auto" else llm.device})
    from profiles.llm.local import LocalBackend

    backend = LocalBackend(here)
    if lora.quantise == "none":
        return backend.load()
    return backend._tokenizer(), _quantised(Path(backend._folder()), lora, device)


def check_llm(llm: WriterSpec | None, lora: LoraSpec) -> None:
    """Refuse a model whose weights cannot be reached, and a quantisation that cannot be had.

    Raises
    ------
    SpecError
    """
    if llm is None or llm.backend != "local":
        kind = "none" if llm is None else llm.backend
        raise SpecError(f"llm: adapters need a model of backend 'local' (its weights), not '{kind}'")
    if lora.quantise != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise SpecError(
            f"params.lora.quantise: {lora.quantise} needs the package bitsandbytes, which is not installed; "
            "pip install bitsandbytes (CUDA), or set quantise: none"
        )


def _quantised(folder: Path, lora: LoraSpec, device: str) -> Any:
    """QLoRA (Dettmers et al., NeurIPS 2023): NF4 weights, doubly quantised, bfloat16 products."""
    if not torch.cuda.is_available():
        raise SpecError(f"params.lora.quantise: {lora.quantise} needs a CUDA GPU; set quantise: none")
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how: dict[str, Any] = {"load_in_8bit": True}
    if lora.quantise == "4bit":
        how = {
            "load_in_4bit": True,
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": torch.bfloat16,
        }
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), quantization_config=BitsAndBytesConfig(**how), device_map={"": device}
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise SpecError(
            f"model '{folder.name}': cannot be quantised ({str(error).splitlines()[0][:160]})"
        ) from error
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)


def with_adapters(model: Any, lora: LoraSpec, seed: int) -> Any:
    """Put adapters on a model (B = 0: nothing changes yet); A is drawn from a stream of its own.

    Raises
    ------
    SpecError
        The model has no projection of these names.
    """
    from peft import LoraConfig, get_peft_model

    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    if missing := [target for target in lora.targets if target not in names]:
        raise SpecError(f"params.lora.targets: the model has no '{missing[0]}'; name projections that it has")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    # Adapters are learned in float32, whatever the frozen weights are kept in.
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def load_adapters(model: Any, state: Mapping[str, Tensor]) -> None:
    """Put back what :func:`adapter_state` gave.

    Raises
    ------
    StoreError
        The adapters are of another model.
    """
    from peft import set_peft_model_state_dict

    if {n: v.shape for n, v in adapter_state(model).items()} != {n: v.shape for n, v in state.items()}:
        raise StoreError("the adapters are those of another model; run the cell again")
    set_peft_model_state_dict(model, dict(state))
    model.eval()


def adapter_state(model: Any) -> Mapping[str, Tensor]:
    """The adapters under the names of a peft adapter file."""
    from peft import get_peft_model_state_dict

    return {name: value.detach().cpu() for name, value in get_peft_model_state_dict(model).items()}

"""What tokens cost: a dated table in YAML."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from profiles.yamlfile import read_yaml
from recbole_kd.strict import Strict

TABLE = Path(__file__).parent / "prices.yaml"


class ModelPrice(Strict):
    """US dollars per million tokens; ``batch`` is the factor of the batch route."""

    input: float
    output: float
    batch: float

    def cost(self, prompt_tokens: float, completion_tokens: float, *, batch: bool = False) -> float:
        """US dollars for so many tokens."""
        factor = self.batch if batch else 1.0
        return factor * (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


class PriceTable(Strict):
    """Prices by model name."""

    dated: str
    models: dict[str, ModelPrice]

    def find(self, model: str) -> ModelPrice | None:
        """Price of a model; a dated name (``gpt-4o-mini-2024-07-18``) finds its family."""
        names = [name for name in self.models if model == name or model.startswith(name + "-20")]
        return self.models[max(names, key=len)] if names else None


@cache
def load_prices(path: Path = TABLE) -> PriceTable:
    """Read a price table.

    Raises
    ------
    SpecError
    """
    return read_yaml(path, PriceTable)


def price_function(
    model: str, *, batch: bool = False, table: PriceTable | None = None
) -> Callable[[int, int], float | None]:
    """Return ``price(prompt_tokens, completion_tokens)``; it gives None for a model without a price."""
    found = (table or load_prices()).find(model)
    if found is None:
        return lambda prompt, completion: None
    return lambda prompt, completion: found.cost(prompt, completion, batch=batch)

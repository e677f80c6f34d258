"""Monthly cost of distilled students and of systems that keep a language model, and where they break even.

Everything is proportional to the number of users but the machines that always run. All money is US dollars
per month in steady state; the first profile of everybody is spread over ``written_off`` months.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

SECONDS_PER_DAY = 86_400.0
_HOUR = 3_600.0
_MILLION = 1e6
_GIGABYTE = 1e9

Values = Mapping[str, float]


@dataclass(frozen=True)
class Bill:
    """US dollars per month, by what they are spent on."""

    writing: float = 0.0
    encoding: float = 0.0
    storage: float = 0.0
    training: float = 0.0
    serving: float = 0.0
    llm_serving: float = 0.0

    @property
    def total(self) -> float:
        """Sum."""
        return sum(getattr(self, field.name) for field in fields(self))


def api_price(v: Values, prompt: float, answer: float) -> float:
    """USD of one call at the list price."""
    return (v["list_input"] * prompt + v["list_output"] * answer) / _MILLION


def gpu_seconds(v: Values, prompt: float, answer: float) -> float:
    """Seconds of a GPU that works in full batches on one call."""
    return prompt / v["gpu_prompt_rate"] + answer / v["gpu_answer_rate"]


def _by_api(v: Values) -> float:
    return api_price(v, v["prompt_tokens"], v["answer_tokens"])


def _by_batch(v: Values) -> float:
    return v["batch_factor"] * _by_api(v)


def _by_gpu(v: Values) -> float:
    return gpu_seconds(v, v["prompt_tokens"], v["answer_tokens"]) * v["gpu_hour"] / _HOUR


def _by_small_writer(v: Values) -> float:
    return v["small_writer"] * v["cpu_hour"] / _HOUR


WRITERS: dict[str, Callable[[Values], float]] = {
    "API, list price": _by_api,
    "API, batch price": _by_batch,
    "own GPU": _by_gpu,
    "SmolLM2 on CPU": _by_small_writer,
}
"""Route -> USD of one profile."""


def _online_api(v: Values, users: float, requests: float) -> float:
    return users * requests * v["days"] * api_price(v, v["loop_prompt_tokens"], v["loop_answer_tokens"])


def loop_gpus(v: Values, users: float, requests: float) -> float:
    """GPUs that serve a model of one's own: by the load, at least those that always run."""
    per_request = gpu_seconds(v, v["loop_prompt_tokens"], v["loop_answer_tokens"])
    return max(v["standby_gpus"], users * requests / SECONDS_PER_DAY * per_request / v["utilisation"])


def _online_gpu(v: Values, users: float, requests: float) -> float:
    return loop_gpus(v, users, requests) * v["gpu_hour"] * 24 * v["days"]


LOOPS: dict[str, Callable[[Values, float, float], float]] = {
    "API, list price": _online_api,
    "own GPU": _online_gpu,
}
"""Route -> USD per month of a language model that reranks the student's candidates at every request."""


def profiles_per_month(v: Values) -> float:
    """Profiles written per user and month: of newcomers, anew, and the share of the first ones."""
    share = v["new_users"] + v["refreshed"] * v["days"] / v["profile_age"] + 1 / v["written_off"]
    return v["profiles"] * share


def set_up(v: Values, users: float, writer: str) -> float:
    """USD of the first profile of everybody: written and encoded."""
    return users * v["profiles"] * (WRITERS[writer](v) + _encoding(v))


def _encoding(v: Values) -> float:
    """USD of one vector."""
    return v["cpu_hour"] / _HOUR / v["encoder_rate"]


def training(v: Values, users: float, *, distilled: bool) -> float:
    """USD per month for training on the cheaper of processor threads and GPUs."""
    price = min(v["cpu_hour"] / v["train_rate"], v["gpu_hour"] / v["gpu_train_rate"]) / _HOUR
    work = v["trainings"] * v["epochs"] * users * v["interactions"] * v["catalogue_factor"]
    slower = 1 + v["distil_share"] * (v["distil_factor"] - 1) if distilled else 1.0
    return work * price * slower


def serving(v: Values, users: float, requests: float) -> float:
    """USD per month for the student's lists, with a language model behind it or not."""
    busy = users * requests / SECONDS_PER_DAY * v["student_seconds"] * v["catalogue_factor"]
    threads = max(v["standby_cpus"], busy / v["utilisation"])
    return threads * v["cpu_hour"] * 24 * v["days"]


def distilled(v: Values, users: float, requests: float, writer: str) -> Bill:
    """A student taught by profiles; serving it needs neither profile nor language model."""
    written = users * profiles_per_month(v)
    stored = users * v["profiles"] * v["copies"] * (v["text_bytes"] + v["vector_bytes"])
    return Bill(
        writing=written * WRITERS[writer](v),
        encoding=written * _encoding(v),
        storage=stored / _GIGABYTE * v["storage"],
        training=training(v, users, distilled=True),
        serving=serving(v, users, requests),
    )


def plain(v: Values, users: float, requests: float) -> Bill:
    """The same student without a teacher."""
    return Bill(training=training(v, users, distilled=False), serving=serving(v, users, requests))


def in_the_loop(v: Values, users: float, requests: float, loop: str) -> Bill:
    """A plain student finds candidates, a language model reranks them at every request."""
    base = plain(v, users, requests)
    return Bill(training=base.training, serving=base.serving, llm_serving=LOOPS[loop](v, users, requests))


def in_advance(v: Values, users: float, requests: float) -> Bill:
    """A language model makes everybody's list by the batch route; requests are served from what it made."""
    base = plain(v, users, requests)
    call = v["batch_factor"] * api_price(v, v["loop_prompt_tokens"], v["loop_answer_tokens"])
    lists = users * v["days"] / v["lists_age"]
    return Bill(training=base.training, serving=base.serving, llm_serving=lists * call)


def systems() -> dict[str, Callable[[Values, float, float], Bill]]:
    """Every system by name, the plain student first."""
    found: dict[str, Callable[[Values, float, float], Bill]] = {"plain student": plain}
    for writer in WRITERS:
        found[f"distilled ({writer})"] = lambda v, n, r, w=writer: distilled(v, n, r, w)  # type: ignore[misc]
    for loop in LOOPS:
        found[f"LLM per request ({loop})"] = lambda v, n, r, k=loop: in_the_loop(v, n, r, k)  # type: ignore[misc]
    found["LLM lists in advance (batch)"] = in_advance
    return found


def teacher_cost(v: Values, users: float, writer: str) -> float:
    """USD per month that distillation adds to the plain student; does not depend on requests."""
    return distilled(v, users, 0.0, writer).total - plain(v, users, 0.0).total


def break_even(v: Values, users: float, writer: str, loop: str) -> float:
    """Requests per user and day above which the distilled student is cheaper than the model in the loop.

    Both serve a student at every request, so what is compared is `teacher_cost` with the loop's own
    cost, which is max(floor, slope x requests): the machines that always run, else the load.

    Returns
    -------
    float
        0 where the loop is dearer at any load, infinite where it costs nothing.
    """
    extra = teacher_cost(v, users, writer)
    idle = LOOPS[loop](v, users, 0.0)
    if extra <= idle:
        return 0.0
    # Far above any floor, the cost is proportional to the load.
    far = 1e9
    slope = LOOPS[loop](v, users, far) / far
    return extra / slope if slope > 0 else math.inf

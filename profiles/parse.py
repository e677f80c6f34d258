"""From a model's answer to a profile text; whatever the answer says, the format stays ours."""

from __future__ import annotations

import re

from profiles.items import clean

MAX_TEXT = 6000
_REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am) (?:sorry|unable)|sorry\b|i (?:can(?:'|no)?t|cannot|won't)\b"
    r"|as an ai\b|unfortunately, i can)",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^\s*(?:#+\s*|\*{2,}|[-*•]\s+|\d+[.)]\s+)", re.MULTILINE)
_LABEL = re.compile(
    r"^\s*(?:user |viewer |shopper |player )?(?:profile|summary|answer)\s*:\s*", re.IGNORECASE
)
# Models that think aloud; a template that has begun the thought itself leaves only its end in the answer.
_THOUGHT = re.compile(r"<think>.*?</think>", re.IGNORECASE | re.DOTALL)
_THOUGHT_END = re.compile(r"^.*</think>", re.IGNORECASE | re.DOTALL)
_THOUGHT_BEGIN = re.compile(r"<think>", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]?\s+(?=[A-Z0-9\"'(])")


class UnusableAnswerError(ValueError):
    """The model gave nothing that can serve as a profile; the reason is the message."""


def parse_answer(opening: str, answer: str, *, sentences: int | None, cut_off: bool) -> str:
    """Return the profile text of one answer.

    Parameters
    ----------
    opening : str
        First words, given to the model; part of the profile.
    answer : str
        What the model wrote.
    sentences : int or None
        Keep at most so many.
    cut_off : bool
        The answer ended at the token limit: an unfinished last sentence is dropped.

    Raises
    ------
    UnusableAnswerError
        Empty, a refusal, or a thought that did not come to an end.
    """
    answer = _spoken(answer.replace("\r", ""))
    if not re.sub(r"[\W_]+", "", answer):
        raise UnusableAnswerError("empty answer")
    if not opening and _REFUSAL.match(answer.replace("\u2019", "'")):
        raise UnusableAnswerError("refusal")
    plain = _LABEL.sub("", _HEADING.sub("", answer).replace("**", ""))
    joint = "" if not opening or plain[:1] in ",.;:!?'" else " "
    text = clean(opening + joint + plain.strip(), MAX_TEXT)
    parts = [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
    if cut_off and len(parts) > 1 and parts[-1][-1] not in ".!?\"')":
        parts.pop()
    return " ".join(parts[:sentences])


def _spoken(answer: str) -> str:
    """The answer without what a model thought before it."""
    answer = _THOUGHT_END.sub("", _THOUGHT.sub("", answer))
    if _THOUGHT_BEGIN.search(answer):
        raise UnusableAnswerError(
            "thinking without an end; switch it off (api.extra_body) or raise decoding.max_new_tokens"
        )
    return answer

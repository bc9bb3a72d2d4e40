"""What a judge is asked and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Verdict:
    """Two scores of a set of samples, or why there are none."""

    concept: float | None = None
    """How clearly the samples share one concept, 0 to 1."""
    fluency: float | None = None
    """How grammatical and fluent they are, 0 to 1."""
    failure: str | None = None
    """Why there are no scores."""
    answer: str | None = None
    """What the judge said, where it could not be read."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; scores alone where there are scores."""
        scores = {"concept": self.concept, "fluency": self.fluency}
        if self.failure is None:
            return scores
        return {**scores, "failure": self.failure, "answer": self.answer}


@dataclass
class Usage:
    """What a judge was asked and what that cost."""

    verdicts: int = 0
    """Sets of samples judged, those without scores among them."""
    failed: int = 0
    """Sets without scores."""
    calls: int = 0
    """Questions that the verdicts took, whether asked now or before."""
    prompt_tokens: int = 0
    """Tokens of those questions."""
    completion_tokens: int = 0
    """Tokens of the answers."""
    cached: int = 0
    """Verdicts taken from the cache, for which nothing was asked."""
    spent: tuple[int, int] = (0, 0)
    """Tokens of questions and of answers that were not in the cache."""
    price: tuple[float, float] | None = field(default=None)
    """Cost of a million tokens of question and of answer."""

    def cost(self, tokens: tuple[int, int]) -> float | None:
        """What so many tokens of question and of answer cost; None without a price."""
        if self.price is None:
            return None
        return (tokens[0] * self.price[0] + tokens[1] * self.price[1]) / 1e6

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; the same whether answers came from the cache or not."""
        return {
            "verdicts": self.verdicts,
            "failed": self.failed,
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": self.cost((self.prompt_tokens, self.completion_tokens)),
        }


class JudgeStopped(Exception):  # noqa: N818 - it reports, and the study goes on without the judge
    """A judge cannot go on; `verdicts` are those of the sets asked for, as far as it came."""

    def __init__(self, reason: str, verdicts: Sequence[Verdict]) -> None:
        super().__init__(reason)
        self.verdicts = list(verdicts)


@runtime_checkable
class Judge(Protocol):
    """Anything that scores sets of samples."""

    name: str
    """What it is called in results."""
    usage: Usage
    """What it was asked so far."""

    def score(self, sets: Sequence[Sequence[str]]) -> list[Verdict]:
        """A verdict for each set of samples.

        Raises:
            JudgeStopped: it cannot be asked any further.
        """
        ...

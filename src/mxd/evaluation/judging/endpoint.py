"""A judge behind any endpoint that speaks OpenAI's chat protocol."""

import importlib
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mxd.errors import UserError
from mxd.evaluation.judging.cache import Answered, VerdictCache, key_of
from mxd.evaluation.judging.prompt import REMINDER, messages_for, parse_answer
from mxd.evaluation.judging.verdict import JudgeStopped, Usage, Verdict

OPENAI_URL = "https://api.openai.com/v1"
_MOST_IN_A_ROW = 3
"""Sets that a server may refuse one after the other before it counts as broken."""
_KEPT_OF_AN_ANSWER = 500
_WRONG_PROTOCOL = (ValueError, TypeError, AttributeError)
"""What the client makes of pages and JSON that are not of the protocol."""


class _Reply(NamedTuple):
    verdict: Verdict
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: bool = False
    fatal: bool = False


class EndpointJudge:
    """Asks a language model for two numbers for each set of samples, at temperature 0.

    An answer in the wrong form is asked for once more with a reminder, then counted as failed and
    kept as it was. Rate limits, server errors and lost connections are tried again with growing
    pauses. The key is read from the environment and goes nowhere else.

    Args:
        url: base address, such as https://api.openai.com/v1.
        model: model's name there.
        key_env: environment variable that holds the key; an endpoint on this machine needs none.
        price: cost of a million tokens of question and of answer, in whatever currency.
        cache: answers from before.
        name: what it is called in results; the model's name by default.
        retries: further tries after a rate limit, a server error or a lost connection.
        timeout: seconds to wait for an answer.
        at_once: questions in flight at the same time.

    Raises:
        UserError: no `openai` package, no key, or an address that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_env: str = "OPENAI_API_KEY",
        price: tuple[float, float] | None = None,
        cache: VerdictCache | None = None,
        name: str | None = None,
        retries: int = 5,
        timeout: int | float = 60.0,
        at_once: int = 4,
    ) -> None:
        self.name, self.url, self.model = name or model, url, model
        self.usage = Usage(price=price)
        self._openai = _client_library()
        self._cache = VerdictCache() if cache is None else cache
        self._at_once = at_once
        self._options: dict[str, Any] = {
            "base_url": url,
            "api_key": _key(url, key_env),
            "max_retries": retries,
            "timeout": timeout,
        }
        self._stop = threading.Event()
        self._counted: set[str] = set()
        self._misread: dict[str, Verdict] = {}  # not asked about again while this judge lives

    def check(self) -> None:
        """Make sure, before long work, that somebody answers there; asks nothing that costs.

        Raises:
            UserError: nobody does, or the key is refused.
        """
        with self._openai.OpenAI(**{**self._options, "max_retries": 0}) as client:
            try:
                client.models.list()
            except self._openai.APIConnectionError as error:
                raise UserError(self._unreachable(error)) from None
            except (self._openai.AuthenticationError, self._openai.PermissionDeniedError) as error:
                raise UserError(self._refused(error)) from None
            except (self._openai.OpenAIError, *_WRONG_PROTOCOL):
                return  # it answers; not every endpoint lists its models

    def score(self, sets: Sequence[Sequence[str]]) -> list[Verdict]:
        """A verdict for each set of samples; answers are kept as they come.

        Raises:
            JudgeStopped: nobody answers, the key or the model is refused, or the server fails
                again and again.
        """
        asked = [messages_for(samples) for samples in sets]
        keys = [key_of(self.url, self.model, messages) for messages in asked]
        once = dict(zip(keys, asked, strict=True))  # a set that occurs twice is asked about once
        found: dict[str, Verdict] = {}
        in_a_row, reason = 0, None
        for key, reply in zip(once, self._replies(once), strict=True):
            found[key] = self._kept(key, reply)
            in_a_row = in_a_row + 1 if reply.refused else 0
            if reason is None and (reply.fatal or in_a_row >= _MOST_IN_A_ROW):
                reason = reply.verdict.failure
                self._stop.set()
        verdicts = [found[key] for key in keys]
        self.usage.verdicts += len(verdicts)
        self.usage.failed += sum(verdict.failure is not None for verdict in verdicts)
        if reason is not None:
            raise JudgeStopped(reason, verdicts)
        return verdicts

    def _replies(self, asked: Mapping[str, list[dict[str, str]]]) -> Iterator[_Reply]:
        """In the order of the questions, a few of them in flight."""
        self._stop.clear()
        with (
            self._openai.OpenAI(**self._options) as client,
            ThreadPoolExecutor(self._at_once) as pool,
        ):
            try:
                yield from pool.map(lambda one: self._reply(client, *one), asked.items())
            finally:  # on Ctrl-C the questions not yet asked are not asked
                self._stop.set()

    def _reply(self, client: Any, key: str, messages: list[dict[str, str]]) -> _Reply:
        known = self._cache.get(key)
        if known is not None:
            return _Reply(Verdict(known.concept, known.fluency), *known[2:])
        if key in self._misread:
            return _Reply(self._misread[key])
        if self._stop.is_set():
            return _Reply(Verdict(failure="not asked: the judge had stopped"))
        try:
            return self._ask(client, messages)
        except self._openai.APIConnectionError as error:
            self._stop.set()
            return _Reply(Verdict(failure=self._unreachable(error)), refused=True, fatal=True)
        except self._openai.APIStatusError as error:
            fatal = error.status_code in (401, 403, 404)
            if fatal:
                self._stop.set()
            return _Reply(Verdict(failure=self._refused(error)), refused=True, fatal=fatal)
        except (self._openai.OpenAIError, ValueError) as error:  # as of JSON that is none
            failure = f"the judge {self.name} at {self.url} answered with {self._line(error)}"
            return _Reply(Verdict(failure=failure), refused=True)

    def _ask(self, client: Any, messages: list[dict[str, str]]) -> _Reply:
        prompt_tokens = completion_tokens = 0
        said = ""
        for attempt in (1, 2):
            answer = self._complete(client, messages)
            said = _content(answer)
            usage = getattr(answer, "usage", None)
            prompt_tokens += _count(usage, "prompt_tokens")
            completion_tokens += _count(usage, "completion_tokens")
            scores = parse_answer(said)
            if scores is not None:
                return _Reply(Verdict(*scores), attempt, prompt_tokens, completion_tokens)
            messages = [
                *messages,
                {"role": "assistant", "content": said},
                {"role": "user", "content": REMINDER},
            ]
        failed = Verdict(
            failure="an answer that is not two numbers in [0, 1]", answer=said[:_KEPT_OF_AN_ANSWER]
        )
        return _Reply(failed, 2, prompt_tokens, completion_tokens)

    def _complete(self, client: Any, messages: list[dict[str, str]]) -> Any:
        try:
            return client.chat.completions.create(
                model=self.model, messages=messages, temperature=0
            )
        except self._openai.BadRequestError as error:
            if "temperature" not in str(error):  # some reasoning models take only their own
                raise
        return client.chat.completions.create(model=self.model, messages=messages)

    def _kept(self, key: str, reply: _Reply) -> Verdict:
        verdict, usage = reply.verdict, self.usage
        tokens = (reply.prompt_tokens, reply.completion_tokens)
        if key not in self._counted:
            self._counted.add(key)
            usage.calls += reply.calls
            usage.prompt_tokens += tokens[0]
            usage.completion_tokens += tokens[1]
        if self._cache.get(key) is not None:
            usage.cached += 1
            return verdict
        usage.spent = (usage.spent[0] + tokens[0], usage.spent[1] + tokens[1])
        if verdict.concept is not None and verdict.fluency is not None:
            answered = Answered(verdict.concept, verdict.fluency, reply.calls, *tokens)
            self._cache.put(key, answered, judge=self.name)
        elif verdict.answer is not None:
            self._misread[key] = verdict
        return verdict

    def _unreachable(self, error: Exception) -> str:
        return (
            f"the judge {self.name} at {self.url} cannot be reached ({self._line(error)}); start "
            "it, or mend --judge-url"
        )

    def _refused(self, error: Any) -> str:
        return (
            f"the judge {self.name} at {self.url} refused with {error.status_code} "
            f"({self._line(error)}); mend --judge-model or the key, or try again later"
        )

    def _line(self, error: Exception) -> str:
        """An error in one line that a terminal can show, without the key that it may quote."""
        cause = error.__cause__
        said = f"{error}{'' if cause is None else f' {cause}'}"
        said = said.replace(self._options["api_key"], "…")
        shown = "".join(c if c.isprintable() else " " for c in said)
        return " ".join(shown.split())[:300]


def _client_library() -> Any:
    try:
        return importlib.import_module("openai")
    except ImportError:
        raise UserError(
            "a judge behind an endpoint needs the openai client; install it with "
            "`pip install mixture-of-decoders[judges]`, or use the offline judge"
        ) from None


def _key(url: str, variable: str) -> str:
    host = _host(url)
    if host is None:
        raise UserError(
            f"got the judge's address {url!r}, expected one such as {OPENAI_URL}; mend --judge-url"
        )
    key = os.environ.get(variable)
    if key:
        if not re.fullmatch(r"[!-~]+", key):
            raise UserError(
                f"got a key in {variable} that holds spaces, line ends or characters beyond ASCII, "
                "expected none of these; set it anew"
            )
        return key
    if host in ("localhost", "127.0.0.1", "::1"):
        return "none"
    raise UserError(
        f"got no key for the judge at {url}: the environment variable {variable} is not set; set "
        "it, or name another with --judge-key-env"
    )


def _host(url: str) -> str | None:
    """The host of an address that can be asked."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # brackets that do not close, a port that is none
        return None
    usable = url.isprintable() and port != 0
    return parts.hostname if usable and parts.scheme in ("http", "https") else None


def _content(answer: Any) -> str:
    try:
        return str(answer.choices[0].message.content or "")
    except (AttributeError, IndexError, TypeError):  # whatever an endpoint makes of the protocol
        return ""


def _count(usage: Any, name: str) -> int:
    found = getattr(usage, name, None)
    return found if isinstance(found, int) else 0

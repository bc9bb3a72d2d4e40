"""Judges as a command line names them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from mxd.cli._types import NAMES, RATES
from mxd.data import Contexts
from mxd.errors import UserError
from mxd.evaluation.judging import EndpointJudge, OfflineJudge, VerdictCache, reference_texts
from mxd.evaluation.judging.endpoint import OPENAI_URL
from mxd.evaluation.steering import Sampling, unsteered_texts
from mxd.evaluation.steering.results import MEAN

T = TypeVar("T")

JUDGE_OPTIONS: list[Any] = [
    click.option(
        "--judge", type=click.Choice(["offline", "none"]), default="offline", show_default=True,
        help="Judge without a network, beside those of --judge-model.",
    ),
    click.option(
        "--judge-model", type=NAMES, multiple=True,
        help="Model that judges, at an OpenAI-compatible endpoint; several are all asked.  "
        "[default: none]",
    ),
    click.option(
        "--judge-url", type=NAMES, multiple=True,
        help=f"Address of the endpoint, one for all judges or one for each.  "
        f"[default: {OPENAI_URL}]",
    ),
    click.option(
        "--judge-key-env", type=NAMES, multiple=True,
        help="Environment variable that holds the key, one for all or one for each; a judge on "
        "this machine needs none.  [default: OPENAI_API_KEY]",
    ),
    click.option(
        "--judge-price", type=RATES, multiple=True,
        help="IN,OUT: cost of a million tokens of question and answer, once for all judges or "
        "once for each.  [default: no cost shown]",
    ),
    click.option(
        "--judge-retries", type=click.IntRange(min=0), default=5, show_default=True,
        help="Further tries after a rate limit, a server error or a lost connection.",
    ),
    click.option(
        "--judge-timeout", type=click.FloatRange(min=0, min_open=True), default=60.0,
        show_default=True, help="Seconds to wait for an answer.",
    ),
    click.option(
        "--cache", type=click.Path(path_type=Path),
        help="File of answers, so that nothing is asked twice.  "
        "[default: RUN/eval/judge-cache.jsonl]",
    ),
]  # fmt: skip


def endpoint_judges(run: Path, flags: dict[str, Any]) -> list[EndpointJudge]:
    """The judges behind endpoints, each of which answers or has answered before.

    Raises:
        UserError: flags that do not fit together, no key, or a judge that cannot be reached.
    """
    models = _flat(flags["judge_model"])
    given = {name: flags[f"judge_{name}"] for name in ("url", "key_env", "price")}
    if not models:
        for name, value in given.items():
            if value:
                flag = f"--judge-{name.replace('_', '-')}"
                raise UserError(f"got {flag} without --judge-model; say which model judges")
        return []
    urls = _for_each("--judge-url", _flat(given["url"]) or [OPENAI_URL], models)
    keys = _for_each("--judge-key-env", _flat(given["key_env"]) or ["OPENAI_API_KEY"], models)
    costs: list[tuple[float, float] | None] = [_price(of) for of in given["price"]] or [None]
    prices = _for_each("--judge-price", costs, models)
    cache = VerdictCache(flags["cache"] or run / "eval" / "judge-cache.jsonl")
    judges = [
        EndpointJudge(
            url,
            model,
            key_env=key,
            price=price,
            cache=cache,
            name=_name(model, url, models),
            retries=flags["judge_retries"],
            timeout=flags["judge_timeout"],
        )
        for model, url, key, price in zip(models, urls, keys, prices, strict=True)
    ]
    for judge in judges:
        if not len(cache):  # with answers from before, what is there can be used without it
            judge.check()
    return judges


def offline_judge(
    model: Any, tokenizer: Any, contexts: Iterable[Contexts], prompt: str, sampling: Sampling
) -> OfflineJudge:
    """The judge without a network, its reference taken from held-out text."""
    return OfflineJudge(
        model,
        tokenizer,
        reference_texts(contexts, tokenizer, length=sampling.max_new_tokens),
        background=unsteered_texts(model, tokenizer, prompt, sampling),
        prompt=prompt,
    )


def _flat(groups: Sequence[Sequence[T]]) -> list[T]:
    return [one for group in groups for one in group]


def _for_each(flag: str, given: list[T], models: Sequence[str]) -> list[T]:
    if len(given) == 1:
        return given * len(models)
    if len(given) != len(models):
        raise UserError(
            f"got {len(given)} times {flag} for {len(models)} judges ({', '.join(models)}), "
            "expected one for all or one for each"
        )
    return given


def _price(numbers: Sequence[float]) -> tuple[float, float]:
    if len(numbers) not in (1, 2) or any(not 0 <= number < float("inf") for number in numbers):
        raise UserError(
            f"got --judge-price {','.join(map(str, numbers))}, expected IN,OUT, two costs of a "
            "million tokens"
        )
    return numbers[0], numbers[-1]


def _name(model: str, url: str, models: Sequence[str]) -> str:
    taken = models.count(model) > 1 or model in ("offline", MEAN)
    return f"{model} at {url}" if taken else model

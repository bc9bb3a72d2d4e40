"""Means and their standard errors, with documents as the clusters."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mxd.evaluation import DocumentSums, paired_difference


def sums(values: list[float], documents: list[int], batch: int = 2) -> DocumentSums:
    result = DocumentSums()
    for start in range(0, len(values), batch):
        part = slice(start, start + batch)
        result.add(torch.tensor(values[part], dtype=torch.float64), torch.tensor(documents[part]))
    return result


def test_estimate_of_equal_documents_is_the_error_of_their_means() -> None:
    estimate = sums([1.0, 3.0, 4.0, 6.0, 0.0, 10.0], [0, 0, 1, 1, 2, 2]).estimate()
    means = torch.tensor([2.0, 5.0, 5.0], dtype=torch.float64)
    assert estimate.mean == pytest.approx(4.0)
    assert estimate.standard_error == pytest.approx((means.std() / math.sqrt(3)).item())
    assert estimate.interval == pytest.approx(
        (4 - 1.96 * estimate.standard_error, 4 + 1.96 * estimate.standard_error)
    )


def test_copies_of_a_token_do_not_make_an_estimate_surer() -> None:
    once = sums([1.0, 2.0, 4.0], [0, 1, 2]).estimate()
    often = sums([1.0, 2.0, 4.0] * 50, [0, 1, 2] * 50).estimate()
    assert often == pytest.approx(once)


@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(0, 4)), min_size=1, max_size=30))
def test_sums_do_not_depend_on_batches_or_order(tokens: list[tuple[float, int]]) -> None:
    values, documents = [v for v, _ in tokens], [d for _, d in tokens]
    one = sums(values, documents, batch=100)
    other = sums(values[::-1], documents[::-1], batch=3)
    assert other.mean == pytest.approx(one.mean, abs=1e-9)
    assert one.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert other.estimate() == pytest.approx(one.estimate(), abs=1e-9, nan_ok=True)
    assert one.tokens == len(tokens)


def test_sums_of_nothing_have_no_mean() -> None:
    empty = DocumentSums()
    empty.add(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert empty.tokens == 0
    assert math.isnan(empty.mean)
    assert all(math.isnan(value) for value in empty.estimate())


def test_paired_difference_takes_out_what_documents_share() -> None:
    hard, documents = [0.0, 100.0, 0.0, 100.0], [0, 1, 2, 3]
    ours = sums([v + d for v, d in zip(hard, [1.0, 1.1, 0.9, 1.0], strict=True)], documents)
    theirs = sums(hard, documents)
    difference = paired_difference([ours], [theirs])
    assert difference.mean == pytest.approx(1.0)
    assert difference.standard_error < 0.1 < ours.estimate().standard_error


def test_paired_difference_averages_over_seeds() -> None:
    documents = [0, 0, 1]
    seeds = [sums([1.0, 2.0, 3.0], documents), sums([3.0, 4.0, 5.0], documents)]
    assert paired_difference(seeds, [sums([0.0, 0.0, 0.0], documents)]).mean == pytest.approx(3.0)

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mxd.planning.ledger import Ledger, Unmasked, on_meta


def test_peak_counts_what_lives_at_one_time():
    x = on_meta(10)
    with Ledger([x]) as ledger:
        first = x + 1  # 40 bytes
        second = first * 2  # 80
        del first  # 40
        third = second.reshape(2, 5)  # a view: still 40
        fourth = third.double()  # 120
        del second, third, fourth
    assert ledger.peak() == 120


def test_known_tensors_and_views_of_them_count_nothing():
    x = on_meta(4, 4)
    with Ledger([x]) as ledger:
        kept = x.T.contiguous()[1:]  # a copy, and a view of it
        again = x[1:]
    assert ledger.peak() == 64
    assert (kept.shape, again.shape) == ((3, 4), (3, 4))


def test_in_place_work_needs_nothing():
    x = on_meta(100)
    with Ledger([x]) as ledger:
        x.add_(1).relu_()
    assert ledger.peak() == 0


def test_gradients_can_be_left_aside():
    layer = nn.Linear(30, 50, bias=False, device="meta")
    x = on_meta(7, 30)
    with Ledger([x, layer.weight]) as ledger:
        layer(x).sum().backward()
    assert ledger.peak() >= 30 * 50 * 4
    assert 7 * 50 * 4 <= ledger.peak(without=[layer.weight.grad]) < 30 * 50 * 4


def test_doubts_of_masks_are_answered():
    with Unmasked():
        assert (on_meta(3) == 0).all()
        with pytest.raises(RuntimeError):
            bool(on_meta(1))


def test_matrix_products_are_counted():
    with Ledger() as ledger:
        on_meta(3, 5) @ on_meta(5, 7)
        F.linear(on_meta(2, 5), on_meta(11, 5), on_meta(11))
    assert ledger.flops == 2 * 3 * 5 * 7 + 2 * 2 * 5 * 11


@pytest.mark.parametrize("by_name", [False, True])
def test_attention_keeps_no_scores(by_name):
    query, key, value = on_meta(2, 4, 9, 3), on_meta(2, 4, 11, 3), on_meta(2, 4, 11, 6)
    attention = Unmasked()
    with attention, Ledger([query, key, value]) as ledger:
        if by_name:
            out = F.scaled_dot_product_attention(query=query, key=key, value=value)
        else:
            out = F.scaled_dot_product_attention(query, key, value)
    assert out.shape == (2, 4, 9, 6)
    assert ledger.peak() == out.numel() * 4
    assert attention.flops == 2 * (2 * 4 * 9 * 11) * (3 + 6)


def test_the_same_is_counted_with_numbers():
    """Meta tensors stand for real ones: a real computation gives the same ledger."""
    counts = []
    for place in ("meta", "cpu"):
        layer = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)).to(place)
        x = torch.ones(5, 6, device=place)
        with Ledger([x, *layer.parameters()]) as ledger:
            layer(x).square().mean().backward()
        counts.append((ledger.flops, ledger.peak()))
    assert counts[0] == counts[1]


def test_products_without_a_formula_are_remembered():
    rows, table = on_meta(3, 5).to(torch.int8), on_meta(5, 7).to(torch.int8)
    with Ledger() as ledger:
        torch._int_mm(rows.expand(32, 3, 5).reshape(96, 5).repeat(1, 8), table.repeat(8, 8))
    assert ledger.uncounted == {"_int_mm"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_of_experts_are_counted(dtype):
    rows, weights = on_meta(6, 16, dtype=dtype), on_meta(4, 16, 24, dtype=dtype)
    experts = Unmasked()
    with experts, Ledger([rows, weights]) as ledger:
        out = torch._grouped_mm(rows, weights, offs=on_meta(4, dtype=torch.int32))
    assert out.shape == (6, 24)
    assert ledger.flops + experts.flops == 2 * 6 * 16 * 24

"""Three layers alike in faithfulness and not in kind: the figures must tell them apart.

One expert that is always on, N nearly identical experts gated at random, and experts that each
stand for a kind of token. All three give what the MLP of a tiny model gives.
"""

import pytest
import torch
from tests.evaluation._parts import planted_mxd
from tests.helpers.tiny_models import VOCABULARY, tiny_model
from torch import nn

from mxd.data import Contexts
from mxd.evaluation import LayerFigures, evaluate
from mxd.host import capture, find_mlps
from mxd.layers import MxD, take_statistics

N = 16


@pytest.fixture(scope="module")
def host() -> nn.Module:
    """A model whose site sees the current token alone: attention adds nothing."""
    model = tiny_model("gpt2")
    with torch.no_grad():
        for block in model.transformer.h[:1]:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
        model.transformer.wpe.weight.zero_()
    return model


def contexts() -> list[Contexts]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, VOCABULARY, (40, 16), generator=generator)
    return [Contexts(tokens, torch.arange(40, dtype=torch.int32)[:, None].expand(40, 16))]


def inputs_of_tokens(host: nn.Module, site: str) -> torch.Tensor:
    """x of each token of the vocabulary, (64, 32)."""
    ids = torch.arange(VOCABULARY)[:, None]
    return capture(host, [site], ids)[site][0][:, 0]


def always_on(host: nn.Module, dense: MxD, site: str) -> MxD:
    """One expert carries everything; the others never fire."""
    gate, bias = torch.zeros(N, 32), torch.full((N,), -1.0)
    bias[0] = 1.0
    return planted_mxd(gate, bias, torch.ones(N, 32), dense, k=1)


def identical(host: nn.Module, dense: MxD, site: str) -> MxD:
    """Each token draws one of N experts that are almost the same."""
    generator = torch.Generator().manual_seed(1)
    gate = 1e-3 * torch.randn(N, 32, generator=generator)
    modulators = 1 + 1e-3 * torch.randn(N, 32, generator=generator)
    x = inputs_of_tokens(host, site)
    drift = (x @ gate.T).mean(0)  # so that no expert is ahead on the whole
    return planted_mxd(gate, 1 - drift, modulators, dense, k=1)


def selective(host: nn.Module, dense: MxD, site: str) -> MxD:
    """Expert n fires on the tokens n, n + N, ... alone, with the modulation that these need."""
    x = inputs_of_tokens(host, site)
    classes = torch.arange(VOCABULARY) % N
    hidden = torch.relu(x @ torch.randn(32, 512) + torch.randn(512))
    onehot = nn.functional.one_hot(classes, N).double()
    del hidden
    # 64 tokens in 32 dimensions: half of them can be told apart by a linear gate without error.
    kept = torch.arange(1, 33)
    augmented = torch.cat([x[kept].double(), torch.ones(32, 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(augmented, 2 * onehot[kept] - 1, driver="gelsd").solution
    signs = torch.where(
        torch.rand(N, 32, generator=torch.Generator().manual_seed(2)) < 0.5, -1.0, 1.0
    )
    return planted_mxd(solution[:-1].T.float(), solution[-1].float(), signs, dense, k=1)

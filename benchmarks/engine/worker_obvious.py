"""The obvious implementation: what anyone would write first, N-wide from end to end."""

import torch
from benchmarks.engine.protocol import Case, Prepared, optimizer_tensors, serve
from torch import Tensor, nn
from torch.nn import functional as F


class ObviousTranscoder(nn.Module):
    """ŷ = W_decᵀ a + b with a as wide as N."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.k = case.k
        self.encoder = nn.Linear(case.d_in, case.n)
        self.decoder = nn.Parameter(torch.empty(case.n, case.d_out))
        nn.init.kaiming_uniform_(self.decoder, a=5**0.5)
        self.bias = nn.Parameter(torch.zeros(case.d_out))

    def coefficients(self, x: Tensor) -> Tensor:
        """TopK(ReLU(W x + b)), (tokens, N)."""
        pre = torch.relu(self.encoder(x))
        values, indices = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, indices, values)

    def forward(self, x: Tensor) -> Tensor:
        """ŷ, (tokens, d_out)."""
        return self.coefficients(x) @ self.decoder + self.bias


class ObviousMxD(ObviousTranscoder):
    """ŷ = (Cᵀa) ⊙ (Dᵀz) + b with a as wide as N; `encoder` is the gate and `decoder` is C."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.up = nn.Linear(case.d_in, case.d_hidden)
        self.down = nn.Linear(case.d_hidden, case.d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """ŷ, (tokens, d_out)."""
        dense = self.down(F.gelu(self.up(x)))
        return (self.coefficients(x) @ self.decoder) * dense + self.bias


def prepare(case: Case) -> Prepared:
    """The layer of a case with `torch.optim.AdamW` as it comes."""
    torch.manual_seed(case.seed)
    kind = ObviousMxD if case.architecture == "mxd" else ObviousTranscoder
    layer = kind(case).to(case.device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-4)
    x, y = case.data()
    spread = (y - y.mean(0)).square().sum()

    def step() -> None:
        with case.autocast():
            prediction = layer(x)
        loss = (y - prediction.float()).square().sum() / spread
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Prepared(
        step=step,
        parameters=list(layer.parameters()),
        state=lambda: optimizer_tensors(optimizer),
        comprises="linear, relu, topk, scatter into N, product with all N rows; normalised squared "
        "error; backward by autograd; torch.optim.AdamW as it comes; zero_grad"
        + ("; forward under torch.autocast(bf16)" if case.dtype == "bf16" else ""),
    )


if __name__ == "__main__":
    serve(prepare, ())

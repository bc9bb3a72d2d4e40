"""sparsify (EleutherAI): a TopK transcoder, trained as its `Trainer.fit` does."""

import torch
from benchmarks.engine.protocol import Case, Prepared, optimizer_tensors, serve


def prepare(case: Case) -> Prepared:
    """Its `SparseCoder` with `transcode=True` and the Adam that its trainer offers."""
    if case.architecture != "transcoder" or case.d_in != case.d_out:
        raise ValueError("sparsify trains transcoders with d_in = d_out")
    from sparsify import SparseCoder, SparseCoderConfig

    torch.set_float32_matmul_precision("high")  # as its trainer has it: TF32 on GPUs
    torch.manual_seed(case.seed)
    config = SparseCoderConfig(num_latents=case.n, k=case.k, transcode=True)
    coder = SparseCoder(case.d_in, config, case.device, dtype=torch.float32)
    x, y = case.data()
    with torch.no_grad():  # its first step starts the biases like this
        coder.encoder.bias.copy_(-x.mean(0) @ coder.encoder.weight.T)
        coder.b_dec.copy_(y.mean(0))
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-4)
    fired = torch.zeros(case.n, dtype=torch.bool, device=case.device)
    silent = torch.zeros(case.n, dtype=torch.long, device=case.device)

    def step() -> None:
        total_variance = (y - y.mean(0)).pow(2).sum()
        with case.autocast():
            out = coder(x=x, y=y, dead_mask=None, total_variance=total_variance)
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        out.fvu.backward()
        optimizer.step()
        optimizer.zero_grad()
        silent.add_(case.tokens)
        silent[fired] = 0
        fired.zero_()

    return Prepared(
        step=step,
        parameters=list(coder.parameters()),
        state=lambda: optimizer_tensors(optimizer),
        comprises="SparseCoder(transcode=True): fused encoder, embedding-bag decoder, FVU, "
        "backward, torch.optim.Adam (its trainer's optimizer='adam'; its default, signum, keeps "
        "one moment less), zero_grad, dead-latent counters; its trainer does not normalise a "
        "transcoder's decoder"
        + ("; forward under torch.autocast(bf16)" if case.dtype == "bf16" else ""),
    )


if __name__ == "__main__":
    serve(prepare, ("eai-sparsify",))

"""Notices of torch that say nothing to users of the kernels."""

import warnings

import torch


def without_sparse_notice() -> None:
    """Let torch say once, to nobody, that its CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 1))

"""SAELens: the nearest equivalent it trains, a TopK autoencoder, by its `SAETrainer.step`.

It trains no transcoder (its registry has them for inference alone), so this is an autoencoder of x
of the same shape: the same products with the same matrices.
"""

import os

from benchmarks.engine.protocol import Case, Prepared, optimizer_tensors, serve

SPARSE = os.environ.get("SAELENS_SPARSE_ACTIVATIONS", "1") == "1"
"""Its own option for float32 training; on this library's shapes the faster of the two."""


def prepare(case: Case) -> Prepared:
    """Its trainer with the options that make its step fastest."""
    if case.architecture != "transcoder" or case.d_in != case.d_out:
        raise ValueError("SAELens is compared as an autoencoder, with d_in = d_out")
    import torch
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(case.seed)
    sparse = SPARSE and case.dtype == "float32"  # its documentation advises against it in bf16
    config = TopKTrainingSAEConfig(
        d_in=case.d_in,
        d_sae=case.n,
        k=case.k,
        device=case.device,
        use_sparse_activations=sparse,
        rescale_acts_by_decoder_norm=False,
    )
    options = SAETrainerConfig(
        total_training_samples=case.tokens * 1_000_000,
        train_batch_size_samples=case.tokens,
        lr=1e-4,
        lr_end=1e-5,
        device=case.device,
        autocast=case.dtype == "bf16",
    )
    x, _ = case.data()
    trainer = SAETrainer(options, TopKTrainingSAE(config), iter(lambda: x, None))

    def step() -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return Prepared(
        step=step,
        parameters=list(trainer.sae.parameters()),
        state=lambda: optimizer_tensors(trainer.optimizer),
        comprises="SAETrainer.step of a TopKTrainingSAE, an autoencoder of x of the same shape: "
        f"encode, decode (use_sparse_activations={sparse}, rescale_acts_by_decoder_norm=False), "
        "squared error, firing statistics, backward, gradient clipped, torch.optim.Adam, "
        "zero_grad, schedule" + ("; autocast=True (bf16)" if case.dtype == "bf16" else ""),
    )


if __name__ == "__main__":
    serve(prepare, ("sae-lens",))

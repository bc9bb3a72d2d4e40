"""dictionary_learning (Marks, Karvonen, Mueller): its TopK autoencoder, by `TopKTrainer.update`."""

from itertools import count

from benchmarks.engine.protocol import Case, Prepared, optimizer_tensors, serve


def prepare(case: Case) -> Prepared:
    """Its TopK trainer; an autoencoder of x, as it trains no TopK transcoder."""
    if case.architecture != "transcoder" or case.d_in != case.d_out:
        raise ValueError("dictionary_learning is compared as an autoencoder, with d_in = d_out")
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=1_000_000,
        activation_dim=case.d_in,
        dict_size=case.n,
        k=case.k,
        layer=0,
        lm_name="none",
        lr=1e-4,
        auxk_alpha=0.0,
        seed=case.seed,
        device=case.device,
    )
    x, _ = case.data()
    numbers = count(1)  # its step 0 also computes a geometric median

    def step() -> None:
        with case.autocast():
            trainer.update(next(numbers), x)

    return Prepared(
        step=step,
        parameters=list(trainer.ae.parameters()),
        state=lambda: optimizer_tensors(trainer.optimizer),
        comprises="TopKTrainer.update on an autoencoder of x of the same shape: dense encode and "
        "decode, squared error (auxk_alpha=0), backward, parallel gradient removed, gradient "
        "clipped, torch.optim.Adam, zero_grad, schedule, decoder normalised"
        + ("; update under torch.autocast(bf16)" if case.dtype == "bf16" else ""),
    )


if __name__ == "__main__":
    serve(prepare, ("dictionary-learning",))

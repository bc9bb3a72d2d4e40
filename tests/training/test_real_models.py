"""A short run on the bundled models, from text to figures."""

import math
from itertools import islice

import pytest

from mxd.data import PYTHON_STDLIB, ContextOptions, Document, pack, python_stdlib_documents
from mxd.demo.models import bundled_model
from mxd.evaluation import evaluate
from mxd.host import load_model, load_tokenizer
from mxd.training import (
    BufferRecipe,
    LayerRecipe,
    OptimizerRecipe,
    Recipe,
    StudentSpec,
    TextRecipe,
    fit,
)

ARCHITECTURES = ("mxd", "transcoder", "skip_transcoder")
RECIPE = Recipe(
    text=TextRecipe(source=PYTHON_STDLIB, contexts=ContextOptions(length=64)),
    layers=(3,),
    students=tuple(StudentSpec(architecture=name, k=8) for name in ARCHITECTURES),
    tokens=60 * 512,
    layer=LayerRecipe(width=256),
    optimizer=OptimizerRecipe(batch_tokens=512, default_lr=3e-3, clip_norm=1.0, decay_share=0.2),
    buffer=BufferRecipe(contexts=64, harvest_contexts=16),
    precision="float32",
    log_every=10,
)


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_short_run_on_a_bundled_model_gives_ordered_figures(arch: str) -> None:
    path = bundled_model(arch)
    model, tokenizer = load_model(path), load_tokenizer(path)
    documents = [
        Document(document.key, (document.text or "")[:1500])
        for document in islice(python_stdlib_documents(), 120)
    ]
    run = fit(model, tokenizer, RECIPE, documents=documents[:100])
    contexts = pack(documents[100:], tokenizer, RECIPE.text.contexts)
    figures = evaluate(
        model, run.layers, contexts, tokens=4096, bos_token_id=tokenizer.bos_token_id
    )
    assert [layer.architecture for layer in figures.layers] == list(ARCHITECTURES)
    base, zero = figures.base_cross_entropy, figures.zero_ablation_cross_entropy
    for layer in figures.layers:
        assert layer.nmse < 0.85
        assert base < layer.cross_entropy < zero
        assert 0 < layer.loss_recovered < 1
        assert layer.kl > 0
        assert layer.l0 is not None
        assert 0 < layer.l0 <= 8
        assert all(math.isfinite(v) for v in vars(layer).values() if isinstance(v, float))

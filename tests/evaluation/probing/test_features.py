import numpy as np
import pytest
import torch
from tests.evaluation._parts import SITE, random_layer
from tests.evaluation.probing._parts import marked_texts, write_rows
from tests.helpers.tiny_models import tiny_model
from transformers import AutoTokenizer

from mxd import UserError
from mxd.demo.models import bundled_model
from mxd.evaluation.probing import load_task, probe
from mxd.evaluation.probing.features import collect
from mxd.evaluation.probing.tokens import last_tokens, tokenise_task
from mxd.host import capture, find_mlps

SITES = {"gpt2": SITE, "llama": "model.layers.1.mlp", "opt": None, "bloom": None}


@pytest.mark.parametrize("arch", list(SITES))
def test_pooled_values_are_those_of_each_text_alone(arch, tokenizer, tmp_path):
    model = tiny_model(arch).double()
    site = SITES[arch] or find_mlps(model)[1].name
    layers = {site: {a: random_layer(a).double() for a in ("mxd", "topk_autoencoder")}}
    task = load_task(write_rows(tmp_path / "t.jsonl", marked_texts(28)))
    rows = tokenise_task(task, tokenizer, 127)
    kept = np.arange(0, 60, 2)
    found = collect(model, layers, rows, dense_rows=kept, bos_token_id=0, batch_texts=7)[site]
    for row, example in enumerate(task.examples[:60]):
        ids = torch.tensor([[0, *tokenizer(example.text, add_special_tokens=False).input_ids]])
        x, y = (values[0, 1:] for values in capture(model, [site], ids)[site])
        for name, fed in (("mxd", x), ("topk_autoencoder", y)):
            expected = layers[site][name].encode(fed).dense().mean(0)
            np.testing.assert_allclose(
                found.units[name][row].toarray()[0], expected.detach().numpy(), atol=1e-5
            )
        if row % 2 == 0:
            np.testing.assert_allclose(found.x[row // 2], x.mean(0).numpy(), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.y[row // 2], y.mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_values_of_words_and_of_final_tokens_are_at_their_tokens(tokenizer, tmp_path):
    model = tiny_model("gpt2").double()
    layers = {SITE: {"mxd": random_layer("mxd").double()}}
    sentence = ["w3", "w4", "w9", "w5"]
    rows = [{"tokens": sentence, "tags": list("abab")}] * 40
    task = load_task(write_rows(tmp_path / "t.jsonl", rows))
    tokens = tokenise_task(task, tokenizer, 127)
    found = collect(model, layers, tokens, dense_rows=np.arange(4), bos_token_id=0)[SITE]
    x = capture(model, [SITE], torch.tensor([[0, 3, 4, 9, 5]]))[SITE][0][0, 1:]
    expected = layers[SITE]["mxd"].encode(x).dense().detach().numpy()
    np.testing.assert_allclose(found.units["mxd"][:4].toarray(), expected, atol=1e-6)
    np.testing.assert_allclose(found.x, x.numpy(), rtol=1e-4, atol=1e-6)


def test_texts_are_read_from_the_end_that_the_task_names(tokenizer, tmp_path):
    rows = [{"text": " ".join(f"w{3 + i}" for i in range(20)), "label": i % 2} for i in range(60)]
    path = write_rows(tmp_path / "t.jsonl", rows)
    first, last = (
        tokenise_task(load_task(path, take=end), tokenizer, 6) for end in ("first", "last")
    )
    assert first.token_ids[0].tolist() == [3, 4, 5, 6, 7, 8]
    assert last.token_ids[0].tolist() == [17, 18, 19, 20, 21, 22]


def test_short_texts_are_skipped_and_counted(tokenizer, tmp_path):
    short = [
        {"text": "w3 w4 w5 w6", "label": "c0", "split": "train"},
        {**marked_texts(1)[1], "text": ""},
    ]
    task = load_task(write_rows(tmp_path / "t.jsonl", [*short, *marked_texts()]))
    layers = {SITE: {"mxd": random_layer("mxd")}}
    found = probe(tiny_model("gpt2"), tokenizer, layers, task, bootstrap=10)
    assert (found.skipped_texts, found.train_texts, found.test_texts) == (2, 90, 30)
    rows = [{**row, "text": "w3"} if row["label"] == "c1" else row for row in marked_texts()]
    task = load_task(write_rows(tmp_path / "u.jsonl", [*marked_texts()[:5], *rows]))
    with pytest.raises(UserError, match=r"class 'c1'.*40 texts were skipped"):
        probe(tiny_model("gpt2"), tokenizer, layers, task, bootstrap=10)


def test_last_token_covers_the_last_character():
    #        "héllo x  yz": two bytes of é share a place, the space belongs to what follows
    offsets = [(0, 1), (1, 2), (1, 2), (2, 5), (5, 7), (7, 7), (9, 10), (10, 11)]
    words = ("héllo", "x", "", "yz")
    assert last_tokens(words, offsets) == [3, 4, None, 7]
    assert last_tokens(words, offsets[:4]) == [3, None, None, None]
    assert last_tokens(("hé", "x"), [(0, 1), (1, 2), (1, 2), (2, 4)]) == [2, 3]


WORDS = ("Don't", "naïve", "日本", "antidisestablishmentarianism", "🙂", "state-of-the-art", ".")


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_last_token_ends_the_word_with_a_real_tokenizer(arch):
    _check_prefixes(AutoTokenizer.from_pretrained(bundled_model(arch)))


@pytest.mark.shared
def test_last_token_ends_the_word_with_a_sentencepiece_like_tokenizer():
    from tests.test_shared_data import _shared

    _check_prefixes(AutoTokenizer.from_pretrained(_shared("data", "stories260k")))


def _check_prefixes(tokenizer):
    """Tokens up to the last one of a word spell the sentence up to that word's end."""
    encoded = tokenizer(" ".join(WORDS), add_special_tokens=False, return_offsets_mapping=True)
    for number, place in enumerate(last_tokens(WORDS, encoded["offset_mapping"])):
        assert place is not None
        spelled = tokenizer.decode(encoded["input_ids"][: place + 1])
        assert spelled.strip() == " ".join(WORDS[: number + 1])

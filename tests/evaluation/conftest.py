import pytest
from tests.helpers.tiny_models import VOCABULARY, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the 64 tokens of the tiny models: BOS, EOS, UNK, then w3 ... w63."""
    words = ["<s>", "</s>", "[UNK]", *(f"w{i}" for i in range(3, VOCABULARY))]
    vocabulary = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def model() -> nn.Module:
    return tiny_model("gpt2")


@pytest.fixture(scope="session")
def double() -> nn.Module:
    """The same model in float64, for working figures out by hand."""
    return tiny_model("gpt2").double()

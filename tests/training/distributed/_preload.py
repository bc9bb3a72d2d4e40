"""Imported once by the server that forks the ranks, so that each starts in a moment."""

from jaxtyping import install_import_hook
from tests.cli._parts import word_tokenizer
from tests.helpers.tiny_models import tiny_model

MODEL = tiny_model("gpt2")
TOKENIZER = word_tokenizer()

with install_import_hook("mxd.training.distributed", "beartype.beartype"):
    import tests.training.distributed._expert_checks
    import tests.training.distributed._fit_checks
    import tests.training.distributed._row_checks
    import tests.training.distributed._world_checks  # noqa: F401

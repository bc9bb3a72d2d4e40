"""Imported once by the server that forks the ranks, so that each starts in a moment."""

import sys

from jaxtyping import install_import_hook

import mxd.training  # noqa: F401 (what a single process imports)

EAGERLY = sorted(name for name in sys.modules if name.startswith("mxd.training.distributed"))
"""What a single process has imported of the package."""

from tests.cli._parts import word_tokenizer  # noqa: E402
from tests.helpers.tiny_models import tiny_model  # noqa: E402

MODEL = tiny_model("gpt2")
TOKENIZER = word_tokenizer()

with install_import_hook("mxd.training.distributed", "beartype.beartype"):
    import tests.training.distributed._expert_checks
    import tests.training.distributed._fit_checks
    import tests.training.distributed._row_checks
    import tests.training.distributed._world_checks  # noqa: F401

"""Special tokens by name, for leaving them out of training or of evaluation."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mxd.errors import UserError

_NAMED = ("bos", "eos", "pad", "unk")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExclusionOptions:
    """Which tokens' activations to leave out."""

    exclude_from_training: tuple[str, ...] = ()
    """Tokens whose activations are not trained on: bos, eos, pad, unk, all, or a token itself."""
    exclude_from_evaluation: tuple[str, ...] = ()
    """Tokens whose activations are not counted in evaluation: as for training."""


def special_token_ids(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> tuple[int, ...]:
    """Resolve a list of tokens to leave out.

    Args:
        tokenizer: The model's tokenizer.
        names: "bos", "eos", "pad", "unk", "all" (every special token), or tokens as the
            vocabulary spells them. A named token that the tokenizer lacks is skipped with a
            warning. Where BOS and EOS are one token, as in GPT-2, either name means both.

    Returns:
        The ids, sorted, each once.

    Raises:
        UserError: A name is neither of these nor a token of the vocabulary.
    """
    ids: set[int] = set()
    for name in names:
        if name == "all":
            ids.update(tokenizer.all_special_ids)
        elif name in _NAMED:
            token_id = getattr(tokenizer, f"{name}_token_id")
            if token_id is None:
                _logger.warning("the tokenizer has no %s token: nothing to leave out", name)
            else:
                ids.add(token_id)
        else:
            ids.add(_literal(tokenizer, name))
    return tuple(sorted(ids))


def _literal(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if token not in vocabulary:
        special = ", ".join(repr(each) for each in tokenizer.all_special_tokens)
        raise UserError(
            f"got {token!r} among the tokens to leave out, expected {', '.join(_NAMED)}, all or "
            f"a token of the vocabulary; this tokenizer's special tokens are {special or 'none'}"
        )
    return vocabulary[token]

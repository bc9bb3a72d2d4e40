import logging

import pytest

from mxd.data import ExclusionOptions, special_token_ids
from mxd.errors import UserError


def test_names_and_literal_tokens_are_resolved(tokenizer):
    bos, eos, unk = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id
    assert special_token_ids(tokenizer, ["bos"]) == (bos,)
    assert special_token_ids(tokenizer, ["eos", "bos", "bos"]) == tuple(sorted((bos, eos)))
    assert special_token_ids(tokenizer, ["all"]) == tuple(sorted((bos, eos, unk)))
    assert special_token_ids(tokenizer, ["w3", "unk"]) == (unk, 4)
    assert special_token_ids(tokenizer, []) == ()


def test_missing_special_token_is_skipped_with_a_warning(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        assert special_token_ids(tokenizer, ["pad"]) == ()
    assert "no pad token" in caplog.text


def test_unknown_token_is_a_users_error(tokenizer):
    with pytest.raises(UserError, match=r"got '<bos>' among the tokens .*are '<s>', '</s>'"):
        special_token_ids(tokenizer, ["<bos>"])


def test_nothing_is_excluded_by_default():
    assert ExclusionOptions() == ExclusionOptions(
        exclude_from_training=(), exclude_from_evaluation=()
    )

"""The files of a tokenizer that somebody else may have made, looked at before they are loaded."""

from __future__ import annotations

from pathlib import Path

from mxd._json_files import read_json_object
from mxd._outside_files import check_inside, open_plain
from mxd.errors import UserError
from mxd.host.model_config import CONFIG, check_config_file
from mxd.host.sources import Source

_SETTINGS = "tokenizer_config.json"
_JSON = (
    _SETTINGS, "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
)  # fmt: skip
_OTHER_FILES = ("fast_tokenizer_files", "gguf_file")
"""Keys by which transformers reads files that nobody has looked at."""
_ENDINGS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_MOST_BYTES = 128 << 20
_REMEDY = "fetch or save it again"


def check_tokenizer_files(source: Source, expected: str) -> None:
    """Make sure that a tokenizer's files are plain ones of its own folder, whole and not too large.

    Args:
        source: where the tokenizer comes from.
        expected: what it should be.

    Raises:
        UserError: one is not.
    """
    with source.refused(expected):
        config, *others = (source.file(name) for name in (CONFIG, *_JSON))
    if config is not None:
        check_config_file(config)
    for path in others:
        if path is not None:
            _check_json(path)
    if Path(source.name).is_dir():
        for path in sorted(Path(source.name).iterdir()):
            if path.suffix in _ENDINGS:
                _check_plain(path)


def _check_json(path: Path) -> None:
    raw = read_json_object(
        path,
        missing=f"{path} is gone; {_REMEDY}",
        remedy=_REMEDY,
        most_bytes=_MOST_BYTES,
        finite=False,
    )
    for key in _OTHER_FILES if path.name == _SETTINGS else ():
        if raw.get(key) is not None:
            raise UserError(f"{path} has {key}, which is not followed, expected none; remove it")


def _check_plain(path: Path) -> None:
    check_inside(path)
    with open_plain(path) as file:
        size = file.seek(0, 2)
    if size > _MOST_BYTES:
        raise UserError(f"{path} has {size} bytes, expected at most {_MOST_BYTES}; {_REMEDY}")

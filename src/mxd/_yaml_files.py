"""Read YAML that somebody else may have written: plain values, in bounded time and memory."""

from pathlib import Path
from typing import Any

import yaml

from mxd._outside_files import read_plain
from mxd.errors import UserError

_MOST_BYTES = 200_000
_MOST_DEPTH = 32
_LONGEST_NUMBER = 40
_TAG = "tag:yaml.org,2002:"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_LEFT_AS_TEXT = (f"{_TAG}timestamp", f"{_TAG}merge", f"{_TAG}value")


def read_yaml_mapping(path: Path, *, expected: str) -> dict[Any, Any]:
    """The mapping that a file holds; aliases and tags, which can grow or run things, are refused.

    Args:
        path: the file.
        expected: what the file should hold, for the message about one that holds something else.

    Raises:
        UserError: missing, too large, no plain file, no YAML, or no mapping.
    """
    content = read_plain(path, _MOST_BYTES)
    try:
        found = yaml.load(content.decode("utf-8"), Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path} is not YAML: {said}; mend it") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no keys, expected {expected}")
    return found


class _PlainLoader(yaml.SafeLoader):
    """YAML's plain part: no aliases, no tags, no key twice, bounded depth, dates left as text."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused("an alias, expected the value itself", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _refused(f"the tag {event.tag!r}, expected a plain value", event.start_mark)
        if self._depth >= _MOST_DEPTH:
            raise _refused(f"values nested deeper than {_MOST_DEPTH}", event.start_mark)
        self._depth += 1
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise _refused(f"a number of {len(node.value)} characters", node.start_mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep=deep)
        if len(found) < len(node.value):
            raise _refused("a key twice, expected each once", node.start_mark)
        return found


def _refused(what: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, f"got {what}", mark)


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _LEFT_AS_TEXT]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

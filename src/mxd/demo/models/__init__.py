"""Two small language models that come with the library, so that nothing needs a download."""

from pathlib import Path

from mxd.errors import UserError

BUNDLED = {"gpt2": "small-gpt2", "llama": "small-llama"}
"""Names of the bundled models by architecture."""


def bundled_model(arch: str) -> Path:
    """Folder of the bundled model of an architecture, `gpt2` or `llama`.

    Raises:
        UserError: there is none of that architecture.
    """
    if arch not in BUNDLED:
        raise UserError(f"got architecture {arch!r}, expected one of {', '.join(BUNDLED)}")
    return Path(__file__).parent / BUNDLED[arch]


def resolve_model(name: str) -> str:
    """A bundled model's folder for its name; every other name, and an existing folder, as it is."""
    if name in BUNDLED.values() and not Path(name).exists():
        return str(Path(__file__).parent / name)
    return name

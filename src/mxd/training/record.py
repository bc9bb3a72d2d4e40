"""The record of a run: everything that somebody needs to run it again."""

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from mxd._version import __version__
from mxd.host import MLPSite, site_fingerprint
from mxd.layers import Provenance
from mxd.training.build import Roster
from mxd.training.recipe import Recipe


def record_of(
    recipe: Recipe,
    sites: list[MLPSite],
    roster: Roster,
    origin: Provenance,
    command: Sequence[str] | None,
) -> dict[str, Any]:
    """The content of run.json when a run begins.

    Args:
        recipe: what is trained.
        sites: where.
        roster: the students.
        origin: the base model.
        command: the command line; None where there was none.
    """
    return {
        "base_model": {
            "name": origin.base_model,
            "revision": origin.base_revision,
            "sites": {site.name: site_fingerprint(site) for site in sites},
        },
        "command": list(command or []),
        "recipe": recipe.to_dict(),
        "seeds": {"run": recipe.seed, "students": sorted(set(roster.seeds))},
        "students": [
            {"site": site, "name": name, "lr": lr}
            for (site, name), lr in zip(roster.names, roster.rates, strict=True)
        ],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions of mxd, Python and the packages that decide a result."""
    found = {"mxd": __version__, "python": platform.python_version(), "platform": sys.platform}
    packages = ("torch", "transformers", "datasets", "tokenizers", "numpy")
    return found | {package: version(package) for package in packages}

"""Everything that the library reads from outside, in small."""

from collections.abc import Callable
from pathlib import Path

from tests.fuzz.campaign import Target
from tests.fuzz.checkpoints import checkpoint_targets
from tests.fuzz.models import model_targets
from tests.fuzz.runs import layer_targets, report_target, run_targets
from tests.fuzz.texts import cache_targets, text_targets, yaml_targets


def every_target(root: Path, mark: Path, *, pictures: bool = True) -> list[Target]:
    """All of them; takes some seconds, for a run is trained.

    Args:
        root: an empty folder for the good ones.
        mark: what code that should not run would make.
        pictures: whether reports draw theirs.
    """
    root.mkdir(parents=True, exist_ok=True)
    makers: tuple[Callable[[Path, Path], list[Target]], ...] = (
        layer_targets,
        run_targets,
        lambda folder, mark: [report_target(folder, mark, pictures)],
        cache_targets,
        checkpoint_targets,
        text_targets,
        yaml_targets,
        model_targets,
    )
    targets = []
    for number, make in enumerate(makers):
        folder = root / str(number)
        folder.mkdir()
        targets += make(folder, mark)
    return targets

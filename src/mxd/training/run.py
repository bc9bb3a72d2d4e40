"""What a training run leaves behind, in memory or in its folder."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mxd._outside_files import check_below, is_folder
from mxd.errors import UserError
from mxd.layers import Layer, load
from mxd.training.recipe import Recipe
from mxd.training.run_folder import RUN_FILE, read_run

T = TypeVar("T")


@dataclass
class Run:
    """A finished or loaded run."""

    recipe: Recipe
    """What was run."""
    layers: dict[str, dict[str, Layer]]
    """The layers by site's name and student's name; none where several processes trained them,
    since one host need not have room for all: `each` reads one at a time, `open_run` all."""
    record: dict[str, Any] = field(default_factory=dict)
    """The content of run.json."""
    folder: Path | None = None
    """Where it is stored; None for a run in memory."""

    def each(self) -> Iterator[tuple[str, str, Layer]]:
        """Every layer, after the names of its site and of its student.

        Raises:
            UserError: a layer that has to be read is not there, or damaged.
        """
        if self.layers or self.folder is None:
            for site, students in self.layers.items():
                for name, layer in students.items():
                    yield site, name, layer
            return
        for site, name, path in _layer_folders(self.folder, self.record):
            yield site, name, load(path)

    @property
    def base_model(self) -> str | None:
        """Hub id or folder of the base model."""
        base = self.record.get("base_model")
        name = base.get("name") if isinstance(base, dict) else None
        return name if isinstance(name, str) else None


def open_run(folder: str | Path) -> Run:
    """Load a run from its folder.

    Raises:
        UserError: no run there, or something in it is damaged.
    """
    folder = Path(folder)
    record = read_run(folder)
    _check_record(folder, record)
    recipe = from_dict(Recipe, record.get("recipe"), folder / RUN_FILE)
    layers: dict[str, dict[str, Layer]] = {}
    for site, name, path in _layer_folders(folder, record):
        layers.setdefault(site, {})[name] = load(path)
    if not layers:
        raise UserError(f"run {folder} has no layers, expected at least one trained student")
    return Run(recipe, layers, record, folder)


def _layer_folders(folder: Path, record: dict[str, Any]) -> Iterator[tuple[str, str, Path]]:
    """Site, student and folder of every layer that a run lists."""
    seen: set[Path] = set()
    entries = record.get("students")
    for entry in entries if isinstance(entries, list) else []:
        path = _inside(folder, entry)
        if path in seen:
            raise UserError(f"{folder / RUN_FILE} is damaged: it lists {entry['name']!r} twice")
        if not is_folder(path):
            raise UserError(
                f"run {folder} lacks the folder {path} of its layer {entry['name']}, expected "
                "every layer that its run.json lists; fetch it again, or train again"
            )
        seen.add(path)
        yield entry["site"], entry["name"], path


def student_folder(run_folder: Path, site: str, student: str) -> Path:
    """Where a student's layer is stored within its run."""
    return run_folder / "layers" / site / student


def _check_record(folder: Path, record: dict[str, Any]) -> None:
    """Refuse what the verbs rely on where it has another type, and links out of the folder."""
    base = {} if record.get("base_model") is None else record["base_model"]
    if not isinstance(base, dict) or not all(
        isinstance(base.get(key), (str, type(None))) for key in ("name", "revision")
    ):
        raise UserError(
            f"{folder / RUN_FILE} is damaged: expected a base model with name and revision, got "
            f"{base!r}"
        )
    for name in ("layers", "eval"):
        check_below(folder / name, folder)


def _inside(folder: Path, entry: Any) -> Path:
    if not isinstance(entry, dict) or not all(
        isinstance(entry.get(k), str) for k in ("site", "name")
    ):
        raise UserError(f"{folder / RUN_FILE} is damaged: expected students with site and name")
    path = student_folder(folder, entry["site"], entry["name"])
    if not all(_is_one_name(entry[k]) for k in ("site", "name")):
        raise UserError(f"{folder / RUN_FILE} names a layer outside its folder: {entry['name']!r}")
    check_below(path, folder / "layers")
    return path


def _is_one_name(part: str) -> bool:
    return part not in ("", ".", "..") and not set(part) & set("/\\\0")


def from_dict(cls: type[T], value: Any, where: Path | str) -> T:
    """A dataclass tree from what `asdict` and JSON made of it.

    Raises:
        UserError: a field is missing, unknown or out of range.
    """
    try:
        built: T = _build(cls, value)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{where} does not hold a {cls.__name__}: {error}") from None
    return built


def _build(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise KeyError(f"unknown fields {unknown}")
        return kind(**{k: _build(hints[k], v) for k, v in value.items()})  # type: ignore[operator]
    if get_origin(kind) is tuple:
        inner, *others = get_args(kind)
        if Ellipsis not in others and len(_of_type(list, value)) != 1 + len(others):
            raise ValueError(f"got {value!r}, expected {1 + len(others)} values")
        return tuple(_build(inner, item) for item in _of_type(list, value))
    if get_origin(kind) is dict:
        inner = get_args(kind)[1]
        return {key: _build(inner, item) for key, item in _of_type(dict, value).items()}
    if isinstance(kind, type):
        return _of_type(kind, value)
    if get_origin(kind) is Literal:  # the dataclass checks its choices itself
        return _of_type(str, value)
    plain = [option for option in get_args(kind) if option is not type(None)]
    return None if value is None else _build(plain[0], value)


def _of_type(kind: type, value: Any) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"got {value!r}, expected {kind.__name__}")
    return value

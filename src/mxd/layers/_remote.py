"""From a folder or a hub id to a local folder."""

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)

from mxd._outside_files import is_folder, is_there
from mxd.errors import UserError


def local_folder(source: str | Path, files: tuple[str, ...], **hub: Any) -> Path:
    """The folder itself, or the snapshot that the named files of a hub repository land in.

    Raises:
        UserError: neither a folder nor a repository that can be reached.
    """
    path = Path(source)
    if is_folder(path):
        return path
    if is_there(path):
        raise UserError(f"{path} is a file, expected a layer's folder or a hub id")
    downloaded = [_download(str(source), name, hub, needed=n < 2) for n, name in enumerate(files)]
    return next(file.parent for file in downloaded if file is not None)


def _download(repo: str, name: str, hub: dict[str, Any], needed: bool) -> Path | None:
    try:
        return Path(hf_hub_download(repo_id=repo, filename=name, **hub))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        absent = isinstance(error, EntryNotFoundError)
        if absent and not needed:
            return None
        if absent and not isinstance(error, LocalEntryNotFoundError):  # that one: not reached
            raise UserError(f"hub repository {repo} has no {name}, expected an mxd layer") from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"no layer at {repo!r}: neither an existing folder nor a hub repository that can be "
            f"reached ({reason})"
        ) from None

"""Where a language model goes that is too large for one device, and in how many bits."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mxd._json_files import read_json_object
from mxd.errors import UserError
from mxd.host.devices import check_device

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways that accelerate spreads a model in."""
QUANTISED = ("8bit", "4bit")
"""What bitsandbytes packs linear layers into."""
_MAP_BYTES = 4 << 20


@dataclass(frozen=True)
class Placement:
    """How a model is loaded, other than whole and onto one device."""

    device_map: str | dict[str, int | str] | None = None
    """One of `DEVICE_MAPS`, or devices by the names of modules."""
    load_in: str | None = None
    """One of `QUANTISED`."""
    processes: int = 1
    """How many processes hold a part of every layer."""

    @classmethod
    def of(
        cls,
        device_map: str | Mapping[str, int | str] | None,
        load_in: str | None,
        tensor_parallel: bool,
    ) -> Placement:
        """A placement that can be made here.

        Raises:
            UserError: an unknown word, a combination that there is none of, a missing package, or
                a single process.
        """
        places = device_map if isinstance(device_map, str) or device_map is None else {**device_map}
        if isinstance(places, dict):
            _check_places(places)
        elif places is not None and places not in DEVICE_MAPS:
            raise UserError(
                f"got device map {places!r}, expected one of {', '.join(DEVICE_MAPS)}, or devices "
                "by the names of modules"
            )
        if load_in is not None and load_in not in QUANTISED:
            raise UserError(f"got {load_in!r} to load in, expected one of {', '.join(QUANTISED)}")
        if tensor_parallel and (places is not None or load_in is not None):
            other = "a device map" if places is not None else f"load_in {load_in}"
            raise UserError(f"got tensor parallelism and {other}, expected one of the two")
        if places is not None and _processes() > 1:
            raise UserError(
                "got a device map in several processes, which would share the devices, expected a "
                "single one; start the command without torchrun, or give tensor_parallel instead"
            )
        if places is not None or load_in is not None or tensor_parallel:
            what = "tensor parallelism" if tensor_parallel else "a device map"
            _check_installed("accelerate", what if load_in is None else f"loading in {load_in}")
        if load_in is not None:
            _check_installed("bitsandbytes", f"loading in {load_in}")
        if tensor_parallel and _processes() < 2:
            raise UserError(
                "got tensor parallelism in a single process, expected several; start the command "
                "with torchrun --nproc-per-node 2 or more"
            )
        return cls(places, load_in, _processes() if tensor_parallel else 1)

    @property
    def given(self) -> bool:
        """Whether it says where the weights go."""
        return self != Placement()

    @contextlib.contextmanager
    def options(
        self, place: torch.device, precision: torch.dtype | str
    ) -> Iterator[dict[str, Any]]:
        """What transformers' `from_pretrained` is to be told.

        Args:
            place: where the model goes if nothing else is said.
            precision: the type that its numbers are loaded in.
        """
        found: dict[str, Any] = {}
        if self.processes > 1:
            found |= _tensor_parallel(self.processes)
        if self.device_map is not None:
            found |= {"device_map": self.device_map}
        if self.load_in is not None:
            found |= {
                "quantization_config": _quantisation(self.load_in, precision),
                "device_map": self.device_map or {"": _as_map_entry(place)},
            }
        offloads = isinstance(self.device_map, str) or (
            isinstance(self.device_map, dict) and "disk" in self.device_map.values()
        )
        if not offloads:
            yield found
            return
        folder = tempfile.mkdtemp(prefix="mxd-offloaded-")
        try:
            yield found | {"offload_folder": folder}
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def keep_while(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Remove the folder that weights were offloaded to when the model is gone."""
    folder = options.get("offload_folder")
    if folder is not None:
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)


def read_device_map(text: str | None) -> str | dict[str, int | str] | None:
    """A device map from a command line: a word, or a JSON file with devices by modules' names.

    Raises:
        UserError: neither, or a file that is damaged or names no devices.
    """
    if text is None or text in DEVICE_MAPS:
        return text
    places: dict[str, int | str] = read_json_object(
        Path(text).expanduser(),
        missing=f"got device map {text!r}, expected one of {', '.join(DEVICE_MAPS)}, or a JSON "
        "file with devices by the names of modules",
        remedy='write it as {"model.layers.0": "cuda:0", …}',
        most_bytes=_MAP_BYTES,
    )
    _check_places(places)
    return places


def is_spread(model: nn.Module) -> bool:
    """Whether a model's parts are on several devices of this process, or offloaded."""
    places = {*_device_map(model).values()}
    return len(places) > 1 or "disk" in places


def has_several_processes(model: nn.Module) -> bool:
    """Whether every process of a group holds a part of the model's layers."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def placement_of(model: nn.Module) -> dict[str, Any]:
    """How a model is spread, for records; nothing where it is whole on one device."""
    found: dict[str, Any] = {}
    if is_spread(model):
        found["device_map"] = {n: _name_of(place) for n, place in _device_map(model).items()}
    if has_several_processes(model):
        found["tensor_parallel"] = int(torch.distributed.get_world_size())
    return {"placement": found} if found else {}


def _device_map(model: nn.Module) -> dict[str, Any]:
    """What transformers keeps of the map that a model was loaded with."""
    places: dict[str, Any] = vars(model).get("hf_device_map", {})
    return places


def _check_places(places: Mapping[Any, Any]) -> None:
    for name, place in places.items():
        if not isinstance(name, str) or type(place) not in (int, str):
            raise UserError(
                f"got {place!r} for module {name!r} in a device map, expected the name or number "
                "of a device"
            )
        if place != "disk":
            check_device(_name_of(place))
    if not places:
        raise UserError("got an empty device map, expected a device for each module")


def _name_of(place: Any) -> str:
    return f"cuda:{place}" if isinstance(place, int) else str(place)


def _as_map_entry(place: torch.device) -> str:
    return f"{place.type}:0" if str(place) in ("cuda", "xpu") else str(place)


def _check_installed(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"got {what}, which needs {package}, expected it to be installed; "
            "pip install 'mixture-of-decoders[big]'"
        )


def _processes() -> int:
    distributed = torch.distributed
    alone = not (distributed.is_available() and distributed.is_initialized())
    return 1 if alone else distributed.get_world_size()


def _tensor_parallel(processes: int) -> dict[str, Any]:
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_size=processes)}
    except (ImportError, TypeError):  # before it could say so; untested
        return {"tp_plan": "auto"}


def _quantisation(load_in: str, precision: torch.dtype | str) -> Any:
    from transformers import BitsAndBytesConfig

    # It says for every product that it rounds what goes in, which is what was asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    computed = precision if isinstance(precision, torch.dtype) else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computed
    )

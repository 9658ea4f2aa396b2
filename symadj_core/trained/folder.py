"""From the files of a finished run to the flow in them."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import torch

from symadj_core.errors import LoadError, PluginError
from symadj_core.flows import Flow
from symadj_core.trained.build import USUAL_EVALUATION, as_tested, build_flow
from symadj_core.trained.flow import TrainedFlow, Units
from symadj_core.trained.space import DataSpace
from symadj_core.transforms import restore_transforms

__all__ = ["CONFIG", "FORMAT", "WEIGHTS", "load"]

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
# Of config.json; a folder of a later format is refused.
FORMAT = 1
_LARGEST_CONFIG = 64 * 2**20  # bytes: of a million columns

Settings = Literal["tested", "trained"]


def load(
    source: str | os.PathLike[str] | IO[bytes],
    *,
    settings: Settings = "tested",
    units: Units = "original",
    weights: str = WEIGHTS,
    device: str | torch.device = "cpu",
) -> TrainedFlow:
    """The trained flow in a run's files: a `torch.distributions.Distribution` over rows in the units of its data.

    Args:
        source: a folder as `symadj download` writes it, a .zip of it, or an open binary file that holds such a .zip.
        settings: of the solver: "tested", the divergence and the tolerances by which the job's test was scored, so that
            the mean of `-log_prob` over the test rows is its `test_nll_original_units`; or "trained". Others by
            `with_settings` of the result.
        units: "original", those of the data; or "transformed", rows as the flow sees them.
        weights: name of the weights' file; with `ema` there is `weights-not-averaged.safetensors` besides.
        device: where to put the flow.

    Raises:
        LoadError: a file is missing, damaged, of a later format, or does not belong to the other; or the field is of a
            package that is not installed here in the version that trained it.
        ModuleNotFoundError: safetensors is not installed.
    """
    name, files = _read(source, (CONFIG, weights))
    config = _config(name, files[CONFIG])
    flow = _flow(name, config, files[weights], weights)
    spec, space = config["spec"], _space(config)
    try:
        if settings == "tested":
            flow = as_tested(flow, spec["solver"], spec.get("evaluation") or USUAL_EVALUATION)
        elif settings != "trained":
            raise ValueError(f"settings is 'tested' or 'trained', not {settings!r}")
        if units not in ("original", "transformed"):
            raise ValueError(f"units is 'original' or 'transformed', not {units!r}")
    except KeyError as error:
        raise _lacks(name, error) from error
    return TrainedFlow(
        flow.eval().to(device),
        space if units == "original" else space.transformed(),
        units=units,
        spec=spec,
        seed=spec["seed"],
        batch_rows=spec["data"]["batch_size"],
    )


def _read(source: str | os.PathLike[str] | IO[bytes], names: tuple[str, ...]) -> tuple[str, dict[str, bytes]]:
    """What the source is called, and the content of its files."""
    if not isinstance(source, str | os.PathLike):
        return _unzipped(str(getattr(source, "name", "the open file")), source, names)
    path = Path(source)
    if path.is_dir():
        for name in names:
            if not (path / name).is_file():
                raise LoadError(
                    f"{path} has no {name}, and so is not the folder of a finished run: fetch it by "
                    f"`symadj download JOB {path}`"
                )
        return str(path), {name: (path / name).read_bytes() for name in names}
    if not path.exists():
        raise LoadError(f"{path} does not exist: give a folder as `symadj download` writes it, or a .zip of it")
    with path.open("rb") as file:
        return _unzipped(str(path), file, names)


def _unzipped(name: str, file: IO[bytes], names: tuple[str, ...]) -> tuple[str, dict[str, bytes]]:
    try:
        with zipfile.ZipFile(file) as archive:
            files = {}
            for wanted in names:
                members = [member for member in archive.namelist() if PurePosixPath(member).name == wanted]
                if len(members) != 1:
                    raise LoadError(f"{name} has {len(members)} files {wanted}: one is needed, at any level")
                files[wanted] = archive.read(members[0])
            return name, files
    except zipfile.BadZipFile as error:
        raise LoadError(f"{name} is neither a folder nor a .zip of one: {error}") from error


def _config(name: str, content: bytes) -> dict[str, Any]:
    if len(content) > _LARGEST_CONFIG:
        raise LoadError(f"{CONFIG} of {name} has {len(content)} bytes, more than any run writes")
    try:
        config = json.loads(content)
    except ValueError as error:
        raise LoadError(f"{CONFIG} of {name} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("spec"), dict):
        raise LoadError(f"{CONFIG} of {name} has no spec, and so is not of a run")
    written = config.get("format", 1)
    if written != FORMAT:
        raise LoadError(f"{CONFIG} of {name} is of format {written}, and this version reads {FORMAT}: update symadj")
    return config


def _flow(name: str, config: Mapping[str, Any], content: bytes, weights: str) -> Flow:
    import safetensors
    import safetensors.torch

    spec, shape = config["spec"], config.get("shape")
    try:
        flow = build_flow(
            spec["flow"],
            spec["solver"],
            len(config["columns"]),
            len(config["context_columns"]),
            None if shape is None else (shape[0], shape[1], shape[2]),
        )
    except KeyError as error:
        raise _lacks(name, error) from error
    except PluginError as error:
        raise LoadError(f"the flow of {name} can't be made: {error}") from error
    except (TypeError, ValueError) as error:
        raise LoadError(f"{CONFIG} of {name} describes no flow that this version can make: {error}") from error
    try:
        flow.load_state_dict(safetensors.torch.load(content))
    except safetensors.SafetensorError as error:
        raise LoadError(f"{weights} of {name} is damaged: {error}; download it again") from error
    except RuntimeError as error:
        raise LoadError(f"{weights} of {name} does not fit its {CONFIG}: {error}") from error
    return flow.requires_grad_(False)


def _space(config: Mapping[str, Any]) -> DataSpace:
    context, shape = config["context_transform"], config["shape"]
    return DataSpace(
        columns=tuple(config["columns"]),
        transforms=restore_transforms(config["transforms"]),
        context_columns=tuple(config["context_columns"]),
        context_transform=None if context is None else restore_transforms([context])[0],
        shape=None if shape is None else (shape[0], shape[1], shape[2]),
        levels=config["levels"],
        noise_seed=config["spec"]["data"].get("split_seed", 0),
    )


def _lacks(name: str, error: KeyError) -> LoadError:
    return LoadError(f"{CONFIG} of {name} lacks {error}: it was written by an earlier version, or by hand")

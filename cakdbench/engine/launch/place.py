"""Say what a machine must have before it works on a grid, and look whether it has it."""

import hashlib
import platform
import uuid
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cakdbench
import cakdbench.methods
from cakdbench.engine.options import RunOptions
from cakdbench.store import write_atomic
from cakdbench.utils.errors import UsageError

TOKEN = ".token"
"""A file of the store, by which others know that they see the same folder."""
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy")


@dataclass(frozen=True)
class Place:
    """What the machine that starts a grid has, and every other must have too.

    Attributes:
        host: its name.
        folder: the working folder of the command.
        store: absolute; with the content of its token.
        files: of the user: methods, networks, datasets, teachers; and the folder of the data, if it is named.
        versions: of the packages that compute, and a hash of cakdbench's own source.
    """

    host: str
    folder: Path
    store: Path
    token: str
    files: tuple[Path, ...]
    versions: dict[str, str]

    def check(self) -> None:
        """Look whether this machine has it all.

        Raises:
            UsageError: what it lacks, with its name.
        """
        host = platform.node()
        if _read(self.store / TOKEN) != self.token:
            hint = "put it into a folder that all machines share, and name that with --store"
            raise UsageError(f"{host} does not see the store {self.store}: {hint}")
        for file in self.files:
            if not file.exists():
                raise UsageError(f"{host} does not see {file}: put it into a folder that all machines share")
        for name, found in installed_versions().items():
            if found != self.versions[name]:
                pair = f"{name} {found} where {self.host} has {self.versions[name]}"
                raise UsageError(f"{host} has {pair}: install the same, or one grid mixes the results of both")


def place_of(options: RunOptions) -> Place:
    """Return what other machines must have for these options, whose paths are absolute; puts a token in the store."""
    token = options.store / TOKEN
    if not token.exists():
        write_atomic(token, uuid.uuid4().hex.encode())
    own = options.method_files + options.model_files + options.dataset_files + options.teacher_files
    return Place(
        host=platform.node(),
        folder=Path.cwd(),
        store=options.store,
        token=_read(token),
        files=(*own, *filter(None, [options.computing.data_dir])),
        versions=installed_versions(),
    )


def absolute(options: RunOptions) -> RunOptions:
    """Return the options with paths that do not depend on a working folder."""
    files = ("method_files", "model_files", "dataset_files", "teacher_files")
    paths: dict[str, Any] = {name: tuple(path.absolute() for path in getattr(options, name)) for name in files}
    data_dir = options.computing.data_dir
    return replace(
        options,
        **paths,
        store=options.store.absolute(),
        teacher_dir=options.teacher_dir.absolute(),
        computing=replace(options.computing, data_dir=data_dir and data_dir.absolute()),
    )


def installed_versions() -> dict[str, str]:
    """Return the versions that must be equal, without the part that names a build, as +cpu."""
    return {name: version(name).partition("+")[0] for name in PACKAGES} | {"cakdbench": _source()}


def _source() -> str:
    """Return the version of cakdbench and the beginning of a hash over its source."""
    folders = [Path(folder) for package in (cakdbench, cakdbench.methods) for folder in package.__path__]
    files = sorted({(path.name, path.read_bytes()) for folder in folders for path in folder.rglob("*.py")})
    digest = hashlib.sha256(repr(files).encode()).hexdigest()
    return f"{cakdbench.__version__} (source {digest[:8]})"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

"""Say what a machine must have before it works on a grid, and look whether it has it."""

from __future__ import annotations

import hashlib
import os
import platform
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cakdbench
import cakdbench.methods
from cakdbench.data.datasets import ImageDataset
from cakdbench.engine.harness import Harness
from cakdbench.engine.options import RunOptions
from cakdbench.engine.teachers import Teachers
from cakdbench.grid.pairs import RUN
from cakdbench.grid.plan import Cell
from cakdbench.grid.suites import resolve_pairs
from cakdbench.grid.teachers import load_teachers
from cakdbench.labels import split_list
from cakdbench.recipes import recipe_files
from cakdbench.store import write_atomic
from cakdbench.utils.errors import UsageError
from cakdbench.utils.imports import FILE_MODULE, local_imports
from cakdbench.utils.toml import PAIRS_DIR

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
        files: of the user, with hashes of what they hold: methods, networks, datasets, teachers, recipes, pairs; and
            the folder of the data, if it is named, with none.
        fetched: weight files that a machine downloads where it lacks them, with their hashes.
        data: the fingerprints of the datasets.
        versions: of the packages that compute, and a hash of cakdbench's own source.
    """

    host: str
    folder: Path
    store: Path
    token: str
    files: dict[str, str]
    versions: dict[str, str]
    fetched: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Look whether this machine has it all.

        Raises:
            UsageError: what it lacks, with its name.
        """
        host = platform.node()
        if _read(self.store / TOKEN) != self.token:
            hint = "put it into a folder that all machines share, and name that with --store"
            raise UsageError(f"{host} does not see the store {self.store}: {hint}")
        for name in self.files:
            if not Path(name).exists():
                raise UsageError(f"{host} does not see {name}: put it into a folder that all machines share")
        for name, held in (self.files | self.fetched).items():
            if Path(name).is_file() and _hash(Path(name)) != held:
                hint = "make them equal or, if it was edited, start the command anew"
                raise UsageError(f"{name} is another on {host} than on {self.host} when the command began: {hint}")
        for name, found in installed_versions().items():
            if found != self.versions[name]:
                pair = f"{name} {found} where {self.host} has {self.versions[name]}"
                raise UsageError(f"{host} has {pair}: install the same, or one grid mixes the results of both")

    def check_data(self, dataset: Callable[[str], ImageDataset]) -> None:
        """Raise UsageError if the datasets of this machine, by name, hold other images."""
        for name, fingerprint in self.data.items():
            if dataset(name).fingerprint != fingerprint:
                hint = "copy the same ones, or put them into a folder that all machines share"
                raise UsageError(f"{platform.node()} has other images of {name} than {self.host}: {hint}")


def place_of(options: RunOptions, cells: Iterable[Cell] = (), harness: Harness | None = None) -> Place:
    """Return what other machines must have for these options, whose paths are absolute; puts a token in the store.

    Args:
        cells: of the grid, whose weight files and data count too. harness: that knows them.
    """
    cells = list(cells)
    weights, fetched = _weight_files(cells, harness.teachers) if harness else ([], [])
    starts = [cell.recipe.init.partition(":") for cell in cells]
    begun = [Path(name) for kind, _, name in starts if kind == "file"]
    own = {path.absolute() for path in (*_own_files(options), *weights, *begun)}
    datasets = sorted({cell.pair.dataset for cell in cells})
    folders = filter(None, [options.computing.data_dir])
    return Place(
        host=platform.node(),
        folder=Path.cwd(),
        store=options.store,
        token=_token(options.store / TOKEN),
        files={str(path): _hash(path) for path in sorted(own)} | {str(path): "" for path in folders},
        versions=installed_versions(),
        fetched={str(path.absolute()): _hash(path) for path in sorted(fetched) if path.is_file()},
        data={name: harness.dataset(name).fingerprint for name in datasets} if harness else {},
    )


def _own_files(options: RunOptions) -> Iterator[Path]:
    """Yield the files that options name, and those that these name in turn."""
    for path in (*options.method_files, *options.model_files):
        yield from (path, *local_imports(path.resolve(), FILE_MODULE).values())
    yield from (*options.dataset_files, *options.teacher_files)
    yield from (Path(name).expanduser() for name in split_list(options.pairs) if name.endswith(".toml"))
    named = resolve_pairs(options.pairs, options.recipe) if options.pairs else []
    trained = [entry.train or "" for entry in load_teachers(options.teacher_files).values()]
    for name in (*(spec.recipe for spec in named), *trained):
        if name.endswith(".toml"):
            yield from recipe_files(Path(name))


def _weight_files(cells: Iterable[Cell], teachers: Teachers) -> tuple[list[Path], list[Path]]:
    """Return the weight files of the cells' teachers: those that have to be there, and those that can be downloaded."""
    taught = {(name, cell.pair.dataset) for cell in cells if cell.needs_teacher for name in cell.pair.teachers}
    entries = [teachers.entry(*name) for name in taught if not name[0].startswith(RUN)]
    own, fetched = ([teachers.files.path(e) for e in entries if getattr(e, kind)] for kind in ("path", "url"))
    return own, fetched


def _token(path: Path) -> str:
    """Return what a store's token holds; of several processes that begin a store the first one writes it."""
    if not path.exists():
        mine = path.with_name(f"{TOKEN}-{uuid.uuid4().hex}")
        write_atomic(mine, uuid.uuid4().hex.encode())
        try:
            os.link(mine, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(mine, path)
        mine.unlink(missing_ok=True)
    return _read(path)


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
    paths = {path for folder in (*folders, PAIRS_DIR) for kind in ("*.py", "*.toml") for path in folder.rglob(kind)}
    files = sorted({(path.name, path.read_bytes()) for path in paths})
    digest = hashlib.sha256(repr(files).encode()).hexdigest()
    return f"{cakdbench.__version__} (source {digest[:8]})"


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

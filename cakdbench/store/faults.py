"""What is wrong with the files of a finished run: one list, by which it is told of, mended, and believed or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cakdbench.records import FORMAT
from cakdbench.store.files import file_sha256, is_there, read_sums
from cakdbench.store.keys import run_key
from cakdbench.utils.errors import StoreError

if TYPE_CHECKING:
    from cakdbench.store.folder import RunFolder

REMEDY = "`cakdbench run` of the same grid mends it"
GOES_ON = "`cakdbench run` of the same grid goes on without it"


@dataclass(frozen=True)
class Fault:
    """A file that is not as the run wrote it.

    Attributes:
        error: says what is wrong and what helps; its cause is the system's, if that could not read the file.
        needed: without the file the run has to be computed again.
    """

    path: Path
    error: StoreError
    needed: bool = True


def find_faults(run: RunFolder, result_alone: bool = False) -> Iterator[Fault]:
    """Yield the faults of a finished run, those first that its numbers rest on.

    A file without a line in the sums, as in a run of before there were any, is compared with what the record says.

    Args:
        result_alone: look at sums, record and predictions only; predictions that were not handed over are not missed.
    """
    sums: dict[str, str] = {}
    try:
        sums = read_sums(run.path)
    except StoreError as error:
        yield Fault(run.sums_file, error, needed=False)
    try:
        record = run.record()
    except StoreError as error:
        yield Fault(run.record_file, error)
        return
    if expected := sums.get(run.record_file.name):
        yield from compared(run.record_file, expected)
    if not result_alone or run.predictions.name in sums or is_there(run.predictions):
        yield from compared(run.predictions, record.predictions_sha256)
    if result_alone:
        return
    if not run.key == record.key == run_key(record.identity):
        damaged = StoreError(f"damaged file {run.record_file}: it is of another run, or edited; {REMEDY}")
        yield Fault(run.record_file, damaged)
    yield from weight_faults(run, run.student, sums)
    for path in (run.ema, run.modules):
        yield from weight_faults(run, path, sums)
    try:
        run.check_identity()
    except StoreError as error:
        yield Fault(run.identity_file, error, needed=False)


def unreadable(path: Path, content: bytes, error: ValidationError) -> str:
    """Return what is wrong with a file that does not fit its schema: it is of an earlier format, or damaged."""
    if b'"schema_version"' in content:  # a field of format 1 that format 2 does not have
        return f"{path} is of an earlier cakdbench: `cakdbench migrate {path.parent.parent}` brings it up to date"
    if (form := format_of(content)) > FORMAT:
        return f"{path} is of format {form}, which this cakdbench does not read: it is of a newer one, update"
    problem = error.errors()[0]
    return f"damaged file {path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def format_of(content: bytes) -> int:
    """Return the format number that a record says it has; 0 without one."""
    try:
        form = json.loads(content)["format"]
    except (ValueError, KeyError, TypeError):
        return 0
    return form if isinstance(form, int) else 0


def weight_faults(run: RunFolder, path: Path, sums: dict[str, str]) -> Iterator[Fault]:
    """Yield what is wrong with a file of weights; nothing is known of those that only the sums would name."""
    if expected := sums.get(path.name):
        yield from compared(path, expected, needed=path == run.student)
    elif path == run.student:
        yield from compared(path, run.record().weights_sha256, hashed=tensors_sha256)


def compared(
    path: Path, expected: str, needed: bool = True, hashed: Callable[[Path], str] = file_sha256
) -> Iterator[Fault]:
    """Yield a file's fault if it has another hash, or none."""
    remedy = REMEDY if needed else GOES_ON
    try:
        if hashed(path) != expected:
            yield Fault(path, StoreError(f"damaged file {path}: not what the run wrote; {remedy}"), needed)
    except StoreError as error:
        told = StoreError(f"{error}; {remedy}")
        told.__cause__ = error.__cause__
        yield Fault(path, told, needed)


def tensors_sha256(path: Path) -> str:
    """Return the hash of the tensors in a safetensors file, as a record has it of its student.

    Raises:
        StoreError: it is not there, cannot be read, or is no such file.
    """
    from safetensors import SafetensorError  # with torch, which a store whose runs have sums does without
    from safetensors.torch import load

    from cakdbench.models.weights import state_sha256

    try:
        return state_sha256(load(path.read_bytes()))
    except FileNotFoundError as error:
        raise StoreError(f"missing file {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise StoreError(f"damaged file {path}: {error}") from error

"""What is done about the faults of a finished run."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cakdbench.records import FORMAT
from cakdbench.store.faults import Fault, find_faults, format_of
from cakdbench.store.files import read_sums, replace_file, sums_text
from cakdbench.store.keys import canonical
from cakdbench.utils.errors import StoreError

if TYPE_CHECKING:
    from cakdbench.store.folder import RunFolder


def mend_files(run: RunFolder) -> str | None:
    """Make a finished run, whose lock is held, whole or unfinished; return what was wrong and has been done.

    An identity is written anew from the record; weights beside the student's that are lost or damaged, and damaged
    sums, count no more. Any other damage sets the record aside: the run is computed again.

    Raises:
        StoreError: it is of a newer cakdbench, or cannot be read at present, or not be written.
    """
    faults = list(find_faults(run))
    for fault in faults:
        _require_damage(run, fault.error)
    if fatal := next((fault for fault in faults if fault.needed), None):
        kept = "kept as record.json.damaged, " if run.is_done else ""
        run.set_aside(run.record_file)
        run.set_aside(run.sums_file)
        return f"{fatal.error}; {kept}the run is computed again"
    run.sweep()
    return "; ".join(_mend_small(run, fault) for fault in faults) or None


def _mend_small(run: RunFolder, fault: Fault) -> str:
    """Mend what the run does not have to be computed again for."""
    if fault.path == run.identity_file:
        run.write(run.identity_file, canonical(run.record().identity).encode())
        return f"{fault.error}; written anew"
    run.set_aside(fault.path)
    if fault.path != run.sums_file:
        sums = {name: digest for name, digest in read_sums(run.path).items() if name != fault.path.name}
        replace_file(run.sums_file, sums_text(sums))
    return f"{fault.error}; it counts no more"


def _require_damage(run: RunFolder, fault: StoreError) -> None:
    """Raise what is no damage: a disk that fails now may be well again, and newer code may read its own format."""
    cause = fault.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        raise fault
    with contextlib.suppress(OSError):
        if format_of(run.record_file.read_bytes()) > FORMAT:
            raise fault

"""The results a request starts from: what of them was changed, or is gone."""

import contextlib
import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from cakdbench.submissions.findings import Finding, Problem, Refused
from cakdbench.submissions.reading import NPY_BYTES, read_file, scan
from cakdbench.submissions.status import STATUS_FILE
from cakdbench.utils.errors import UsageError

Hashes = Mapping[str, str]
"""The sha256 of each file of a results folder, by its name in it."""


@contextlib.contextmanager
def base_folder(base: str, root: Path) -> Iterator[Path]:
    """Give the results folder that a base means: a path, or the same folder as it is at a revision of git.

    Raises:
        UsageError: it is neither.
    """
    if base and Path(base).is_dir():  # nothing, as of a variable that is not set, is not the working directory
        yield Path(base)
        return
    with tempfile.TemporaryDirectory(prefix="cakdbench-base-") as folder:
        revision = _git(root, "rev-parse", "--verify", "--end-of-options", base)
        content = _git(root, "archive", "--format=tar", revision, ".")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4 on
            archive.extractall(folder)
        yield Path(folder)


def _git(root: Path, *arguments: str | bytes) -> bytes:
    texts = [text if isinstance(text, str) else text.decode().strip() for text in arguments]
    try:
        done = subprocess.run(["git", "-C", str(root), *texts], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"").decode(errors="replace").strip() or str(error)
        raise UsageError(f"--base: name a results folder, or a revision of git that has {root}: {reason}") from error
    return done.stdout


def file_hashes(root: Path) -> Hashes:
    """Return the hashes of the files of a results folder, of those that can be read."""
    hashes: dict[str, str] = {}
    for file, problem in scan(root):
        if problem is None:
            with contextlib.suppress(Refused):
                hashes[file] = hashlib.sha256(read_file(root / file, NPY_BYTES)).hexdigest()
    return hashes


def check_base(base: Hashes, present: Hashes) -> Iterator[Finding]:
    """Yield the files of entries that the base has and that were changed or are gone, and a status that was changed."""
    for file, sha256 in base.items():
        if "/" in file and file not in present:
            yield Finding(file, Problem("is in the base and was deleted", "put it back: maintainers remove entries"))
        elif "/" in file and present[file] != sha256:
            yield Finding(file, Problem("is in the base and was changed", "put the file of the base back"))
    if present.get(STATUS_FILE) != base.get(STATUS_FILE):
        yield Finding(STATUS_FILE, Problem("is not that of the base", "maintainers alone give statuses: put it back"))

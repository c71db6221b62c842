"""Choose a launcher by name."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from cakdbench.engine.launch.launcher import Launcher
from cakdbench.engine.launch.local import LocalLauncher
from cakdbench.engine.session import Session
from cakdbench.utils.errors import UsageError, unknown

LAUNCHERS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class Launch:
    """Say where the processes come from.

    Attributes:
        launcher: "local", "ray" or "slurm".
        jobs: processes, tasks or jobs at a time at most; None for as many as are of use.
        ray_address: `auto` or HOST:PORT; None starts a cluster on this machine.
        gpu_share: of a GPU that a task of Ray needs.
        slurm: settings of the jobs, see `SlurmLauncher`.
    """

    launcher: str = "local"
    jobs: int | None = None
    ray_address: str | None = None
    gpu_share: float = 1.0
    slurm: dict[str, str] = field(default_factory=dict)

    def make(self, session: Session) -> Launcher:
        """Return the launcher.

        Raises:
            UsageError: its name is unknown, or a package is missing.
        """
        if self.launcher == "local":
            return LocalLauncher(session.processes(self.jobs))
        if self.launcher == "ray":
            with _extra("ray"):
                from cakdbench.engine.launch.ray import RayLauncher
            return RayLauncher(self.ray_address, self.jobs, self.gpu_share)
        if self.launcher == "slurm":
            with _extra("slurm"):
                from cakdbench.engine.launch.slurm import SlurmLauncher
            return SlurmLauncher(self.slurm, self.jobs)
        raise unknown("launcher", self.launcher, LAUNCHERS)


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UsageError(f"--launcher {name} needs a package: pip install 'cakdbench[{name}]' ({error})") from error


def parse_slurm(texts: list[str]) -> dict[str, str]:
    """Return settings of Slurm jobs, KEY=VALUE each.

    Raises:
        UsageError: one is written otherwise.
    """
    pairs = [text.partition("=") for text in texts]
    for (name, equals, value), text in zip(pairs, texts):
        if not (name and equals and value):
            raise UsageError(f"--slurm {text!r}: write KEY=VALUE, as in partition=gpu")
    return {name: value for name, _, value in pairs}

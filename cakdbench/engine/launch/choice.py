"""Choose a launcher by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cakdbench.engine.launch.launcher import Launcher
from cakdbench.engine.launch.local import LocalLauncher
from cakdbench.engine.options import RunOptions
from cakdbench.engine.session import Session
from cakdbench.utils.errors import UsageError, unknown

if TYPE_CHECKING:
    from cakdbench.engine.launch.ray import RayLauncher
    from cakdbench.engine.launch.slurm import SlurmLauncher

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

    def check(self, options: RunOptions) -> None:
        """Look whether what was told goes together, before anything is started.

        Raises:
            UsageError: the launcher's name is unknown, a package is missing, a setting is wrong or of another launcher.
        """
        flags = {
            "--ray-address": ("ray", self.ray_address),
            "--gpu-share": ("ray", self.gpu_share != 1.0),
            "--slurm": ("slurm", self.slurm),
        }
        for flag, (launcher, given) in flags.items():
            if given and self.launcher != launcher:
                raise UsageError(f"{flag} is for --launcher {launcher}: add that, or leave {flag} out")
        if options.gpus and self.launcher != "local":
            hint = "leave it out, or set CUDA_VISIBLE_DEVICES where the nodes are started"
            raise UsageError(f"--gpus is for this machine, and --launcher {self.launcher} takes what it finds: {hint}")
        if self.launcher == "slurm":
            self._slurm().check(options)
        elif self.launcher == "ray":
            self._ray()
        elif self.launcher not in LAUNCHERS:
            raise unknown("launcher", self.launcher, LAUNCHERS)

    def tell(self, session: Session) -> None:
        """Let a session know whether other devices than its own compute: a login node may have no GPU."""
        on_cpu = session.accelerator.device.type == "cpu" and not session.options.cpu
        session.harness.elsewhere = on_cpu and not self.is_here

    def make(self, session: Session) -> Launcher:
        """Return the launcher; `check` says what is wrong with it."""
        if self.launcher == "local":
            return LocalLauncher(session.processes(self.jobs))
        return self._ray() if self.launcher == "ray" else self._slurm()

    @property
    def is_here(self) -> bool:
        """Return True if this machine computes."""
        return self.launcher == "local" or (self.launcher == "ray" and not self.ray_address)

    def _ray(self) -> RayLauncher:
        with _extra("ray"):
            from cakdbench.engine.launch.ray import RayLauncher
        return RayLauncher(self.ray_address, self.jobs, self.gpu_share)

    def _slurm(self) -> SlurmLauncher:
        with _extra("slurm"):
            from cakdbench.engine.launch.slurm import SlurmLauncher
        return SlurmLauncher(self.slurm, self.jobs)


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

"""Two processes that train methods for `cakdbench check`, forked once the imports are made where the system can.

Started by `training.train_in_two`, in a program of its own: a process that has computed must not fork.
"""

import os
import socket
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from cakdbench.checks.lab import Lab, train
from cakdbench.checks.training import state_name
from cakdbench.registry import load_file, split_variant
from cakdbench.train import ranks
from cakdbench.utils.device import make_accelerator

START = "fork" if sys.platform == "linux" else "spawn"
"""Windows cannot fork, and macOS's frameworks do not survive it."""


def main(folder: Path, names: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    try:
        start_processes(_train_all, (folder, names), nprocs=2, start_method=START)
    except (ProcessRaisedException, ProcessExitedException) as failure:
        sys.exit(f"process {failure.error_index} of two failed: {str(failure).strip().splitlines()[-1]}")


def _train_all(rank: int, folder: Path, names: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    for name in names:
        if name.endswith(".py"):
            load_file(Path(name))
    ranks.AGREE_SECONDS = 5.0  # steps of the lab are short
    accelerator = make_accelerator(cpu=True)
    for name in names:
        if not name.endswith(".py"):
            _train(Lab(*split_variant(name)), folder, accelerator)
    torch.distributed.destroy_process_group()


def _train(lab: Lab, folder: Path, accelerator: Accelerator) -> None:
    for direction in lab.some:
        lane = lab.lane(direction, accelerator=accelerator)
        failed = train([lane], direction, accelerator.process_index)
        if failed:
            raise RuntimeError(f"{lab.label}: {failed[0]}")
        lane.method.before_save()
        if accelerator.is_main_process:
            torch.save(lane.method.state_dict(), folder / state_name(lab, direction))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

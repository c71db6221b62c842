"""One of two processes that train methods for `cakdbench check`; started by `training.train_in_two`."""

import sys
from pathlib import Path

import torch

from cakdbench.checks.lab import Lab, train
from cakdbench.checks.training import state_name
from cakdbench.device import make_accelerator
from cakdbench.registry import load_file, split_variant


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        if name.endswith(".py"):
            load_file(Path(name))
    accelerator = make_accelerator(cpu=True)
    for name in names:
        if not name.endswith(".py"):
            _train(Lab(*split_variant(name)), folder, accelerator)
    torch.distributed.destroy_process_group()


def _train(lab: Lab, folder: Path, accelerator) -> None:
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

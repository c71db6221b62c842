"""One step of a grid of methods in several processes of one run: `python -m tests.train.ranks FOLDER PROCESSES`.
With `crowded` at the end one of them finds no memory.

Each leaves the gradients of its lanes, summed up over the step as the engine does it.
"""

import os
import socket
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing import start_processes

from cakdbench.checks.lab import Direction, Lab, short_recipe, train
from cakdbench.registry import get_method
from cakdbench.utils.device import make_accelerator
from cakdbench.utils.errors import CakdError

METHODS = ("kd", "fbt")
DIRECTION = Direction("cnn", "cnn")  # batch norm on both sides
RECIPE = {"global_batch": 16, "local_batch": 2, "optimizer.weight_decay": 0.0}


def moves(rank: int = 0) -> dict[str, Tensor]:
    """Return how far a step of plain SGD goes: the gradients, but for the rate."""
    torch.set_num_threads(1)
    recipe = short_recipe(**RECIPE)
    lanes = [Lab(get_method(id)).lane(DIRECTION, recipe, make_accelerator(cpu=True)) for id in METHODS]
    before = [{name: p.detach().clone() for name, p in lane.method.named_parameters()} for lane in lanes]
    assert train(lanes, DIRECTION, rank) == []
    return {
        f"{id} {name}": p.detach() - start[name]
        for id, lane, start in zip(METHODS, lanes, before)
        for name, p in lane.method.named_parameters()
    }


class Crowded(get_method("kd")):
    """KD that finds no memory in the second process, in its third step."""

    def distill_step(self, batch):
        if batch.step == 2 and torch.distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB")
        return super().distill_step(batch)


def crowded(rank: int) -> str:
    """Return how a run ends in this process whose second one finds no memory."""
    torch.set_num_threads(1)
    recipe = short_recipe(**RECIPE | {"global_batch": 4})
    lanes = [Lab(method).lane(DIRECTION, recipe, make_accelerator(cpu=True)) for method in (get_method("kd"), Crowded)]
    try:
        train(lanes, DIRECTION, rank)
    except CakdError as error:
        return str(error)
    return "it ended as if nothing had been"


def _rank(rank: int, folder: Path, act: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    if act == "crowded":
        (folder / f"crowded-{rank}.txt").write_text(crowded(rank))
        os._exit(0)  # the processes cannot agree on an end any more
    torch.save(moves(rank), folder / f"{os.environ['WORLD_SIZE']}-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    start_processes(_rank, (folder, "".join(sys.argv[3:])), nprocs=processes, start_method="fork")

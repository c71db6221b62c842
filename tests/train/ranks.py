"""One step of a grid of methods in several processes of one run: `python -m tests.train.ranks FOLDER PROCESSES`.
With `crowded`, `wrong` or `broken` at the end, one of them finds no memory or fails, or a method fails in all; with
`noisy` the students are tested under corruptions.

Each leaves the gradients of its lanes, summed up over the step as the engine does it.
"""

import json
import os
import socket
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing import start_processes

from cakdbench.checks.lab import Direction, Lab, make_trainer, short_recipe, small_dataset, train
from cakdbench.data.corruptions import corrupt
from cakdbench.data.stream import EvalStream
from cakdbench.registry import get_method
from cakdbench.train import ranks as trainer_ranks
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


class Wrong(get_method("kd")):
    """KD that fails in the second process, in its third step."""

    def distill_step(self, batch):
        if batch.step == 2 and torch.distributed.get_rank() == 1:
            raise ValueError("an odd image")
        return super().distill_step(batch)


class Broken(get_method("kd")):
    """KD that fails in its third step, in a backward that has begun to average gradients."""

    def step_end(self):
        self.steps = getattr(self, "steps", 0) + 1

    def distill_step(self, batch):
        step = super().distill_step(batch)
        if getattr(self, "steps", 0) == 2:
            next(self.student.parameters()).register_hook(self._fail)
        return step

    def _fail(self, gradient):
        raise ValueError(f"a bug, told otherwise in process {torch.distributed.get_rank()}")


BAD = {"crowded": Crowded, "wrong": Wrong, "broken": Broken}


def end_of(rank: int, act: str) -> str:
    """Return how a run ends in this process, of which one method is bad."""
    torch.set_num_threads(1)
    trainer_ranks.AGREE_SECONDS = 2.0
    recipe = short_recipe(**RECIPE | {"global_batch": 4})
    lanes = [Lab(method).lane(DIRECTION, recipe, make_accelerator(cpu=True)) for method in (get_method("kd"), BAD[act])]
    good = lanes[0]
    try:
        failed = train(lanes, DIRECTION, rank)
    except CakdError as error:
        return str(error)
    return f"{failed[0]}; step {good.step}: {sum(float(p.detach().sum()) for p in good.method.parameters())}"


def noisy(rank: int) -> str:
    """Return what all processes found under corruptions, and what this one finds by itself, by lane."""
    torch.set_num_threads(1)
    recipe = short_recipe(**RECIPE, **{"ema_decay": 0.5, "evaluation.corruptions": "gaussian_noise:2,shot_noise=30"})
    lanes = [Lab(get_method(id)).lane(DIRECTION, recipe, make_accelerator(cpu=True)) for id in METHODS]
    trainer, data = make_trainer(lanes, DIRECTION, rank), small_dataset()
    trainer.evaluation = EvalStream(data.test, data, recipe, batch_size=3, rank=rank, world=2)
    trainer.run()
    told = []
    for lane in lanes:
        for made in trainer.corrupted[lane.label]:
            (images, labels, _), *_ = EvalStream(data.test, data, recipe, change=partial(corrupt, made.corruption))
            top1 = [top1_of(net, images, labels) for net in (lane.method.student, lane.ema.module)]
            told.append([str(made.corruption), made.top1, made.ema_top1, *top1])
    return json.dumps(told)


@torch.no_grad()
def top1_of(network, images: Tensor, labels: Tensor) -> float:
    return 100 * (network.eval()(images).logits.argmax(1) == labels).double().mean().item()


def _rank(rank: int, folder: Path, act: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    if act:
        (folder / f"{act}-{rank}.txt").write_text(noisy(rank) if act == "noisy" else end_of(rank, act))
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

"""Checks of training as the engine does it: optimizer, checkpoints, lanes, processes."""

import hashlib
import io
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from cakdbench.checks.lab import MODELS, Direction, Fault, Lab, make_batch, short_recipe, teacher_model, train
from cakdbench.method import Batch
from cakdbench.registry import get_method
from cakdbench.train.lane import Lane, parameters_of

STEPS = 16


def optimized(lab: Lab) -> str:
    """Every extra parameter is in an optimizer, gets a gradient within some steps, and moves."""
    adam = {"optimizer.name": "adamw", "optimizer.lr": 1e-3}  # moves by its rate however small the gradient
    extra, recipe = 0, short_recipe(epochs=STEPS, **adam)
    for direction in lab.some:
        teacher = teacher_model(MODELS[direction.teacher])
        lane = lab.lane(direction, recipe)
        inside = {id(p) for p in lane.method.student.parameters()}
        own = {name: p for name, p in lane.method.named_parameters() if p.requires_grad and id(p) not in inside}
        held = {id(p) for p in parameters_of(lane.optimizer, *lane.extra_optimizers)}
        lost = [name for name, p in own.items() if id(p) not in held]
        if lost:
            raise Fault(f"{direction}: {lost[0]} is in no optimizer", "create it in build()")
        still = _unmoved(lane, own, lambda number: _batch(teacher, number))
        if still:
            raise Fault(
                f"{direction}: {still[0]} got no gradient in {STEPS} steps ({len(still)} such in all)",
                "let a loss depend on it, or do not create it, or set requires_grad to False",
            )
        extra = max(extra, len(own))
    return f"{extra} extra tensors at most" if extra else "no extra parameters"


def _unmoved(lane: Lane, own: dict[str, Tensor], batch_of) -> list[str]:
    waiting = set(own)
    lane.start_epoch(0)
    for number in range(STEPS):
        if not waiting:
            break
        before = {name: own[name].detach().clone() for name in waiting}
        reached = _reached_by_step(lane, own, batch_of(number), waiting)
        waiting -= {name for name in reached if not torch.equal(before[name], own[name])}
    return sorted(waiting)


def _reached_by_step(lane: Lane, own: dict[str, Tensor], batch: Batch, names: set[str]) -> set[str]:
    """One engine step; the names whose gradient was not zero."""
    reached: set[str] = set()
    hooks = [
        own[name].register_hook(lambda grad, name=name: reached.add(name) if grad.any() else None) for name in names
    ]
    for slot in range(lane.accumulation):
        lane.local_step(batch, slot)
    for hook in hooks:
        hook.remove()
    return reached


def _batch(teacher, number: int, size: int = 4) -> Batch:
    return make_batch(teacher, size, first=number * size)


def checkpoint(lab: Lab) -> str:
    """A lane that was saved and loaded into a new one makes the same next step, bit for bit."""
    for direction in lab.some:
        teacher = teacher_model(MODELS[direction.teacher])
        lane, again = lab.lane(direction), lab.lane(direction)
        lane.start_epoch(0)
        for number in range(2):
            _engine_step(lane, _batch(teacher, number))
        buffer = io.BytesIO()
        torch.save(lane.state(), buffer)
        buffer.seek(0)
        try:
            again.load(torch.load(buffer, weights_only=True))
        except Exception as error:
            raise Fault(f"{direction}: its state cannot be loaded: {error}", "keep tensors in buffers") from error
        again.start_epoch(0)
        for each in (lane, again):
            _engine_step(each, _batch(teacher, 2))
        names = _different(lane.method.state_dict(), again.method.state_dict())
        if names:
            raise Fault(
                f"{direction}: after a resume the next step gives another {names[0]}",
                "keep what the next step depends on in buffers (register_buffer), or in get_extra_state",
            )
    return "the next step is the same, bit for bit"


def _engine_step(lane: Lane, batch: Batch) -> None:
    for slot in range(lane.accumulation):
        batch.place = slot
        lane.local_step(batch, slot)


def _different(one: dict, other: dict, tolerance: float = 0.0) -> list[str]:
    if one.keys() != other.keys():
        return sorted(one.keys() ^ other.keys())
    return [name for name in one if not _close(one[name], other[name], tolerance)]


def _close(one, other, tolerance: float) -> bool:
    if not isinstance(one, Tensor):
        return True
    if one.shape != other.shape:
        return False
    return torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def beside_others(lab: Lab) -> str:
    """Trained alone or beside other methods, the weights are the same, bit for bit."""
    for direction in lab.some[:2]:
        others = [Lab(get_method(id)) for id in ("scratch", "kd") if id != lab.method.id]
        alone, company = lab.lane(direction), lab.lane(direction)
        failed = train([alone], direction)
        failed += train(
            [others[0].lane(direction), company, *(other.lane(direction) for other in others[1:])], direction
        )
        if failed:
            raise Fault(f"{direction}: training failed: {failed[0]}", "run it alone and look at its losses")
        names = _different(alone.method.state_dict(), company.method.state_dict())
        if names:
            raise Fault(
                f"{direction}: beside other methods it trains to another {names[0]}",
                "keep no state outside the method (globals, class attributes), and do not change the batch",
            )
    return "same weights, bit for bit"


def two_processes(lab: Lab, files: list[Path] = []) -> str:
    """Two processes with a local batch each train what one process with two local batches trains."""
    with tempfile.TemporaryDirectory() as folder:
        train_in_two([lab], Path(folder), files)
        return same_as_one(lab, Path(folder))


def train_in_two(labs: list[Lab], folder: Path, files: list[Path] = []) -> None:
    """Train methods in two processes of one run; leaves a state per method and direction in the folder."""
    _launch([str(folder), *(lab.label for lab in labs), *map(str, files)])


def same_as_one(lab: Lab, folder: Path) -> str:
    """Compare what `train_in_two` left with what one process trains."""
    for direction in lab.some[:2]:
        alone = lab.lane(direction)
        failed = train([alone], direction)
        if failed:
            raise Fault(f"{direction}: training failed: {failed[0]}", "run it alone and look at its losses")
        state = torch.load(folder / state_name(lab, direction), weights_only=True)
        names = _different(alone.method.state_dict(), state, 2e-3)
        if names:
            raise Fault(
                f"{direction}: with two processes it trains to another {names[0]}",
                "collect in distill_step what batches leave behind, and apply it in step_end with "
                "cakdbench.processes.together; key memory by batch.place",
            )
    return "same weights, up to the order of summation"


def state_name(lab: Lab, direction: Direction) -> str:
    return f"{hashlib.sha256(f'{lab.label} {direction}'.encode()).hexdigest()[:16]}.pt"


def _launch(arguments: list[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cakdbench.checks.rank", *arguments]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        complaints = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    if any(rank.returncode for rank in ranks):
        lines = [line for text in complaints for line in text.splitlines() if "Error" in line] or ["no message"]
        raise Fault(
            f"a process of two failed: {lines[0]}", "run it alone first; look for code that runs on one rank only"
        )

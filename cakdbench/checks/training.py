"""Checks of training as the engine does it: optimizer, checkpoints, lanes, processes."""

import copy
import functools
import hashlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch
from torch import Tensor

from cakdbench.checks.lab import Direction, Fault, Lab, make_batch, short_recipe, train
from cakdbench.grid.plan import ALWAYS
from cakdbench.method import Batch
from cakdbench.registry import get_method
from cakdbench.train.lane import Lane, parameters_of

STEPS = 16


def optimized(lab: Lab) -> str:
    """Check that every extra parameter is in an optimizer, gets a gradient within some steps, and moves."""
    adam = {"optimizer.name": "adamw", "optimizer.lr": 1e-3}  # moves by its rate however small the gradient
    extra, recipe = 0, short_recipe(epochs=STEPS, **adam)
    for direction in lab.some:
        lane = lab.lane(direction, recipe)
        inside = {id(p) for p in lane.method.student.parameters()}
        own: dict[str, Tensor] = {
            name: p for name, p in lane.method.named_parameters() if p.requires_grad and id(p) not in inside
        }
        optimized = {id(p) for p in parameters_of(lane.optimizer, *lane.extra_optimizers)}
        lost = [name for name, p in own.items() if id(p) not in optimized]
        if lost:
            raise Fault(f"{direction}: {lost[0]} is in no optimizer", "create it in build()")
        still = _unmoved(lane, own, functools.partial(_batch, direction))
        if still:
            raise Fault(
                f"{direction}: {still[0]} got no gradient in {STEPS} steps, or did not move ({len(still)} such in all)",
                "let a loss depend on it, or do not create it, or set requires_grad to False",
            )
        extra = max(extra, len(own))
    return f"{extra} extra tensors at most" if extra else "no extra parameters"


def _unmoved(lane: Lane, own: dict[str, Tensor], batch_of: Callable[[int], Batch]) -> list[str]:
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
    """Make one engine step; return the names whose gradient was not zero."""
    reached: set[str] = set()
    hooks = [
        own[name].register_hook(lambda grad, name=name: reached.add(name) if grad.any() else None) for name in names
    ]
    for index in range(lane.accumulation):
        lane.local_step(batch, index)
    for hook in hooks:
        hook.remove()
    return reached


def _batch(direction: Direction, number: int, size: int = 4) -> Batch:
    return make_batch(direction.teacher, size, first=number * size)


def checkpoint(lab: Lab) -> str:
    """Check that a lane that was saved and loaded into a new one makes the same next step, bit for bit."""
    for direction in lab.some:
        lane, again = lab.lane(direction), lab.lane(direction)
        lane.start_epoch(0)
        for number in range(2):
            _engine_step(lane, _batch(direction, number))
        try:
            again.load(_saved(lane))
        except Exception as error:
            raise Fault(f"{direction}: its state cannot be loaded: {error}", "keep tensors in buffers") from error
        again.start_epoch(0)
        for copied in (lane, again):
            _engine_step(copied, _batch(direction, 2))
        _must_equal(
            lane.method.state_dict(),
            again.method.state_dict(),
            f"{direction}: after a resume the next step gives another",
            "keep what the next step depends on in buffers (register_buffer), or in get_extra_state",
        )
    return "the next step is the same, bit for bit"


def _saved(lane: Lane) -> dict:
    lane.method.before_save()
    buffer = io.BytesIO()
    torch.save(lane.state(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _engine_step(lane: Lane, batch: Batch) -> None:
    for index in range(lane.accumulation):
        batch.micro_batch = index
        lane.local_step(batch, index)


def beside_others(lab: Lab) -> str:
    """Trained alone or beside other methods, the weights are the same, bit for bit: its own, and the others'."""
    *first, last = (Lab(get_method(id)) for id in ALWAYS if id != lab.method.id)
    for direction in lab.some[:1]:
        neighbour = _alone(last, direction)
        alone, company, other = lab.lane(direction), lab.lane(direction), last.lane(direction)
        _train([alone], direction)
        _train([*(method.lane(direction) for method in first), company, other], direction)
        _must_equal(
            alone.method.state_dict(),
            company.method.state_dict(),
            f"{direction}: beside other methods it trains to another",
            "keep no state outside the method: no globals, no class attributes",
        )
        _must_equal(
            neighbour,
            other.method.state_dict(),
            f"{direction}: after it in the same pass, {last.label} trains to another",
            "do not write to the batch, to the teacher's outputs or to the teacher",
        )
    return "same weights, bit for bit, its own and its neighbour's"


@functools.lru_cache(maxsize=4)
def _alone(lab: Lab, direction: Direction) -> dict:
    """Return the state that a method of the product trains to where it is the only one."""
    lane = lab.lane(direction)
    _train([lane], direction)
    return lane.method.state_dict()


def _train(lanes: list[Lane], direction: Direction) -> None:
    failed = train(lanes, direction)
    if failed:
        raise Fault(f"{direction}: training failed: {failed[0]}", "run it alone and look at its losses")


def _must_equal(one: dict, other: dict, complaint: str, hint: str, start: dict | None = None) -> None:
    """Compare two states: bit for bit or, with the state they started from, in how far they went (to a hundredth).

    Raises:
        Fault: the complaint, with the first name that differs.
    """
    one, other = dict(_flat(one)), dict(_flat(other))
    begun = dict(_flat(start)) if start is not None else {}
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other or not _equal(one[name], other[name], begun.get(name)):
            raise Fault(f"{complaint} {name}", hint)


def _flat(state: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors in nested dicts and lists, with their paths."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from _flat(value, f"{name}.{key}" if name else str(key))


def _equal(one: Tensor, other: Tensor, begun: Tensor | None) -> bool:
    if one.shape != other.shape:
        return False
    if begun is None or not one.is_floating_point():
        return torch.equal(one, other)
    one, other, begun = (t.double() for t in (one, other, begun))
    return (one - other).norm() <= 0.01 * (one - begun).norm() + 1e-6 * (1 + begun.norm())


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
    for direction in lab.some:
        alone = lab.lane(direction)
        start = copy.deepcopy(alone.method.state_dict())
        _train([alone], direction)
        alone.method.before_save()
        _must_equal(
            alone.method.state_dict(),
            torch.load(folder / state_name(lab, direction), weights_only=True),
            f"{direction}: with two processes it trains to another",
            "collect in distill_step what batches leave behind, and apply it in step_end with "
            "cakdbench.utils.distributed.all_gather; key memory by batch.micro_batch",
            start,
        )
    return "same weights, up to the order of summation"


def state_name(lab: Lab, direction: Direction) -> str:
    return f"{hashlib.sha256(f'{lab.label} {direction}'.encode()).hexdigest()[:16]}.pt"


def _launch(arguments: list[str], patience: float = 600.0) -> None:
    """Run the two processes, to the end of both.

    Raises:
        Fault: one failed, with its last words, or they wait for each other.
    """
    program = [sys.executable, "-m", "cakdbench.checks.rank", *arguments]
    with subprocess.Popen(
        program,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as both:
        try:
            words = both.communicate(timeout=patience)[1]
        except BaseException as error:
            for process in (*psutil.Process(both.pid).children(recursive=True), both):
                process.kill()  # one that waits for the other hears nothing else
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            hint = "call all_gather and broadcast equally often on all processes"
            raise Fault("two processes wait for each other", hint) from None
    if both.returncode:
        said = [line for line in words.splitlines() if line.strip()] or ["the two processes say nothing"]
        raise Fault(said[-1], "run it alone first; look for code that depends on the rank")

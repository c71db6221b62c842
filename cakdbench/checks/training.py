"""Checks of training as the engine does it: optimizer, checkpoints, lanes, processes."""

import contextlib
import copy
import hashlib
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from cakdbench.checks.lab import MODELS, Direction, Fault, Lab, make_batch, short_recipe, teacher_model, train
from cakdbench.method import Batch
from cakdbench.plan import ALWAYS
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
                f"{direction}: {still[0]} got no gradient in {STEPS} steps, or did not move ({len(still)} such in all)",
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
        try:
            again.load(_saved(lane))
        except Exception as error:
            raise Fault(f"{direction}: its state cannot be loaded: {error}", "keep tensors in buffers") from error
        again.start_epoch(0)
        for each in (lane, again):
            _engine_step(each, _batch(teacher, 2))
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
    for slot in range(lane.accumulation):
        batch.place = slot
        lane.local_step(batch, slot)


def beside_others(lab: Lab) -> str:
    """Trained alone or beside other methods, the weights are the same, bit for bit: its own, and the others'."""
    *first, last = (Lab(get_method(id)) for id in ALWAYS if id != lab.method.id)
    for direction in lab.some[:1]:
        alone, company, others = lab.lane(direction), lab.lane(direction), [last.lane(direction) for _ in "ab"]
        _train([alone], direction)
        _train([others[0]], direction)
        _train([*(other.lane(direction) for other in first), company, others[1]], direction)
        _must_equal(
            alone.method.state_dict(),
            company.method.state_dict(),
            f"{direction}: beside other methods it trains to another",
            "keep no state outside the method: no globals, no class attributes",
        )
        _must_equal(
            others[0].method.state_dict(),
            others[1].method.state_dict(),
            f"{direction}: after it in the same pass, {last.label} trains to another",
            "do not write to the batch, to the teacher's outputs or to the teacher",
        )
    return "same weights, bit for bit, its own and its neighbour's"


def _train(lanes: list[Lane], direction: Direction) -> None:
    failed = train(lanes, direction)
    if failed:
        raise Fault(f"{direction}: training failed: {failed[0]}", "run it alone and look at its losses")


def _must_equal(one: dict, other: dict, complaint: str, fix: str, start: dict | None = None) -> None:
    """Two states agree bit for bit or, given where they started, in how far they went (to a hundredth).

    Raises:
        Fault: the complaint, with the first name that differs.
    """
    one, other = dict(_flat(one)), dict(_flat(other))
    begun = dict(_flat(start)) if start is not None else {}
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other or not _equal(one[name], other[name], begun.get(name)):
            raise Fault(f"{complaint} {name}", fix)


def _flat(state, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dicts and lists, with their paths."""
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
            "cakdbench.processes.together; key memory by batch.place",
            start,
        )
    return "same weights, up to the order of summation"


def state_name(lab: Lab, direction: Direction) -> str:
    return f"{hashlib.sha256(f'{lab.label} {direction}'.encode()).hexdigest()[:16]}.pt"


def _launch(arguments: list[str]) -> None:
    """Run the two processes; when one fails or both hang, end them.

    Raises:
        Fault: one failed, with its last words, or they wait for each other.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        words = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "cakdbench.checks.rank", *arguments],
                env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=words[rank],
            )
            for rank in range(2)
        ]
        for rank in ranks:
            stack.callback(rank.kill)
        failed = _wait(ranks)
        if failed is not None:
            words[failed].seek(0)
            last = [line for line in words[failed].read().splitlines() if line.strip()][-1:]
            raise Fault(
                f"process {failed} of two failed: {''.join(last) or 'it says nothing'}",
                "run it alone first; look for code that depends on the rank",
            )


def _wait(ranks: list[subprocess.Popen], patience: float = 600.0) -> int | None:
    """The rank that failed first, or None."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        codes = [rank.poll() for rank in ranks]
        if any(codes):
            return next(rank for rank, code in enumerate(codes) if code)
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.1)
    raise Fault("two processes wait for each other", "call together and from_first equally often on all processes")

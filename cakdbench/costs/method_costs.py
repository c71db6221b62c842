"""The costs of a method on a pair, counted on its own `build` and `distill_step`, without training.

Nothing here knows a method: its modules are those of the method that are not the student's, its path is all that a step
computes besides the student's own forward pass. State that a step leaves, such as feedback, is there when the next
one is counted. Two steps are counted; if they differ, because the method draws what it does or does something in some
epochs only, the number is the mean of ten, one in each of ten epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves

from cakdbench.build import build_method, refusal
from cakdbench.costs.bench import CountingBench
from cakdbench.costs.counting import Meter
from cakdbench.costs.legacy import LegacyCount, legacy_counting
from cakdbench.grid.pairs import Pair
from cakdbench.grid.plan import Refusal
from cakdbench.grid.suites import PairSpec
from cakdbench.method import Method
from cakdbench.registry import resolve_config, split_variant
from cakdbench.utils.errors import RAISED, CakdError, describe_error, file_of
from cakdbench.utils.rng import seeded

MANY = 10
"""Steps that are counted if the first two do not agree."""


class CountError(CakdError):
    """A method fails while it is counted."""

    def __init__(self, label: str, pair: str, error: BaseException, file: str | None = None):
        super().__init__(f"{label} on {pair} fails while its costs are counted: {describe_error(error, file)}")


@dataclass(frozen=True)
class MethodCost:
    """The costs of a method on a pair; MACs are multiply-adds of forward passes per image.

    Attributes:
        classes: of both classifiers.
        local_batch: the recipe's, for `batch_path_macs` and `buffers_mb`; 1 for a method that looks at what tensors
            contain, which is counted in a real step on the CPU.
        student_parameters, student_macs: of the student alone.
        extra_parameters: trained beside the student's.
        added_macs: inside the modules that the method adds, at batch 1.
        path_macs: of a step at batch 1, less the student's own pass and the shared teacher's: the added modules, the
            parts of either network that the method runs again, and products in its losses.
        least_path_macs, most_path_macs: of the counted steps; equal if all steps do the same.
        batch_path_macs: as `path_macs`, per image of a local batch: samples are compared, and what is computed once a
            batch is shared. The difference is that of one step.
        teacher_pass: `shared` if the method uses the pass that is made once for all methods, `own` if it runs the
            teacher by itself alone (which is in `path_macs`), `none` if it has no teacher.
        buffers_mb: 10^6 bytes that the method keeps from step to step and in checkpoints (buffers and extra state),
            after steps of one local batch.
        legacy_parameters, legacy_macs: of the added modules, see `legacy`.
        legacy_student_parameters, legacy_student_macs: likewise of the student.
    """

    label: str
    pair: Pair
    classes: int
    image_size: int
    local_batch: int
    student_parameters: int
    student_macs: int
    teacher_parameters: int
    teacher_macs: int
    extra_parameters: int
    added_macs: int
    path_macs: int
    least_path_macs: int
    most_path_macs: int
    batch_path_macs: int
    teacher_pass: Literal["none", "shared", "own"]
    buffers_mb: float
    legacy_parameters: int
    legacy_macs: int
    legacy_student_parameters: int
    legacy_student_macs: int


def method_costs(
    labels: Iterable[str], specs: Iterable[PairSpec], classes: int | None = None, data_dir: Path | None = None
) -> Iterator[MethodCost | Refusal]:
    """Yield the costs of all methods on all pairs, pair by pair, without weights, data or training.

    Where a method's own code fails it yields a refusal that says so.

    Args:
        labels: methods, `METHOD:VARIANT` or `METHOD[KEY=VALUE]`.
        classes: of both classifiers; None: the dataset's.

    Raises:
        UsageError: a name is unknown or a setting impossible.
    """
    chosen = [(label, *split_variant(label)) for label in labels]
    for spec in specs:
        bench = CountingBench(spec, classes, data_dir=data_dir)
        for label, method, variant in chosen:
            try:
                yield method_cost(bench, method, variant, label)
            except CountError as error:
                yield Refusal(label, spec.pair, str(error))


def method_cost(
    bench: CountingBench, method: type[Method], variant: str | None = None, label: str | None = None
) -> MethodCost | Refusal:
    """Return the costs of one method; the refusal with its reason if the method does not take the pair.

    Raises:
        CountError: the method's own code fails, without content in tensors and with it.
    """
    infos, label = (bench.teacher.info, bench.student.info), label or method.id
    config = resolve_config(method, variant, *infos, bench.pair.dataset)
    if reason := refusal(method, *infos, config):
        return Refusal(label, bench.pair, reason)
    try:
        return _count(bench, method, config, label)
    except RAISED as error:
        # On the meta device a method fails, too, that looks at what tensors contain; on the CPU it must not.
        if bench.device.type == "meta":
            return method_cost(bench.on_cpu, method, variant, label)
        raise CountError(label, str(bench.pair), error, file_of(method)) from error


def _count(bench: CountingBench, kind: type[Method], config: Method.Config, label: str) -> MethodCost:
    method, student, teacher = _build(bench, kind, config), bench.student_cost, bench.teacher_cost
    local = bench.recipe.local_batch if bench.device.type == "meta" else 1
    at_batch = _settled(bench, method, local)
    buffers = state_bytes(method)
    steps = [_settled(bench, method, 1), _step(bench, method, 1, 1)]
    if steps[0] != steps[1]:
        steps += [_step(bench, method, 1, number) for number in range(2, MANY)]
    paths = [step.total - student.macs for step in steps]
    return MethodCost(
        label=label,
        pair=bench.pair,
        classes=bench.classes,
        image_size=bench.recipe.image_size,
        local_batch=local,
        student_parameters=student.parameters,
        student_macs=student.macs,
        teacher_parameters=teacher.parameters,
        teacher_macs=teacher.macs,
        extra_parameters=method.extra_parameters(),
        added_macs=round(fmean(step.inside for step in steps)),
        path_macs=round(fmean(paths)),
        least_path_macs=min(paths),
        most_path_macs=max(paths),
        batch_path_macs=round(fmean(paths) + at_batch.total / local - steps[0].total),
        teacher_pass=_teacher_pass(method),
        buffers_mb=buffers / 1e6,
        legacy_parameters=sum({m: n for step in steps for m, n in step.legacy.seen.items()}.values()),
        legacy_macs=round(fmean(step.legacy.macs for step in steps)),
        legacy_student_parameters=student.legacy_parameters,
        legacy_student_macs=student.legacy_macs,
    )


def _build(bench: CountingBench, kind: type[Method], config: Method.Config) -> Method:
    with Meter(), bench.device, seeded("cost"):
        method = build_method(kind, bench.student, bench.teacher, config, labels=bench.labels)
    return method.to(bench.device).eval()


class _Step(NamedTuple):
    total: int
    inside: int
    legacy: LegacyCount


def _settled(bench: CountingBench, method: Method, size: int) -> _Step:
    """Return step 0, made a second time if the first one changed what the method keeps."""
    before = state_bytes(method)
    step = _step(bench, method, size, 0)
    if bench.device.type == "meta" and state_bytes(method) == before:  # of content nothing is seen there
        return step
    return _step(bench, method, size, 0)


def _step(bench: CountingBench, method: Method, size: int, number: int) -> _Step:
    """Count one step of `size` images, in the epoch `number`."""
    student = set(method.student.modules())
    added = [module for module in method.modules() if module is not method and module not in student]
    batch = bench.batch(size, number, taught=_teacher_pass(method) == "shared")
    with seeded("cost", number), Meter(added) as meter, legacy_counting(added) as legacy:
        method.epoch_start(number)
        method(batch)
        step = _Step(meter.total, meter.inside, legacy)
        method.step_end()
    return step


def _teacher_pass(method: Method) -> Literal["none", "shared", "own"]:
    if not method.needs:
        return "none"
    return "shared" if method.needs - {"model"} else "own"


def state_bytes(method: Method) -> int:
    """Return the bytes that a checkpoint of the method holds besides parameters and the student."""
    trained = dict(method.named_parameters())
    state = method.state_dict().items()
    buffers = [value for name, value in state if name not in trained and not name.startswith("student.")]
    return sum(tensor.numel() * tensor.element_size() for tensor in tree_leaves(buffers) if isinstance(tensor, Tensor))

"""The trainer: one pass over the data, one teacher, many lanes."""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from cakdbench.data.corruptions import corrupt
from cakdbench.data.renderers import is_lost_renderer
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.data.views import Views
from cakdbench.method import Batch
from cakdbench.models.staged import StagedModel
from cakdbench.recipes import Recipe
from cakdbench.records import Corrupted, Epoch
from cakdbench.train.evaluate import Evaluation, LaneExaminer
from cakdbench.train.events import FLUSH_EVERY, GroupView, LaneView
from cakdbench.train.lane import Lane, LaneFailure
from cakdbench.train.peak import PeakMeter
from cakdbench.train.ranks import failed_alone, out_of_step
from cakdbench.train.runtime import Runtime
from cakdbench.train.teaching import TapedPass, Taping, TeacherPass
from cakdbench.utils.corruptions import Corruption, parse_corruptions
from cakdbench.utils.device import is_out_of_memory
from cakdbench.utils.errors import RAISED, CakdError, StoreError, describe_error, file_of
from cakdbench.utils.precision import force_fp32

SAVED = "interrupted: all lanes are saved, the same command goes on from here"


class Interrupted(CakdError):
    """The user asked to stop; every lane has been checkpointed."""

    exit_code = 130


def label_criterion(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    """Return timm's cross-entropy, in float32, of class indices (smoothed as the recipe says) or of soft targets.

    Soft targets, from mixup and cutmix, carry the smoothing already.
    """
    smoothing = recipe.label_smoothing
    hard = LabelSmoothingCrossEntropy(smoothing) if smoothing else nn.CrossEntropyLoss()
    soft = SoftTargetCrossEntropy()

    @force_fp32
    def criterion(logits: Tensor, target: Tensor) -> Tensor:
        return (hard if target.ndim == 1 else soft)(logits, target)

    return criterion


class Keeper:
    """Keeps what becomes of lanes. This one notes the failures and saves nothing.

    Attributes:
        failed: the reasons of the lanes that were closed, by label.
    """

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}

    def save(self, lane: Lane) -> None:
        """Store a lane's state; called at every epoch's end and every `Options.checkpoint_seconds`."""

    def log(self, lane: Lane, view: GroupView, line: Epoch | None = None) -> None:
        """Hear how far a lane is, whenever its metrics have been read; `line` closes an epoch."""

    def fail(self, label: str, reason: str, error: BaseException | None = None, alone: bool = False) -> None:
        """Note that a lane was closed, by an error of its method if there is one.

        Args:
            alone: of several processes the others do not know of it.
        """
        self.failed[label] = reason

    def postpone(self, label: str, reason: str, most: int) -> None:
        """Note that a lane was closed for want of memory, to be tried again in a group of `most` lanes at most."""
        self.fail(label, f"out of memory {reason}")


class Trainer:
    """Trains lanes that stand at the same step, in one pass over the stream.

    Args:
        teacher: frozen, in eval mode, on the device; None if no lane needs one.
        taping: in its place, a tape to replay and to record.

    Attributes:
        results: of the last evaluation, by the lanes' labels; none of lanes that were trained to the end before.
        corrupted: accuracies under the corruptions of the recipe, in its order, by the lanes' labels.
    """

    def __init__(
        self,
        lanes: list[Lane],
        teacher: StagedModel | None,
        stream: SampleStream,
        evaluation: EvalStream,
        runtime: Runtime,
        keeper: Keeper,
        view: GroupView,
        taping: Taping | None = None,
    ):
        self.lanes = lanes
        self.stream = stream
        self.evaluation = evaluation
        self.runtime = runtime
        self.accelerator = runtime.accelerator
        self.keeper = keeper
        self.view = view
        self.recipe = stream.recipe
        self.criterion = label_criterion(self.recipe)
        needs: frozenset[str] = frozenset().union(*(lane.method.needs for lane in lanes))
        live = TeacherPass(needs, teacher, self.accelerator)
        self.teaching = TapedPass(needs, taping, stream, self.accelerator) if taping else live
        self.flush_every = FLUSH_EVERY if self.accelerator.device.type == "cuda" else 1
        self.peaks = PeakMeter(self.accelerator.device)
        self.results: dict[str, Evaluation] = {}
        self.corrupted: dict[str, list[Corrupted]] = {}
        self._examiners: dict[str, LaneExaminer] = {}
        self._saved = time.monotonic()

    def run(self) -> None:
        """Train to the last epoch. Lanes that fail leave `self.lanes`, the others go on.

        Raises:
            Interrupted: `Runtime.stop` became true; the lanes have been saved.
        """
        try:
            self._run()
        finally:
            self.teaching.close()

    def _run(self) -> None:
        self.runtime.events.group(self.view)
        per_epoch, first = self.stream.steps_per_epoch, self.lanes[0].step
        for epoch in range(first // per_epoch, self.recipe.epochs):
            self._train(epoch, max(first - epoch * per_epoch, 0))
            self._close(epoch)
            if not self.lanes:
                return
        for corruption in parse_corruptions(self.recipe.evaluation.corruptions):
            if self.lanes:
                self._test(corruption)
        for lane in self.lanes:
            self._lane_view(lane).state = "done"
        self.runtime.events.tick(self.view)

    def _train(self, epoch: int, first: int) -> None:
        self.each(lambda lane: lane.start_epoch(epoch))
        self.teaching.start_epoch(epoch, first)
        for step, batches in enumerate(self.stream.epoch(epoch, first), first):
            self.peaks.at_step(step - first)
            for local_index, views in enumerate(batches):
                if batch := self._taught(views):
                    learn = partial(Lane.local_step, batch=batch, local_index=local_index)
                    self.each(partial(self.peaks.of_lane, self.lanes, act=learn))
            at_end = step == self.stream.steps_per_epoch - 1
            if at_end or step % self.flush_every == 0:
                self.each(Lane.flush_metrics)
                self.teaching.flush()
                self._show(epoch * self.stream.steps_per_epoch + step + 1)
                if not self.lanes:
                    return
                if not at_end:
                    for lane in self.lanes:
                        self.keeper.log(lane, self.view)
                    self._pause()
        self.teaching.end_epoch()

    def _taught(self, views: Views) -> Batch | None:
        """Return a local batch as all lanes see it; None if no lane is left.

        While the teacher's pass finds no memory, lanes leave.
        """
        while self.lanes:
            try:
                return self._batch(views)
            except Exception as error:
                where = "in the teacher's pass"
                if ending := out_of_step(error, where, describe_error(error, None), self.accelerator):
                    raise ending from error
                if self.accelerator.num_processes > 1 or not is_out_of_memory(error):
                    raise
            self._halve()  # behind the handler, whose error holds on to what the teacher had computed
        return None

    def _halve(self) -> None:
        """Let the later half of the lanes leave, or the only one."""
        most = math.ceil(len(self.lanes) / 2)
        for lane in self.lanes[most:] or self.lanes[:]:
            self._postpone(lane, f"in the teacher's pass at step {lane.step}", most)
        del lane
        self.accelerator.free_memory()

    def _batch(self, views: Views) -> Batch:
        """Move a local batch to the device and run the teacher on it, once for all lanes."""
        samples = self.stream.finish(views, self.accelerator.device)
        return Batch(
            samples.images,
            samples.target,
            samples.index,
            samples.epoch,
            samples.step,
            self.criterion,
            self.teaching(samples),
            samples.micro_batch,
        )

    def each(self, act: Callable[[Lane], None]) -> None:
        """Let every lane act; one that raises is closed with its reason.

        Raises:
            StoreError: it is no fault of the lane.
            OutOfStep: of several processes others have not met the same error, and may wait for this one.
        """
        for label in [lane.label for lane in self.lanes]:
            if not self._acts(label, act):
                # Here nothing holds on to the lane any more: neither this loop nor the error's frames.
                self.accelerator.free_memory()

    def _acts(self, label: str, act: Callable[[Lane], None]) -> bool:
        """Let a lane act; False if it had to be closed."""
        lane = next(lane for lane in self.lanes if lane.label == label)
        try:
            act(lane)
        except StoreError:
            raise
        except LaneFailure as failure:
            self._drop(lane, str(failure))
        except RAISED as error:  # a method may raise anything, and must not take the others with it
            place = describe_error(error, file_of(type(lane.method)))
            where = f"{label} at step {lane.step}"
            if ending := out_of_step(error, where, place, self.accelerator):
                raise ending from error
            if is_lost_renderer(error):
                raise
            if ending := failed_alone(error, where, place, self.accelerator):
                self.keeper.fail(label, f"at step {lane.step}: {place}", error, alone=True)
                raise ending from error
            if is_out_of_memory(error):
                self._postpone(lane, f"at step {lane.step}: {place}", 1)
            else:
                self._drop(lane, f"at step {lane.step}: {place}", error)
        else:
            return True
        return False

    def _drop(self, lane: Lane, reason: str, error: BaseException | None = None) -> None:
        self._close_lane(lane, "failed")
        self.keeper.fail(lane.label, reason, error)

    def _postpone(self, lane: Lane, reason: str, most: int) -> None:
        self._close_lane(lane, "waiting")
        self.keeper.postpone(lane.label, reason, most)

    def _close_lane(self, lane: Lane, state: str) -> None:
        self.lanes.remove(lane)
        self._examiners.pop(lane.label, None)
        self._lane_view(lane).state = state

    def _pause(self) -> None:
        """Save if it is time and stop if the user wants to, between two steps."""
        stop = self._agree(self.runtime.stop())
        if stop or self._agree(time.monotonic() - self._saved > self.runtime.options.checkpoint_seconds):
            self._save()
        if stop:
            raise Interrupted(SAVED)

    def _agree(self, wish: bool) -> bool:
        """Return True if any process wishes it."""
        if self.accelerator.num_processes == 1:
            return wish
        wishes = torch.tensor(float(wish), device=self.accelerator.device)
        return bool(self.accelerator.reduce(wishes, "sum") > 0)

    def _close(self, epoch: int) -> None:
        """End an epoch: evaluate where the recipe asks for it, write the history, save."""
        last = epoch == self.recipe.epochs - 1
        if last or (epoch + 1) % self.recipe.evaluation.every == 0:
            self._evaluate()
        else:
            self.each(lambda lane: self._write(lane, None, None))
        self._save()
        if not last and self._agree(self.runtime.stop()):
            raise Interrupted(SAVED)

    def _evaluate(self) -> None:
        """Evaluate all lanes, and write their history."""
        found = self._examine(self.evaluation)
        for lane in self.lanes:
            result, averaged = found[lane.label]
            self.results[lane.label] = result
            self._write(lane, result.top1, averaged.top1 if averaged else None)

    def _test(self, corruption: Corruption) -> None:
        """Test all lanes under a corruption, behind their last checkpoint: what is lost here is computed again.

        Raises:
            Interrupted: `Runtime.stop` became true.
        """
        if self._agree(self.runtime.stop()):
            raise Interrupted(SAVED)
        self.runtime.events.say(f"testing under {corruption}")
        for label, (result, averaged) in self._examine(self.evaluation.changed(partial(corrupt, corruption))).items():
            made = Corrupted(
                kind=corruption.kind,
                strength=corruption.strength,
                severity=corruption.severity,
                top1=result.top1,
                top5=result.top5,
                ema_top1=averaged.top1 if averaged else None,
            )
            self.corrupted.setdefault(label, []).append(made)

    def _examine(self, stream: EvalStream) -> dict[str, tuple[Evaluation, Evaluation | None]]:
        """Return what all lanes, and their averaged weights, answer in one pass over test images, by label."""
        self._examiners = {lane.label: LaneExaminer(lane) for lane in self.lanes}

        def see(lane: Lane, images: Tensor, labels: Tensor, index: Tensor) -> None:
            self._examiners[lane.label].see(images, labels, index)

        for images, labels, index in stream.on(self.accelerator.device):
            self.each(partial(see, images=images, labels=labels, index=index))
        return {lane.label: self._examiners.pop(lane.label).results() for lane in self.lanes}

    def _write(self, lane: Lane, top1: float | None, ema_top1: float | None) -> None:
        if top1 is not None:
            self._lane_view(lane).top1 = top1
        line = lane.end_epoch(top1, ema_top1)
        self.runtime.events.epoch(self.view, lane.label, line)
        self.keeper.log(lane, self.view, line)

    def _save(self) -> None:
        self.each(self.keeper.save)
        self._saved = time.monotonic()

    def _show(self, step: int) -> None:
        self.view.step = step
        for lane in self.lanes:
            view = self._lane_view(lane)
            view.loss, view.images_per_second = lane.mean_loss, lane.images_per_second
        self.runtime.events.tick(self.view)

    def _lane_view(self, lane: Lane) -> LaneView:
        return next(view for view in self.view.lanes if view.label == lane.label)

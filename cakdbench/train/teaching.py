"""The teacher's part of a step: one pass for all lanes, made by the teacher or replayed from its tape."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from cakdbench.data.stream import SampleStream
from cakdbench.data.views import Samples
from cakdbench.method import teacher_output
from cakdbench.models.staged import Output, StagedModel
from cakdbench.train.tape import PARTS, Epoch, Part, Recording, Tape

T = TypeVar("T")


class TeacherPass:
    """The pass of a teacher that is at hand.

    Args:
        needs: what the lanes together need.
        teacher: frozen, in eval mode, on the device; None if no lane needs one.
    """

    def __init__(self, needs: frozenset[str], teacher: StagedModel | None, accelerator: Accelerator):
        self.needs = needs
        self.teacher = teacher
        self.accelerator = accelerator

    def start_epoch(self, epoch: int, first: int) -> None:
        """Called before step `first` of an epoch, which is not 0 where training goes on."""

    def __call__(self, samples: Samples) -> Output | None:
        """Return what the lanes need to know of samples on the device; None if that is nothing."""
        with self.accelerator.autocast():
            return teacher_output(self.teacher, samples.images, self.needs)

    def flush(self) -> None:
        """Called where the device is waited for."""

    def end_epoch(self) -> None:
        """Called after the last step of an epoch."""

    def close(self) -> None:
        """Called once training has ended, in whatever way."""


@dataclass(frozen=True)
class Taping:
    """A tape, and the teacher for what is not on it.

    Attributes:
        load: returns the teacher, frozen, in eval mode, on the device.
        say: told of damaged epochs and of a disk that cannot be written.
    """

    tape: Tape
    load: Callable[[], StagedModel]
    say: Callable[[str], None]

    def replays(self, needs: frozenset[str]) -> bool:
        """Return True if the shared pass of lanes with these needs can come from the tape."""
        return needs - {"model"} <= {*self.tape.parts}

    def replaces_teacher(self, needs: Iterable[frozenset[str]]) -> bool:
        """Return True if lanes with these needs can do without the teacher, but for epochs that are not on tape."""
        together: frozenset[str] = frozenset().union(*needs)
        return self.replays(together) and "model" not in together


class TapedPass(TeacherPass):
    """Replays the epochs that are on tape; has the teacher compute the others, and records those it sees whole."""

    def __init__(self, needs: frozenset[str], taping: Taping, stream: SampleStream, accelerator: Accelerator):
        super().__init__(needs, None, accelerator)
        self.taping = taping
        self.tape = taping.tape
        self.rows = stream.steps_per_epoch * stream.accumulation
        self.per_step = self.tape.rows // stream.steps_per_epoch
        self._replayed: Epoch | None = None
        self._recording: Recording | None = None
        self._pending: list[tuple[int, Output]] = []
        self._written = 0
        self._failed = False
        self._records = self._of_main(self._acquire)

    def _of_main(self, act: Callable[[], T]) -> T:
        """Return to all processes what the main one finds."""
        return broadcast_object_list([act() if self.accelerator.is_main_process else None])[0]

    def _acquire(self) -> bool:
        try:
            return self.tape.acquire()
        except OSError as error:
            self._cannot_record(error)
            return False

    def _cannot_record(self, error: OSError) -> None:
        self._failed = True
        self.taping.say(f"the tape {self.tape.folder} is not recorded further: {error.strerror}; training goes on")

    def start_epoch(self, epoch: int, first: int) -> None:
        self._replayed = self._open(epoch)
        if self._replayed:
            self.teacher = None  # its memory is given back
            return
        missing = self._of_main(lambda: self.tape.missing(epoch))
        if self._records and first == 0 and missing:
            self._recording, self._written = Recording(self.tape, epoch, missing), 0

    def _open(self, epoch: int) -> Epoch | None:
        if not self.taping.replays(self.needs):
            return None
        parts: list[Part] = [part for part in PARTS if part in self.needs]
        damaged = self._of_main(lambda: self.tape.remove_damaged(epoch, parts))
        self.tape.damaged |= {*damaged}
        for path in damaged:
            self.taping.say(f"damaged file {path}: the teacher computes epoch {epoch + 1} anew")
        opened = self.tape.open(epoch, parts) if parts else None
        return opened if all(gather_object([opened is not None])) else None  # all replay it, or none

    def __call__(self, samples: Samples) -> Output | None:
        if not self.needs - {"model"}:
            return None
        row = samples.step * self.per_step + samples.micro_batch
        if self._replayed:
            return self._to_device(self._replayed.output(row))
        if self.teacher is None:
            self.teacher = self.taping.load()
        output = super().__call__(samples)
        if self._recording and output:
            self._pending.append((row, output))
        return output

    def _to_device(self, output: Output) -> Output:
        device = self.accelerator.device

        def moved(tensor: Tensor | None) -> Tensor | None:
            if tensor is None or device.type != "cuda":
                return tensor if tensor is None else tensor.to(device)
            return tensor.pin_memory().to(device, non_blocking=True)

        return Output(moved(output.logits), moved(output.pooled))

    def flush(self) -> None:
        """Write what the teacher has said since the last call; on a GPU this waits for it."""
        pending, self._pending = self._pending, []
        if not self._recording or self._failed:
            return
        try:
            for row, output in pending:
                self._recording.add(row, output)
                self._written += 1
        except OSError as error:
            self._cannot_record(error)

    def end_epoch(self) -> None:
        if not self._recording:
            return
        self.flush()
        closed = all(gather_object([self._closes()]))
        self._records = closed and self._of_main(self._keeps)
        if not self._records:
            self._recording.discard()
        self._recording = None
        self.accelerator.wait_for_everyone()

    def _closes(self) -> bool:
        """Return True if this process has written all that is its own."""
        if self._recording and not self._failed:
            try:
                self._recording.close()
            except OSError as error:
                self._cannot_record(error)
        return self._written == self.rows and not self._failed

    def _keeps(self) -> bool:
        """Return True if the epoch could be made a part of the tape."""
        assert self._recording is not None
        try:
            self._recording.keep()
        except OSError as error:
            self._cannot_record(error)
        return not self._failed

    def close(self) -> None:
        if self._recording:
            self._recording.discard()
            self._recording = None
        self._pending.clear()
        self.teacher = None
        self.tape.release()

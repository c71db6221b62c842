"""Accuracy on a test set."""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from cakdbench.data.stream import EvalStream
from cakdbench.train.lane import Lane


@dataclass
class Evaluation:
    """Predicted class of every test image `(N,)` uint16 in the order of the test set; accuracies in percent.

    Attributes:
        finite: False if an output for some image is not finite.
    """

    predictions: np.ndarray
    top1: float
    top5: float
    finite: bool = True


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers to a batch, on its device: the best classes `(B, 5)` or fewer, whether logits are finite."""

    best: Tensor
    finite: Tensor
    labels: Tensor
    index: Tensor

    def rows(self) -> np.ndarray:
        """Return `(B, 5)`: position, best class, whether it, or one of the best, is right, whether all is finite."""
        best, finite = self.best.cpu(), self.finite.cpu()
        hits = best == self.labels[:, None]
        columns = [self.index, best[:, 0], hits[:, 0].long(), hits.any(1).long(), finite.long()]
        return torch.stack(columns, dim=1).numpy()


class Examiner:
    """Collects a model's answers batch by batch, so that many models can share one pass over the images.

    The model takes images and gives an `Output`, as a `StagedModel` does. The answers stay on the device until the end:
    a GPU goes on while the next images come.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._answers: list[Answers] = []

    @torch.no_grad()
    def see(self, images: Tensor, labels: Tensor, index: Tensor) -> None:
        """Answer one batch in eval mode: images `(B, 3, S, S)` on the device, labels and positions `(B,)`."""
        was_training = self.model.training
        self.model.eval()
        logits = self.model(images).logits.float()
        self.model.train(was_training)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        self._answers.append(Answers(best, logits.isfinite().all(1), labels, index))

    def result(self) -> Evaluation:
        """Return the answers of all processes together."""
        table = np.concatenate(gather_object([answers.rows() for answers in self._answers]))
        table = table[np.argsort(table[:, 0])]
        top1, top5 = (100 * float(table[:, column].mean()) for column in (2, 3))
        return Evaluation(table[:, 1].astype(np.uint16), top1, top5, bool(table[:, 4].all()))


class LaneExaminer:
    """Collects the answers of a lane's student and of its averaged weights, on the lane's own clock."""

    def __init__(self, lane: Lane):
        self.lane = lane
        self.student = Examiner(lane.method.student)
        self.averaged = Examiner(lane.ema.module) if lane.ema else None

    def see(self, images: Tensor, labels: Tensor, index: Tensor) -> None:
        with self.lane.evaluating.running(), self.lane.accelerator.autocast():
            self.student.see(images, labels, index)
            if self.averaged:
                self.averaged.see(images, labels, index)

    def results(self) -> tuple[Evaluation, Evaluation | None]:
        found = self.student.result(), self.averaged.result() if self.averaged else None
        self.lane.evaluating.flush()
        return found


def evaluate(model: nn.Module, stream: EvalStream, accelerator: Accelerator) -> Evaluation:
    """Run one model over the test set; its mode is put back."""
    examiner = Examiner(model)
    with accelerator.autocast():
        for images, labels, index in stream.on(accelerator.device):
            examiner.see(images, labels, index)
    return examiner.result()

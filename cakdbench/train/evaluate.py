"""Accuracy on a test set."""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from cakdbench.data.stream import EvalStream


@dataclass
class Evaluation:
    """Predicted class of every test image `(N,)` uint16 in the order of the test set; accuracies in percent."""

    predictions: np.ndarray
    top1: float
    top5: float


@torch.no_grad()
def evaluate(
    model: nn.Module, stream: EvalStream, accelerator: Accelerator, *, autocast: bool = True
) -> Evaluation:
    """Run a StagedModel over the test set in eval mode; its mode is put back.

    Args:
        autocast: use the accelerator's precision, otherwise float32.
    """
    was_training = model.training
    model.eval()
    with accelerator.autocast() if autocast else contextlib.nullcontext():
        rows = [_rows(model, *batch, accelerator) for batch in stream]
    model.train(was_training)
    table = np.concatenate(gather_object(rows))
    table = table[np.argsort(table[:, 0])]
    predictions, hit1, hit5 = table[:, 1].astype(np.uint16), table[:, 2], table[:, 3]
    return Evaluation(predictions, 100 * float(hit1.mean()), 100 * float(hit5.mean()))


def _rows(model: nn.Module, images: Tensor, labels: Tensor, index: Tensor, accelerator: Accelerator) -> np.ndarray:
    """`(B, 4)` int64: position, predicted class, hit among the first, hit among the first five."""
    logits = model(images.to(accelerator.device, non_blocking=True)).logits
    best = logits.float().topk(min(5, logits.shape[1]), dim=1).indices.cpu()
    hits = best == labels[:, None]
    return torch.stack([index, best[:, 0], hits[:, 0].long(), hits.any(1).long()], dim=1).numpy()


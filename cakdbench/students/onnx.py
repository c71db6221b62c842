"""Write a student as ONNX, and run it once to see that it is the same."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from cakdbench.students.student import Student
from cakdbench.utils.errors import CakdError, UsageError

TOLERANCE = 1e-3
"""Of the logits, beside the largest of them."""


def write_onnx(student: Student, path: Path) -> None:
    """Write images `(B, 3, S, S)`, normalised -> logits `(B, classes)`, for any B.

    Raises:
        CakdError: the network cannot be written, or onnxruntime gives other logits; there is no file then.
    """
    runtime = require_onnx()
    size = student.recipe.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        _export(student.model.net, images[:2], path)
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        logits = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    except Exception as error:  # torch, onnx and onnxruntime raise whatever they meet
        path.unlink(missing_ok=True)
        reason = (str(error).splitlines() or [""])[0]
        raise CakdError(f"{student.model.name} cannot be written as ONNX: {type(error).__name__}: {reason}") from error
    with torch.no_grad():
        expected = student.model.net(images)
    difference = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not difference < TOLERANCE:
        path.unlink()
        raise CakdError(f"onnxruntime gives other logits than torch, by {difference:.2g}: no ONNX file is written")


def require_onnx() -> ModuleType:
    """Return onnxruntime.

    Raises:
        UsageError: it, or what torch's exporter asks for, is not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f'--onnx needs {error.name}: pip install "cakdbench[onnx]"') from error
    return onnxruntime


def _export(net: torch.nn.Module, images: Tensor, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (images,),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
        )

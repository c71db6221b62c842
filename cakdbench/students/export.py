"""Write a student to a folder that others can use without cakdbench: weights, timm's config, a card, ONNX."""

from pathlib import Path

import timm
import torch
from safetensors.torch import save
from timm.models import model_entrypoint
from timm.models._hub import save_config_for_hf

from cakdbench.store import write_atomic
from cakdbench.students.card import model_card
from cakdbench.students.onnx import require_onnx, write_onnx
from cakdbench.students.student import Student
from cakdbench.utils.errors import UsageError

WEIGHTS, CONFIG, CARD, ONNX = FILES = ("model.safetensors", "config.json", "README.md", "model.onnx")
OF_THE_NETWORK = ("architecture", "classifier", "first_conv", "fixed_input_size")
"""What timm's config says of a network and not of the weights it comes with."""


class NotPlainTimm(Exception):
    """Plain timm cannot make a network; the message says why."""


def export_student(student: Student, folder: Path, onnx: bool = False, license: str = "unknown") -> str | None:
    """Write model.safetensors, config.json, README.md and, if asked for, model.onnx; what was exported before goes.

    Returns:
        None if `timm.create_model("local-dir:FOLDER", pretrained=True)` gives the same logits; else why plain timm
        cannot make the network. The folder then has no config.json.

    Raises:
        CakdError: the folder is in other use, cannot be written, or the ONNX file gives other logits.
    """
    if onnx:
        require_onnx()
    _clear(folder)
    write_atomic(folder / WEIGHTS, save(student.model.export_state(), {"format": "pt"}))
    try:
        _write_config(student, folder, license)
        _check_config(student, folder)
        reason = None
    except NotPlainTimm as error:
        (folder / CONFIG).unlink(missing_ok=True)
        reason = str(error)
    write_atomic(folder / CARD, model_card(student, license, plain_timm=reason is None).encode())
    if onnx:
        write_onnx(student, folder / ONNX)
    return reason


def _clear(folder: Path) -> None:
    """Make the folder, and remove an earlier export from it.

    Raises:
        UsageError: there is something else in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    if any(folder.iterdir()) and not (folder / WEIGHTS).is_file():
        raise UsageError(f"{folder} holds other files: name a new folder, an empty one or an earlier export")
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def _write_config(student: Student, folder: Path, license: str) -> None:
    """Write config.json as timm does, with the images and classes that the student was trained on."""
    net, facts, recipe = student.model.net, student.facts, student.recipe
    config = getattr(net, "pretrained_cfg", None) or {}
    architecture = config.get("architecture")
    if not architecture or not _of_timm(architecture):
        raise NotPlainTimm(f"none of timm's functions makes {student.model.name} ({type(net).__name__})")
    data = {
        "input_size": (3, recipe.image_size, recipe.image_size),
        "mean": facts.mean,
        "std": facts.std,
        "interpolation": recipe.evaluation.interpolation,
        "crop_pct": recipe.evaluation.crop_pct,
        "crop_mode": "center",
    }
    net.pretrained_cfg = {name: config[name] for name in OF_THE_NETWORK if name in config} | data | {"license": license}
    try:
        save_config_for_hf(net, str(folder / CONFIG), {"label_names": list(facts.class_names)}, data_config=data)
    except (TypeError, ValueError) as error:
        raise NotPlainTimm(f"timm cannot describe {student.model.name}: {error}") from error
    finally:
        net.pretrained_cfg = config


def _of_timm(architecture: str) -> bool:
    """Return True for an architecture of timm itself, and not one that somebody has registered with it."""
    return model_entrypoint(architecture).__module__.partition(".")[0] == "timm"


def _check_config(student: Student, folder: Path) -> None:
    """Load what was written with timm alone, and compare the logits.

    Raises:
        NotPlainTimm: timm cannot make the network, or makes another one.
    """
    size = student.recipe.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        with torch.no_grad():
            same = torch.allclose(net(images), student.model.net(images), rtol=1e-4, atol=1e-5)
    except Exception as error:  # timm and its networks raise whatever they meet
        reason = (str(error).splitlines() or [""])[0]
        raise NotPlainTimm(f"timm makes another {student.model.name}: {type(error).__name__}: {reason}") from error
    if not same:
        raise NotPlainTimm(f"timm's {student.model.name} gives other logits with these weights")

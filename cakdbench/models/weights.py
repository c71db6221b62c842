"""Load checkpoints, whether of today's timm, of timm 0.6.5 or of a model's authors, and tell them apart."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import torch
from timm.models import clean_state_dict
from torch import Tensor

from cakdbench.models.staged import StagedModel
from cakdbench.utils.errors import TeacherError

# Averaged weights come first where a training checkpoint holds both, as in timm's own `load_checkpoint`.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


def load_weights(model: StagedModel, state: Mapping[str, Any]) -> None:
    """Load a checkpoint into `model`, every tensor of it or none.

    Key names and layouts of older files are converted by timm's own filter for the network's class; it also
    resizes position embeddings and bias tables to the model's image size.

    Args:
        state: a state dict, or a training checkpoint that holds one as "state_dict" or "model"; keys may carry
            the prefixes of DDP and torch.compile.

    Raises:
        TeacherError: the checkpoint is of another network, or its head has another number of classes.
    """
    state = _converted(model, clean_state_dict(dict(_unwrapped(state))))
    _check_head(model, state)
    _check_tensors(model, state)
    model.net.load_state_dict(state)


def _unwrapped(state: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _WRAPPERS:
        if isinstance(state.get(key), Mapping):
            return state[key]
    return state


def _converted(model: StagedModel, state: dict[str, Any]) -> dict[str, Tensor]:
    convert = getattr(sys.modules[type(model.net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return convert(state, model.net)
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise TeacherError(f"the checkpoint is not one of {model.name}: {error}") from error


def _check_head(model: StagedModel, state: dict[str, Tensor]) -> None:
    name = next((name for name, module in model.net.named_modules() if module is model.classifier), "")
    weight = state.get(f"{name}.weight")
    if weight is not None and len(weight) != model.num_classes:
        raise TeacherError(
            f"the checkpoint's head has {len(weight)} classes and {model.name} is to have {model.num_classes}: "
            "give a checkpoint trained on this dataset"
        )


def _check_tensors(model: StagedModel, state: dict[str, Tensor]) -> None:
    own = model.net.state_dict()
    shaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    faults = {
        "missing": [k for k in own if k not in state],
        "unknown": [k for k in state if k not in own],
        "of another shape": [f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}" for k in shaped],
    }
    told = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:3])}, ...)" for what, keys in faults.items() if keys)
    if told:
        raise TeacherError(f"the checkpoint does not fit {model.name} at {model.image_size} px: {told}")


def weights_sha256(model: StagedModel) -> str:
    """Return the hash of all weights and buffers of a model, as `state_sha256`."""
    return state_sha256(model.export_state())


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the hash of tensors: names, types, shapes and bytes; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

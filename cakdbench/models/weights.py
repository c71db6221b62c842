"""Load checkpoints, whether of today's timm, of timm 0.6.5 or of a model's authors, and tell them apart."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cakdbench.models.staged import StagedModel
from cakdbench.utils.errors import WeightsError

PREFIXES = ("module", "_orig_mod", "model", "net", "network")
"""Modules that trainers hang a network into: DDP, torch.compile, Lightning and others, in any order."""

COUNTER = ".num_batches_tracked"
TRAINED_HERE = "give a checkpoint trained on this dataset"


def load_weights(
    model: StagedModel, state: Mapping[str, Tensor], new_head: bool = False, hint: str = TRAINED_HERE
) -> None:
    """Load a state dict into `model`, every tensor of it or none.

    Key names and layouts of older files are converted by timm's own filter for the network's class; it also
    resizes position embeddings and bias tables to the model's image size. Counters of batch norms may be missing.

    Args:
        state: keys may carry the prefixes of DDP, torch.compile and Lightning.
        new_head: leave the classifier as it is, whatever the state has.
        hint: what to do about a head of other classes.

    Raises:
        WeightsError: the state is of another network, or its head has another number of classes.
    """
    own = model.net.state_dict()
    state = _converted(model, _without_prefixes(state, own))
    head = _classifier(model)
    if new_head and not head:
        raise WeightsError(f"{model.name} has no single layer that gives its logits, which could be drawn anew")
    if new_head:
        state = {k: v for k, v in state.items() if not k.startswith(head)} | _under(head, own)
    counters = {k: v for k, v in own.items() if k.endswith(COUNTER)}
    state = counters | state
    _check_head(model, state.get(f"{head}weight") if head else None, hint)
    _check_tensors(model, state)
    model.net.load_state_dict(state)


def _without_prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the network itself: what stands beside it in a trainer's module (a loss, metrics) is left."""
    state = {name: value for name, value in state.items() if name != "n_averaged"}  # of torch's AveragedModel
    while prefix := next((p for p in PREFIXES if _under(f"{p}.", state) and not _under(f"{p}.", own)), None):
        state = _inside(f"{prefix}.", state)
    whole = _holders(state, own)
    return _inside(whole[0], state) if len(whole) == 1 else state


def _holders(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes under which all tensors of the network lie, as `backbone.` in a module of one's own."""
    names = [name for name in own if not name.endswith(COUNTER)]
    found = [name.removesuffix(names[0]) for name in state if name.endswith(f".{names[0]}")] if names else []
    return [prefix for prefix in found if all(prefix + name in state for name in names)]


def _inside(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in _under(prefix, state).items()}


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith(prefix)}


def _converted(model: StagedModel, state: dict[str, Any]) -> dict[str, Tensor]:
    convert = getattr(sys.modules[type(model.net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return convert(state, model.net)
    except Exception as error:  # the filter reads keys and shapes of what it takes for its own
        raise WeightsError(f"the checkpoint is not one of {model.name} ({type(error).__name__}: {error})") from error


def _classifier(model: StagedModel) -> str:
    """Return the prefix of the classifier's tensors, `head.fc.`; empty for a network without one such layer."""
    head = model.classifier
    return next((f"{name}." for name, module in model.net.named_modules() if module is head and name), "")


def permute_classes(model: StagedModel, order: Sequence[int]) -> None:
    """Put the rows of a network's classifier, or of both of two, in another order: output i becomes that of `order[i]`.

    Raises:
        WeightsError: a classifier has no layer with a row per class.
    """
    found = model.net.get_classifier() if hasattr(model.net, "get_classifier") else model.classifier
    rows = torch.tensor(order)
    for classifier in found if isinstance(found, tuple | list) else (found,):
        layers = [
            m for m in classifier.modules() if isinstance(m, nn.Linear | nn.Conv2d) and len(m.weight) == len(rows)
        ]
        if not layers:
            raise WeightsError(f"{model.name} has no layer with a row per class, whose order could be changed")
        with torch.no_grad():
            for parameter in layers[-1].parameters(recurse=False):
                parameter.copy_(parameter[rows])


def _check_head(model: StagedModel, weight: Tensor | None, hint: str) -> None:
    if weight is not None and len(weight) != model.num_classes:
        raise WeightsError(
            f"the checkpoint's head has {len(weight)} classes and {model.name} is to have {model.num_classes}: {hint}"
        )


def _check_tensors(model: StagedModel, state: dict[str, Tensor]) -> None:
    own = model.net.state_dict()
    kinds = [k for k in own if k in state and own[k].is_floating_point() != state[k].is_floating_point()]
    shaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    faults = {
        "missing": [k for k in own if k not in state],
        "unknown": [k for k in state if k not in own],
        "of another type": [f"{k} {state[k].dtype}" for k in kinds],
        "of another shape": [f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}" for k in shaped],
    }
    told = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:3])}, ...)" for what, keys in faults.items() if keys)
    if told:
        raise WeightsError(f"the checkpoint does not fit {model.name} at {model.image_size} px: {told}")


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

"""The weight files of a run: a plain timm state dict, with what its images and classes are in the file's header."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cakdbench.data.datasets import ImageDataset
from cakdbench.utils.errors import StoreError

HEADER = "cakdbench"


class ImageFacts(BaseModel, frozen=True):
    """The names of the classes, by index, and the mean and deviation that images are normalised with."""

    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, dataset: ImageDataset) -> "ImageFacts":
        return cls(class_names=dataset.class_names, mean=dataset.mean, std=dataset.std)


def module_state(method: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a method that are not its student's: modules trained beside it, buffers."""
    state = method.state_dict()
    return {
        name: value.detach().cpu().contiguous().clone()  # safetensors takes no memory that two names share
        for name, value in state.items()
        if isinstance(value, Tensor) and not name.startswith("student.")
    }


def weight_bytes(state: dict[str, Tensor], facts: ImageFacts) -> bytes:
    """Return the content of a safetensors file."""
    return save(state, {HEADER: facts.model_dump_json()})


def read_weights(path: Path) -> tuple[Mapping[str, Tensor], ImageFacts | None]:
    """Return the state dict of a run, and its facts; None of a run of before they were kept.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(HEADER)
        return load_file(path), header and ImageFacts.model_validate_json(header)
    except (OSError, SafetensorError, ValidationError) as error:
        raise StoreError(f"cannot read {path}: {str(error).splitlines()[0]}") from error

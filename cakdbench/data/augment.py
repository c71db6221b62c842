"""The transforms a recipe asks for: all of them timm's or torchvision's."""

from typing import TYPE_CHECKING, Any

from PIL import Image
from timm.data import Mixup, create_transform
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment, posterize
from torchvision import transforms
from torchvision.transforms import functional

from cakdbench.data.splits import ImageDataset

if TYPE_CHECKING:
    from cakdbench.recipes import Recipe


def train_transform(dataset: ImageDataset, recipe: "Recipe") -> transforms.Compose:
    """Return RGB image -> `(3, S, S)` float32, augmented and normalised; draws from the global generators.

    What is resized to the recipe's image size S is a random part of the image ("rrc") or the largest central
    square ("none"); for "pad" the image is first shifted at random, by up to `pad` of its own pixels.
    """
    augment = recipe.augment
    whole = (1.0, 1.0), (1.0, 1.0)
    scale, ratio = (augment.scale, augment.ratio) if augment.crop == "rrc" else whole
    transform = create_transform(
        recipe.image_size,
        is_training=True,
        scale=scale,
        ratio=ratio,
        hflip=augment.hflip,
        color_jitter=augment.color_jitter or None,  # type: ignore[arg-type]  # None, which leaves it out, is not typed
        auto_augment=augment.auto_augment,
        interpolation=augment.interpolation,
        mean=dataset.mean,
        std=dataset.std,
        re_prob=augment.reprob,
        re_mode="pixel",
    )
    _blacken(transform)
    shift = [Shift(augment.pad)] if augment.crop == "pad" else []
    return transforms.Compose([*shift, *transform.transforms])


def eval_transform(recipe: "Recipe") -> transforms.Compose:
    """Return RGB image -> `(3, S, S)` uint8: the shorter edge resized to `S / crop_pct`, then the centre."""
    return create_transform(
        recipe.image_size,
        is_training=False,
        crop_pct=recipe.evaluation.crop_pct,
        interpolation=recipe.evaluation.interpolation,
        normalize=False,
    )


def mixing(dataset: ImageDataset, recipe: "Recipe") -> Mixup | None:
    """Return timm's mixup or cutmix, at equal odds, of whole batches, with label smoothing in the targets.

    None if the recipe has neither.
    """
    if not (recipe.augment.mixup or recipe.augment.cutmix):
        return None
    return Mixup(
        recipe.augment.mixup,
        recipe.augment.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=dataset.num_classes,
    )


class Shift:
    """Pad an image with black by `pad` pixels on each side and crop its own size back at random."""

    def __init__(self, pad: int):
        self.pad = pad

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        padded = functional.pad(image, self.pad)
        return functional.crop(padded, *transforms.RandomCrop.get_params(padded, (height, width)))


def _blacken(transform: transforms.Compose) -> None:
    """Let timm's posterize keep 0 bits, which is black: Pillow 13 refuses what earlier versions drew so."""
    for step in transform.transforms:
        if isinstance(step, (RandAugment, AutoAugment)):
            for op in _operations(step):
                op.aug_fn = _posterize if op.aug_fn is posterize else op.aug_fn


def _operations(step: RandAugment | AutoAugment) -> list[AugmentOp]:
    return step.ops if isinstance(step, RandAugment) else [op for policy in step.policy for op in policy]


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    return posterize(image, bits_to_keep, **options) if bits_to_keep else Image.new(image.mode, image.size)

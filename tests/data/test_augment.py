import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from cakdbench.data.augment import eval_transform, train_transform
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.utils.rng import reseed, seeded

PLAIN = {
    "augment__auto_augment": None,
    "augment__color_jitter": 0,
    "augment__reprob": 0,
    "augment__mixup": 0,
    "augment__cutmix": 0,
    "augment__hflip": 0,
    "augment__interpolation": "bilinear",
}


def views(transform, image, count=40):
    with seeded("views"):
        return torch.stack([transform(image) for _ in range(count)])


def test_views_are_timms_own_transform_under_the_derived_seed(noise, recipe):
    recipe = recipe(augment__mixup=0, augment__cutmix=0)
    timms = create_transform(
        16,
        is_training=True,
        scale=(0.08, 1.0),
        ratio=(0.75, 4 / 3),
        interpolation="random",
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        mean=noise.mean,
        std=noise.std,
        re_prob=0.5,
        re_mode="pixel",
    )
    stream = SampleStream(noise, recipe, seed=7)
    first = stream.finish(next(stream.epoch(2))[0], torch.device("cpu"))
    for view, index in zip(first.images, first.index.tolist(), strict=True):
        with seeded():
            reseed(7, "view", 2, index)
            assert torch.equal(view, timms(noise.train.image(index)))


def test_no_crop_resizes_and_normalises_with_the_datasets_statistics(noise, recipe):
    transform = train_transform(noise, recipe(**PLAIN, augment__crop="none"))
    image = noise.train.image(3)
    pixels = torch.from_numpy(np.array(image.resize((16, 16), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (noise.mean, noise.std))
    torch.testing.assert_close(transform(image), (pixels / 255 - mean) / std)


def test_padding_shifts_the_original_image(noise, recipe):
    transform = train_transform(noise, recipe(**PLAIN, augment__crop="pad", augment__pad=2, image_size=12))
    image = noise.train.image(0)
    black = (0 - torch.tensor(noise.mean)) / torch.tensor(noise.std)
    still = train_transform(noise, recipe(**PLAIN, augment__crop="none", image_size=12))(image)
    canvas = black.view(3, 1, 1).expand(3, 16, 16).clone()
    canvas[:, 2:14, 2:14] = still
    shifts = {(top, left): canvas[:, top : top + 12, left : left + 12] for top in range(5) for left in range(5)}
    found = set()
    for view in views(transform, image, 200):
        found |= {where for where, shifted in shifts.items() if torch.allclose(shifted, view)}
    assert found == set(shifts)


def test_flips_mirror_at_their_probability(noise, recipe):
    never, always, half = (
        views(train_transform(noise, recipe(**PLAIN | {"augment__hflip": p}, augment__crop="none")), image)
        for image in [noise.train.image(0)]
        for p in (0, 1, 0.5)
    )
    assert torch.equal(always, never.flip(3))
    assert 5 < sum(torch.equal(view, never[0]) for view in half) < 35


def test_random_crops_keep_within_scale_and_ratio(noise, recipe):
    """On a picture whose two channels are its coordinates, the ends of a crop can be read off."""
    ramp = np.arange(100, dtype=np.uint8)
    image = Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp, np.uint8(0)), axis=2))
    changes = PLAIN | {"augment__scale": (0.25, 0.5), "augment__ratio": (0.5, 2.0), "image_size": 100}
    transform = train_transform(noise, recipe(**changes))
    scale = torch.tensor(noise.std).view(3, 1, 1) * 255
    shift = torch.tensor(noise.mean).view(3, 1, 1) * 255
    for view in views(transform, image) * scale + shift:
        height, width = (1 + view[c].max() - view[c].min() for c in (0, 1))
        assert 0.23 < height * width / 100**2 < 0.53
        assert 0.45 < width / height < 2.2


def test_erasing_fills_a_box_with_noise(noise, recipe):
    still, erasing = (
        train_transform(noise, recipe(**PLAIN | {"augment__reprob": p, "augment__crop": "none"})) for p in (0, 1)
    )
    image = noise.train.image(0)
    for view in views(erasing, image):
        changed = (view != still(image)).all(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert changed.sum() == area > 0


@pytest.mark.parametrize("policy", ["rand-m10-inc1", "rand-m9-mstd0.5-inc1", "original", "v0", "originalr"])
def test_every_operation_of_a_policy_runs(noise, recipe, policy):
    transform = train_transform(noise, recipe(**PLAIN | {"augment__auto_augment": policy}))
    assert views(transform, noise.train.image(0), 300).isfinite().all()


def test_posterizing_to_no_bits_is_black(noise, recipe):
    transform = train_transform(noise, recipe(**PLAIN | {"augment__auto_augment": "rand-m10-n1-p1-inc1"}))
    black = ((0 - torch.tensor(noise.mean)) / torch.tensor(noise.std)).view(3, 1, 1)
    found = [torch.allclose(view, black.expand(3, 16, 16)) for view in views(transform, noise.train.image(0), 150)]
    assert any(found) and not all(found)


def test_images_that_are_not_square_lose_their_ends(noise, recipe):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8))
    transform = train_transform(noise, recipe(**PLAIN, augment__crop="none", image_size=12))
    assert torch.equal(transform(image), transform(image.crop((4, 0, 16, 12))))
    assert eval_transform(recipe(image_size=12))(image).shape == (3, 12, 12)


def test_evaluation_pixels_are_timms(noise, recipe):
    recipe = recipe(evaluation__crop_pct=0.9, evaluation__interpolation="bicubic")
    timms = create_transform(16, interpolation="bicubic", crop_pct=0.9, mean=noise.mean, std=noise.std)
    (batch,) = EvalStream(noise.test, noise, recipe)
    for image, index in zip(batch[0], batch[2].tolist(), strict=True):
        assert torch.equal(image, timms(noise.test.image(index)))

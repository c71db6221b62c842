import multiprocessing
import os
import pickle
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from cakdbench.data.splits import from_arrays
from cakdbench.data.stream import EvalStream, SampleStream, order
from cakdbench.data.views import MicroBatch
from cakdbench.utils.errors import UsageError


def finished(stream, steps):
    return [stream.finish(views, torch.device("cpu")) for step in steps for views in step]


def flat(stream, epoch=0, start_step=0):
    return finished(stream, stream.epoch(epoch, start_step))


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert (a.epoch, a.step, a.micro_batch) == (b.epoch, b.step, b.micro_batch)
        for name in ("images", "target", "index"):
            assert torch.equal(getattr(a, name), getattr(b, name))


def global_states():
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    return python, (numpy[0], numpy[1].tolist(), *numpy[2:]), pytorch.tolist()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_do_not_change_the_samples(noise, recipe, workers):
    alone, together = (SampleStream(noise, recipe(), seed=3, workers=n) for n in (0, workers))
    for epoch in (0, 1):
        assert_same(flat(alone, epoch), flat(together, epoch))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_render_disjoint_slots_of_the_same_batches(noise, recipe, world):
    whole = flat(SampleStream(noise, recipe(), 0), 1)
    ranks = [flat(SampleStream(noise, recipe(), 0, rank=rank, world=world), 1) for rank in range(world)]
    assert_same(whole, sorted(sum(ranks, []), key=lambda samples: (samples.step, samples.micro_batch)))
    assert all(samples.micro_batch % world == rank for rank, share in enumerate(ranks) for samples in share)


def test_world_and_local_batch_give_the_accumulation(noise, recipe):
    assert SampleStream(noise, recipe(), 0).accumulation == 4
    assert SampleStream(noise, recipe(), 0, rank=1, world=2).accumulation == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_restart_within_an_epoch_equals_going_on(noise, recipe, workers):
    stream = SampleStream(noise, recipe(global_batch=12), 0, workers=workers)
    undisturbed = list(stream.epoch(2))
    for start in range(stream.steps_per_epoch):
        resumed = list(SampleStream(noise, recipe(global_batch=12), 0, workers=workers).epoch(2, start))
        assert_same(finished(stream, undisturbed[start:]), finished(stream, resumed))
    assert list(stream.epoch(2, stream.steps_per_epoch)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_leaves_no_trace(noise, recipe, workers):
    stream = SampleStream(noise, recipe(), 0, workers=workers)
    next(stream.epoch(0))
    assert_same(flat(stream, 1), flat(SampleStream(noise, recipe(), 0), 1))


def test_an_interrupt_reaches_the_training_process_alone(noise, recipe):
    """Ctrl-C goes to all processes of a terminal, but the trainer still finishes its step."""
    stream = SampleStream(noise, recipe(), 0, workers=2)
    epoch = stream.epoch(0)
    first = next(epoch)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGINT)
    assert_same(finished(stream, [first, *epoch]), flat(SampleStream(noise, recipe(), 0)))


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_states_are_left_alone(noise, recipe, workers):
    stream = SampleStream(noise, recipe(), 0, workers=workers)
    evaluation = EvalStream(noise.test, noise, recipe(), workers=workers)
    before = global_states()
    for step in stream.epoch(0):
        assert finished(stream, [step]) and global_states() == before
    for _ in evaluation:
        assert global_states() == before
    assert global_states() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_states_do_not_matter(noise, recipe, workers):
    first = flat(SampleStream(noise, recipe(), 0, workers=workers))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert_same(first, flat(SampleStream(noise, recipe(), 0, workers=workers)))


def test_any_batch_can_be_rendered_again(noise, recipe):
    stream = SampleStream(noise, recipe(), 5)
    for samples in reversed(flat(stream, 3)):
        again = stream.batches[MicroBatch(samples.epoch, samples.step, samples.micro_batch)]
        assert_same([samples], finished(stream, [[again]]))


def test_batches_survive_pickling_for_workers_that_are_not_forked(noise, recipe):
    stream, name = SampleStream(noise, recipe(), 0), MicroBatch(0, 1, 2)
    copy = pickle.loads(pickle.dumps(stream.batches))
    assert_same(*(finished(stream, [[batches[name]]]) for batches in (stream.batches, copy)))


def test_order_is_a_permutation_and_the_incomplete_batch_is_dropped(noise, recipe):
    stream = SampleStream(noise, recipe(), 0)
    seen = torch.cat([samples.index for samples in flat(stream)])
    assert stream.steps_per_epoch == 2
    assert len(seen) == len(seen.unique()) == 48
    assert np.array_equal(np.sort(order(0, 0, 50)), np.arange(50))
    assert np.array_equal(seen, order(0, 0, 50)[:48])


def test_order_is_the_same_for_ever():
    assert order(0, 0, 5000)[:6].tolist() == [4882, 1882, 4626, 3238, 283, 4354]


def test_order_and_views_depend_on_seed_and_epoch(noise, recipe):
    orders = [tuple(order(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    views = [_view_of_sample_0(noise, recipe(), seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(views) for b in views[:i])


def _view_of_sample_0(noise, recipe, seed, epoch):
    plain = recipe.override({"augment.mixup": 0, "augment.cutmix": 0, "global_batch": 50, "local_batch": 50})
    (samples,) = flat(SampleStream(noise, plain, seed), epoch)
    return samples.images[samples.index == 0]


def test_equal_images_get_different_views(recipe):
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 12, 12, 3), np.uint8), 24, axis=0)
    half = (images, np.zeros(24, int))
    twins = from_arrays("twins", half, half, class_names=("a",), mean=(0.5,) * 3, std=(0.5,) * 3)
    views = torch.cat([samples.images for samples in flat(SampleStream(twins, recipe(augment__mixup=0), 0))])
    assert len(views.flatten(1).unique(dim=0)) == 24


def test_mixed_targets_are_probabilities(noise, recipe):
    for samples in flat(SampleStream(noise, recipe(label_smoothing=0.1), 0)):
        assert samples.target.shape == (6, 4) and samples.target.dtype == torch.float32
        torch.testing.assert_close(samples.target.sum(1), torch.ones(6))
        assert samples.target.min() >= 0.1 / 4 - 1e-6


def test_mixup_blends_the_batch_with_its_reverse(noise, recipe):
    mixed = flat(SampleStream(noise, recipe(augment__cutmix=0, label_smoothing=0), 0))
    views = flat(SampleStream(noise, recipe(augment__cutmix=0, augment__mixup=0), 0))
    portions = []
    for blend, plain in zip(mixed, views, strict=True):
        other = plain.target.flip(0)
        differing = (plain.target != other).nonzero()[0, 0]
        portion = blend.target[differing, plain.target[differing]]
        expected = plain.images * portion + plain.images.flip(0) * (1 - portion)
        torch.testing.assert_close(blend.images, expected)
        portions.append(portion.item())
    assert len(set(portions)) == len(mixed)


def test_cutmix_pastes_a_box_whose_area_is_in_the_target(noise, recipe):
    mixed = flat(SampleStream(noise, recipe(augment__mixup=0, label_smoothing=0), 0))
    views = flat(SampleStream(noise, recipe(augment__cutmix=0, augment__mixup=0), 0))
    for blend, plain in zip(mixed, views, strict=True):
        differing = (plain.target != plain.target.flip(0)).nonzero()[0, 0]
        pasted = (blend.images != plain.images).any(1)[differing].float().mean()
        portion = blend.target[differing, plain.target[differing]]
        torch.testing.assert_close(pasted, 1 - portion, atol=1e-6, rtol=0)


def test_without_mixing_targets_are_the_labels(noise, recipe):
    for samples in flat(SampleStream(noise, recipe(augment__mixup=0, augment__cutmix=0), 0)):
        assert samples.target.dtype == torch.int64
        assert torch.equal(samples.target, torch.from_numpy(noise.train.labels)[samples.index])


def test_changing_a_batch_does_not_change_the_next_one(noise, recipe):
    stream = SampleStream(noise, recipe(augment__mixup=0, augment__cutmix=0), 0)
    before = flat(stream)
    for samples in flat(stream):
        samples.images.zero_(), samples.target.zero_(), samples.index.zero_()
    assert_same(before, flat(stream))


def test_a_batch_larger_than_the_data_is_refused(noise, recipe):
    with pytest.raises(
        UsageError, match="global_batch 100 exceeds the 50 training .* noise: set recipe.global_batch=50$"
    ):
        SampleStream(noise, recipe(global_batch=100, local_batch=50), 0)


def test_a_number_of_processes_that_does_not_fit_is_refused(noise, recipe):
    with pytest.raises(UsageError, match="3 processes x local_batch 6: start 1, 2, 4 processes"):
        SampleStream(noise, recipe(), 0, world=3)


def test_mixing_an_odd_local_batch_is_refused(noise, recipe):
    with pytest.raises(UsageError, match="local_batch to an even number"):
        SampleStream(noise, recipe(global_batch=15, local_batch=5), 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_goes_through_the_split_in_order(noise, recipe, workers):
    stream = EvalStream(noise.test, noise, recipe(), workers=workers, batch_size=8)
    for _ in range(2):
        images, labels, index = (torch.cat(parts) for parts in zip(*stream, strict=True))
        assert images.shape == (30, 3, 16, 16)
        assert torch.equal(index, torch.arange(30))
        assert torch.equal(labels, torch.from_numpy(noise.test.labels))


def test_evaluation_pixels_depend_on_the_evaluation_numbers_alone(noise, recipe):
    reference = torch.cat([batch[0] for batch in EvalStream(noise.test, noise, recipe(), batch_size=8)])
    other = recipe(augment__auto_augment=None, augment__reprob=0, label_smoothing=0.3, global_batch=48)
    same = torch.cat([batch[0] for batch in EvalStream(noise.test, noise, other, batch_size=30, workers=2)])
    assert torch.equal(reference, same)
    cropped = recipe(evaluation__crop_pct=0.8)
    assert not torch.equal(reference, next(iter(EvalStream(noise.test, noise, cropped)))[0])


def test_evaluation_shares_whole_batches_between_processes(noise, recipe):
    whole = list(EvalStream(noise.test, noise, recipe(), batch_size=4))
    shares = [list(EvalStream(noise.test, noise, recipe(), batch_size=4, rank=r, world=3)) for r in range(3)]
    for number, batch in enumerate(whole):
        assert all(torch.equal(a, b) for a, b in zip(batch, shares[number % 3][number // 3], strict=True))
    assert sum(map(len, shares)) == len(whole) == 8


def test_a_changed_evaluation_shares_the_images_that_are_in_memory(noise, recipe):
    decoded = []
    counted = replace(noise.test, image=lambda index: decoded.append(index) or noise.test.image(index))
    stream = EvalStream(counted, noise, recipe(), batch_size=8)
    inverse = stream.changed(lambda images, index: 255 - images)
    changed, plain = (torch.cat([batch[0] for batch in each]) for each in (inverse, stream))
    assert decoded == list(range(30))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (noise.mean, noise.std))
    assert torch.allclose(changed * std + mean, 1 - (plain * std + mean), atol=1e-5)


def test_a_split_that_cannot_be_read_is_not_kept_in_part(noise, recipe):
    broken = {20}

    def image(index):
        if index in broken:
            raise UsageError(f"image {index} cannot be read")
        return noise.test.image(index)

    stream = EvalStream(replace(noise.test, image=image), noise, recipe(), batch_size=8)
    with pytest.raises(UsageError, match="image 20"):
        list(stream)
    broken.clear()
    assert sum(len(labels) for _, labels, _ in stream) == 30


def test_evaluation_without_the_memory_to_keep_images_gives_the_same(noise, recipe, monkeypatch):
    kept = EvalStream(noise.test, noise, recipe(), batch_size=7)
    monkeypatch.setattr("cakdbench.data.stream.CACHE_BYTES", 0)
    decoded = EvalStream(noise.test, noise, recipe(), batch_size=7)
    for _ in range(2):
        for a, b in zip(kept, decoded, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

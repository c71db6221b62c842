"""Speed of the sample stream on one core: `pytest tests/benchmarks/test_stream_speed.py -n 0`."""

import pytest
import torch

from cakdbench.data.datasets import load_dataset
from cakdbench.data.stream import EvalStream, SampleStream
from cakdbench.data.views import MicroBatch
from cakdbench.recipes import load_recipe


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "size"), [("demo", 64), ("ofa_cifar_cnn", 64), ("ofa_cifar_msa", 64), ("ofa_cifar_msa", 224)]
)
def test_training_views(benchmark, name, size):
    """One round renders a local batch of 100 training views of 28 x 28 images, seeding included."""
    recipe = load_recipe(name).override({"image_size": size, "global_batch": 100, "local_batch": 100})
    stream, cpu = SampleStream(load_dataset("fashion_demo"), recipe, seed=0), torch.device("cpu")
    samples = benchmark(lambda: stream.finish(stream.batches[MicroBatch(0, 3, 0)], cpu))
    benchmark.extra_info["us per view"] = round(benchmark.stats["min"] * 1e4, 1)
    assert samples.images.shape == (100, 3, size, size)


@pytest.mark.parametrize("kept", [True, False])
def test_evaluation_images(benchmark, kept):
    """One round is a pass over 2,000 images at 64 px, from memory or decoded."""
    dataset, recipe = load_dataset("fashion_demo"), load_recipe("demo")
    stream = EvalStream(dataset.test, dataset, recipe)
    if kept:
        list(stream)
    count = benchmark.pedantic(
        lambda: sum(map(len, (images for images, *_ in stream))),
        setup=None if kept else lambda: setattr(stream, "_kept", None),
        rounds=5,
    )
    assert count == 2000

"""Four methods beside each other on one teacher pass, against one after the other, each with a pass of its own.

Run `pytest tests/benchmarks/test_lanes_speed.py -n 0`; compare the rows of a pair, medians of one process.
"""

import pytest

from tests.train.training import Training, short_recipe

METHODS = ("scratch", "kd", "ofa", "fbt")
PAIRS = {  # teacher, student, image size, epochs of 64 images, batch, rounds
    "resnet_m>vit_xs, 64 px, 512 images": ("resnet_m", "vit_xs", 64, 8, 32, 5),
    "swin_t>mobilenetv2, 224 px, 64 images": ("swin_t", "mobilenetv2", 224, 1, 16, 2),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("lanes", ["together", "apart"])
def test_four_methods(benchmark, pair, lanes):
    teacher, student, size, epochs, batch, rounds = PAIRS[pair]
    numbers = {"evaluation.every": epochs, "schedule.warmup_epochs": 0}
    recipe = short_recipe(image_size=size, epochs=epochs, global_batch=batch, local_batch=batch, **numbers)
    groups = [METHODS] if lanes == "together" else [(method,) for method in METHODS]

    def setup():
        return ([Training(group, recipe, teacher=teacher, student=student) for group in groups],), {}

    def train(trainings):
        for training in trainings:
            training.run()

    benchmark.group = pair
    benchmark.pedantic(train, setup=setup, rounds=rounds)

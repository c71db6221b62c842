"""Four methods beside each other on one teacher pass, against one after the other, each with a pass of its own.

Run `pytest tests/benchmarks/test_lanes_speed.py -n 0`; compare the rows of a pair, medians of one process.
"""

import pytest
from training import Training, short_recipe

METHODS = ("scratch", "kd", "ofa", "fbt")
PAIRS = {
    "resnet_m>vit_xs, 64 px, 16 steps of 32": ("resnet_m", "vit_xs", 64, 32),
    "swin_t>mobilenetv2, 224 px, 8 steps of 8": ("swin_t", "mobilenetv2", 224, 8),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("lanes", ["together", "apart"])
def test_four_methods(benchmark, pair, lanes):
    teacher, student, size, batch = PAIRS[pair]
    recipe = short_recipe(image_size=size, epochs=8 if size == 64 else 1, global_batch=batch, local_batch=batch)
    groups = [METHODS] if lanes == "together" else [(method,) for method in METHODS]

    def setup():
        return ([Training(group, recipe, teacher=teacher, student=student) for group in groups],), {}

    def train(trainings):
        for training in trainings:
            training.run()

    benchmark.group = pair
    benchmark.pedantic(train, setup=setup, rounds=5, warmup_rounds=1)

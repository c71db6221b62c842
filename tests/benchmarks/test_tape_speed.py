"""KD with its teacher live, while it is recorded, and from tape: `pytest tests/benchmarks/test_tape_speed.py -n 0`.

Compare the rows of a pair, medians of one process: an epoch of 64 images, rendering and the evaluation of 40 images
included. The teacher is loaded already where it is used.
"""

import shutil

import pytest
import torch

from tests.train.training import Training, short_recipe

PAIRS = {  # teacher, student, image size, batch, rounds
    "mixer_b16>mobilenetv2, 224 px": ("mixer_b16", "mobilenetv2", 224, 16, 3),
    "swin_t>mobilenetv2, 224 px": ("swin_t", "mobilenetv2", 224, 16, 3),
    "resnet_m>vit_xs, 64 px": ("resnet_m", "vit_xs", 64, 16, 5),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("teacher", ["live", "recorded", "taped"])
def test_kd(benchmark, tmp_path, pair, teacher):
    torch.set_num_threads(1)
    names, size, batch, rounds = PAIRS[pair][:2], *PAIRS[pair][2:]
    numbers = {"epochs": 1, "evaluation.every": 1, "schedule.warmup_epochs": 0}
    recipe = short_recipe(image_size=size, global_batch=batch, local_batch=batch, **numbers)
    options = {"teacher": names[0], "student": names[1], "tape": None if teacher == "live" else tmp_path / "tape"}
    if teacher == "taped":
        Training(["kd"], recipe, **options).run()

    def setup():
        if teacher == "recorded":
            shutil.rmtree(tmp_path / "tape", ignore_errors=True)
        return (Training(["kd"], recipe, **options),), {}

    benchmark.group = pair
    benchmark.pedantic(lambda training: training.run(), setup=setup, rounds=rounds)

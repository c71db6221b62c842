"""Finished runs whose students were never trained: for what is done with students afterwards."""

import torch

from cakdbench.models.staged import StagedModel
from cakdbench.recipes import load_recipe
from cakdbench.records import Identity
from cakdbench.store import RunFolder, Store
from cakdbench.students.weights import ImageFacts, weight_bytes
from tests.reports.synthetic import record

NAMES = ("T-shirt/top", "Trouser", "Pullover")
FACTS = ImageFacts(class_names=NAMES, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def awake(student: str, image_size: int, classes: int = 3, seed: int = 0) -> StagedModel:
    """A model with random weights in eval mode, its biases and batch norms too."""
    torch.manual_seed(seed)
    model = StagedModel(student, classes, image_size).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    return model


def finished_run(
    store: Store, student="vit_xs", dataset="fashion_demo", *, facts=FACTS, ema=False, **changes
) -> RunFolder:
    """Write a finished run of kd under the demo recipe; its averaged weights are those of another seed."""
    recipe = load_recipe("demo").override(changes | ({"ema_decay": 0.9} if ema else {}))
    made = record("kd", f"resnet_m>{student}@{dataset}", ema=60.0 if ema else None)
    identity = Identity.model_validate(made.identity.model_dump() | {"recipe": recipe.identity()})
    run = store.run(identity)
    assert run.acquire()
    run.open(identity, "kd", "demo")
    for seed, path in enumerate([run.student, run.ema][: 1 + ema]):
        state = awake(student, recipe.image_size, len(facts.class_names), seed).export_state()
        path.write_bytes(weight_bytes(state, facts))
    run.finish(made.model_copy(update={"key": run.key, "identity": identity}))
    run.release()
    return run

"""Methods that learn from several teachers at once: what each combines, by hand, and who refuses."""

import pytest
import torch

from cakdbench.build import build_method, refusal
from cakdbench.method import Batch, Method, mean_loss
from cakdbench.methods.dist import dist_loss
from cakdbench.methods.dkd import dkd_loss
from cakdbench.methods.kd import kd_loss
from cakdbench.methods.ofa import ofa_loss
from cakdbench.methods.rkd import rkd_angle_loss, rkd_distance_loss
from cakdbench.models.ensemble import join, join_infos
from cakdbench.models.staged import StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.registry import get_method, method_ids, register
from cakdbench.utils.errors import UsageError

BY_LOGITS, BY_LOSSES = {"dist", "dkd", "kd", "lskd", "ofa"}, {"rkd"}


def network(name, seed):
    torch.manual_seed(seed)
    return StagedModel(name, 10, 64).eval().requires_grad_(False)


TEACHERS = [network("resnet_m", 1), network("swin_m", 2)]


def step(method, teachers, student="vit_xs"):
    """One step of a method of seed 0 on the same images, under the given teachers."""
    torch.manual_seed(0)
    made = build_method(method, StagedModel(student, 10, 64), join(teachers), seed=0).train()
    torch.manual_seed(3)
    index = torch.arange(8)
    batch = Batch(torch.randn(8, 3, 64, 64), index % 10, index, 0, 0, torch.nn.CrossEntropyLoss())
    with torch.no_grad():
        batch.teacher = made.teacher(batch.images)
    return made, batch, made(batch)


def test_every_method_says_how_or_refuses_in_a_line():
    infos = [model_info(name, 10, 64) for name in ("resnet_m", "swin_m")]
    ways = {id: get_method(id).several_teachers for id in method_ids()}
    assert {id for id, way in ways.items() if way == "logits"} == BY_LOGITS
    assert {id for id, way in ways.items() if way == "losses"} == BY_LOSSES
    for id in method_ids():
        method = get_method(id)
        reason = refusal(method, join_infos(infos), model_info("vit_xs", 10, 64), method.Config())
        alone = f"{id} learns from one teacher, and resnet_m+swin_m are 2"
        assert reason == (alone if method.needs and ways[id] is None else None)


@pytest.mark.parametrize(
    ("method", "name", "loss"),
    [
        ("kd", "kd", kd_loss),
        ("dist", "dist", dist_loss),
        ("dkd", "dkd", lambda own, theirs: dkd_loss(own, theirs, torch.arange(8), 1.0, 2.0, 1.0)),
        ("ofa", "kd", lambda own, theirs: ofa_loss(own, theirs, torch.arange(8), 1.0)),
    ],
)
def test_logits_are_averaged(method, name, loss):
    _, batch, made = step(method, TEACHERS, "resnet_s")
    first, second = (teacher(batch.images).logits for teacher in TEACHERS)
    torch.testing.assert_close(made.losses[name], loss(made.logits, (first + second) / 2))
    assert not torch.allclose(made.losses[name], loss(made.logits, first))


def test_losses_are_averaged():
    method, batch, made = step("rkd", TEACHERS)
    own = method.student(batch.images).pooled  # batch norms are none in a ViT: the same as in the step
    theirs = [teacher(batch.images).pooled for teacher in TEACHERS]
    for name, weight, loss in (("distance", 25, rkd_distance_loss), ("angle", 50, rkd_angle_loss)):
        by_hand = weight * (loss(own, theirs[0]) + loss(own, theirs[1])) / 2
        torch.testing.assert_close(made.losses[f"rkd_{name}"], by_hand)


@pytest.mark.parametrize("method", sorted(BY_LOGITS | BY_LOSSES))
def test_two_equal_teachers_are_one(method):
    *_, one = step(method, TEACHERS[:1])
    *_, two = step(method, [TEACHERS[0], TEACHERS[0]])
    assert one.losses.keys() == two.losses.keys()
    assert all(torch.equal(loss, two.losses[name]) for name, loss in one.losses.items())


@pytest.mark.parametrize("method", sorted(BY_LOGITS | BY_LOSSES))
def test_the_order_of_two_teachers_changes_nothing(method):
    *_, one = step(method, TEACHERS)
    *_, two = step(method, TEACHERS[::-1])
    for name, loss in one.losses.items():
        torch.testing.assert_close(loss, two.losses[name])


def test_a_single_loss_is_returned_as_it_is():
    loss = torch.tensor(1.5)
    assert mean_loss([loss]) is loss and mean_loss([loss, torch.tensor(2.5)]) == 2


def test_who_needs_features_cannot_average_logits():
    with pytest.raises(UsageError, match="method 'greedy' needs more than logits"):

        @register("greedy", title="G", paper="-", url="https://example.org")
        class Greedy(Method):
            needs = frozenset({"logits", "pooled"})
            several_teachers = "logits"


def test_a_part_that_one_of_the_teachers_does_not_give_is_named():
    infos = [model_info("resnet_m", 10, 64), model_info("timm:levit_128s", 10, 224)]
    reason = refusal(get_method("rkd"), join_infos(infos), model_info("vit_xs", 10, 64), get_method("rkd").Config())
    assert reason.startswith("rkd needs pooled, which timm:levit_128s does not give")

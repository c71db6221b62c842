"""RKD: distances and angles against loops over pairs and triples, what they do not see, coincident rows, chunks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cakdbench.methods import rkd
from cakdbench.methods.rkd import RKD, rkd_angle_loss, rkd_distance_loss
from cakdbench.models.zoo import model_info
from cakdbench.registry import resolve_config
from tests.methods.method_lab import MINI, batch_for, gradients, make, reached, student, teacher

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)
LOSSES = {"distance": rkd_distance_loss, "angle": rkd_angle_loss}


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


def huber(a, b):
    difference = (a - b).abs()
    return torch.where(difference < 1, difference.square() / 2, difference - 0.5)


def distances_by_pairs(student, teacher):
    size = range(len(student))

    def relative(x):
        d = {(i, j): (x[i] - x[j]).square().sum().clamp(min=1e-12).sqrt() for i in size for j in size if i != j}
        mean = sum(d.values()) / len(d)
        return {pair: distance / mean for pair, distance in d.items()}

    s, t = relative(student), relative(teacher)
    return sum(huber(s[pair], t[pair]) for pair in s) / len(student) ** 2


def angles_by_triples(student, teacher):
    size = range(len(student))

    def cosine(x, i, j, k):
        return F.normalize(x[j] - x[i], dim=0) @ F.normalize(x[k] - x[i], dim=0)

    triples = [(i, j, k) for i in size for j in size for k in size if i not in (j, k)]
    return sum(huber(cosine(student, *t), cosine(teacher, *t)) for t in triples) / len(student) ** 3


REFERENCES = {"distance": distances_by_pairs, "angle": angles_by_triples}


@settings(max_examples=8, deadline=None)
@given(seeds, st.sampled_from(sorted(LOSSES)), st.integers(2, 5))
def test_value_and_gradient_are_those_of_the_formula(seed, name, batch):
    student, teacher = draw(seed, batch, 3).requires_grad_(), draw(seed + 1, batch, 7)
    found, expected = LOSSES[name](student, teacher), REFERENCES[name](student, teacher)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(gradient(found, student), gradient(expected, student), rtol=1e-7, atol=1e-9)


def repdistiller(student, teacher):
    """Both losses as the released code computes them."""

    def pdist(e):
        square = e.pow(2).sum(1)
        d = (square[:, None] + square[None] - 2 * e @ e.t()).clamp(min=1e-12).sqrt().clone()
        d[range(len(e)), range(len(e))] = 0
        return d / d[d > 0].mean()

    def angles(e):
        unit = F.normalize(e.unsqueeze(0) - e.unsqueeze(1), p=2, dim=2)
        return torch.bmm(unit, unit.transpose(1, 2)).view(-1)

    return (
        F.smooth_l1_loss(pdist(student), pdist(teacher)),
        F.smooth_l1_loss(angles(student), angles(teacher)),
    )


@few
@given(seeds, st.integers(2, 9))
def test_value_and_gradient_are_the_released_codes(seed, batch):
    student, teacher = draw(seed, batch, 6).requires_grad_(), draw(seed + 1, batch, 4)
    for name, expected in zip(("distance", "angle"), repdistiller(student, teacher)):
        found = LOSSES[name](student, teacher)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert torch.allclose(gradient(found, student), gradient(expected, student), rtol=1e-6, atol=1e-8)


def test_close_samples_have_an_angle_as_released_only_if_asked_for():
    student, teacher = draw(0, 4, 6), draw(1, 4, 4)
    student[1] = student[0] + 1e-7
    released = repdistiller(student, teacher)[1]
    assert torch.allclose(rkd_angle_loss(student, teacher, apart=0.0), released, rtol=1e-9)
    assert not torch.allclose(rkd_angle_loss(student, teacher), released, rtol=1e-3)


def test_equal_samples_are_finite_as_released_too():
    student = draw(0, 4, 6).index_copy(0, torch.tensor([1]), draw(0, 4, 6)[:1]).requires_grad_()
    loss = rkd_angle_loss(student, draw(1, 4, 4), apart=0.0)
    assert loss.isfinite() and gradient(loss, student).isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_passes_gradcheck(name):
    teacher = draw(2, 4, 5)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, teacher), draw(1, 4, 3).requires_grad_())


@few
@given(seeds, st.floats(0.01, 100), st.sampled_from(sorted(LOSSES)))
def test_a_teacher_rotated_scaled_and_moved_gives_zero(seed, scale, name):
    teacher = draw(seed, 6, 5)
    rotation = torch.linalg.qr(draw(seed + 1, 5, 5)).Q
    student = scale * teacher @ rotation + draw(seed + 2, 5)
    assert LOSSES[name](student, teacher).item() == pytest.approx(0, abs=1e-9)
    assert LOSSES[name](student.square(), teacher) > 1e-6


@few
@given(seeds, st.permutations(range(6)), st.sampled_from(sorted(LOSSES)))
def test_order_of_the_batch_does_not_matter(seed, order, name):
    student, teacher = draw(seed, 6, 5), draw(seed + 1, 6, 3)
    assert torch.allclose(LOSSES[name](student[order], teacher[order]), LOSSES[name](student, teacher))


@few
@given(seeds, st.floats(0.01, 100), st.sampled_from(sorted(LOSSES)))
def test_scale_of_the_student_does_not_matter(seed, scale, name):
    student, teacher = draw(seed, 6, 5), draw(seed + 1, 6, 3)
    assert torch.allclose(LOSSES[name](scale * student, teacher), LOSSES[name](student, teacher))


@few
@given(seeds)
def test_one_distance_is_its_own_mean(seed):
    assert rkd_distance_loss(draw(seed, 2, 5), draw(seed + 1, 2, 3)).item() == pytest.approx(0, abs=1e-12)


def test_an_offset_common_to_the_batch_costs_no_digits():
    student, teacher = draw(1, 8, 16, dtype=torch.float32), draw(2, 8, 16, dtype=torch.float32)
    exact = rkd_distance_loss(student, teacher)
    assert rkd_distance_loss(student + 1000, teacher).item() == pytest.approx(exact.item(), rel=1e-3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("nearness", [0.0, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_coincident_rows_of_the_student_keep_the_gradient_small(name, nearness, dtype):
    student, teacher = draw(1, 6, 5, dtype=dtype), draw(2, 6, 5, dtype=dtype)
    student[3] = student[1] + nearness
    student.requires_grad_()
    loss = LOSSES[name](student, teacher)
    assert 0 < loss < 1
    assert 1e-4 < gradient(loss, student).abs().max() < 1


def test_pairs_near_in_either_model_take_no_part_in_angles():
    student, teacher = draw(1, 4, 3), draw(2, 4, 3)

    def without(i, j):
        """Half a squared difference, or its linear end, of all triples without the pair."""
        total = 0.0
        for a in range(4):
            kept = [b for b in range(4) if b != a and {a, b} != {i, j}]
            s, t = (F.normalize(x[kept] - x[a], dim=1) for x in (student, teacher))
            total += huber(s @ s.T, t @ t.T).sum()
        return total / 4**3

    student[2] = student[0]
    assert torch.allclose(rkd_angle_loss(student, teacher), without(0, 2))
    student, teacher[3] = draw(1, 4, 3), teacher[1]
    assert torch.allclose(rkd_angle_loss(student, teacher), without(1, 3))


CASES = {
    "zero": lambda: (torch.zeros(4, 5), torch.zeros(4, 3)),
    "zero student": lambda: (torch.zeros(4, 5), draw(1, 4, 3)),
    "identical rows": lambda: (draw(1, 1, 5).expand(4, 5), draw(2, 1, 3).expand(4, 3)),
    "large": lambda: (1e4 * draw(1, 4, 5), -1e4 * draw(2, 4, 3)),
    "identical and large": lambda: (1e4 * draw(1, 1, 700).expand(4, 700), 1e4 * draw(2, 4, 3)),
    "batch of 2": lambda: (draw(1, 2, 5), draw(2, 2, 3)),
    "coincident batch of 2": lambda: (draw(1, 1, 5).expand(2, 5), draw(2, 2, 3)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_features_give_finite_losses_and_gradients(name, case, dtype):
    student, teacher = (x.clone().to(dtype) for x in CASES[case]())
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = LOSSES[name](student, teacher)
    assert loss.dtype == torch.float32
    assert loss.isfinite() and gradient(loss, student).isfinite().all()


class Largest(TorchDispatchMode):
    """The most elements of any tensor that comes out of an operation."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple) else (out,):
            self.elements = max(self.elements, x.numel() if isinstance(x, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("anchors", [1, 3, 7])
def test_chunks_of_anchors_change_memory_and_nothing_else(anchors, monkeypatch):
    student, teacher = draw(1, 7, 9).requires_grad_(), draw(2, 7, 5)
    whole = rkd_angle_loss(student, teacher)
    expected = gradient(whole, student)
    monkeypatch.setattr(rkd, "CHUNK", anchors * 7 * 9)
    with Largest() as largest:
        found = rkd_angle_loss(student, teacher)
        slope = gradient(found, student)
    assert largest.elements == anchors * 7 * 9
    assert torch.allclose(found, whole) and torch.allclose(slope, expected)


def test_losses_are_weighted_and_read_the_final_features():
    frozen = teacher("cnn")
    method = make(RKD, frozen, student("vit"), distance_weight=3.0, angle_weight=7.0, label_weight=0.1)
    batch = batch_for(frozen)
    step = method(batch)
    pair = method.student(batch.images).pooled, batch.teacher.pooled
    expected = {
        "label": 0.1 * batch.label_loss(step.logits),
        "rkd_distance": 3 * rkd_distance_loss(*pair),
        "rkd_angle": 7 * rkd_angle_loss(*pair),
    }
    assert {k: v.item() for k, v in step.losses.items()} == pytest.approx({k: v.item() for k, v in expected.items()})


@pytest.mark.parametrize("family", MINI)
def test_relations_do_not_train_the_classifier(family):
    frozen = teacher("mixer")
    method = make(RKD, frozen, student(family))
    losses = method(batch_for(frozen)).losses
    relations = reached(gradients(losses["rkd_distance"] + losses["rkd_angle"], method.named_parameters()))
    classifier = {id(p) for p in method.student.net.get_classifier().parameters()}
    assert relations and not {n for n, p in method.named_parameters() if id(p) in classifier} & relations


@pytest.mark.parametrize("variant, names", [("distance_only", {"rkd_distance"}), ("angle_only", {"rkd_angle"})])
def test_variants_leave_a_loss_out(variant, names):
    frozen = teacher("swin")
    config = vars(resolve_config(RKD, variant, frozen.info, model_info("resnet_s", 10, 64), "cifar100"))
    step = make(RKD, frozen, student("cnn"), **config)(batch_for(frozen, size=2))
    assert set(step.losses) == {"label"} | names and step.total.isfinite()


def test_defaults_are_those_of_every_released_code():
    config = RKD.Config()
    assert (config.distance_weight, config.angle_weight, config.eps) == (25, 50, 1e-12)

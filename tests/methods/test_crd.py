"""CRD: the contrast against loops, the draw of negatives, what the memories keep, and the method as a whole."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cakdbench.methods import crd
from cakdbench.methods.crd import CRD, Memory, OtherClasses, crd_loss, unit
from cakdbench.methods.kd import kd_loss
from cakdbench.models.staged import StagedModel
from cakdbench.utils.errors import UsageError
from cakdbench.utils.rng import seeded
from tests.methods.method_lab import CLASSES, batch_for, gradients, make, student, teacher

seeds = st.integers(0, 2**31)
few = settings(max_examples=20, deadline=None)
LABELS = torch.arange(40) % CLASSES


def generator(seed):
    return torch.Generator().manual_seed(seed)


def positive_scores(seed, batch, number):
    return torch.randn(batch, number, generator=generator(seed), dtype=torch.float64).exp() / 50


def contrast(scores, n_data):
    """The released formula, one logarithm at a time."""
    total, (batch, number) = 0.0, scores.shape
    noise, eps = (number - 1) / n_data, 1e-7
    for row in scores.tolist():
        total += math.log(row[0] / (row[0] + noise + eps))
        total += sum(math.log(noise / (score + noise + eps)) for score in row[1:])
    return -total / batch


def rows(seed, number, dim=4):
    x = torch.randn(number, dim, generator=generator(seed))
    return x / x.norm(dim=1, keepdim=True)


def memory(samples=20, dim=4, tau=0.5, momentum=0.5):
    with seeded("memory"):
        return Memory(samples, dim, tau, momentum)


class TestLoss:
    @few
    @given(seeds, st.integers(1, 4), st.integers(2, 9), st.integers(5, 100))
    def test_is_the_released_formula(self, seed, batch, number, n_data):
        scores = positive_scores(seed, batch, number)
        assert crd_loss(scores, n_data).item() == pytest.approx(contrast(scores, n_data), rel=1e-10)

    def test_gradients_are_those_of_the_value(self):
        scores = positive_scores(1, 3, 5).requires_grad_()
        assert torch.autograd.gradcheck(lambda s: crd_loss(s, 30), scores)

    @pytest.mark.parametrize("negatives, n_data", [(1, 40), (64, 50), (16384, 50_000)])
    def test_equal_scores_give_the_closed_form(self, negatives, n_data):
        scores = torch.full((2, negatives + 1), 1 / n_data, dtype=torch.float64)
        expected = math.log(1 + negatives) + negatives * math.log(1 + 1 / negatives)
        assert crd_loss(scores, n_data, eps=0.0).item() == pytest.approx(expected, rel=1e-12)
        assert crd_loss(scores.float(), n_data).item() == pytest.approx(expected, rel=1e-2)

    @few
    @given(seeds)
    def test_positives_should_score_higher_and_negatives_lower(self, seed):
        scores = positive_scores(seed, 3, 5).requires_grad_()
        found = torch.autograd.grad(crd_loss(scores, 30), scores)[0]
        assert (found[:, 0] < 0).all() and (found[:, 1:] > 0).all()

    @few
    @given(seeds, st.permutations(range(4)), st.permutations(range(1, 6)))
    def test_order_of_batch_and_negatives_does_not_matter(self, seed, batch, negatives):
        scores = positive_scores(seed, 4, 6)
        moved = scores[batch][:, [0, *negatives]]
        assert crd_loss(moved, 30).item() == pytest.approx(crd_loss(scores, 30).item(), rel=1e-12)

    @pytest.mark.parametrize("positive", [1e-35, 1e-7, 1.0, 1e12])
    @pytest.mark.parametrize("negative", [0.0, 1e-35, 1.0, 1e12])
    def test_scores_of_any_size_give_finite_losses_and_gradients(self, positive, negative):
        scores = torch.tensor([[positive, negative, negative]] * 2, requires_grad=True)
        loss = crd_loss(scores, 1_281_167)
        assert loss.isfinite() and torch.autograd.grad(loss, scores)[0].isfinite().all()

    def test_autocast_and_half_precision_change_nothing(self):
        scores = positive_scores(1, 3, 5).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            loss = crd_loss(scores, 30)
        assert loss.dtype == torch.float32 and loss.item() == crd_loss(scores.float(), 30).item()


class TestNegatives:
    @few
    @given(st.lists(st.integers(0, 6), min_size=2, max_size=30).filter(lambda labels: len(set(labels)) > 1), seeds)
    def test_none_shares_the_class_of_its_image(self, labels, seed):
        labels = torch.tensor(labels)
        index = torch.arange(len(labels))
        with seeded(seed):
            drawn = OtherClasses(labels).draw(index, 50)
        assert drawn.shape == (len(labels), 50)
        assert (labels[drawn] != labels[:, None]).all()

    def test_all_others_are_drawn_equally_often_and_more_than_there_are(self):
        labels = torch.tensor([3, 0, 0, 1, 0, 3, 1, 6, 3, 0])
        with seeded("draw"):
            drawn = OtherClasses(labels).draw(torch.tensor([0, 1]), 70_000)
        for label, found in zip((3, 0), drawn):
            times = torch.bincount(found, minlength=len(labels))
            others = labels != label
            assert not times[~others].any()
            expected = 70_000 / others.sum()
            assert ((times[others] - expected).abs() < 5 * expected.sqrt()).all()

    def test_rows_differ_and_the_draw_follows_the_global_seed(self):
        others, index = OtherClasses(LABELS), torch.tensor([3, 3])
        with seeded(1):
            first = others.draw(index, 20)
        with seeded(1):
            again = others.draw(index, 20)
        assert torch.equal(first, again) and not torch.equal(first[0], first[1])

    def test_one_class_alone_is_an_error(self):
        with pytest.raises(UsageError, match="all training images are of one"):
            OtherClasses(torch.full((5,), 3))

    def test_it_is_no_part_of_the_state(self):
        assert not OtherClasses(LABELS).state_dict()


class TestMemory:
    def test_starts_with_uniform_rows_about_as_long_as_1(self):
        bank = memory(samples=2000, dim=128)
        for side in (bank.student, bank.teacher):
            bound = 1 / math.sqrt(128 / 3)
            assert side.abs().max() <= bound and side.abs().max().item() == pytest.approx(bound, rel=1e-3)
            assert side.mean().item() == pytest.approx(0, abs=1e-3)
            assert side.square().sum(1).mean().item() == pytest.approx(1, rel=1e-2)
        assert not torch.equal(bank.student, bank.teacher)
        assert not list(bank.parameters()) and set(bank.state_dict()) == {"student", "teacher", "z"}

    def test_scores_are_exponentials_of_the_products_over_z(self):
        bank, v_s, v_t = memory(), rows(1, 3), rows(2, 3)
        picked = torch.tensor([[0, 5, 5, 9], [1, 7, 2, 3], [2, 19, 0, 1]])
        expected = []
        for anchor, other in ((v_s, bank.teacher), (v_t, bank.student)):
            raw = [[math.exp((other[i] @ anchor[b]).item() / 0.5) for i in row] for b, row in enumerate(picked)]
            mean = sum(map(sum, raw)) / 12
            expected.append([[value / (20 * mean) for value in row] for row in raw])
        for found, wanted in zip(bank.scores(v_s, v_t, picked), expected):
            assert torch.allclose(found, torch.tensor(wanted), rtol=1e-5)

    def test_z_is_set_by_the_first_call_alone(self):
        bank, picked = memory(), torch.tensor([[0, 5, 9], [1, 7, 2]])
        v_s = rows(1, 2).requires_grad_()
        scores = bank.scores(v_s, rows(2, 2), picked)
        assert [side.mean().item() for side in scores] == pytest.approx([1 / 20, 1 / 20], rel=1e-5)
        assert scores[0].requires_grad and not bank.z.requires_grad
        first = bank.z.clone()
        other = bank.scores(rows(3, 2), rows(4, 2), picked)
        assert torch.equal(bank.z, first)
        assert other[0].mean().item() != pytest.approx(1 / 20, rel=1e-3)

    def test_z_has_no_gradient(self):
        """As if it were a number: else the first batch's gradient would differ from the second's."""
        bank, v_s, v_t = memory(), rows(1, 2).requires_grad_(), rows(2, 2)
        picked = torch.tensor([[0, 5, 9], [1, 7, 2]])
        first, again = (torch.autograd.grad(bank.scores(v_s, v_t, picked)[0].sum(), v_s)[0] for _ in range(2))
        assert torch.equal(first, again) and first.abs().max() > 0

    @few
    @given(seeds, st.floats(0, 0.9))
    def test_touched_rows_move_and_others_stay(self, seed, momentum):
        bank, index = memory(momentum=momentum), torch.tensor([7, 0, 13])
        before = {name: value.clone() for name, value in bank.state_dict().items()}
        seen = {"student": rows(seed, 3), "teacher": rows(seed + 1, 3)}
        bank.renew(index, **seen)
        for name, values in seen.items():
            found = bank.get_buffer(name)
            moved = momentum * before[name][index] + (1 - momentum) * values
            assert torch.allclose(found[index], moved / moved.norm(dim=1, keepdim=True), atol=1e-6)
            assert torch.allclose(found[index].norm(dim=1), torch.ones(3))
            untouched = [i for i in range(20) if i not in index]
            assert torch.equal(found[untouched], before[name][untouched])
        assert torch.equal(bank.z, before["z"])

    def test_of_several_views_of_an_image_the_last_counts(self):
        bank, alone = memory(), memory()
        index, v_s, v_t = torch.tensor([4, 9, 4, 4, 9]), rows(1, 5), rows(2, 5)
        bank.renew(index, v_s, v_t)
        alone.renew(index[3:], v_s[3:], v_t[3:])
        assert torch.equal(bank.student, alone.student) and torch.equal(bank.teacher, alone.teacher)

    def test_autocast_does_not_round_scores(self):
        bank, v_s, v_t, picked = memory(), rows(1, 2), rows(2, 2), torch.tensor([[0, 5, 9], [1, 7, 2]])
        full = bank.scores(v_s, v_t, picked)
        with torch.autocast("cpu", torch.bfloat16):
            found = bank.scores(v_s, v_t, picked)
        assert all(torch.equal(a, b) for a, b in zip(full, found))

    def test_a_loaded_memory_that_has_no_z_yet_sets_it(self):
        bank, fresh, picked = memory(), copy.deepcopy(memory().state_dict()), torch.tensor([[0, 5], [1, 7]])
        bank.scores(rows(1, 2), rows(2, 2), picked)
        bank.load_state_dict(fresh)
        assert all(side.isfinite().all() for side in bank.scores(rows(3, 2), rows(4, 2), picked))


@pytest.mark.parametrize("x", [torch.zeros(2, 4), torch.full((2, 4), 1e4), torch.full((2, 4), 1e-20)])
def test_lengths_of_any_size_give_finite_embeddings_and_gradients(x):
    x.requires_grad_()
    found = unit(x)
    assert found.isfinite().all() and torch.autograd.grad(found.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize(
    "teacher, student, expected",
    [("deit_t", "resnet18", 90_368), ("resnet50", "deit_t", 286_976), ("convnext_t", "resmlp_s12", 147_712)],
)
def test_embeddings_have_128_times_both_widths_and_2_biases(teacher, student, expected):
    with torch.device("meta"):
        models = StagedModel(student, 1000), StagedModel(teacher, 1000)
        assert CRD(*models, CRD.Config(), LABELS).extra_parameters() == expected


def batch_of(frozen, index, place=0):
    """A batch of other images of the training set."""
    with seeded("images", *index):
        images = torch.randn(len(index), 3, 64, 64)
    batch = batch_for(frozen, size=len(index))
    with torch.no_grad():
        batch.images, batch.teacher = images, frozen(images)
    batch.index, batch.target, batch.micro_batch = torch.tensor(index), LABELS[torch.tensor(index)], place
    return batch


def stepped(method, *batches):
    """The losses of the local batches of one step."""
    losses = []
    for batch in batches:
        with seeded("step", *batch.index.tolist()):
            losses.append(method(batch).losses["crd"].item())
    method.step_end()
    return losses


def test_the_first_loss_of_a_run_is_that_of_equal_scores_or_near():
    frozen = teacher("cnn")
    loss = make(CRD, frozen, student("vit"), tau=20.0)(batch_for(frozen)).losses["crd"].item()
    assert loss == pytest.approx(2 * (math.log(1 + 16384) + 1), rel=1e-3)


def test_the_loss_is_the_weighted_contrast_of_both_sides(monkeypatch):
    frozen, drawn = teacher("cnn"), torch.tensor([[1, 2, 2], [5, 6, 7], [39, 11, 4], [4, 5, 6]])
    monkeypatch.setattr(OtherClasses, "draw", lambda self, index, number: drawn)
    method = make(CRD, frozen, student("vit"), weight=0.5, kd_weight=3.0, temperature=2.0, tau=0.2, negatives=3)
    for _ in range(2):  # the second step reads what the first one left
        batch = batch_for(frozen)
        banks = method.memory.student.double(), method.memory.teacher.double()
        step, own = method(batch), method.student(batch.images)
        v_s = torch.nn.functional.normalize(method.embed_student(own.pooled).double())
        v_t = torch.nn.functional.normalize(method.embed_teacher(batch.teacher.pooled).double())
        picked = torch.cat([batch.index[:, None], drawn], 1)
        total = 0.0
        for anchor, bank, z in ((v_s, banks[1], method.memory.z[0]), (v_t, banks[0], method.memory.z[1])):
            total += contrast(torch.einsum("bkd,bd->bk", bank[picked], anchor).div(0.2).exp() / z.double(), 40)
        assert step.losses["crd"].item() == pytest.approx(0.5 * total, rel=1e-4)
        kd = kd_loss(step.logits, batch.teacher.logits, 2.0)
        assert step.losses["kd"].item() == pytest.approx(3 * kd.item(), rel=1e-5)
        assert torch.equal(method.memory.student.double(), banks[0])
        method.step_end()
        assert not torch.equal(method.memory.student.double(), banks[0])


def test_memories_take_what_the_step_embedded():
    frozen = teacher("cnn")
    method, batch = make(CRD, frozen, student("vit"), negatives=8), batch_of(frozen, [3, 30, 11])
    before = method.memory.student.clone(), method.memory.teacher.clone()
    stepped(method, batch)
    embedded = (
        unit(method.embed_student(method.student(batch.images).pooled)),
        unit(method.embed_teacher(batch.teacher.pooled)),
    )
    for old, new, bank in zip(before, embedded, (method.memory.student, method.memory.teacher)):
        assert torch.allclose(bank[batch.index], unit(0.5 * old[batch.index] + 0.5 * new), atol=1e-5)
        rest = [i for i in range(40) if i not in batch.index]
        assert torch.equal(bank[rest], old[rest])


def test_step_end_without_a_batch_does_nothing():
    frozen = teacher("cnn")
    method = make(CRD, frozen, student("cnn"), negatives=8)
    before = method.memory.student.clone()
    method.step_end()
    assert torch.equal(method.memory.student, before)
    stepped(method, batch_of(frozen, [1, 2]))
    once = method.memory.student.clone()
    method.step_end()
    assert torch.equal(method.memory.student, once)


def test_a_checkpoint_goes_on_exactly():
    frozen, config = teacher("cnn"), {"negatives": 50}
    first, second = batch_of(frozen, [0, 1, 2, 3]), batch_of(frozen, [2, 3, 20, 21])
    method, other = make(CRD, frozen, student("vit"), **config), make(CRD, frozen, student("vit"), **config)
    stepped(method, first)
    stepped(other, second)  # another history, which the state replaces
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert stepped(method, second) == stepped(other, second)
    assert torch.equal(method.memory.z, other.memory.z)
    assert torch.equal(method.memory.student, other.memory.student)


def test_two_processes_do_what_one_does_with_the_same_local_batches(monkeypatch):
    frozen = teacher("cnn")
    one = make(CRD, frozen, student("vit"), negatives=50)
    ranks = [make(CRD, frozen, student("vit"), negatives=50) for _ in range(2)]
    steps = [  # local batches by place; images come up twice
        [batch_of(frozen, index, place) for place, index in enumerate(indices)]
        for indices in ([[0, 1], [2, 3], [1, 9], [9, 4]], [[4, 5], [0, 9], [7, 8], [5, 1]])
    ]
    expected = [stepped(one, *batches) for batches in steps]
    sent = []
    monkeypatch.setattr(crd, "broadcast", lambda x: sent[0] if sent else sent.append(x.detach()) or sent[0])
    for batches, wanted in zip(steps, expected):
        found = [0.0] * 4
        for slot in range(2):
            for rank, method in enumerate(ranks):
                with seeded("step", *batches[2 * slot + rank].index.tolist()):
                    found[2 * slot + rank] = method(batches[2 * slot + rank]).losses["crd"].item()
        assert found == pytest.approx(wanted, rel=1e-6)
        slots = zip(*(method._embedded for method in ranks))
        gathered = {id(x): torch.cat(parts) for slot in slots for parts in zip(*slot) for x in parts}
        monkeypatch.setattr(crd, "all_gather", lambda x, known=gathered: known[id(x)])
        for method in ranks:
            method.step_end()
    for method in ranks:
        assert torch.equal(method.memory.z, one.memory.z)
        assert torch.allclose(method.memory.student, one.memory.student, atol=1e-6)
        assert torch.allclose(method.memory.teacher, one.memory.teacher, atol=1e-6)


def test_negatives_are_of_other_classes_than_the_label_of_the_image_whatever_the_target(monkeypatch):
    frozen, seen, draw = teacher("cnn"), [], OtherClasses.draw
    monkeypatch.setattr(OtherClasses, "draw", lambda *args: seen.append(draw(*args)) or seen[-1])
    method, batch = make(CRD, frozen, student("cnn")), batch_for(frozen)
    batch.target = torch.nn.functional.one_hot((LABELS[batch.index] + 1) % CLASSES, CLASSES).float()
    method(batch)
    labels = LABELS[seen[0]]
    assert (labels != LABELS[batch.index][:, None]).all()
    assert (labels == batch.hard_target[:, None]).any(1).all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_features_of_any_size_give_finite_losses_and_gradients(autocast, scale):
    frozen = teacher("cnn")
    method, batch = make(CRD, frozen, student("mixer")), batch_for(frozen, size=2)
    batch.teacher.pooled = scale * batch.teacher.pooled[:1].repeat(2, 1)  # rows alike, too
    batch.images = scale * batch.images
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        step = method(batch)
    found = gradients(step.losses["crd"], list(method.named_parameters()))
    assert step.total.isfinite() and all(g is None or g.isfinite().all() for g in found.values())


@pytest.mark.parametrize(
    "config, needs, losses",
    [
        ({}, {"pooled"}, {"label", "crd"}),
        ({"kd_weight": 1.0}, {"logits", "pooled"}, {"label", "crd", "kd"}),
        ({"weight": 0.0, "kd_weight": 1.0}, {"logits"}, {"label", "kd"}),
        ({"weight": 0.0}, set(), {"label"}),
    ],
)
def test_weights_decide_what_is_needed_and_built(config, needs, losses):
    frozen = teacher("cnn")
    method, batch = make(CRD, frozen, student("cnn"), **config), batch_for(frozen)
    for part in {"logits", "pooled"} - needs:
        setattr(batch.teacher, part, None)
    assert method.needs == needs and set(method(batch).losses) == losses
    assert (method.extra_parameters() > 0) == ("crd" in losses)
    method.step_end()


def test_labels_are_needed():
    with pytest.raises(UsageError, match="needs the labels of the training images"):
        CRD(student("cnn"), teacher("cnn"), CRD.Config())

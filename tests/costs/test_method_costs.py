"""What methods cost on pairs: the known integers, methods of known arithmetic, refusals, the CPU as a reference."""

import functools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from cakdbench.costs.bench import CountingBench
from cakdbench.costs.method_costs import CountError, MethodCost, method_cost, method_costs
from cakdbench.costs.papers import PAIRS, paper_modules
from cakdbench.grid.plan import Refusal
from cakdbench.grid.suites import resolve_pairs
from cakdbench.method import Method, Step
from cakdbench.registry import resolve_config, split_variant
from cakdbench.utils.errors import UsageError
from cakdbench.utils.rng import seeded

DEMO = "resnet_m>vit_xs@fashion_demo"


@functools.cache
def bench(pair=DEMO, **options):
    return CountingBench(resolve_pairs(pair)[0], **options)


def cost(label, pair=DEMO, **options):
    return method_cost(bench(pair, **options), *split_variant(label), label)


@pytest.mark.parametrize("label", ["scratch", "kd", "dkd", "dist", "rkd"])
def test_methods_without_modules_add_none(label):
    found = cost(label)
    assert (found.extra_parameters, found.added_macs, found.legacy_parameters, found.legacy_macs) == (0, 0, 0, 0)
    assert found.buffers_mb == 0
    assert found.teacher_pass == ("none" if label == "scratch" else "shared")
    assert found.path_macs == 0 or label == "rkd"


BOTH = "resnet_m+swin_m>vit_xs@fashion_demo"


@pytest.mark.parametrize("label", ["kd", "ofa", "rkd"])
def test_of_several_teachers_each_is_counted_once(label):
    alone = [cost(label, f"{name}>vit_xs@fashion_demo") for name in ("resnet_m", "swin_m")]
    both = cost(label, BOTH)
    assert both.teacher_parameters == sum(found.teacher_parameters for found in alone)
    assert both.teacher_macs == sum(found.teacher_macs for found in alone)
    assert both.teacher_pass == "shared"
    if label == "rkd":  # whose loss is computed under each of them
        assert both.path_macs == sum(found.path_macs for found in alone) > 0


class EachStage(Method):
    """Asks for the stages of each of its teachers."""

    needs = frozenset({"logits", "stages"})
    several_teachers = "losses"

    def distill_step(self, batch):
        own = self.student(batch.images)
        losses = [teacher.stages[0].mean() for teacher in batch.teachers]
        return Step(own.logits, {"label": batch.label_loss(own.logits), "stages": sum(losses)})


def test_what_each_of_several_teachers_gives_is_there_when_it_is_counted():
    found = method_cost(bench(BOTH), EachStage, None, "each_stage")
    assert isinstance(found, MethodCost) and found.path_macs == 0


def test_relations_cost_more_among_more_samples():
    """Two Gram matrices over the batch B and B ones of differences, for both networks."""
    found, width = cost("rkd"), 64 + 192  # of vit_xs and resnet_m
    assert found.path_macs == 2 * width
    assert found.batch_path_macs == found.local_batch * width + found.local_batch**2 * width


@pytest.mark.parametrize(
    "pair, count, samples",
    [(PAIRS[0], 90_368, 1_281_167), (PAIRS[1], 286_976, 1_281_167), (PAIRS[2], 147_712, 1_281_167),
     (PAIRS[0].replace("imagenet1k", "cifar100"), 90_368, 50_000)],
)  # fmt: skip
def test_crds_embeddings_and_banks(pair, count, samples):
    found = cost("crd", pair)
    assert (found.extra_parameters, found.legacy_parameters) == (count, count)
    assert found.buffers_mb * 1e6 == 2 * samples * 128 * 4 + 2 * 4  # and two constants
    assert round(found.buffers_mb) in (51, 1312)
    assert found.added_macs == count - 2 * 128
    assert found.path_macs == found.added_macs + 2 * samples * 128


@pytest.mark.parametrize("pair, count", list(zip(PAIRS, (90_368, 286_976, 147_712))))
def test_ccs_embeddings(pair, count):
    found = cost("cc", pair)
    assert (found.extra_parameters, found.added_macs, found.path_macs) == (count, count - 256, count - 256)


@pytest.mark.parametrize("split", ["ofa", "even"])
def test_fbts_path_holds_the_module_the_reused_tail_and_the_losses(split):
    """6 heads. Beside L2G and tail: class token, temperature, a linear map 512 -> 192 used twice, three InfoNCE."""
    place = bench(PAIRS[0], split=split)
    found = method_cost(place, *split_variant("fbt:heads_6"))
    modules = paper_modules(place, "fbt")
    (l2g,), tail = modules["paper"], modules["tail"][0].macs
    assert found.extra_parameters == l2g.parameters + 192 + 1 + 512 * 192 + 192
    assert found.added_macs == l2g.macs + 2 * 512 * 192
    assert found.path_macs == found.added_macs + tail + 3 * 192
    assert found.legacy_parameters == l2g.legacy_parameters + 512 * 192 + 192
    assert round(found.path_macs / 1e9, 3) == {"ofa": 0.305, "even": 0.407}[split]


def test_ofa_as_released_and_as_the_papers_counted_it():
    released, paper = cost("ofa", PAIRS[0]), cost("ofa:paper_depth", PAIRS[0])
    assert (released.extra_parameters, released.path_macs) == (3_041_184, 75_179_520)
    assert (paper.extra_parameters, paper.path_macs, paper.legacy_macs) == (4_920_736, 96_478_720, 98_431_488)
    assert released.path_macs == released.added_macs == released.batch_path_macs


def test_the_number_of_classes_can_be_that_of_the_papers():
    cifar = PAIRS[0].replace("imagenet1k", "cifar100")
    few, many = cost("ofa", cifar), cost("ofa", cifar, classes=1000)
    assert (few.classes, many.classes) == (100, 1000)
    assert round(few.extra_parameters / 1e6, 4) == 1.1944 and many.extra_parameters == 3_041_184
    assert few.student_parameters == many.student_parameters - 900 * 513


@pytest.mark.parametrize("label", ["fbt", "ofa", "crd", "fofa", "fcfd", "reviewkd", "irg"])
def test_the_count_is_that_of_real_steps(label):
    """With weights and images on the CPU, where memories hold what they hold."""
    counted, real = cost(label), method_cost(bench().on_cpu, *split_variant(label))
    names = ("student_parameters", "student_macs", "extra_parameters", "added_macs", "path_macs", "least_path_macs",
             "most_path_macs", "legacy_parameters", "legacy_macs", "legacy_student_macs")  # fmt: skip
    assert {name: getattr(counted, name) for name in names} == {name: getattr(real, name) for name in names}


@pytest.mark.parametrize("label", ["fbt", "ofa", "crd", "fofa", "fcfd", "reviewkd", "irg"])
def test_a_path_is_what_arithmetic_says_of_a_real_step(label, arithmetic):
    """The second step, where memories and feedback are there; less what the student alone takes."""
    place, (made, variant), found = bench().on_cpu, split_variant(label), cost(label)
    config = resolve_config(made, variant, place.teacher.info, place.student.info, place.pair.dataset)
    method = made(place.student, place.teacher, config, place.labels).eval()
    method(place.batch(1, 0, taught=True))
    method.step_end()
    batch = place.batch(1, 1, taught=True)
    with seeded("cost", 1), arithmetic:  # fcfd draws what it does
        method(batch)
    path = arithmetic.macs - found.student_macs
    assert found.path_macs > 0 and found.least_path_macs <= path <= found.most_path_macs


def test_feedback_of_the_step_before_is_counted_and_kept():
    """fofa's first step has no feedback; it keeps one map a prompted stage and image."""
    found, without = cost("fofa"), cost("fofa:no_feedback")
    assert found.path_macs > without.path_macs
    layouts = bench().teacher.layouts
    maps = sum(layout.channels * layout.grid[0] * layout.grid[1] for layout in layouts)
    kept = (found.buffers_mb - without.buffers_mb) * 1e6
    assert kept - 4 * maps * found.local_batch == pytest.approx(norms_of_feedback(layouts), abs=1e-3)


def norms_of_feedback(layouts):
    """Bytes of the running statistics of the norms that fit feedback to what a stage takes."""
    pairs = zip(layouts, bench().teacher.entries)
    fitted = [own for own, entry in pairs if (own.channels, own.grid) != (entry.channels, entry.grid)]
    return sum(2 * 4 * own.channels + 8 for own in fitted)


def test_a_refusal_is_a_row_with_its_reason():
    (refusal,) = method_costs(["pcagl"], resolve_pairs(DEMO))
    assert isinstance(refusal, Refusal) and refusal.label == "pcagl" and str(refusal.pair) == DEMO
    assert "use a CNN student" in refusal.reason


def test_pairs_come_in_order_with_all_methods():
    specs = resolve_pairs(f"{DEMO},resnet_m>mixer_xs@fashion_demo")
    found = list(method_costs(["kd", "cc"], specs, classes=3))
    assert [(each.label, each.pair) for each in found] == [(m, s.pair) for s in specs for m in ("kd", "cc")]
    assert {each.classes for each in found} == {3}


class Hand(Method):
    """A layer on the pooled feature, called twice; the student's head again; a product without a layer."""

    id, needs = "hand", frozenset({"logits", "stages"})

    def build(self):
        self.layer = nn.Linear(self.student.width, 7, bias=False)
        self.idle = nn.Parameter(torch.zeros(3))
        self.register_buffer("seen", torch.zeros(10))
        self.register_buffer("scratchpad", torch.zeros(1000), persistent=False)

    def distill_step(self, batch):
        student = self.student(batch.images, stages=True)
        twice = self.layer(student.pooled) + self.layer(student.pooled * 2)
        again = self.student.head(student.stages[3]).logits
        product = twice @ self.layer.weight
        return Step(student.logits, {"all": twice.sum() + again.sum() + product.sum()})


def test_a_method_of_known_arithmetic():
    found, width, classes = method_cost(bench(), Hand), 64, 10
    assert found.extra_parameters == 7 * width + 3
    assert found.added_macs == found.legacy_macs == 2 * 7 * width
    assert found.legacy_parameters == 7 * width
    assert found.path_macs == found.batch_path_macs == 3 * 7 * width + width * classes
    assert found.buffers_mb == 40 / 1e6
    assert found.student_parameters == bench().student.info.parameters


class EveryFifth(Method):
    """Works in every fifth epoch only."""

    id, needs = "every_fifth", frozenset()

    def build(self):
        self.layer = nn.Linear(self.student.width, 5)

    def distill_step(self, batch):
        student = self.student(batch.images)
        extra = 0 if batch.epoch % 5 else self.layer(student.pooled).sum()
        return Step(student.logits, {"all": student.logits.sum() + extra})


def test_steps_that_differ_are_averaged_over_epochs():
    found, whole = method_cost(bench(), EveryFifth), 64 * 5
    assert (found.least_path_macs, found.path_macs, found.most_path_macs) == (0, whole // 5, whole)
    assert found.added_macs == found.legacy_macs == found.batch_path_macs == whole // 5
    assert found.legacy_parameters == whole + 5 and found.teacher_pass == "none"


class Looking(Method):
    """Depends on which logits are above all others: that cannot be known without content."""

    id = "looking"

    def build(self):
        self.layer = nn.Linear(10, 4)

    def distill_step(self, batch):
        logits = self.student(batch.images).logits
        picked = (logits >= logits.amax(1, keepdim=True)).nonzero()
        return Step(logits, {"all": self.layer(logits)[picked[:, 0]].sum()})


def test_a_method_that_looks_at_content_is_counted_in_a_real_step():
    found = method_cost(bench(), Looking)
    assert isinstance(found, MethodCost)
    assert (found.extra_parameters, found.added_macs, found.path_macs, found.local_batch) == (44, 40, 40, 1)
    assert found.student_macs == cost("kd").student_macs


class Failing(Method):
    """Fails wherever it runs, over several lines."""

    id = "failing"

    def distill_step(self, batch):
        raise self.error("not on\nthis day")


@pytest.mark.parametrize("error", [ValueError, AttributeError, UsageError])
@pytest.mark.parametrize("hook", ["build", "distill_step"])
def test_a_method_that_fails_is_an_error_of_one_line_and_no_row(error, hook, monkeypatch):
    monkeypatch.setattr(Failing, "error", error, raising=False)
    monkeypatch.setattr(Failing, hook, Failing.distill_step if hook == "distill_step" else build_fails)
    with pytest.raises(CountError) as caught:
        method_cost(bench(), Failing)
    told = f"failing on {DEMO} fails while its costs are counted: {error.__name__}: not on this day"
    assert str(caught.value).startswith(f"{told} (test_method_costs.py, ") and "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, error)


def build_fails(self):
    raise self.error("not on\nthis day")


class Own(Method):
    """Runs the teacher on images of its own."""

    id, needs = "own", frozenset({"model"})

    @dataclass(frozen=True)
    class Config:
        """No settings."""

    def distill_step(self, batch):
        assert batch.teacher is None
        student, teacher = self.student(batch.images), self.teacher(batch.images + 1)
        return Step(student.logits, {"all": (student.logits - teacher.logits).sum()})


def test_a_teacher_pass_of_the_methods_own_is_in_its_path():
    found = method_cost(bench(), Own)
    assert found.teacher_pass == "own" and found.path_macs == found.teacher_macs
    assert cost("kd").path_macs == 0


def test_counting_leaves_no_trace_on_models_and_randomness():
    place = CountingBench(resolve_pairs(DEMO)[0])
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = method_cost(place, *split_variant("cc"))
    assert torch.equal(torch.rand(2), expected)
    assert method_cost(place, *split_variant("cc")) == first
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in place.student.modules())


def test_models_that_cannot_be_cut_open_are_counted_too():
    found = cost("cc", "timm:regnetx_002>timm:convnext_atto@cifar100")
    assert found.extra_parameters == 128 * (320 + 368) + 256

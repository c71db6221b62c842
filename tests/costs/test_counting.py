"""Multiply-adds and the legacy rules, against arithmetic on real passes and the published integers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cakdbench.costs.counting import Meter, zeros
from cakdbench.costs.legacy import ModuleCost, legacy_counting, module_cost
from cakdbench.models.catalog import create
from cakdbench.models.staged import StagedModel

STUDENTS = {  # true parameters and MACs, legacy parameters and MACs; 1000 classes
    "resnet18": ModuleCost(11_689_512, 1_814_073_344, 11_689_512, 1_824_033_792),
    "deit_t": ModuleCost(5_717_416, 1_253_683_200, 5_679_400, 1_078_633_728),
    "resmlp_s12": ModuleCost(15_350_872, 3_009_739_776, 15_322_456, 3_009_739_776),
}
OTHERS = {  # in 10^6 parameters and 10^9 MACs
    "resnet50": ("25.557", "4.089"),
    "convnext_t": ("28.589", "4.456"),
    "swin_t": ("28.288", "4.491"),
    "vit_s": ("22.051", "4.599"),
    "mixer_b16": ("59.880", "12.602"),
    "resnet34": ("21.798", "3.664"),
    "mobilenetv2": ("3.505", "0.3008"),
}


def untrained(name, classes=1000, size=224):
    with torch.device("meta"):
        return create(name, classes, size).eval()


def of_module(module, *shape):
    return module_cost(module.to("meta").eval(), zeros(*shape))


@pytest.mark.parametrize("name", STUDENTS)
def test_students_have_the_true_and_the_legacy_integers(name):
    assert module_cost(untrained(name), zeros(1, 3, 224, 224)) == STUDENTS[name]


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_have_the_known_sizes(name):
    cost = module_cost(untrained(name), zeros(1, 3, 224, 224))
    parameters, macs = OTHERS[name]
    assert f"{cost.parameters / 1e6:.{len(parameters.partition('.')[2])}f}" == parameters
    assert f"{cost.macs / 1e9:.{len(macs.partition('.')[2])}f}" == macs


@pytest.mark.parametrize("name", ["vit_xs", "swin_xs", "mobilenet_s", "mixer_xs"])
def test_nothing_is_computed_and_the_count_is_that_of_a_real_pass(name, arithmetic):
    """On real weights and images."""
    model, images = StagedModel(name, 10, 64).eval(), torch.randn(2, 3, 64, 64)
    with arithmetic, torch.no_grad():
        model(images)
    assert module_cost(untrained(name, 10, 64), zeros(2, 3, 64, 64)).macs == arithmetic.macs


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("training", [True, False])
def test_attention_costs_its_two_products_on_every_device(device, training):
    """Queries (2, 4, 17, 16) on keys and values of 11 tokens, whichever kernel the version of torch has for them."""
    query, key = (torch.ones(2, 4, tokens, 16, device=device, requires_grad=training) for tokens in (17, 11))
    with Meter() as meter:
        F.scaled_dot_product_attention(query, key, key)
    assert meter.total == 2 * 4 * 17 * 11 * (16 + 16)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 3, 5]), st.integers(1, 2))
def test_a_convolution_costs_what_arithmetic_says(groups, inner, outer, kernel, stride):
    conv = nn.Conv2d(groups * inner, groups * outer, kernel, stride, kernel // 2, groups=groups)
    cost = of_module(conv, 2, groups * inner, 8, 6)
    positions = 2 * (8 // stride) * (6 // stride)
    weights = groups * outer * inner * kernel**2
    assert cost == ModuleCost(
        weights + groups * outer, positions * weights, weights + groups * outer, positions * weights
    )


RULES = [
    (nn.Linear(5, 7), (3, 4, 5), 3 * 4 * 7 * 5, 42),
    (nn.BatchNorm2d(5), (3, 5, 4, 2), 4 * 120, 10),
    (nn.BatchNorm1d(5, affine=False), (3, 5), 2 * 15, 0),
    (nn.LayerNorm(5), (3, 5), 4 * 15, 10),
    (nn.LayerNorm(5, elementwise_affine=False), (3, 5), 2 * 15, 0),
    (nn.Softmax(dim=1), (3, 5, 4), 12 * 14, 0),
    (nn.AvgPool2d(2), (3, 5, 4, 4), 3 * 5 * 4, 0),
    (nn.AdaptiveAvgPool2d(2), (3, 5, 4, 6), 3 * 5 * 4 * (2 * 3 + 1), 0),
    (nn.ReLU(), (3, 5), 0, 0),
    (nn.MaxPool2d(2), (3, 5, 4, 4), 0, 0),
    (nn.Dropout(), (3, 5), 0, 0),
    (nn.GELU(), (3, 5), 0, 0),
    (nn.ConvTranspose2d(5, 4, 2, 2), (1, 5, 3, 3), 0, 0),
    (nn.PReLU(), (3, 5), 0, 0),
]


@pytest.mark.parametrize("module, shape, macs, parameters", RULES, ids=[type(rule[0]).__name__ for rule in RULES])
def test_the_legacy_rules(module, shape, macs, parameters):
    cost = of_module(module, *shape)
    assert (cost.legacy_macs, cost.legacy_parameters) == (macs, parameters)


class OwnLayerNorm(nn.LayerNorm):
    pass


class OwnLinear(nn.Linear):
    pass


def test_subclasses_are_legacy_blind_but_for_layer_norm():
    assert of_module(OwnLayerNorm(5), 3, 5).legacy_macs == 60
    assert of_module(OwnLinear(5, 7), 3, 5) == ModuleCost(42, 105, 0, 0)


class Blind(nn.Module):
    """A layer called twice, one used without being called, one not used."""

    def __init__(self):
        super().__init__()
        self.twice, self.bare, self.idle = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        x = self.twice(self.twice(x))
        return nn.functional.linear(x, self.bare.weight) @ x.T


def test_legacy_counts_calls_of_layers_and_nothing_else():
    cost = of_module(Blind(), 3, 4)
    assert cost.legacy_macs == 2 * 3 * 16 and cost.legacy_parameters == 20
    assert cost.macs == 3 * 3 * 16 + 3 * 4 * 3 and cost.parameters == 60


def test_modules_are_told_apart_with_all_that_happens_inside_them():
    with torch.device("meta"):
        inner, other = Blind(), nn.Linear(4, 5)
        outer = nn.Sequential(inner, nn.Linear(3, 2))
    with Meter([outer, *outer.modules()]) as meter:
        other(zeros(3, 4))
        outer(zeros(3, 4))
    assert (meter.total, meter.inside) == (60 + 180 + 18, 180 + 18)


def test_hooks_and_autocast_are_put_back_even_after_an_error():
    layer, autocast = nn.Linear(4, 4).to("meta"), torch.autocast
    with pytest.raises(RuntimeError), Meter([layer]), legacy_counting([layer]):
        assert torch.autocast is not autocast
        layer(zeros(3, 5))
    assert torch.autocast is autocast
    assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_content_is_taken_for_zeros_on_the_meta_device_alone():
    with Meter():
        assert not zeros(2).any() and zeros(2)[0].item() == 0 and torch.equal(zeros(2), zeros(2))
        assert torch.ones(2).any() and torch.ones(2)[0].item() == 1 and not torch.equal(torch.ones(2), torch.zeros(2))
        with torch.autocast("meta", enabled=False):
            pass


@pytest.mark.parametrize("name", ["swin_xs", "mobilenet_s", "mixer_xs"])
def test_what_is_looked_up_is_what_torch_works_out(name):
    with torch.device("meta"):
        model = StagedModel(name, 10, 64).eval()

    def forms():
        out = model(zeros(2, 3, 64, 64), stages=True)
        return [(x.shape, x.stride(), x.dtype, x.device) for x in (out.logits, out.pooled, *out.stages)]

    totals, expected = [], forms()
    for _ in range(2):
        with Meter() as meter:
            assert forms() == expected
        totals.append(meter.total)
    assert totals[0] == totals[1] > 0


def test_operators_are_looked_up_by_all_of_their_arguments():
    for _ in range(2):
        with Meter():
            whole = zeros(2, 3).long()
            assert [(whole + x).dtype for x in (1, 1.0, True)] == [torch.int64, torch.float32, torch.int64]
            assert [x.shape for x in (zeros(2, 3).sum(1), zeros(2, 3).sum(1, keepdim=True))] == [(2,), (2, 1)]
            assert zeros(2, 3).T.contiguous().stride() == (2, 1) and (zeros(2, 3).T + 1).stride() == (1, 3)
            assert (torch.ones(2) + 1).tolist() == [2, 2]

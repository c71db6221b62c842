"""Tests of what all registered methods do alike: steps, labels, precision, checkpoints, exports, settings.

What is particular to a method, its values above all, is tested in the method's own module.
"""

import functools
import re
from dataclasses import fields
from itertools import product
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import timm
import torch
from torch import nn

from cakdbench.checks.lab import SIZE
from cakdbench.labels import label
from cakdbench.models.zoo import model_info
from cakdbench.registry import get_method, resolve_config, split_variant
from cakdbench.utils.errors import UsageError
from tests.golden.steps import built_in
from tests.methods.cases import case_of, cases, contents, copied, numbers, refusal, same
from tests.methods.method_lab import CLASSES, gradients, reached
from tests.methods.wrong_settings import WRONG_SETTINGS

IDS = built_in()
LABELS = [label(id, variant) for id in IDS for variant in (None, *get_method(id).variants)]

PAIRS = [
    *[("vit", "cnn"), ("swin", "cnn"), ("swin", "mobilenet"), ("resmlp", "mobilenet"), ("mixer", "convnext")],
    *[("cnn", "vit"), ("convnext", "swin"), ("mobilenet", "mixer"), ("cnn", "mobilenet"), ("swin", "vit")],
    *[("swin", "resmlp"), ("resmlp", "mixer"), ("mixer", "swin"), ("resmlp", "vit")],
]
"""Teachers and students: every family on both sides, and all nine directions between kinds of networks."""

VARIANT_PAIRS = [("cnn", "vit_m"), ("vit_m", "cnn"), ("mixer", "swin")]
DIRECTIONS = [("vit", "cnn"), ("cnn", "vit"), ("mixer", "swin")]

REASONS = {
    "pcagl": "use a CNN student|is a CNN: use a ViT",
    "fofa": "leave 1 out of fofa.prompt_stages",
    "fbt:heads_6": "fbt.l2g_heads=",
}
"""Why a method, or one of its variants, may refuse some of the pairs."""

LOSSES = {
    "at": {"at_1", "at_2", "at_3", "at_4"},
    "cc": {"cc"},
    "crd": {"crd"},
    "dist": {"dist"},
    "dkd": {"dkd"},
    "fbt": {"ofa_ts", "ofa_tf", "ofa_fs", "nce_ts", "nce_tf", "nce_fs"},
    "fcfd": {"kd", "paths", "features", "pooled"},
    "fitnet": {"fitnet_1", "fitnet_2", "fitnet_3", "fitnet_4", "kd"},
    "fofa": {"kd", "fofa", "fofa_prompt"},
    "irg": {"irg_vertex", "irg_edge", "irg_transform"},
    "kd": {"kd"},
    "lskd": {"lskd"},
    "ofa": {"kd", "ofa_1", "ofa_2", "ofa_3", "ofa_4"},
    "ofd": {"ofd"},
    "pcagl": {"pca", "value", "gl", "mvg"},
    "reviewkd": {"reviewkd"},
    "rkd": {"rkd_distance", "rkd_angle"},
    "rsd": {"rsd"},
    "scratch": set(),
}
"""Losses by default, beside that of the labels, under a transformer."""

WITHOUT_MODULES = {"at", "dist", "dkd", "irg", "kd", "lskd", "rkd", "scratch"}

IDLE = {"fcfd": ("to_student.", *(f"to_teacher.{stage}.prefix" for stage in (1, 2, 3))), "fofa": ("prompts.",)}
"""Modules whose gradient may be 0 in a step by default: paths are drawn, and prompts start at scale 0."""

DRAWN = {"fcfd": ("to_student.", "to_teacher.")}
"""Modules that a step of a variant may leave out: those of paths that are not drawn."""

ZERO = {
    "fofa": ("fofa_prompt",),
    "irg": ("irg_edge",),
    "pcagl": ("mvg",),
    "rkd": ("rkd_distance", "rkd_angle"),
}
"""Losses that are not above 0 in a batch of two: a lone distance is its own mean, prompts start at scale 0, and a
student that fools an adversary gains."""

PROMPTS_ALONE = {"fofa_prompt"}
"""Losses that train nothing of the student."""

ROUGH = {"at": 2e-2, "irg": 6e-2, "rkd": 3e-2}
"""Relative error under bf16 where features differ by little; elsewhere it is below 1e-2."""


class TestStep:
    @cases(IDS, PAIRS)
    def test_trains_the_student_and_its_modules_and_leaves_teacher_and_batch_as_they_were(self, name, pair):
        case = case_of(name, pair)
        state, given = copied(case.teacher.state_dict()), copied(contents(case.batch))
        step = case.step()
        found = gradients(sum(step.everything.values()), case.trainable)
        assert not [key for key in found.keys() - reached(found) if not key.startswith(IDLE.get(name, ()))]
        assert all(grad.isfinite().all() for grad in found.values() if grad is not None)
        assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in step.everything.values())
        assert step.logits.shape == (4, CLASSES)
        assert same(case.teacher.state_dict(), state) and not case.teacher.training
        assert all(p.grad is None and not p.requires_grad for p in case.teacher.parameters())
        assert same(contents(case.batch), given)

    @cases(IDS, PAIRS)
    def test_transfers_something_in_a_batch_of_two(self, name, pair):
        with torch.no_grad():
            step = case_of(name, pair, size=2).step()
        assert step.logits.shape == (2, CLASSES)
        assert all(loss.isfinite() for loss in step.everything.values())
        assert all(loss > 0 for key, loss in step.losses.items() if key not in ZERO.get(name, ()))

    @cases(LABELS, VARIANT_PAIRS)
    def test_of_every_variant_reads_what_it_needs_and_trains_what_it_creates(self, name, pair):
        case = case_of(name, pair, size=2)
        assert case.method.needs <= type(case.method).needs
        with torch.no_grad():
            case.step()
        case.method.step_end()
        found = gradients(sum(case.step().everything.values()), case.trainable)
        drawn = DRAWN.get(case.method.id, ())
        learning = {key: grad for key, grad in found.items() if not key.startswith(drawn)}
        assert all(grad is not None and grad.isfinite().all() for grad in learning.values())
        still = learning.keys() - reached(learning)
        assert not [key for key in still if not key.startswith(IDLE.get(case.method.id, ()))]

    @pytest.mark.parametrize("id", IDS)
    def test_has_the_losses_of_its_method_and_each_trains_the_student(self, id):
        case = case_of(id, ("vit", "cnn"))
        losses = case.step().losses
        assert set(losses) == {"label"} | LOSSES[id]
        for name in losses.keys() - PROMPTS_ALONE:
            assert any(key.startswith("student.") for key in reached(gradients(losses[name], case.trainable))), name

    @cases(LABELS, [("vit", "cnn")])
    def test_takes_one_hot_labels_as_indices(self, name, pair):
        case = case_of(name, pair)
        one_hot = torch.nn.functional.one_hot(case.batch.target, CLASSES).float()
        with torch.no_grad():
            hard, soft = case.step().everything, case.step(target=one_hot).everything
        assert numbers(soft) == pytest.approx(numbers(hard))

    @pytest.mark.filterwarnings("ignore:TF32 acceleration")
    @cases(IDS, DIRECTIONS)
    def test_in_bfloat16_has_nearly_the_losses_of_float32(self, name, pair):
        case = case_of(name, pair)
        full = case.step()
        # oneDNN's bf16 convolutions are wrong on some CPUs: 4 x 4 patches of 16 channels err by their own size
        with torch.backends.mkldnn.flags(enabled=False), torch.autocast("cpu", torch.bfloat16):
            half = case.step()
        assert all(loss.dtype == torch.float32 for loss in half.everything.values())
        assert half.total.item() == pytest.approx(full.total.item(), rel=1e-2)
        assert numbers(half.everything) == pytest.approx(numbers(full.everything), rel=ROUGH.get(name, 1e-2), abs=1e-6)
        found = gradients(sum(half.everything.values()), case.trainable)
        assert all(grad.isfinite().all() for grad in found.values() if grad is not None)


@functools.cache
def plain_model(name: str) -> nn.Module:
    sizes = {"img_size": SIZE} if name.startswith("vit") else {}
    return timm.create_model(name, num_classes=CLASSES, **sizes)


class TestMethod:
    @cases(IDS, [("vit", "cnn"), ("cnn", "vit")])
    def test_does_not_contain_the_teacher(self, name, pair):
        case = case_of(name, pair)
        inside = {id(p) for p in case.method.parameters()} | {id(b) for b in case.method.buffers()}
        assert not inside & {id(x) for x in (*case.teacher.parameters(), *case.teacher.buffers())}

    def test_has_modules_of_its_own_or_not(self):
        extra = {id: case_of(id, ("vit", "cnn")).method.extra_parameters() for id in IDS}
        assert {id for id in IDS if extra[id] == 0} == WITHOUT_MODULES

    @cases(IDS, [("cnn", "timm:vit_tiny_patch16_224"), ("vit", "timm:resnet10t")])
    def test_gives_the_student_away_as_a_plain_timm_model(self, name, pair):
        case = case_of(name, pair)
        plain = plain_model(pair[1].removeprefix("timm:"))
        case.step()  # moves the statistics of batch norms
        exported = case.method.student.export_state()
        assert list(exported) == list(plain.state_dict())
        plain.load_state_dict(exported)
        images = case.batch.images
        assert torch.equal(plain.eval()(images), case.method.student.eval()(images).logits)

    @cases(IDS, [("vit", "cnn"), ("cnn", "vit")])
    def test_saved_and_loaded_goes_on_with_the_same_losses(self, name, pair):
        case, other = case_of(name, pair), case_of(name, pair)
        optimizer = torch.optim.SGD(case.method.parameters(), 0.01)
        sum(case.step().everything.values()).backward()
        optimizer.step()
        case.method.step_end()
        case.method.before_save()
        assert numbers(other.step().everything) != numbers(case.step().everything)
        other.method.load_state_dict(case.method.state_dict())
        assert numbers(other.step().everything) == numbers(case.step().everything)

    @pytest.mark.parametrize("id", [id for id in IDS if "stages" in {f.name for f in fields(get_method(id).Config)}])
    def test_a_stages_loss_trains_the_stages_before_it_and_no_later_one(self, id):
        case = case_of(id, ("vit", "cnn"), stages=(2,))
        found = reached(gradients(case.step().losses[f"{id}_2"], case.trainable))
        tops = {name.split(".")[2] for name in found if name.startswith("student.")}
        assert {"layer1", "layer2"} <= tops and not tops & {"layer3", "layer4", "fc"}


def test_losses_of_every_method_are_known():
    assert not set(IDS) - LOSSES.keys(), "add the names of its losses to LOSSES, above"


def test_pairs_are_refused_for_known_reasons_alone():
    refused = set()
    for name, pair in product(LABELS, PAIRS + VARIANT_PAIRS):
        if reason := refusal(name, pair):
            known = name if name in REASONS else split_variant(name)[0].id
            assert re.search(REASONS[known], reason), f"{name} on {pair}"
            refused.add(known)
    assert refused == set(REASONS)


def choices_of_all() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return id, setting and choices of every setting that is one of some words."""
    hints = [(id, *item) for id in IDS for item in get_type_hints(get_method(id).Config).items()]
    return [(id, name, get_args(hint)) for id, name, hint in hints if get_origin(hint) is Literal]


class TestSettings:
    @pytest.mark.parametrize("id, config, message", [(id, *row) for id, rows in WRONG_SETTINGS.items() for row in rows])
    def test_out_of_bounds_are_named(self, id, config, message):
        with pytest.raises(ValueError, match=message):
            get_method(id).Config(**config)
        infos = model_info("resnet_m", CLASSES, SIZE), model_info("vit_xs", CLASSES, SIZE)
        with pytest.raises(UsageError, match=f"(?s)setting of {id}: .*({message}|must be|must have)"):
            resolve_config(get_method(id), None, *infos, "cifar100", config)

    def test_have_bounds_in_every_method_that_has_settings(self):
        missing = {id for id in IDS if fields(get_method(id).Config)} - WRONG_SETTINGS.keys()
        assert not missing, "add settings out of bounds to tests/methods/wrong_settings.py"

    @pytest.mark.parametrize("id, name, choices", choices_of_all())
    def test_with_choices_take_no_other(self, id, name, choices):
        message = f"{name} must be one of {', '.join(choices)}, not 'strange'"
        with pytest.raises(ValueError, match=re.escape(message)):
            get_method(id).Config(**{name: "strange"})

    @pytest.mark.parametrize("name", [name for name in LABELS if name not in IDS])
    def test_of_a_variant_win_over_all_others(self, name):
        method, variant = split_variant(name)
        infos = model_info("deit_t", 100), model_info("resnet18", 100)
        for dataset in ("cifar100", "imagenet1k"):
            plain, config = (vars(resolve_config(method, which, *infos, dataset)) for which in (None, variant))
            assert config == plain | dict(method.variants[variant])

    def test_of_other_names_are_those_of_the_method(self):
        assert {alias: id for id in IDS for alias in get_method(id).aliases} == {"tas": "fbt", "pat": "fofa"}
        assert all(get_method(alias) is get_method(id) for alias, id in {"tas": "fbt", "pat": "fofa"}.items())

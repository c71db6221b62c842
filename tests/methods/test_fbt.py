"""FBT as a method: which side is the front, what L2G is, the settings, and what takes no weight decay."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cakdbench.methods.fbt import FBT, L2G, info_nce_loss
from cakdbench.models.staged import Layout, StagedModel
from cakdbench.models.zoo import model_info
from cakdbench.registry import resolve_config
from tests.methods.method_lab import MINI, batch_for, gradients, make, reached, student, teacher

SMALL_PAIRS = [("vit", "cnn"), ("cnn", "vit"), ("mixer", "swin")]  # cases A, B and H


def fbt(pair, **config):
    frozen = teacher(pair[0])
    return make(FBT, frozen, student(pair[1]), **config), batch_for(frozen)


class TestSides:
    @pytest.mark.parametrize(
        "t, s, front",
        [("msa", "cnn", "student"), ("mlp", "cnn", "student"), ("cnn", "msa", "teacher"), ("cnn", "mlp", "teacher")]
        + [(k, k, "student") for k in ("cnn", "msa", "mlp")]
        + [("msa", "mlp", "student"), ("mlp", "msa", "student")],
    )
    def test_the_only_cnn_is_the_front_else_the_student(self, t, s, front):
        infos = [replace(model_info("vit_xs", 10, 64), kind=kind) for kind in (t, s)]
        assert FBT.Config().fronts_student(*infos) == (front == "student")
        assert FBT.Config(fuse_front="teacher").fronts_student(*infos) is False
        assert FBT.Config(fuse_front="student").fronts_student(*infos) is True


# Wiring of the published pairs at 224 px: teacher, student, front's stage-3 width, D, d_s, d_t, L2G in millions
WIRING = [
    ("swin_t", "resnet18", 256, 384, 512, 768, 1.88),
    ("vit_s", "resnet18", 256, 384, 512, 384, 1.88),
    ("mixer_b16", "resnet18", 256, 768, 512, 768, 7.29),
    ("swin_t", "mobilenetv2", 96, 384, 1280, 768, 1.82),
    ("vit_s", "mobilenetv2", 96, 384, 1280, 384, 1.82),
    ("mixer_b16", "mobilenetv2", 96, 768, 1280, 768, 7.17),
    ("deit_t", "resnet18", 256, 192, 512, 192, 0.50),
    ("deit_t", "mobilenetv2", 96, 192, 1280, 192, 0.47),
    ("convnext_t", "deit_t", 384, 192, 192, 768, 0.52),
    ("resnet50", "deit_t", 1024, 192, 192, 2048, 0.65),
    ("convnext_t", "swin_p", 384, 192, 384, 768, 0.52),
    ("convnext_t", "swin_n", 384, 256, 512, 768, 0.89),
    ("resnet50", "swin_n", 1024, 256, 512, 2048, 1.06),
    ("convnext_t", "resmlp_s12", 384, 384, 384, 768, 1.93),
    ("mixer_b16", "deit_t", 192, 768, 192, 768, 7.24),
    ("mixer_b16", "swin_p", 192, 768, 384, 768, 7.24),
    ("mixer_b16", "swin_n", 256, 768, 512, 768, 7.29),
    ("swin_t", "resmlp_s12", 384, 384, 384, 768, 1.93),
    ("resnet34", "resnet18", 256, 256, 512, 512, 0.86),
    ("resnet50", "mobilenetv1", 512, 1024, 1024, 2048, 13.1),
]


@pytest.mark.parametrize("t, s, c, d, d_s, d_t, millions", WIRING, ids=lambda value: str(value))
def test_modules_of_the_published_pairs_have_their_closed_form(t, s, c, d, d_s, d_t, millions):
    with torch.device("meta"):
        method = FBT(StagedModel(s, 100), StagedModel(t, 100), FBT.Config())
    own_prefix = method.entry.prefix * d
    count = sum(p.numel() for p in method.l2g.parameters()) - own_prefix
    assert count == c * d + 12 * d**2 + 13 * d + 1536 + 513 * 8
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions > 10 else 0.0051)
    projector = 0 if d_s == d_t else d_s * d_t + d_t
    assert method.extra_parameters() == count + own_prefix + projector + 1


@pytest.mark.parametrize(
    "t, s, count",
    [("deit_t", "resnet18", 498_630), ("resnet50", "deit_t", 646_086), ("convnext_t", "resmlp_s12", 1_926_534)],
)
def test_l2g_with_6_heads_is_the_module_of_the_papers_cost_table(t, s, count):
    with torch.device("meta"):
        method = FBT(StagedModel(s, 1000), StagedModel(t, 1000), FBT.Config(l2g_heads=6, fused_cls="model"))
    assert sum(p.numel() for p in method.l2g.parameters()) == count


def test_a_swin_v1_block_has_its_closed_form():
    with torch.device("meta"):
        method = FBT(StagedModel("resnet18", 100), StagedModel("deit_t", 100), FBT.Config(l2g_block="swin_v1"))
    c, d, heads, window = 256, 192, 8, 7
    norms, attention, mlp = 4 * d, 4 * d**2 + 4 * d + (2 * window - 1) ** 2 * heads, 8 * d**2 + 5 * d
    assert sum(p.numel() for p in method.l2g.parameters()) == c * d + d + norms + attention + mlp + d


class TestL2G:
    @pytest.mark.parametrize(
        "front, back, kernel",
        [((4, 4), (4, 4), (1, 1)), ((16, 16), (4, 4), (4, 4)), ((4, 8), (4, 4), (1, 2))]
        + [((2, 2), (4, 4), (1, 1)), ((7, 7), (4, 4), (1, 1)), ((3, 8), (4, 4), (1, 1))],
    )
    @pytest.mark.parametrize("block", ["swin", "swin_v1", "vit", "none"])
    def test_any_grid_comes_out_as_the_backs(self, front, back, kernel, block):
        l2g = L2G(Layout(6, front, tokens=False), Layout(16, back, tokens=True), block)
        assert l2g.patch_embed.kernel_size == l2g.patch_embed.stride == kernel
        assert l2g(torch.randn(2, 6, *front)).shape == (2, back[0] * back[1], 16)

    def test_tokens_go_in_without_their_prefix_and_in_their_places(self):
        layout = Layout(16, (4, 4), tokens=True, prefix=2)
        l2g = L2G(layout, layout, "none")
        nn.init.dirac_(l2g.patch_embed.weight), nn.init.zeros_(l2g.patch_embed.bias)
        x = torch.randn(2, 18, 16)
        assert torch.equal(l2g(x), x[:, 2:])

    def test_a_window_keeps_tokens_apart_and_a_wide_one_does_not(self):
        layout = Layout(16, (14, 14), tokens=False)
        for block, (window, outside) in product(("swin", "swin_v1"), [(7, False), (14, True)]):
            l2g = L2G(layout, layout, block, window=window)
            x = torch.randn(1, 16, 14, 14, requires_grad=True)
            grad = torch.autograd.grad(l2g(x)[0, 0, 0], x)[0]
            assert bool(grad[..., 7:, 7:].any()) == outside
            assert grad[..., :7, :7].any()


@pytest.mark.parametrize("family", MINI)
def test_a_network_fused_with_itself_is_itself(family):
    model = student(family).requires_grad_(False).eval()
    method = FBT(model, model, FBT.Config(l2g_block="none", fuse_front="student", feature="pre_logits"))
    nn.init.dirac_(method.l2g.patch_embed.weight), nn.init.zeros_(method.l2g.patch_embed.bias)
    output = model(batch_for(size=1).images, stages=True)
    if method.entry.prefix:
        method.l2g.prefix.data = method.entry.prefix_of(output.stages[2])
    fused = method.fuse(output.stages[2])
    assert torch.allclose(fused.logits, output.logits, atol=1e-5)
    assert torch.allclose(fused.pooled, output.pooled, atol=1e-5)


class TestTemperature:
    def test_starts_where_the_settings_say(self):
        method, _ = fbt(("vit", "cnn"), tau=0.1)
        assert method.log_scale.exp().item() == pytest.approx(10)

    def test_never_scales_beyond_100_and_can_come_back(self):
        method, batch = fbt(("mixer", "cnn"))
        method.log_scale.data.fill_(10.0)
        step = method(batch)
        given = batch.teacher.pooled, method.projector(method.student(batch.images).pooled)
        assert step.losses["nce_ts"].item() == pytest.approx(info_nce_loss(given[1], given[0], 100.0).item(), rel=1e-4)
        assert 99.99 < method.log_scale.exp().item() <= 100
        step.total.backward()
        assert method.log_scale.grad.abs() > 0


class TestCompositions:
    """TAS Table 5: the front's stages 1 to k before the back's from stage j on."""

    @pytest.mark.parametrize("pair", SMALL_PAIRS)
    @pytest.mark.parametrize("k", [1, 2, 3, 4])
    @pytest.mark.parametrize("j", [2, 3, 4, 5])
    def test_every_composition_trains_the_front_the_back_and_l2g(self, pair, k, j):
        method, batch = fbt(pair, front_k=k, back_j=j, fused_cls="gap")
        losses = method(batch).losses
        found = reached(gradients(losses["ofa_tf"] + losses["nce_tf"], method.named_parameters()))
        assert {name for name, _ in method.named_parameters() if name.startswith("l2g.")} <= found
        assert any(name.startswith("student.") for name in found)

    def test_the_fused_model_is_those_very_stages(self):
        method, batch = fbt(("swin", "cnn"), front_k=2, back_j=3)
        features = method.student(batch.images, stages=True).stages
        back = method.teacher
        expected = back.head(back.stage(4, back.stage(3, method.l2g(features[1])))).logits
        assert torch.equal(method.fuse(features[1]).logits, expected)

    @pytest.mark.parametrize("choice", ["learned", "model"])
    def test_a_head_alone_that_reads_a_constant_token_is_refused(self, choice):
        cnn, vit = model_info("resnet18", 100), model_info("vit_s", 100)
        reason = FBT.refuses(vit, cnn, FBT.Config(back_j=5, fused_cls=choice))
        assert "fbt.fused_cls=gap or mean" in reason
        swin = model_info("swin_t", 100)
        assert FBT.refuses(swin, cnn, FBT.Config(back_j=5, fused_cls=choice)) is None


class TestClassToken:
    """A back that reads a class token, which the front cannot give."""

    def test_learned_starts_as_the_backs_own_and_is_trained(self):
        method, _ = fbt(("vit", "cnn"))
        assert torch.equal(method.l2g.prefix, method.teacher.stage_prefix())
        assert method.l2g.prefix.requires_grad and "l2g.prefix" in method.no_weight_decay()

    @pytest.mark.parametrize("choice", ["model", "mean", "gap"])
    def test_the_others_own_no_parameter(self, choice):
        learned, other = fbt(("vit", "cnn"))[0], fbt(("vit", "cnn"), fused_cls=choice)[0]
        assert learned.extra_parameters() - other.extra_parameters() == other.entry.channels

    @pytest.mark.parametrize("choice", ["learned", "model", "mean", "gap"])
    def test_what_the_back_gets(self, choice):
        method, batch = fbt(("cnn", "vit"), fused_cls=choice, feature="pre_logits")
        feature = batch.teacher.stages[2]
        tokens = method.l2g(feature)
        expected = {
            "learned": lambda: method.l2g.prefix.expand(len(tokens), -1, -1),
            "model": lambda: method.student.stage_prefix().expand(len(tokens), -1, -1),
            "mean": lambda: tokens.mean(1, keepdim=True),
            "gap": lambda: tokens[:, :0],
        }
        x = method.student.stage(4, torch.cat([expected[choice](), tokens], 1))
        net = method.student.net
        pooled = net.norm(x).mean(1) if choice == "gap" else net.norm(x)[:, 0]
        fused = method.fuse(feature)
        assert torch.allclose(fused.pooled, pooled, atol=1e-5)
        assert torch.allclose(fused.logits, net.head(pooled), atol=1e-5)

    def test_the_models_own_token_and_positions_get_no_gradient(self):
        method, batch = fbt(("cnn", "vit"), fused_cls="model", l2g_pos="model")
        losses = method(batch).losses
        found = reached(gradients(losses["ofa_tf"] + losses["nce_tf"], method.named_parameters()))
        assert not found & {"student.net.cls_token", "student.net.pos_embed"}

    def test_positions_are_added_to_the_tokens_if_asked(self):
        plain, _ = fbt(("vit", "cnn"))
        placed, _ = fbt(("vit", "cnn"), l2g_pos="model")
        tokens = torch.randn(2, 16, placed.entry.channels)
        shift = placed._enter(tokens)[:, 1:] - plain._enter(tokens)[:, 1:]
        assert torch.allclose(shift, placed.teacher.patch_pos().expand(2, -1, -1), atol=1e-6)

    def test_positions_change_nothing_where_the_back_has_none(self):
        method, batch = fbt(("swin", "cnn"), l2g_pos="model")
        assert method(batch).total.item() == fbt(("swin", "cnn"))[0](batch).total.item()


def infonce_in_loops(learner, supervisor, tau=0.07):
    """Eq. 3 of FBT, sample by sample, on features of length 1."""
    loss = 0.0
    for i, anchor in enumerate(learner):
        similar = [torch.cosine_similarity(anchor, key, dim=0).item() / tau for key in supervisor]
        loss -= math.log(math.exp(similar[i]) / sum(map(math.exp, similar)))
    return loss / len(learner)


class TestFeatures:
    """TAS 3.2 compares features after average pooling; class tokens are a variant."""

    def test_a_class_token_teacher_gives_the_mean_of_its_normalised_patch_tokens(self):
        method, batch = fbt(("vit", "cnn"))
        tokens = method.teacher.net.norm(batch.teacher.stages[3])[:, 1:].mean(1)
        learner = method.projector(method.student(batch.images).pooled)
        losses = method(batch).losses
        assert losses["nce_ts"].item() == pytest.approx(infonce_in_loops(learner, tokens), rel=1e-4)
        tokens = method._enter(method.l2g(method.student(batch.images, stages=True).stages[2]))
        fused = method.teacher.net.norm(method.teacher.stage(4, tokens))[:, 1:].mean(1)
        assert losses["nce_fs"].item() == pytest.approx(infonce_in_loops(learner, fused), rel=1e-4)

    def test_a_class_token_student_learns_by_the_mean_of_its_normalised_patch_tokens(self):
        method, batch = fbt(("cnn", "vit"))
        net, losses = method.student.net, method(batch).losses
        own = net.norm(method.student(batch.images, stages=True).stages[3])[:, 1:].mean(1)
        tokens = torch.cat([method.l2g.prefix.expand(4, -1, -1), method.l2g(batch.teacher.stages[2])], 1)
        fused = net.norm(method.student.stage(4, tokens))[:, 1:].mean(1)
        given = batch.teacher.pooled
        expected = {"ts": (method.projector(own), given), "tf": (method.projector(fused), given), "fs": (own, fused)}
        for name, features in expected.items():
            assert losses[f"nce_{name}"].item() == pytest.approx(infonce_in_loops(*features), rel=1e-4), name

    @pytest.mark.parametrize("pair", [("swin", "mobilenet"), ("cnn", "mixer"), ("convnext", "resmlp")])
    def test_without_class_tokens_it_is_what_the_classifier_takes_to_the_bit(self, pair):
        frozen = teacher(pair[0])
        averaged, taken = (
            make(FBT, frozen, student(pair[1]), feature=feature)(batch_for(frozen)).losses
            for feature in ("avg", "pre_logits")
        )
        assert {name: loss.item() for name, loss in averaged.items()} == {k: v.item() for k, v in taken.items()}

    def test_the_variant_compares_class_tokens(self):
        method, batch = fbt(("vit", "cnn"), **FBT.variants["feature_cls"])
        token = method.teacher.net.norm(batch.teacher.stages[3])[:, 0]
        learner = method.projector(method.student(batch.images).pooled)
        losses = method(batch).losses
        assert losses["nce_ts"].item() == pytest.approx(infonce_in_loops(learner, token), rel=1e-4)
        assert losses["nce_ts"].item() != fbt(("vit", "cnn"))[0](batch).losses["nce_ts"].item()

    def test_pool_needs_no_projector(self):
        method, batch = fbt(("mixer", "cnn"), proj="pool")
        assert not hasattr(method, "projector")
        pooled = method.student(batch.images).pooled.unflatten(1, (batch.teacher.pooled.shape[1], -1)).mean(2)
        expected = info_nce_loss(pooled, batch.teacher.pooled, method.log_scale.exp())
        assert method(batch).losses["nce_ts"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_equal_widths_need_no_projector(self):
        assert not hasattr(fbt(("mixer", "resmlp"))[0], "projector")

    def test_mse_takes_the_place_of_infonce(self):
        method, batch = fbt(("mixer", "cnn"), feature_loss="mse")
        losses = method(batch).losses
        assert {name for name in losses if "nce" in name} == set() and not hasattr(method, "log_scale")
        expected = (method.projector(method.student(batch.images).pooled) - batch.teacher.pooled).square().mean()
        assert losses["mse_ts"].item() == pytest.approx(expected.item(), rel=1e-5)


class TestWeights:
    def test_without_infonce_there_is_neither_projector_nor_temperature(self):
        method, batch = fbt(("vit", "cnn"), feature_weight=0.0)
        assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"student", "l2g"}
        assert set(method(batch).losses) == {"label", "ofa_ts", "ofa_tf", "ofa_fs"}

    def test_without_the_loss_on_logits_features_are_left(self):
        assert set(fbt(("vit", "cnn"), ofa_weight=0.0)[0](batch_for(teacher("vit"))).losses) == {
            "label",
            "nce_ts",
            "nce_tf",
            "nce_fs",
        }

    def test_without_teacher_to_fused_l2g_stays_as_it_started(self):
        method, batch = fbt(("vit", "cnn"), tf_weight=0.0)
        method(batch).total.backward()
        assert all(p.grad is None and not p.requires_grad for p in method.l2g.parameters())

    def test_without_any_use_of_the_fused_model_there_is_none(self):
        method, batch = fbt(("vit", "cnn"), tf_weight=0.0, fs_weight=0.0)
        assert not hasattr(method, "l2g")
        assert set(method(batch).losses) == {"label", "ofa_ts", "nce_ts"}

    def test_weights_multiply(self):
        plain, batch = fbt(("cnn", "vit"))
        settings = {"ts_weight": 0.5, "ofa_weight": 3.0, "feature_weight": 0.25, "ce_on_fused": 2.0}
        weighted = make(FBT, plain.teacher, student("vit"), **settings)(batch).losses
        losses = plain(batch).losses
        assert weighted["ofa_ts"].item() == pytest.approx(1.5 * losses["ofa_ts"].item())
        assert weighted["nce_ts"].item() == pytest.approx(0.125 * losses["nce_ts"].item())
        assert weighted["nce_tf"].item() == pytest.approx(0.25 * losses["nce_tf"].item())

    def test_paper_form_does_not_count_the_labels_again(self):
        method, batch = fbt(("cnn", "vit"), form="paper", feature_weight=0.0)
        losses = method(batch).losses
        assert set(losses) == {"ofa_ts", "ofa_tf", "ofa_fs"}
        student, target = method.student(batch.images).logits, batch.target
        fused = method.fuse(batch.teacher.stages[2]).logits
        by_the_labels = sum(F.cross_entropy(z, target) for z in (student, student, fused))  # what gamma = 1 contains
        known = {name: z.detach() for name, z in {"t": batch.teacher.logits, "f": fused}.items()}
        kd = 0.0
        for supervisor, learner in [("t", student), ("t", fused), ("f", student)]:
            kd = kd - (known[supervisor].softmax(1) * learner.log_softmax(1)).sum(1).mean()
        assert sum(losses.values()).item() == pytest.approx((by_the_labels + kd).item(), rel=1e-5)

    @pytest.mark.parametrize("config", [{"ofa_weight": 0.0}, {"ts_weight": 0.0, "fs_weight": 0.0}])
    def test_paper_form_keeps_the_labels_where_no_loss_of_the_student_contains_them(self, config):
        method, batch = fbt(("cnn", "vit"), form="paper", **config)
        step = method(batch)
        assert step.losses["label"].item() == batch.label_loss(step.logits).item()

    def test_labels_on_the_fused_model_if_asked(self):
        method, batch = fbt(("cnn", "vit"), ce_on_fused=0.5)
        loss = method(batch).losses["label_f"]
        fused = method.fuse(batch.teacher.stages[2])
        assert loss.item() == pytest.approx(0.5 * batch.label_loss(fused.logits).item())
        assert any(name.startswith("l2g.") for name in reached(gradients(loss, method.named_parameters())))


def test_heads_that_do_not_divide_the_width_are_refused_with_some_that_do():
    pair = model_info("resnet34", 100), model_info("resnet18", 100)
    reason = FBT.refuses(*pair, FBT.Config(l2g_heads=6))
    assert "6 heads" in reason and "width 256 of stage 3 of resnet34" in reason and "fbt.l2g_heads=4" in reason
    assert FBT.refuses(*pair, FBT.Config(l2g_heads=6, l2g_block="none")) is None
    assert FBT.refuses(*pair, FBT.Config()) is None


def test_a_back_that_cannot_be_entered_is_refused_and_may_be_the_front():
    other, vit = model_info("timm:regnetx_002", 10, 64), model_info("vit_xs", 10, 64)
    assert "fbt.fuse_front" in FBT.refuses(vit, other, FBT.Config(fuse_front="teacher"))
    assert FBT.refuses(other, vit, FBT.Config()) is None
    method, batch = fbt(("timm:regnetx_002", "vit"))
    assert method(batch).total.isfinite()


@pytest.mark.parametrize("dataset, gamma", [("cifar100", 1.0), ("imagenet1k", 1.5)])
def test_gamma_of_the_papers(dataset, gamma):
    infos = model_info("swin_t", 100), model_info("resnet18", 100)
    assert resolve_config(FBT, None, *infos, dataset).gamma == gamma


def test_a_swin_v1_blocks_position_table_takes_no_weight_decay():
    method, _ = fbt(("cnn", "vit"), l2g_block="swin_v1")
    own = {name for name in method.no_weight_decay() if name.startswith("l2g.")}
    assert own == {"l2g.prefix", "l2g.block.attn.relative_position_bias_table"}


def test_what_takes_no_weight_decay():
    method, _ = fbt(("cnn", "vit"))
    own = {name for name in method.no_weight_decay() if not name.startswith("student.")}
    assert own == {
        "log_scale",
        "l2g.prefix",
        "l2g.block.attn.logit_scale",
        "l2g.block.attn.cpb_mlp.0.weight",
        "l2g.block.attn.cpb_mlp.0.bias",
        "l2g.block.attn.cpb_mlp.2.weight",
    }
    assert {"student.net.cls_token", "student.net.pos_embed"} <= method.no_weight_decay()

"""Stem, stages and head are timm's own forward, bit for bit."""

import copy
import pickle

import pytest
import torch

from cakdbench.models.families import isotropic_ends
from cakdbench.models.staged import StagedModel
from cakdbench.models.zoo import MODELS, model_ids
from cakdbench.utils.errors import UsageError
from tests.models.awake import awake, images, wake

HUGE = {
    "resnet101", "resnet152", "resnet50x2", "resnet152x2", "resnet101x3", "xceptionx2", "vit_b16", "vit_b32", "vit_l16",
    "deit_b", "swin_b", "swin_l", "mixer_b16",
}  # fmt: skip
MINIS = [name for name, entry in MODELS.items() if entry.image_size == 64]
OTHERS = ["timm:convnext_atto", "timm:vit_small_patch14_reg4_dinov2", "timm:test_vit3", "timm:gmlp_ti16_224"]
TAPPED = ["timm:regnety_002", "timm:poolformer_s12", "timm:tiny_vit_5m_224", "timm:xcit_nano_12_p16_224"]


def compose(model, x):
    """The output, and copies of the stage features made before anything could write into them."""
    x, features = model.stem(x), []
    for number in (1, 2, 3, 4):
        x = model.stage(number, x)
        features.append(x.clone())
    return model.head(x), features


def assert_is_timms(model, x):
    output, features = compose(model, x)
    whole = model(x, stages=True)
    final = model.net.forward_features(x)
    assert torch.equal(output.logits, model.net(x))
    assert torch.equal(output.pooled, model.net.forward_head(final, pre_logits=True))
    assert torch.equal(whole.logits, output.logits)
    assert torch.equal(whole.pooled, output.pooled)
    assert output.logits.std() > 0
    for layout, feature, own in zip(model.layouts, whole.stages, features, strict=True):
        assert feature.shape[1:] == layout.shape
        assert torch.equal(feature, own)
        back = layout.to_tokens(layout.to_map(feature), layout.prefix_of(feature))
        assert torch.equal(back, layout.to_tokens(feature))


@pytest.mark.parametrize("name", [*(name for name in model_ids() if name not in HUGE), *OTHERS])
@torch.no_grad()
def test_the_parts_make_the_whole(name):
    size = 28 if "14" in name else 64
    model = awake(name, 10, size).eval()
    assert_is_timms(model, images(size))
    assert_is_timms(model.train(), images(size))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HUGE))
@torch.no_grad()
def test_the_parts_make_the_whole_of_huge_models(name):
    model = awake(name, 10, 32).eval()
    output, features = compose(model, images(32, 1))
    assert torch.equal(output.logits, model.net(images(32, 1)))
    assert output.logits.std() > 0
    assert [feature.shape[1:] for feature in features] == [layout.shape for layout in model.layouts]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 32), ("resnet18", 100), ("mobilenetv2", 96), ("convnext_t", 112), ("xception", 71),
        ("deit_t", 224), ("deit_t", 32), ("swin_p", 224), ("swin_p", 100), ("resmlp_s12", 96), ("mixer_xs", 112),
    ],
)  # fmt: skip
@torch.no_grad()
def test_other_image_sizes(name, size):
    assert_is_timms(awake(name, 10, size).eval(), images(size, 1))


@pytest.mark.parametrize("name", MINIS)
def test_gradients_are_those_of_timm(name):
    model = awake(name, 10, 64)
    twin = copy.deepcopy(model)
    compose(model, images(64))[0].logits.square().sum().backward()
    twin.net(images(64)).square().sum().backward()
    for (key, own), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert own.grad is not None, key
        assert torch.equal(own.grad, other.grad), key


@pytest.mark.parametrize("name", [name for name in MINIS if MODELS[name].timm.startswith(("resnet", "mobilenet"))])
def test_batch_norm_counts_one_forward(name):
    model = StagedModel(name, 10, 64)
    model(images(64), stages=True)
    counts = {key: count for key, count in model.named_buffers() if key.endswith("num_batches_tracked")}
    assert counts
    assert set(map(int, counts.values())) == {1}


@pytest.mark.parametrize("split", ["ofa", "even"])
@pytest.mark.parametrize("name", ["vit_xs", "mixer_xs", "deit_t"])
@torch.no_grad()
def test_every_split_composes(name, split):
    assert_is_timms(awake(name, 10, 64, split=split).eval(), images(64))


@pytest.mark.parametrize(
    ("depth", "split", "ends"),
    [
        (12, "ofa", (1, 3, 9, 11)), (24, "ofa", (1, 3, 21, 23)), (8, "ofa", (1, 3, 5, 7)), (7, "ofa", (1, 3, 4, 6)),
        (12, "even", (2, 5, 8, 11)), (4, "ofa", (0, 1, 2, 3)), (6, "ofa", (0, 2, 3, 5)),
    ],
)  # fmt: skip
def test_where_equal_blocks_are_cut(depth, split, ends):
    assert isotropic_ends(depth, split) == ends


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("resnet_s", (1, 2, 3, 4)), ("timm:resnetv2_50", (1, 2, 3, 4)), ("convnext_m", (0, 1, 2, 3)),
        ("swin_xs", (0, 1, 2, 3)), ("xception", (1, 2, 3, 4)), ("mobilenetv1", (1, 2, 3, 4)),
        ("mobilenetv2", (1, 2, 3)), ("vit_xs", (1, 3, 5, 7)), ("mixer_xs", (1, 3, 5, 7)),
    ],
)  # fmt: skip
@torch.no_grad()
def test_stages_end_where_timm_taps_them(name, taps):
    model = awake(name, 10, 64).eval()
    own = model(images(64), stages=True).stages
    theirs = model.net.forward_intermediates(images(64), indices=list(taps), norm=False, intermediates_only=True)
    for layout, feature, tapped in zip(model.layouts, own, theirs, strict=len(taps) == 4):
        feature = layout.to_map(feature)
        assert torch.equal(feature.relu() if name == "xception" else feature, tapped)


def test_stages_of_equal_blocks_are_those_of_the_split():
    model = awake("deit_t", 10, 32).eval()
    x = model.stem(images(32))
    for block in model.net.blocks[:10]:
        x = block(x)
    assert torch.equal(model(images(32), stages=True).stages[2], x)


@pytest.mark.parametrize("name", TAPPED)
@torch.no_grad()
def test_other_classes_give_their_stage_features(name):
    model = awake(name, 10, 64).eval()
    output = model(images(64), stages=True)
    assert torch.equal(output.logits, model.net(images(64)))
    assert torch.equal(model(images(64)).logits, output.logits)
    assert output.pooled.shape == (2, model.width)
    assert [feature.shape[1:] for feature in output.stages] == [layout.shape for layout in model.layouts]
    assert not model.composable
    assert model.training is False


@pytest.mark.parametrize("part", [lambda m: m.stem(images(64)), lambda m: m.stage(1, None), lambda m: m.head(None)])
def test_other_classes_say_that_they_have_no_parts(part):
    model = StagedModel("timm:regnety_002", 10, 64)
    with pytest.raises(UsageError, match="timm:regnety_002 .RegNet. cannot be run in parts"):
        part(model)


@pytest.mark.parametrize(("name", "sides"), list(zip(TAPPED, [[16, 8, 4, 2]] * 3 + [[4] * 4], strict=True)))
def test_other_classes_are_tapped_at_the_last_feature_of_each_resolution(name, sides):
    assert [layout.grid[0] for layout in StagedModel(name, 10, 64).layouts] == sides


def test_kinds_of_other_classes():
    kinds = [StagedModel(name, 10, 64).kind for name in TAPPED]
    assert kinds == ["cnn", "cnn", "msa", "msa"]


def test_there_is_no_fifth_stage():
    with pytest.raises(UsageError, match="stages 1 to 4"):
        StagedModel("vit_xs", 10, 64).stage(0, torch.zeros(1))


@pytest.mark.parametrize("name", ["vit_xs", "swin_xs", "resnet_s"])
@torch.no_grad()
def test_models_can_be_copied_and_pickled(name):
    model = awake(name, 10, 64).eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        wake(twin)
        assert torch.equal(twin(images(64)).logits, model(images(64)).logits)
        next(twin.parameters()).add_(1)
        assert not torch.equal(twin.stem(images(64)), model.stem(images(64)))


@torch.no_grad()
def test_drop_path_is_off_unless_asked_for():
    still, dropping = StagedModel("swin_t", 10, 64), StagedModel("swin_t", 10, 64, drop_path=0.5)
    assert torch.equal(still(images(64)).logits, still(images(64)).logits)
    assert not torch.equal(dropping(images(64)).logits, dropping(images(64)).logits)


@torch.no_grad()
def test_position_and_prefix_of_a_vit_are_what_its_stem_adds():
    for name, size in [("vit_xs", 64), ("timm:vit_small_patch14_reg4_dinov2", 28)]:
        model = awake(name, 10, size).eval()
        layout, x = model.layouts[0], model.stem(images(size))
        patches = model.net.patch_embed(images(size))
        assert torch.equal(layout.prefix_of(x), model.stage_prefix().expand(2, -1, -1))
        assert torch.equal(x[:, layout.prefix :], patches.flatten(1, -2) + model.patch_pos())


@pytest.mark.parametrize("name", ["swin_xs", "mixer_xs", "resnet_s"])
def test_networks_without_position_and_prefix_say_none(name):
    model = StagedModel(name, 10, 64)
    assert model.stage_prefix() is None
    assert model.patch_pos() is None


def test_parameters_without_weight_decay_are_named_as_the_model_names_them():
    assert StagedModel("vit_xs", 10, 64).no_weight_decay() == {"net.pos_embed", "net.cls_token"}
    assert StagedModel("resnet_s", 10, 64).no_weight_decay() == set()
    swin = StagedModel("swin_xs", 10, 64)
    tables = {name for name, _ in swin.named_parameters() if name.endswith("relative_position_bias_table")}
    assert swin.no_weight_decay() == tables != set()


def test_a_model_takes_images_normalised_for_another():
    given, wanted = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    raw = torch.rand(2, 3, 64, 64)
    norm = [(raw - torch.tensor(m).view(3, 1, 1)) / torch.tensor(s).view(3, 1, 1) for m, s in (given, wanted)]
    model = awake("vit_xs", 10, 64).eval()
    keys, own = set(model.state_dict()), model(norm[1]).logits
    model.expect_input(given, wanted)
    torch.testing.assert_close(model(norm[0]).logits, own)
    torch.testing.assert_close(compose(model, norm[0])[0].logits, own)
    assert set(model.state_dict()) == keys
    model.expect_input(wanted, wanted)
    assert torch.equal(model(norm[1]).logits, own)

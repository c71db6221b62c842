"""Recipes: the published protocols number by number, extends, overrides, and what is said of wrong files."""

import json

import pytest

from cakdbench.data.datasets import dataset_names
from cakdbench.recipes import default_recipe, load_recipe, recipe_from_file, recipe_names
from cakdbench.utils.errors import UsageError

HEAD = 'title = "x"\nsource = "y"\n'
VALID = """
title = "Mine"
source = "me"
default_for = [{ dataset = "fashion_demo" }]
image_size = 64
epochs = 8
global_batch = 100
local_batch = 100
[optimizer]
name = "adamw"
lr = 1e-3
weight_decay = 0.05
[schedule]
name = "cosine"
[augment]
crop = "none"
[evaluation]
crop_pct = 1
"""

SGD = {
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "schedule.warmup_epochs": 3,
    "schedule.warmup_lr": 1e-4,
}
CNN = SGD | {
    "label_smoothing": 0.1,
    "clip_grad": None,
    "ema_decay": None,
    "augment.auto_augment": None,
    "augment.reprob": 0,
    "augment.mixup": 0,
    "augment.cutmix": 0,
    "augment.color_jitter": 0,
}
MSA = {
    "epochs": 300,
    "optimizer.name": "adamw",
    "global_batch": 1024,
    "local_batch": 128,
    "optimizer.lr": 5e-4,
    "schedule.name": "cosine",
    "schedule.warmup_epochs": 20,
    "schedule.warmup_lr": 5e-7,
    "optimizer.weight_decay": 0.05,
    "label_smoothing": 0.1,
    "clip_grad": 5.0,
    "augment.auto_augment": "rand-m9-mstd0.5-inc1",
    "augment.reprob": 0.25,
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "augment.color_jitter": 0.4,
    "drop_path": 0,
}
VIEWS = {
    "image_size": 224,
    "augment.crop": "rrc",
    "augment.scale": [0.08, 1],
    "augment.ratio": [3 / 4, pytest.approx(4 / 3)],
    "augment.hflip": 0.5,
    "augment.interpolation": "random",
    "teacher_norm": "own",
    "init": "random",
    "schedule.per": "epoch",
}
PUBLISHED = {
    "ofa_cifar_cnn": VIEWS
    | CNN
    | {
        "epochs": 300,
        "global_batch": 1024,
        "local_batch": 128,
        "optimizer.lr": 0.1,
        "optimizer.weight_decay": 2e-3,
        "schedule.name": "cosine",
        "schedule.min_lr": 1e-3,
    },
    "ofa_cifar_msa": VIEWS | MSA | {"schedule.min_lr": 1e-5, "ema_decay": None},
    "ofa_imagenet_cnn": VIEWS
    | CNN
    | {
        "epochs": 100,
        "global_batch": 512,
        "local_batch": 64,
        "optimizer.lr": 0.1,
        "optimizer.weight_decay": 1e-4,
        "schedule.name": "step",
        "schedule.decay_epochs": 30,
        "schedule.decay_rate": 0.1,
    },
    "ofa_imagenet_msa": VIEWS | MSA | {"schedule.min_lr": 1e-6, "ema_decay": 0.99996},
    "pcagl_cifar": {
        "image_size": 224,
        "epochs": 200,
        "global_batch": 64,
        "optimizer.name": "momentum",
        "optimizer.lr": 0.1,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 1e-4,
        "schedule.name": "multistep",
        "schedule.decay_epochs": [100, 150],
        "schedule.decay_rate": 0.1,
        "label_smoothing": 0,
    },
    "pcagl_imagenet": {
        "image_size": 224,
        "epochs": 120,
        "global_batch": 256,
        "optimizer.name": "momentum",
        "optimizer.lr": 0.1,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 1e-4,
        "schedule.name": "multistep",
        "schedule.decay_epochs": [30, 60, 90],
        "schedule.decay_rate": 0.1,
        "label_smoothing": 0,
    },
}
VARIANTS = {
    ("ofa_cifar_cnn", "ofa_cifar_cnn_yaml"): {"optimizer.lr": 0.05},
    ("ofa_cifar_msa", "ofa_cifar_msa_author"): {"schedule.min_lr": 1e-6, "ema_decay": 0.99996},
    ("ofa_cifar_msa", "fbt_cifar_msa"): {"global_batch": 512},
}


def flat(recipe) -> dict:
    """Numbers by dotted name."""
    found = {}
    for key, value in recipe.numbers().items():
        found |= {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
    return found


def written(folder, text, name="own") -> str:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_protocols_have_their_published_numbers(name):
    numbers = flat(load_recipe(name))
    assert {key: numbers[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("names", VARIANTS)
def test_variants_differ_in_the_stated_numbers_alone(names):
    base, variant = (flat(load_recipe(name)) for name in names)
    assert {key: value for key, value in variant.items() if value != base[key]} == VARIANTS[names]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_described_and_its_numbers_are_json(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title and recipe.source and recipe.notes
    assert json.loads(json.dumps(recipe.numbers())) == recipe.numbers()
    assert not {"name", "title", "source", "notes", "default_for"} & set(recipe.numbers())
    assert {default.dataset for default in recipe.default_for} <= set(dataset_names())


@pytest.mark.parametrize("prefixes", [("ofa_", "fbt_", "finetune_"), ("pcagl_",), ("demo",)])
def test_test_images_do_not_depend_on_the_student(prefixes):
    recipes = [load_recipe(name) for name in recipe_names() if name.startswith(prefixes)]
    assert len({(recipe.image_size, recipe.evaluation) for recipe in recipes}) == 1


def test_notes_tell_of_the_swapped_headers():
    for name in ("ofa_cifar_cnn", "ofa_cifar_msa", "ofa_imagenet_cnn", "ofa_imagenet_msa", "fbt_cifar_msa"):
        assert "swapped" in load_recipe(name).notes


@pytest.mark.parametrize(
    ("dataset", "kind", "name"),
    [
        ("cifar100", "cnn", "ofa_cifar_cnn"),
        ("cifar100", "msa", "ofa_cifar_msa"),
        ("cifar100", "mlp", "ofa_cifar_msa"),
        ("imagenet1k", "cnn", "ofa_imagenet_cnn"),
        ("imagenet1k", "msa", "ofa_imagenet_msa"),
        ("imagenet1k", "mlp", "ofa_imagenet_msa"),
        ("fashion_demo", "cnn", "demo"),
        ("fashion_demo", "msa", "demo"),
        ("fashion_demo", "mlp", "demo"),
    ],
)
def test_default_recipes(dataset, kind, name):
    assert default_recipe(dataset, kind).name == name


def test_no_two_recipes_are_the_default_of_the_same_students():
    claims = [
        (default.dataset, kind)
        for name in recipe_names()
        for default in load_recipe(name).default_for
        for kind in default.kinds
    ]
    assert len(claims) == len(set(claims))


def test_without_a_default_the_error_says_how_to_choose():
    with pytest.raises(UsageError, match=r"cnn students on timm:torch/qmnist.*--recipe"):
        default_recipe("timm:torch/qmnist", "cnn")


@pytest.mark.parametrize(
    ("key", "given", "held"),
    [
        ("epochs", "5", 5),
        ("epochs", 5, 5),
        ("optimizer.lr", "0.2", 0.2),
        ("optimizer.lr", ".2", 0.2),
        ("optimizer.lr", "1e-2", 0.01),
        ("optimizer.lr", 1, 1.0),
        ("optimizer.name", "nadamw", "nadamw"),
        ("optimizer.betas", "0.9,0.95", [0.9, 0.95]),
        ("augment.mixup", "0", 0.0),
        ("augment.scale", "[0.2, 1]", [0.2, 1.0]),
        ("augment.scale", "0.2, 1", [0.2, 1.0]),
        ("augment.scale", [0.2, 1], [0.2, 1.0]),
        ("augment.auto_augment", "none", None),
        ("augment.auto_augment", "", None),
        ("clip_grad", "none", None),
        ("ema_decay", "0.99", 0.99),
        ("teacher_norm", "shared", "shared"),
        ("evaluation.every", " 10 ", 10),
        ("evaluation.corruptions", "gaussian_noise:3", ["gaussian_noise=0.18"]),
        ("evaluation.corruptions", "shot_noise=30, gaussian_noise=0.1", ["gaussian_noise=0.1", "shot_noise=30"]),
        ("evaluation.corruptions", ["shot_noise=60", "shot_noise:1"], ["shot_noise=60"]),
    ],
)
def test_an_override_changes_one_number(key, given, held):
    recipe = load_recipe("ofa_cifar_msa")
    changed = recipe.override({key: given})
    assert flat(changed) == flat(recipe) | {key: held}
    assert changed.name == recipe.name and changed.numbers() != recipe.numbers()


def test_overriding_with_what_it_is_changes_nothing():
    recipe = load_recipe("pcagl_cifar")
    assert recipe.override({}) == recipe
    assert recipe.override({"schedule.decay_epochs": "100,150", "epochs": "200"}) == recipe


def test_corruptions_of_a_file_are_those_of_a_command(tmp_path):
    text = VALID + 'corruptions = ["gaussian_noise:3", "shot_noise"]\n'
    recipe = load_recipe(written(tmp_path, text))
    plain = load_recipe(written(tmp_path, VALID, "plain"))
    names = ("gaussian_noise=0.18", *(f"shot_noise={photons}" for photons in (3, 5, 12, 25, 60)))
    assert recipe.evaluation.corruptions == names and plain.evaluation.corruptions == ()
    changed = plain.override({"evaluation.corruptions": "shot_noise,gaussian_noise:3,gaussian_noise=0.18"})
    assert changed.numbers() == recipe.numbers()
    for nothing in ("none", "", []):
        assert recipe.override({"evaluation.corruptions": nothing}).numbers() == plain.numbers()


def test_what_may_be_absent_is_removed_by_none():
    changes = {"optimizer.betas": "none", "schedule.decay_epochs": "none", "clip_grad": "none"}
    assert load_recipe("ofa_cifar_msa").override(changes).optimizer.betas is None


def test_a_schedule_can_be_replaced_in_one_go():
    changes = {"schedule.name": "multistep", "schedule.decay_epochs": "30,60", "schedule.min_lr": "0"}
    schedule = load_recipe("ofa_cifar_msa").override(changes).schedule
    assert (schedule.name, schedule.decay_epochs, schedule.warmup_epochs) == ("multistep", (30, 60), 20)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epoch": "5"}, ["epoch", "did you mean epochs"]),
        ({"optimizer.learning_rate": "5"}, ["optimizer.learning_rate", "optimizer"]),
        ({"lr": "5"}, ["lr"]),
        ({"optimizer": "sgd"}, ["optimizer.name"]),
        ({"title": "mine"}, ["title"]),
        ({"epochs": "five"}, ["epochs=five", "whole number", "'five'"]),
        ({"epochs": "0"}, ["epochs", "above 0"]),
        ({"epochs": "2.5"}, ["epochs", "whole number"]),
        ({"optimizer.lr": "nan"}, ["optimizer.lr", "finite"]),
        ({"optimizer.lr": "-1"}, ["optimizer.lr", "above 0"]),
        ({"optimizer.name": "adamz"}, ["optimizer.name", "adamz", "adam"]),
        ({"local_batch": "100"}, ["local_batch 100", "1024", "128"]),
        ({"augment.scale": "1,0.2"}, ["augment", "scale: 1 is above 0.2"]),
        ({"augment.scale": "1"}, ["augment.scale", "list"]),
        ({"augment.crop": "pad"}, ["augment", "pad"]),
        ({"schedule.name": "step"}, ["schedule", "decay_epochs"]),
        ({"schedule.decay_epochs": "30"}, ["schedule", "cosine", "no decay_epochs"]),
        ({"label_smoothing": "1"}, ["label_smoothing", "below 1"]),
        ({"evaluation.corruptions": "fog"}, ["evaluation.corruptions: unknown corruption 'fog'", "gaussian_noise"]),
        (
            {"evaluation.corruptions": "shot_noise:6"},
            ["evaluation.corruptions: 'shot_noise:6'", "severities are 1 to 5"],
        ),
        ({"evaluation.corruptions": "shot_noise=-1"}, ["evaluation.corruptions: 'shot_noise=-1'", "strength above 0"]),
        ({"evaluation.corruptions": "shot_noise,3"}, ["evaluation.corruptions[2]", "text"]),
    ],
)
def test_a_wrong_override_is_named(changes, words):
    with pytest.raises(UsageError) as error:
        load_recipe("ofa_cifar_msa").override(changes)
    assert all(word in str(error.value) for word in words), error.value


def test_a_recipe_is_loaded_by_path(tmp_path):
    recipe = load_recipe(written(tmp_path, VALID))
    assert (recipe.name, recipe.epochs, recipe.augment.crop) == ("own", 8, "none")


def test_extends_takes_over_numbers_and_nothing_else(tmp_path):
    text = f'extends = "ofa_cifar_msa"\n{HEAD}clip_grad = "none"\n[augment]\nmixup = 0\n'
    recipe = load_recipe(written(tmp_path, text))
    assert flat(recipe) == flat(load_recipe("ofa_cifar_msa")) | {"augment.mixup": 0, "clip_grad": None}
    assert (recipe.title, recipe.notes, recipe.default_for) == ("x", "", ())


def test_extends_follows_paths_from_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    written(tmp_path, f'extends = "demo"\n{HEAD}epochs = 3\n', "base")
    path = written(tmp_path / "sub", f'extends = "../base.toml"\n{HEAD}[optimizer]\nlr = 0.5\n')
    assert flat(load_recipe(path)) == flat(load_recipe("demo")) | {"epochs": 3, "optimizer.lr": 0.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = = 3", ["not valid TOML", "line 1"]),
        (VALID.replace("epochs = ", "epoch = "), ["unknown key 'epoch'", "epochs", "epochs: missing"]),
        (VALID.replace("lr = 1e-3", "rl = 1e-3"), ["'optimizer.rl'", "optimizer.lr"]),
        (VALID.replace("epochs = 8", 'epochs = "8"'), ["epochs: ", "whole number", "'8'"]),
        (VALID.replace("lr = 1e-3", "lr = inf"), ["optimizer.lr", "finite"]),
        (VALID.replace("lr = 1e-3", "lr = true"), ["optimizer.lr", "number"]),
        (VALID.replace('"cosine"', '"cosin"'), ["schedule.name", "'cosine'", "'cosin'"]),
        (VALID.replace("adamw", "adamq"), ["optimizer.name", "unknown optimizer 'adamq'", "adam"]),
        (VALID.replace("[optimizer]", "[optimizers]"), ["'optimizers'", "did you mean optimizer"]),
        (VALID.replace("local_batch = 100", "local_batch = 33"), ["local_batch 33", "global_batch 100"]),
        (f"{VALID}corruptions = ['fog:1']", ["evaluation.corruptions: unknown corruption 'fog'"]),
        (f"{VALID}corruptions = [3]", ["evaluation.corruptions[1]: must be text"]),
        (f"{VALID}corruptions = 3", ["evaluation.corruptions: must be a list"]),
        (VALID.replace("dataset =", "data ="), ["default_for[1].dataset: missing", "default_for[1].data"]),
        (f'name = "other"\n{VALID}', ["name: ", "named by its file"]),
        (f'extends = "dmo"\n{HEAD}', ["extends: ", "'dmo'", "did you mean demo"]),
        (f'extends = "missing.toml"\n{HEAD}', ["own.toml: extends: no file", "missing.toml"]),
        (f'extends = "own.toml"\n{HEAD}', ["extends: ", "extends this file in turn"]),
        (f"extends = 3\n{HEAD}", ["extends: ", "name or the path"]),
        ('extends = "demo"\n', ["title: missing", "source: missing"]),
        (f'extends = "demo"\noptimizer = 3\n{HEAD}', ["optimizer: "]),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as error:
        load_recipe(path)
    assert all(word in str(error.value) for word in [*words, str(tmp_path)]), error.value


def test_files_that_are_missing_or_no_text(tmp_path):
    with pytest.raises(UsageError, match="no file at .*gone.toml"):
        load_recipe(str(tmp_path / "gone.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="binary.toml: cannot be read"):
        recipe_from_file(tmp_path / "binary.toml")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UsageError, match="unknown recipe 'ofa_cifar_ccn'; did you mean ofa_cifar_cnn"):
        load_recipe("ofa_cifar_ccn")

"""The ledger of printed numbers: complete, consistent, and wrong only where it says so."""

from collections import Counter
from decimal import Decimal
from itertools import combinations

import pytest
import timm
import torch

from cakdbench.costs.counting import Meter, zeros
from cakdbench.grid.suites import suites
from cakdbench.models.zoo import MODELS, model_kind
from cakdbench.published.compare import overlap, printed_cells, recomputed, recomputes
from cakdbench.published.conflicts import conflicts
from cakdbench.published.ledger import (
    PUBLISHED_DIR,
    ablations,
    accuracies,
    averages,
    costs,
    other_tasks,
    sources,
)
from cakdbench.published.protocols import protocol_differences, protocol_of, protocols
from cakdbench.recipes import load_recipe, recipe_settings
from cakdbench.registry import method_ids
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.page_conflicts import conflicts_board
from cakdbench.utils.errors import UsageError
from cakdbench.utils.toml import read_toml

TABLES = {
    "accuracy": accuracies,
    "ablations": ablations,
    "averages": averages,
    "costs": costs,
    "other_tasks": other_tasks,
}
ROWS = {"accuracy": 937, "ablations": 224, "averages": 43, "costs": 41, "other_tasks": 38}
READERS = {"conflicts": conflicts, "protocols": protocols, "sources": sources}
BY_ID = {each.id: each for each in conflicts()}
OFA_PROTOCOLS = ["ofa/cifar100/cnn", "ofa/cifar100/msa", "ofa/imagenet1k/cnn", "ofa/imagenet1k/msa"]


def kind_of(model):
    return model_kind(model.partition(":")[0])


def values_by(rows, *names):
    """Values to the rows that have them, by the named columns."""
    found = {}
    for row in rows:
        key = tuple(getattr(row, name) for name in names)
        found.setdefault(key, {}).setdefault(Decimal(row.value), []).append(row)
    return found


def listed(kinds, *names):
    """The cells of conflicts of some kinds, by the named columns."""
    cells = [cell for each in conflicts() if each.kind in kinds for cell in each.cells]
    return {
        tuple(getattr(row, name) for name in names) for cell in cells for row in cell.rows() if hasattr(row, "mode")
    }


# The rows


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_complete_and_in_order(name):
    rows = TABLES[name]()
    assert len(rows) == ROWS[name]
    assert len({row.key() for row in rows}) == len(rows)
    columns = (PUBLISHED_DIR / f"{name}.csv").read_text().partition("\n")[0].split(",")
    order = [tuple(getattr(row, column) for column in columns) for row in rows]
    assert order == sorted(order)


def test_counts_by_table():
    counts = Counter((row.source, row.table, row.metric) for row in accuracies())
    assert counts["tas", "Table 1", "top1"] == counts["fofa", "Table 1", "top1"] == 12 * 11
    assert counts["tas", "Table 2", "top1"] == 14 * 11 and counts["fofa", "Table 2", "top1"] == 4 * 11
    assert counts["tas", "Table 3", "top1"] == 2 * 11
    assert counts["pcagl", "Table 2", "top1"] == counts["pcagl", "Table 2", "top5"] == 96
    assert counts["pcagl", "Table 3", "top1"] == counts["pcagl", "Table 3", "top5"] == 4 * 5 * 3


def test_every_name_is_known():
    names = read_toml(PUBLISHED_DIR / "names.toml")
    methods, models = {*method_ids(), *names["methods"]}, {*MODELS, *names["models"]}
    used_methods, used_models = set(), set()
    for row in (row for table in TABLES.values() for row in table()):
        used_methods |= {getattr(row, "method", ""), getattr(row, "branch", "")}
        used_models |= {getattr(row, column, "") for column in ("teacher", "student", "model")}
    assert used_methods - {""} <= methods and used_models - {""} <= models
    assert set(names["methods"]) <= used_methods and set(names["models"]) <= used_models
    assert not set(names["methods"]) & set(method_ids()) and not set(names["models"]) & set(MODELS)


def test_numbers_and_digits():
    (row,) = printed_cells("ofa")["convnext_t", "swin_p", "cifar100", "dkd"][:1]
    assert (row.source, row.value, row.number, row.decimals) == ("tas", "76.8", 76.8, 1)
    assert {row.decimals for row in accuracies()} == {1, 2}


def test_sources_have_marks_of_their_own():
    marks = [source.mark for source in sources().values()]
    assert marks == ["T", "B", "S", "F", "P"]
    assert {row.source for table in TABLES.values() for row in table()} == set(sources())
    assert [key for key, source in sources().items() if source.secondary] == ["fbt-summary"]
    assert {key: source.repetitions for key, source in sources().items() if source.repetitions} == {
        "fofa": 3,
        "pcagl": 5,
    }


# What boards show


@pytest.mark.parametrize(
    ("suite", "family"),
    [("cifar_all", "ofa"), ("imagenet_all", "ofa"), ("imagenet_fofa", "ofa"), ("sakd", "sakd-imagenet")],
)
def test_every_pair_of_the_suites_is_printed(suite, family):
    cells = printed_cells(family)
    for spec in suites()[suite].specs:
        pair = (spec.pair.teacher, spec.pair.student, spec.pair.dataset)
        for method in ("teacher", "scratch", "dkd", "ofa", "fbt"):
            assert cells[(*pair, method)]


def test_pcagl_pairs_are_printed():
    cells = printed_cells("pcagl")
    for spec in suites()["pcagl_cifar"].specs + suites()["pcagl_imagenet"].specs:
        methods = {key[3] for key in cells if key[:3] == (spec.pair.teacher, spec.pair.student, spec.pair.dataset)}
        assert "scratch" in methods and methods & {"pcagl", "kd"}


def test_cells_merge_what_one_source_repeats_and_keep_what_differs():
    cells = printed_cells("ofa")
    found = cells["convnext_t", "swin_p", "cifar100", "fbt"]
    assert [(row.source, row.value) for row in found] == [
        ("tas", "80.73"),
        ("tas", "80.34"),
        ("fbt-appendix", "80.34"),
    ]
    found = cells["convnext_t", "resmlp_s12", "cifar100", "ofa"]
    assert [(row.source, row.value) for row in found] == [("tas", "75.21"), ("fbt-summary", "75.21"), ("fofa", "81.22")]
    found = printed_cells("pcagl")["vit_b16", "resnet50x2", "imagenet1k", "pcagl"]
    assert sorted((row.value, row.mode) for row in found) == [("80.72", "transformer-cnn"), ("80.74", "cnn-cnn")]


def test_cells_hold_every_top1_value_once():
    for family in ("ofa", "sakd-imagenet", "pcagl"):
        rows = [row for row in accuracies() if row.protocol == family and row.metric == "top1"]
        wanted = {(row.teacher, row.student, row.dataset, row.method, row.source, Decimal(row.value)) for row in rows}
        merged = [
            (*key, row.source, Decimal(row.value)) for key, found in printed_cells(family).items() for row in found
        ]
        assert sorted(merged) == sorted(wanted)


def test_an_unknown_family_is_refused():
    with pytest.raises(UsageError, match="unknown family of protocols 'fofa'; did you mean ofa"):
        printed_cells("fofa")


# Averages


def test_exactly_three_averages_do_not_recompute_and_are_listed():
    whole = [average for average in averages() if not average.repeats]
    wrong = {(each.source, each.table, each.method) for each in whole if not recomputes(each)}
    assert wrong == {("tas", "Table 1", "kd"), ("tas", "Table 2", "dkd"), ("tas", "Table 2", "dist")}
    entries = [each.cells[0] for each in conflicts() if each.kind == "average"]
    assert {(cell.source, cell.table, cell.method) for cell in entries} == wrong


def test_averages_are_the_mean_gains_of_their_tables():
    for average in averages():
        if not average.repeats:
            rows = [row for row in accuracies() if (row.source, row.table) == (average.source, average.table)]
            own = {(row.teacher, row.student): Decimal(row.value) for row in rows if row.method == average.method}
            base = {(row.teacher, row.student): Decimal(row.value) for row in rows if row.method == "scratch"}
            assert len(own) == int(average.pairs)
            assert recomputed(average) == sum(own[pair] - base[pair] for pair in own) / len(own)


def test_repeated_averages_are_those_of_the_table_they_repeat():
    printed = {(f"{each.source} {each.table}", each.method): each.value for each in averages()}
    repeated = [average for average in averages() if average.repeats]
    assert len(repeated) == 7
    for average in repeated:
        assert printed[average.repeats, average.method] == average.value


# Conflicts


def test_ids_are_the_sections_of_the_page():
    section = {"sources": 1, "places": 2, "claim": 3, "average": 4, "settings": 5, "damaged": 6, "odd": 7}
    assert Counter(each.id.partition(".")[0] for each in conflicts()) == dict(
        zip("1234567", [5, 9, 13, 3, 10, 9, 10], strict=True)
    )
    assert all(each.id.startswith(f"{section[each.kind]}.") for each in conflicts())


def test_cells_of_conflicts_are_in_the_tables():
    for each in conflicts():
        assert all(cell.rows() for cell in each.cells), each.id
        if each.cells:
            assert set(each.used) <= {cell.value for cell in each.cells}, each.id


def test_printed_accuracies_disagree_exactly_where_conflicts_say():
    names = ("protocol", "dataset", "teacher", "student", "method", "metric")
    apart = {key for key, found in values_by(accuracies(), *names).items() if len(found) > 1}
    stated = listed({"sources", "places"}, *names)
    open_students = {key for key in stated if key[3] in ("xceptionx2", "unknown")}
    without_distillation = {key for key in stated if key[4] in ("teacher", "scratch")}
    assert apart == stated - open_students - without_distillation
    assert len(apart) == 8


def test_every_value_of_a_disagreement_is_listed():
    names = ("protocol", "dataset", "teacher", "student", "method", "metric")
    for key, found in values_by(accuracies(), *names).items():
        if len(found) > 1:
            rows = {row for values in found.values() for row in values}
            cells = [cell for each in conflicts() if each.kind in ("sources", "places") for cell in each.cells]
            assert rows <= {row for cell in cells for row in cell.rows()}, key


def test_teachers_and_scratch_students_have_one_accuracy_but_for_one_slip():
    rows = [row for row in accuracies() if row.method in ("teacher", "scratch")]
    for method, column in (("teacher", "teacher"), ("scratch", "student")):
        found = values_by((row for row in rows if row.method == method), "protocol", "dataset", column, "metric")
        apart = {key: set(map(str, values)) for key, values in found.items() if len(values) > 1}
        slip = {("ofa", "imagenet1k", "resnet50", "top1"): {"80.38", "82.05"}}
        assert apart == (slip if method == "teacher" else {})


def test_how_far_sources_agree():
    counts = {pair: overlap(*pair) for pair in combinations(sources(), 2)}
    assert {pair: count for pair, count in counts.items() if count[0]} == {
        ("tas", "fbt-appendix"): (6, 0),
        ("tas", "fbt-summary"): (33, 0),
        ("tas", "fofa"): (160, 4),
        ("fbt-appendix", "fbt-summary"): (2, 0),
        ("fbt-summary", "fofa"): (22, 2),
    }


def test_ablations_disagree_exactly_where_conflicts_say():
    found = values_by(ablations(), "setting", "dataset", "teacher", "student", "metric")
    apart = {key: set(map(str, values)) for key, values in found.items() if len(values) > 1}
    row = ("(F) w/o L_InfoNCE", "cifar100", "swin_t", "resnet18")
    assert apart == {
        (*row, "top1"): {"79.28", "80.95"},
        (*row, "delta_full"): {"-2.33", "-0.66"},
        ("full method", "cifar100", "convnext_t", "swin_p", "top1"): {"80.73", "80.34"},
    }
    cells = [row for id in ("1.5", "2.1") for cell in BY_ID[id].cells for row in cell.rows()]
    for key in apart:
        assert {each for values in found[key].values() for each in values} <= set(cells)


def test_printed_differences_of_ablations_fit_their_accuracies_except_where_listed():
    tables = {("tas", "Table 4"), ("fbt-summary", "Ablation study")}
    rows = [row for row in ablations() if (row.source, row.table) in tables]
    top1 = {
        (row.source, row.setting, row.dataset, row.teacher, row.student): Decimal(row.value)
        for row in rows
        if row.metric == "top1"
    }
    wrong = set()
    for row in rows:
        if row.metric == "delta_full":
            pair = (row.dataset, row.teacher, row.student)
            difference = top1[row.source, row.setting, *pair] - top1[row.source, "full method", *pair]
            if difference != Decimal(row.value):
                wrong.add(row)
    cells = [(id, row) for id in ("2.2", "2.3", "2.4") for cell in BY_ID[id].cells for row in cell.rows()]
    assert len(wrong) == 5 and wrong <= {row for _, row in cells}


def test_main_results_repeated_in_ablations_are_equal():
    main = {
        (row.source, row.dataset, row.teacher, row.student, row.method): row.value
        for row in accuracies()
        if row.source == "tas" and row.table in ("Table 1", "Table 2")
    }
    for row in ablations():
        if row.source == "tas" and row.table == "Table 4" and row.metric == "top1":
            method = {"full method": "fbt", "KD (baseline)": "kd"}.get(row.setting)
            if method:
                assert row.value == main["tas", row.dataset, row.teacher, row.student, method]


def gains(table, method, source="tas"):
    rows = [row for row in accuracies() if (row.source, row.table) == (source, table) and row.metric == "top1"]
    found = {
        (row.teacher, row.student, row.method): Decimal(row.value)
        for row in rows
        if row.panel != "left" or row.mode != "cnn-cnn"
    }
    base = {key[:2]: value for key, value in found.items() if key[2] == "scratch"}
    return {key[:2]: value - base[key[:2]] for key, value in found.items() if key[2] == method and key[:2] in base}


def test_claims_recompute_to_what_the_remarks_say():
    first, second = gains("Table 1", "fbt"), gains("Table 2", "fbt")
    assert sorted(first.values())[-2:] == [Decimal("11.47"), Decimal("11.57")]
    assert max(second.values()) == Decimal("3.67") and max(gains("Table 3", "fbt").values()) == Decimal("4.87")
    over = sum(first[pair] - gain for pair, gain in gains("Table 1", "ofa").items()) / len(first)
    assert over == Decimal("2.1925")
    better = {
        table: sum(gain > gains(table, "ofa", "fofa")[pair] for pair, gain in gains(table, "fofa", "fofa").items())
        for table in ("Table 1", "Table 2")
    }
    assert better == {"Table 1": 8, "Table 2": 3}
    means = []
    for table in ("Table 1", "Table 2"):
        six = [gain for pair, gain in gains(table, "pcagl", "pcagl").items() if pair[1] in ("resnet50", "resnet50x2")]
        means.append(round(sum(six) / len(six), 2))
    assert means == [Decimal("2.79"), Decimal("2.66")]


# Protocols


def test_every_row_has_a_protocol():
    for row in accuracies():
        kind = "msa" if row.student == "unknown" else kind_of(row.student)
        protocol = protocol_of(row, kind)
        assert (protocol.family, protocol.dataset) == (row.protocol, row.dataset)
        assert protocol.id.startswith("fofa/") == (row.method == "fofa")
    assert len(protocols()) == 11


def test_a_row_without_a_protocol_is_refused():
    row = printed_cells("sakd-imagenet")["resnet34", "resnet18", "imagenet1k", "fbt"][0]
    assert protocol_of(row, "cnn").id == "sakd/imagenet1k"
    with pytest.raises(UsageError, match=r"no protocol for mlp students of tas on imagenet1k \(sakd-imagenet\)"):
        protocol_of(row, "mlp")


def test_fofas_own_column_is_under_the_released_start_commands():
    assert {
        key: (each.stated()["global_batch"]["released"], each.stated()["epochs"]["released"], each.repetitions)
        for key, each in protocols().items()
        if key.startswith("fofa/")
    } == {
        "fofa/cifar100/cnn": (128, 300, 3),
        "fofa/cifar100/msa": (128, 300, 3),
        "fofa/imagenet1k/cnn": (256, 100, 3),
        "fofa/imagenet1k/msa": (512, 300, 3),
    }


def test_stated_differently_is_what_conflicts_list():
    apart = {(each.id, key) for each in protocols().values() for key in each.conflicting()}
    assert apart == {(each.protocol, each.setting) for each in conflicts() if each.protocol}
    assert apart == {
        ("ofa/cifar100/cnn", "optimizer.lr"),
        ("ofa/cifar100/msa", "global_batch"),
        ("ofa/cifar100/msa", "schedule.min_lr"),
        ("ofa/cifar100/msa", "ema_decay"),
        ("ofa/cifar100/msa", "augment.auto_augment"),
        ("ofa/imagenet1k/msa", "augment.auto_augment"),
    }


def test_pcagls_size_augmentation_and_start_are_stated():
    for id in ("pcagl/cifar100", "pcagl/imagenet1k"):
        stated = {key: said["printed"] for key, said in protocols()[id].stated().items()}
        assert (stated["image_size"], stated["init"], stated["augment.crop"]) == (224, "random", "rrc")
        assert stated["evaluation.crop_pct"] == 224 / 256 and not set(stated) & set(protocols()[id].unstated)


@pytest.mark.parametrize(
    "model, size, printed",
    [("swin_base_patch4_window7_224", 224, "15.4"), ("swin_large_patch4_window12_384", 384, "103.9"),
     ("swin_large_patch4_window7_224", 224, None), ("swin_base_patch4_window12_384", 384, None)],
)  # fmt: skip
def test_pcagls_gflops_are_of_224_px_for_swin_b_and_of_384_px_for_swin_l(model, size, printed):
    with torch.device("meta"):
        network = timm.create_model(model).eval()
    with Meter() as meter, torch.no_grad():
        network(zeros(1, 3, size, size))
    rows = {row.flops_g for row in costs() if row.source == "pcagl" and row.model in ("swin_b", "swin_l")}
    rounded = f"{meter.total / 1e9:.1f}"
    assert rounded == printed if printed else rounded not in rows


@pytest.mark.parametrize("id", OFA_PROTOCOLS)
def test_ofas_protocols_account_for_every_setting_of_a_recipe(id):
    protocol = protocols()[id]
    accounted = {*protocol.stated(), *protocol.unstated}
    without_meaning = {"evaluation.every", "augment.pad", "schedule.decay_epochs", "schedule.decay_rate", "drop_path"}
    without_meaning |= {"init_head"}  # of students that begin from weights
    without_meaning |= {"evaluation.corruptions"}  # no accuracy of a table changes by it
    without_meaning |= {"optimizer.momentum"} if id.endswith("msa") else {"optimizer.betas"}
    assert set(recipe_settings()) - accounted <= without_meaning
    assert set(protocol.idle) <= set(protocol.stated())
    assert not set(protocol.stated()) & set(protocol.unstated)


EVALUATION = ["evaluation.crop_pct: 0.9 here, not stated", "evaluation.interpolation: bicubic here, not stated"]
RANDAUGMENT = "augment.auto_augment: rand-m9-mstd0.5-inc1 here, rand-m9-mstd0.5 printed, rand-m9-mstd0.5-inc1 released"
UNSTATED = ["seeds: not stated", "selection: not stated"]
BETAS = "optimizer.betas: none here, not stated"
WEIGHTS = "evaluated_weights: not stated"
LR = "0.1 printed and by the author, 0.05 released"
MIN_LR = "1e-05 printed and released, 1e-06 by the author"
EMA = "none printed and released, 0.99996 by the author"
NORM = "teacher_norm: own here, shared released"


@pytest.mark.parametrize(
    ("recipe", "protocol", "expected"),
    [
        ("ofa_cifar_cnn", "ofa/cifar100/cnn", [f"optimizer.lr: 0.1 here, {LR}", *UNSTATED, *EVALUATION]),
        ("ofa_cifar_cnn_yaml", "ofa/cifar100/cnn", [f"optimizer.lr: 0.05 here, {LR}", *UNSTATED, *EVALUATION]),
        (
            "ofa_cifar_msa",
            "ofa/cifar100/msa",
            [
                RANDAUGMENT,
                f"ema_decay: none here, {EMA}",
                "global_batch: 1024 here, 512 printed, 1024 released",
                f"schedule.min_lr: 1e-05 here, {MIN_LR}",
                *UNSTATED,
                WEIGHTS,
                BETAS,
                *EVALUATION,
            ],
        ),
        (
            "fbt_cifar_msa",
            "ofa/cifar100/msa",
            [
                RANDAUGMENT,
                f"ema_decay: none here, {EMA}",
                "global_batch: 512 here, 512 printed, 1024 released",
                f"schedule.min_lr: 1e-05 here, {MIN_LR}",
                *UNSTATED,
                WEIGHTS,
                BETAS,
                *EVALUATION,
            ],
        ),
        ("ofa_imagenet_cnn", "ofa/imagenet1k/cnn", [NORM, *UNSTATED, *EVALUATION]),
        (
            "ofa_imagenet_msa",
            "ofa/imagenet1k/msa",
            [RANDAUGMENT, NORM, *UNSTATED, WEIGHTS, "drop_path: 0 here, not stated", BETAS, *EVALUATION],
        ),
        (
            "ofa_cifar_cnn",
            "fofa/cifar100/cnn",
            [
                "ema_decay: none here, on released",
                "global_batch: 1024 here, 128 released",
                "optimizer.lr: 0.1 here, 0.05 released",
                "selection: not stated",
                WEIGHTS,
                *EVALUATION,
            ],
        ),
    ],
)
def test_differences_of_our_recipes(recipe, protocol, expected):
    assert protocol_differences(load_recipe(recipe).numbers(), protocols()[protocol]) == expected


def test_pcagls_recipes_keep_all_that_is_stated():
    for recipe, protocol in (("pcagl_cifar", "pcagl/cifar100"), ("pcagl_imagenet", "pcagl/imagenet1k")):
        differences = protocol_differences(load_recipe(recipe).numbers(), protocols()[protocol])
        assert [line for line in differences if not line.endswith("not stated")] == []
    changed = load_recipe("pcagl_cifar").override({"epochs": 2, "schedule.decay_epochs": [1]}).numbers()
    assert protocol_differences(changed, protocols()["pcagl/cifar100"])[0] == "epochs: 2 here, 200 printed"
    assert protocol_differences(changed, protocols()["pcagl/cifar100"])[1:2] == [
        "schedule.decay_epochs: [1] here, [100, 150] printed",
    ]


# Damage


def damaged(tmp_path, name, change):
    path = tmp_path / f"{name}.csv"
    path.write_text(change((PUBLISHED_DIR / f"{name}.csv").read_text()))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("source,table", "origin,table", 1), r"line 1: the columns must be source,table,"),
        (lambda text: text.replace("top1,80.34", "top1,80.34%", 1), r"line 2: value: .*80.34%"),
        (lambda text: text.replace("top1,80.34", "top1,180.34", 1), r"line 2: value: .*180.34"),
        (lambda text: text.replace("top1,80.34", "top3,80.34", 1), r"line 2: metric: "),
        (lambda text: text.replace("fbt-appendix", "fbt", 1), r"line 2: unknown source 'fbt'; known: fbt-appendix"),
        (lambda text: text.replace("top1,80.34", "top1,80.34,", 1), r"line 2: 14 cells for 13 columns"),
        (lambda text: text[: text.index(",resnet18")], r"line 4: \d+ cells for 13 columns"),
        (lambda text: text + text.splitlines()[2] + "\n", r"line 939: the same cell as line 3; remove one"),
        (lambda text: text.replace("swin_p,fcfd", ",fcfd", 1), r"line 3: student: "),
        (lambda text: text + '"open', r"line 939: "),
        (lambda text: "", r"line 1: the columns must be"),
    ],
)
def test_damaged_rows_are_named(tmp_path, change, message):
    path = damaged(tmp_path, "accuracy", change)
    with pytest.raises(UsageError, match=message) as raised:
        accuracies(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", ["ablations", "averages", "costs", "other_tasks"])
def test_damage_in_the_other_tables_is_named(tmp_path, name):
    path = damaged(tmp_path, name, lambda text: text + "tas,Table 1\n")
    with pytest.raises(UsageError, match=rf"{name}.csv: line {ROWS[name] + 2}: 2 cells for"):
        TABLES[name](path)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UsageError, match="no file at .*gone.csv"):
        accuracies(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (
            "conflicts",
            '[[conflicts]]\nid = "1.1"\nkind = "source"\nsubject = "x"\nremark = "y"',
            "conflict 1.1: kind: ",
        ),
        (
            "conflicts",
            '[[conflicts]]\nid = "1.1"\nkind = "odd"\nsubject = "x"\nremark = "y"\n'
            'cells = [{ source = "tas", table = "Table 1", method = "kd", value = "1.00" }]',
            "conflict 1.1: the ledger has no such number: .*value 1.00",
        ),
        ("conflicts", 2 * '[[conflicts]]\nid = "1"\nkind = "odd"\nsubject = "x"\nremark = "y"\n', "1 is there twice"),
        ("protocols", '[[protocols]]\nid = "a"\nfamily = "of"', "protocol 1: family: "),
        ("sources", '[tas]\nmark = "TA"', "tas: mark: "),
        ("sources", "tas = 1", "tas: must be a table"),
    ],
)
def test_damaged_entries_are_named(tmp_path, read, text, message):
    path = tmp_path / f"{read}.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        READERS[read](path)
    assert str(path) in str(raised.value)


PROTOCOL = """
[[protocols]]
id = "a"
family = "ofa"
dataset = "cifar100"
kinds = ["cnn"]
sources = ["tas"]
selection = "last"
unstated = []
statements = [{ by = "printed", where = "here", settings = { epochs = 3 } }]
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PROTOCOL.replace("epochs", "epoch"), "protocol 1: .*unknown recipe setting 'epoch'; did you mean epochs"),
        (PROTOCOL.replace("unstated = []", 'unstated = ["seed"]'), "unknown setting 'seed'; did you mean seeds"),
        (PROTOCOL.replace('"tas"', '"taz"'), "protocol 1: sources: unknown source 'taz'"),
        (PROTOCOL + PROTOCOL, "protocol 2: 'a' is there already"),
        (PROTOCOL.replace('id = "a"', 'id = "a"\nlike = "b"'), "protocol 1: like: unknown protocol 'b'"),
    ],
)
def test_damaged_protocols_are_named(tmp_path, text, message):
    path = tmp_path / "protocols.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        protocols(path)


# The page


def test_the_page_is_stable_and_shows_every_entry():
    page = board_markdown(conflicts_board())
    assert page == board_markdown(conflicts_board())
    assert page.endswith("|\n") and not page.endswith("\n\n")
    for each in conflicts():
        assert sum(line.startswith(f"| {each.id} ") for line in page.splitlines()) == 1, each.id
    for number in ("81.22 (F Table 1)", "| 3.1650 ", "| 1.1257 ", "| 1.6800 "):
        assert page.count(number) == 1
    assert page.count('Printed under "') == 4
    assert page.count(" • ") == 6


def test_tables_of_the_page_are_whole():
    rows = [line for line in board_markdown(conflicts_board()).splitlines() if line.startswith("|")]
    for before, line in zip(rows, rows[1:], strict=False):
        if set(line) <= set("|:-"):
            assert before.count("|") == line.count("|")
    assert all(line.endswith("|") for line in rows)

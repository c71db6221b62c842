"""Pages of experiments: the paper's table with its numbers in their cells, ours beside them, and the verdicts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console, Group

from cakdbench.grid.experiments import experiment_names, load_experiment
from cakdbench.grid.plan import Settings, make_plan
from cakdbench.published.ledger import ablations
from cakdbench.recipes import load_recipe
from cakdbench.reports.html import board_html
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.page_experiment import experiment_board
from cakdbench.reports.terminal import board_terminal
from cakdbench.results.load import Evidence
from cakdbench.store import Store
from tests.reports.pages import tables
from tests.reports.synthetic import record, taught_by

PAIR = "swin_t → resnet18, cifar100"


def finish(
    store, experiment, top1, seeds=(0, 1, 2), teacher_top5=None, precision="fp32", teacher={}, conditions={}, **result
):
    """Finish the runs of an experiment; their accuracies are those of `top1`, by label, seed by seed apart."""
    for labels, specs in experiment.grids().items():
        for cell in make_plan(labels, specs, seeds, Settings(), precision, always=()).cells:
            if cell.label not in top1:
                continue
            dataset = SimpleNamespace(name=cell.pair.dataset, fingerprint="f" * 64, skipped=None)
            identity = cell.identity(dataset, taught_by(cell))
            folder = store.run(identity)
            folder.acquire()
            folder.open(identity, cell.label, cell.recipe.name)
            made = record("kd", top1=top1[cell.label] + 0.2 * (cell.seed - 1))
            own = {"key": folder.key, "label": cell.label, "identity": identity, "recipe_name": cell.recipe.name}
            own |= {"result": made.result.model_copy(update=result)}
            own |= {"teacher": made.teacher.model_copy(update={"measured_top5": teacher_top5} | teacher)}
            own |= {"conditions": made.conditions.model_copy(update=conditions)}
            folder.finish(made.model_copy(update=own))
            folder.release()


def page(name, store, tiny=False, **changed):
    return board_markdown(
        experiment_board(load_experiment(name, tiny), Evidence(store, None), Settings(recipe=changed))
    )


def lines_of(text):
    """The number-by-number table, each row by column."""
    head, *rows = next(table for table in tables(text) if "printed" in table[0])
    return [dict(zip(head, row, strict=True)) for row in rows]


def lines(text):
    """The same by pair and row."""
    return {(row["pair"], row["row"]): row for row in lines_of(text)}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_the_table_has_the_papers_rows_in_the_papers_order(store):
    head, *rows = tables(page("tas_table4", store))[0]
    assert head[2:4] == [PAIR, "convnext_t → swin_p, cifar100"]
    assert [row[0][:3] for row in rows] == ["KD ", *(f"({letter})" for letter in "ABCDEFG"), "ful"]
    assert rows[3][:4] == ["(C) w/o L(K_t,K_f)", "fbt:no_tf", "– 25.57 T", "– 50.46 T"]
    head, *rows = tables(page("tas_table1", store))[0]
    assert head[2:5] == ["From Scratch / Teacher", "From Scratch / Student", "FitNet"] and head[-1] == "TAS"
    assert rows[0][:4] == ["swin_t", "resnet18", "– 89.26 T", "– 74.01 T"] and rows[-1][-1] == "– +8.38 T"
    assert rows[-2][:2] == ["swin_t", "resmlp_s12"]


def test_a_block_of_pcagl_is_a_table(store):
    parts = tables(page("pcagl_table1", store))
    assert [len(part) - 1 for part in parts[:3]] == [26, 36, 34]
    assert parts[0][1] == ["left", "resnet152x2", "resnet50", "Baseline_T", "– 91.03 P"]
    text = page("pcagl_table1", store)
    assert "swin_l → unknown, cifar100: a student that cannot be made out" in text
    assert "LONDON: not a method here" in text


def test_measured_stands_beside_printed_with_deltas_and_verdicts(store):
    finish(store, load_experiment("tas_table4"), {"fbt": 81.5, "fbt:no_tf": 60.0, "kd": 78.7})
    text = page("tas_table4", store)
    assert tables(text)[0][4][2] == "60.00 ± 0.20\n25.57 T"
    rows = lines(text)
    full, dropped = rows[PAIR, "full method"], rows[PAIR, "(C) w/o L(K_t,K_f)"]
    assert (full["difference"], full["verdict"], full["delta measured"]) == ("-0.11", "within noise", "–")
    assert (dropped["difference"], dropped["verdict"]) == ("+34.43", "off")
    assert (dropped["delta printed"], dropped["delta measured"]) == ("-56.04", "-21.50")
    assert rows[PAIR, "(G) w/o L_OFA"]["verdict"] == "not measured"
    on_imagenet = rows["swin_t → resnet18, imagenet1k", "full method"]
    assert on_imagenet["verdict"] == "not comparable: teacher_norm: own here"


def test_a_row_that_nothing_runs_for_has_its_printed_delta_too(store):
    found = {row["row"]: row for row in lines_of(page("fofa_table6", store)) if row["metric"] == "top-1"}
    assert found["N_q = 80"]["delta printed"] == "+0.55" and found["N_q = 80"]["verdict"] == "does not run"
    memory = [row["delta printed"] for row in lines_of(page("fofa_table6", store)) if row["metric"] != "top-1"]
    assert {*memory} == {"–"}


def test_one_seed_is_not_judged(store):
    finish(store, load_experiment("tas_table11"), {"fbt": 81.6}, seeds=(0,))
    assert lines(page("tas_table11", store))[PAIR, "MSA block in L2G: Swin"]["verdict"] == "not comparable: 1 seed"


def test_a_label_of_the_default_meets_the_runs_of_the_method(store):
    finish(store, load_experiment("fofa_table6"), {"fofa": 79.5, "fofa:n_q_36": 79.0})
    rows = {key[1]: row for key, row in lines(page("fofa_table6", store)).items() if row["metric"] == "top-1"}
    assert rows["N_q = 64"]["measured"] == "79.50 ± 0.20" and rows["N_q = 36"]["measured"] == "79.00 ± 0.20"
    assert rows["N_q = 80"]["verdict"] == "does not run"
    assert "N_q = 80: the stages have n_q / 4 regions in a square" in page("fofa_table6", store)


def test_the_assistant_and_the_teacher_have_their_columns(store):
    finish(store, load_experiment("tas_table6"), {"fbt": 72.2, "scratch": 69.7}, networks={"assistant": 77.0})
    head, *rows = tables(page("tas_table6", store))[0]
    first = dict(zip(head, rows[0], strict=True))
    assert first["TAS\nassistant"] == "77.00 ± 0.00\n76.91 T°" and first["TAS\nteacher"] == "90.00\n81.38 T"
    assert "from scratch\nassistant" not in head


def test_teachers_have_their_top_5_where_the_paper_prints_it(store):
    finish(store, load_experiment("pcagl_table3", tiny=True), {"pcagl": 70.0}, teacher_top5=98.5)
    head, *rows = tables(page("pcagl_table3", store, tiny=True))[0]
    first = dict(zip(head, rows[0], strict=True))
    assert first["Teacher accuracy\ntop-5"] == "98.50\n96.11 P" and first["Teacher accuracy\ntop-1"] == "90.00\n82.17 P"


def test_what_stands_in_for_the_papers_pairs_is_listed(store):
    assert "\n- vit_m → resnet_s for vit_s → resnet18\n- swin_m" in page("tas_table5", store, tiny=True)


def test_a_note_names_the_rows_it_is_about_and_their_pairs_where_it_is_not_about_all(store):
    text = page("tas_table5", store)
    assert "- S_c^1 -> S_m^2-fc; S_c^1-2 -> S_m^3-fc; S_c^1-4 -> S_m^fc: group as printed: same length" in text
    assert "Baseline_S on vit_l16 → xceptionx2, cifar100 and vit_l16 → resnet152" in page("pcagl_table1", store)


def test_a_note_names_the_pair_alone_where_it_is_about_all_of_its_numbers_and_the_block_where_there_are_several(store):
    assert "\n- convnext_t → resmlp_s12, cifar100: teacher name printed" in page("tas_table1", store)
    assert "\n- vit_b16 → resnet50x2, imagenet1k (cnn-cnn left): ambiguous in source" in page("pcagl_table2", store)


def test_the_average_gain_is_that_of_the_board_over_the_seeds_that_scratch_has_too(store):
    experiment = load_experiment("fofa_table2")
    finish(store, experiment, {"scratch": 70.0}, seeds=(0,))
    finish(store, experiment, {"fofa": 72.0}, seeds=(0, 1))
    head, *rows = tables(page("fofa_table2", store))[0]
    average = dict(zip(head, rows[-1], strict=True))
    assert average["FOFA"] == "+2.00\n+2.09 F" and average["KD"] == "– +1.57 F"


def test_memory_is_the_runs_own_whatever_trained_beside_it(store):
    beside = {"peak_memory_mb": 14 * 1024.0, "lanes": ["fofa", "kd"]}
    finish(store, load_experiment("fofa_table6"), {"fofa": 79.5}, conditions=beside)
    lines = [row for row in lines_of(page("fofa_table6", store)) if row["metric"] == "memory GB"]
    cells = {row["row"]: row["measured"] for row in lines}
    assert cells["N_q = 64"] == "14.00 ± 0.00" and cells["N_q = 36"] == "–"


def test_tiny_says_so_and_judges_nothing(store):
    finish(store, load_experiment("tas_table4", tiny=True), {"fbt": 81.6, "kd": 78.7})
    text = page("tas_table4", store, tiny=True)
    assert text.startswith("# TAS Table 4: what each part of the method is worth, on small models and data\n")
    assert "**What was measured is of small models and 500 images of Fashion-MNIST" in text
    assert tables(text)[0][9][2] == "81.60 ± 0.20\n81.61 T"
    assert "verdict" not in lines(text)[PAIR, "full method"] and "within noise" not in text
    assert tables(page("tas_table4", store))[0][9][2] == "– 81.61 T"  # tiny runs are no runs of the paper's models


def test_changed_numbers_are_told_and_not_judged(store):
    finish(store, load_experiment("tas_table11"), {"fbt": 81.6})
    text = page("tas_table11", store, **{"epochs": 1})
    assert "**With changed numbers**: epochs = 1. There are no verdicts." in text
    assert {row["measured"] for row in lines(text).values()} == {"–"}


def listed(text):
    """What is told of the runs that do not count."""
    return {row[-1] for table in tables(text) if table[0][-1] == "what differs" for row in table[1:]}


def test_runs_that_do_not_count_are_listed_with_the_reason_also_on_the_terminal(store):
    finish(store, load_experiment("tas_table11"), {"fbt": 81.6}, teacher={"standard": False})
    board = experiment_board(load_experiment("tas_table11"), Evidence(store, None))
    told = listed(board_markdown(board))
    assert told == {"a teacher that is not the registry's (trained: demo_teacher)"}
    printed = Console(width=200)
    with printed.capture() as shown:
        printed.print(Group(*board_terminal(board, 200)))
    assert told.pop() in shown.get()


def test_runs_in_another_precision_are_named(store):
    finish(store, load_experiment("tas_table11"), {"fbt": 81.6})
    finish(store, load_experiment("tas_table11"), {"fbt": 81.0}, seeds=(0,), precision="bf16")
    text = page("tas_table11", store)
    assert "Runs in other precisions, not shown here: bf16 (" in text and "81.60 ± 0.20" in text


def test_runs_that_a_teacher_with_the_changed_numbers_taught_count(store):
    experiment, numbers = load_experiment("tas_table8", tiny=True), {"epochs": 1}
    finish(store, experiment, {"fbt": 70.0}, seeds=(0,), teacher={"standard": False})
    evidence = Evidence(store, None)
    by_name = {(r.identity.teacher.model, r.identity.dataset.name): r for r in evidence.records if r.teacher}
    for place, ((model, _), run) in enumerate(by_name.items()):
        recipe = load_recipe("tiny_teacher").override(numbers).numbers()
        identity = run.identity.model_copy(update={"student": model, "recipe": recipe, "teacher": None})
        new = {"key": f"scratch-{place:016}", "identity": identity, "teacher": None}
        trained = run.model_copy(update=new | {"weights_sha256": run.identity.teacher.sha256})
        evidence._take(trained, Path("-"))
    told = board_markdown(experiment_board(experiment, evidence, Settings(teacher=numbers)))
    assert "**With changed numbers**: teacher.epochs = 1." in told and "69.80" in tables(told)[0][-1][-1]
    told = board_markdown(experiment_board(experiment, evidence))
    assert "– " in tables(told)[0][-1][-1] and "not the registry's" in "".join(listed(told))


def test_a_page_is_a_browsers_page_too(store):
    finish(store, load_experiment("tas_table11"), {"fbt": 81.6})
    text = board_html(experiment_board(load_experiment("tas_table11"), Evidence(store, None)))
    assert "MSA block in L2G: ViT" in text and "81.05 T" in text and "81.60" in text


def test_every_ablation_that_is_printed_is_on_a_page():
    tables_of_experiments = {(e.file.source, e.file.table) for e in map(load_experiment, experiment_names())}
    rows = {(row.source, row.table) for row in ablations()}
    assert rows - tables_of_experiments == {("fbt-summary", "Ablation study"), ("pcagl", "Figure 3 (text)")}

"""The page of each table of the papers: the paper's rows and columns in its order, every printed number in its cell."""

import re
from functools import cache
from pathlib import Path

import pytest

from cakdbench.grid.experiments import experiment_names, load_experiment
from cakdbench.published.conflicts import conflicts
from cakdbench.published.ledger import ablations, accuracies, averages, costs, sources
from cakdbench.reports.markdown import board_markdown
from cakdbench.reports.page_experiment import METRICS, experiment_board
from cakdbench.reports.pages import FORMATS
from cakdbench.results.load import Evidence
from cakdbench.store import Store
from tests.reports.pages import tables

NAMES = experiment_names()
TRAINED = [name for name in NAMES if load_experiment(name).file.layout != "costs"]
METRIC = {told: metric for metric, told in METRICS.items()}
TEACHERS = {row.printed_as for row in accuracies() if row.method == "teacher"}


@cache
def board(name, tiny=False):
    return experiment_board(load_experiment(name, tiny), Evidence(Store(Path("no-runs")), None))


@cache
def page(name, tiny=False):
    return board_markdown(board(name, tiny))


def ledger(name):
    """What the paper prints: (block, panel, pair, row, metric) to the number, as a text."""
    file, entries = load_experiment(name).file, load_experiment(name).entries
    rows = [
        r for r in (accuracies() if file.methods else ablations()) if (r.source, r.table) == (file.source, file.table)
    ]
    return {
        (*((r.mode, r.panel) if file.methods else ("", "")), f"{r.teacher} → {r.student}, {r.dataset}",
         entries[r.method].name if file.methods else r.setting, r.metric): r.value
        for r in rows if r.metric != "delta_full"
    }  # fmt: skip


def shown(name, text):
    """The same as the page's table shows it, cell by cell."""
    file, found = load_experiment(name).file, {}
    dataset = load_experiment(name).pairs[0].partition("@")[2]
    blocks = dict.fromkeys(spot.block[0] for spot in load_experiment(name).spots)
    for block, (head, *rows) in zip(blocks, tables(text)):
        for row in rows:
            for column, cell in zip(head, row, strict=True):
                what, _, told = column.partition("\n")
                metric = METRIC[told] if told else METRIC.get(what, file.metrics[0])
                pair = f"{row[0]} → {row[1]}, {dataset}"
                place = {
                    "pairs": ("", "", pair, what, metric),
                    "settings": ("", "", what, row[0], metric),
                    "rows": ("", "", row[min(2, len(row) - 1)], row[0], metric),
                    "lines": (block, row[0], f"{row[1]} → {row[2]}, {dataset}", row[min(3, len(row) - 1)], metric),
                }[file.layout]
                if printed := re.search(r"(\S+) [A-Z][°!]?$", cell):
                    found[place] = printed[1]
    return found


def gains(name):
    file = load_experiment(name).file
    rows = [row for row in averages() if (row.source, row.table) == (file.source, file.table)]
    return {
        ("", "", "average gain → , " + row.dataset, row.printed_as, "top1"): f"{float(row.value):+.2f}" for row in rows
    }


@pytest.mark.parametrize("name", TRAINED)
def test_every_printed_number_stands_in_its_cell(name):
    assert shown(name, page(name)) == ledger(name) | gains(name)


@pytest.mark.parametrize("ending", FORMATS)
def test_every_page_is_written_in_every_format(ending):
    for name in NAMES:
        text = FORMATS[ending](board(name))
        assert all(value in text for value in ledger(name).values()) if name in TRAINED else "0.07" in text, name


@pytest.mark.parametrize("name", TRAINED)
def test_a_tiny_page_shows_them_in_the_same_cells(name):
    assert shown(name, page(name, tiny=True)) == ledger(name) | gains(name)


@pytest.mark.parametrize("name", TRAINED)
def test_rows_and_columns_have_the_order_of_the_papers_table(name):
    """That order is the file's of the experiment."""
    experiment = load_experiment(name)
    pairs = [f"{pair.partition('@')[0].replace('>', ' → ')}, {pair.partition('@')[2]}" for pair in experiment.pairs]
    names = [entry.name for entry in experiment.entries.values()]
    metrics = list(experiment.file.metrics)
    by_row = {"pairs": (0, 1, 2), "lines": (0, 1, 2), "settings": (1, 0, 2), "rows": (1, 0, 2)}[experiment.file.layout]
    for block in dict.fromkeys(place[:2] for place in ledger(name)):
        places = [place[2:] for place in shown(name, page(name)) if place[:2] == block and place[2] in pairs]
        ranks = [(pairs.index(pair), names.index(row), metrics.index(metric)) for pair, row, metric in places]
        assert ranks == sorted(ranks, key=lambda rank: tuple(rank[axis] for axis in by_row))


@pytest.mark.parametrize("name", TRAINED)
def test_number_by_number_has_the_difference_and_the_verdict_of_each(name):
    head, *rows = next(table for table in tables(page(name)) if "printed" in table[0])
    assert {"measured", "difference", "tolerance", "verdict"} <= set(head)
    lines = [dict(zip(head, row, strict=True)) for row in rows]
    assert sorted(line["printed"] for line in lines) == sorted(ledger(name).values())
    assert all(line["verdict"] and line["difference"] == "–" for line in lines)


@pytest.mark.parametrize("name", TRAINED)
def test_number_by_number_has_the_order_of_the_table(name):
    """It goes row by row; in a table of settings pair by pair, so that a method is beside what it lacks."""
    by_pair = load_experiment(name).file.layout == "settings"
    places = [place for place in shown(name, page(name)) if place in ledger(name)]
    if by_pair:
        pairs = list(dict.fromkeys(spot.pair for spot in load_experiment(name).spots))
        arrows = [f"{pair.partition('@')[0].replace('>', ' → ')}, {pair.partition('@')[2]}" for pair in pairs]
        places.sort(key=lambda place: arrows.index(place[2]))
    head, *rows = next(table for table in tables(page(name)) if "printed" in table[0])
    assert [row[head.index("printed")] for row in rows] == [ledger(name)[place] for place in places]


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_is_said_to_run_for_a_teachers_number(name):
    head, *rows = next(table for table in tables(page(name)) if "printed" in table[0])
    lines = [dict(zip(head, row, strict=True)) for row in rows]
    for line in lines:
        of_teacher = line["row"] in TEACHERS or line.get("metric") == "teacher"
        assert line["here"] == "–" if of_teacher else line["here"] != "–" or line["verdict"] == "does not run"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_its_paper_and_the_conflicts_of_its_numbers(name):
    file = load_experiment(name).file
    source = sources()[file.source]
    assert f"{file.table} of [{source.citation.rstrip('.')}]({source.url})" in page(name)
    for conflict in conflicts():
        concerned = (file.source, file.table) in {(cell.source, cell.table) for cell in conflict.cells}
        assert (f"{conflict.id} {conflict.subject}" in page(name)) == concerned


def test_a_page_says_which_weights_its_teachers_have():
    assert "- `resnet50:tv@imagenet1k`: resnet50.tv_in1k, accuracy 76.13 expected. The teacher of" in page("tas_table3")
    chains = page("tas_table9").partition("## The teachers here")[2]
    assert re.findall(r"- `(.+?)`", chains) == ["resnet34@cifar100", "swin_t@cifar100"]
    assert not any("The teachers here" in page(name, tiny=True) for name in ("tas_table8", "tas_table12"))


def test_averages_that_do_not_recompute_are_marked():
    marked = {name: re.findall(r"([+-][\d.]+) [A-Z]!", page(name)) for name in TRAINED}
    assert {name: values for name, values in marked.items() if values} == {
        "tas_table1": ["+3.12"],
        "tas_table2": ["+1.05", "+1.65"],
    }


@pytest.mark.parametrize("name", sorted({*NAMES} - {*TRAINED}))
def test_a_table_of_costs_has_its_numbers_in_its_cells(name):
    file = load_experiment(name).file
    head, *rows = tables(page(name))[0]
    parts = {"student": "student", "OFA, 4-3-2-1 blocks": "ofa", "FBT, L2G": "fbt"}
    found = {(row[0], parts[row[1]]): (row[2].split()[0], row[5].split()[0]) for row in rows}
    printed = {}
    for row in (row for row in costs() if (row.source, row.table) == (file.source, file.table)):
        printed[f"{row.teacher} → {row.student}", "student"] = row.student_params_m, row.student_flops_g
        printed[f"{row.teacher} → {row.student}", row.branch] = row.params_m, row.flops_g
    assert [head[2], head[5]] == ["params: paper", "MACs: paper"] and found == printed
    order = [pair for pair, _ in found][::3]
    assert order == ["deit_t → resnet18", "resnet50 → deit_t", "convnext_t → resmlp_s12"]


def test_the_models_costs_that_pcagl_prints_stand_beneath_its_tables():
    for number in (1, 2, 3):
        printed = {
            (row.role, row.model): row.flops_g
            for row in costs()
            if row.table == f"Table {number}" and row.kind == "model"
        }
        rows = next(table for table in tables(page(f"pcagl_table{number}")) if table[0][-1] == "GFLOPs")[1:]
        assert {(role, model): cell.split()[-2] for role, model, cell in rows} == printed


@pytest.mark.parametrize("name", ["fofa_table5", "fofa_table6"])
def test_the_predicted_memory_stands_beside_the_printed(name):
    """A few 10^9 bytes for FitNet, several times that for FOFA, which goes back through the teacher."""
    head, *rows = tables(page(name))[0]
    column = next(place for place, told in enumerate(head) if told.endswith("predicted GB"))
    assert head[column - 1].endswith("memory GB")
    peaks = {row[1]: float(row[column]) for row in rows if row[1] != "–"}
    assert 3 < peaks["fitnet"] < 6 and 10 < peaks["fofa"] < 20

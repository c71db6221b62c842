"""Choosing rows and columns, and frames that are written and read back."""

import io
import subprocess
import sys

import pandas as pd
import pytest

import cakdbench
from cakdbench.results import export
from cakdbench.utils.errors import UsageError
from tests.cli_lab import Shell
from tests.results.lab import DEMO, copy_results


@pytest.fixture(scope="module")
def runs():
    return cakdbench.load_results(DEMO)


def test_csv_json_and_parquet_are_read_back_equal(runs, tmp_path):
    types = {name: kind for name, kind in runs.dtypes.items()}
    texts = [name for name, kind in types.items() if kind == "str"]
    csv = pd.read_csv(io.StringIO(export.frame_text(runs, "csv")), dtype=types)
    pd.testing.assert_frame_equal(csv, runs, rtol=1e-6)
    json = pd.read_json(io.StringIO(export.frame_text(runs, "json")), dtype=False, precise_float=True)
    json = json.astype(types)
    pd.testing.assert_frame_equal(json[texts], runs[texts])
    pd.testing.assert_frame_equal(json, runs, rtol=1e-6)
    pytest.importorskip("pyarrow")
    (tmp_path / "runs.parquet").write_bytes(export.frame_bytes(runs, "parquet"))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "runs.parquet"), runs)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_numbers_have_no_traces_of_binary_fractions(form):
    frame = pd.DataFrame({"top1": [100 * 849 / 1000 - 1e-14, float("nan")], "gain": [84.9 - 84.65, 1 / 3]})
    text = export.frame_text(frame, form)
    assert all(number in text for number in ("84.9", "0.25", "0.3333333")) and "99999" not in text


def test_markdown_is_a_table_for_readers(runs):
    some = export.choose_columns(runs[runs.method == "scratch"].head(2), "method, teacher, top1")
    lines = export.frame_text(some, "md").splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["method", "teacher", "top1"]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["scratch", "", f"{some.top1.iloc[0]:.6g}"]


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("method == 'fbt'", lambda runs: runs.method == "fbt"),
        ("method == 'fbt' and seed < 2", lambda runs: (runs.method == "fbt") & (runs.seed < 2)),
        ("seed in [0, 2] or top1 > 85", lambda runs: runs.seed.isin([0, 2]) | (runs.top1 > 85)),
        ("not (student == 'vit_xs')", lambda runs: runs.student != "vit_xs"),
        ("80 < top1 <= 85", lambda runs: (runs.top1 > 80) & (runs.top1 <= 85)),
        ("optimistic_top1 - top1 > 0.5", lambda runs: runs.optimistic_top1 - runs.top1 > 0.5),
        ("excluded == None", lambda runs: runs.excluded.isna()),
        ("excluded != None and teacher is None", lambda runs: runs.excluded.notna() & runs.teacher.isna()),
    ],
)
def test_rows_are_those_of_the_expression(runs, where, chosen):
    wanted = runs[chosen(runs)]
    assert 0 < len(wanted) < len(runs)
    pd.testing.assert_frame_equal(export.choose_rows(runs, where), wanted)


@pytest.mark.parametrize(
    "where",
    [
        "@runs.seed == 0",
        "key.str.upper() == 'A'",
        "__import__('os').system('true')",
        "method.__class__ == 1",
        "(lambda: 0)() == 0",
        "[row for row in method]",
        "method[0] == 'f'",
        "f'{method}' == 'fbt'",
        "(seed := 1) == 1",
        "seed ** 9 ** 9 == 1",
        "top1 = 3",
        "method ==",
        "",
        "\0",
        "(" * 300,
        "1",
        "seed",
        "top1 > 'a'",
    ],
)
def test_other_expressions_are_refused_in_one_line_that_names_the_columns(runs, where):
    with pytest.raises(UsageError, match="columns: key, method") as told:
        export.choose_rows(runs, where)
    assert "\n" not in str(told.value)


def test_unknown_columns_and_formats_are_told(runs, tmp_path):
    for call in (lambda: export.choose_rows(runs, "metod == 'fbt'"), lambda: export.choose_columns(runs, "key,metod")):
        with pytest.raises(UsageError, match="unknown column 'metod'; did you mean .*method"):
            call()
    with pytest.raises(UsageError, match="choose from csv, json, md, parquet"):
        export.format_of("xml", None)
    with pytest.raises(UsageError, match="choose from"):
        export.format_of(None, tmp_path / "runs.xls")
    with pytest.raises(UsageError, match="--output"):
        export.format_of("parquet", None)
    assert export.format_of(None, tmp_path / "runs.parquet") == "parquet"


def test_without_pyarrow_the_extra_is_named(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "cakdbench\[parquet\]"'):
        export.frame_bytes(runs, "parquet")


def test_the_command_prints_and_writes(tmp_path):
    results = copy_results(tmp_path, "kd", "scratch")
    (results / "kd" / "broken.json").write_text("{")
    file = tmp_path / "cells.json"
    options = ["--cells", "--where", "method == 'kd'", "--columns", "method,pair,n,gain", "--output", file]
    done = subprocess.run(
        [sys.executable, "-m", "cakdbench", "results", results, *options], capture_output=True, text=True, check=True
    )
    cells = pd.read_json(file)
    assert list(cells.columns) == ["method", "pair", "n", "gain"] and len(cells) == 3 and (cells.n == 3).all()
    assert "3 rows" in done.stdout and "broken.json" in done.stderr


def test_a_printed_table_does_not_say_where_runs_lie_unless_asked(tmp_path):
    shell, results = Shell(tmp_path, tmp_path), str(copy_results(tmp_path, "kd"))
    _, plain = shell("results", results)
    _, asked = shell("results", results, "--columns", "key,path")
    assert "kd-" in plain and str(tmp_path) not in plain and str(tmp_path) in asked

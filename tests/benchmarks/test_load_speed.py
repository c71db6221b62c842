"""How long 2,000 records take to load: `pytest tests/benchmarks/test_load_speed.py -n 0`."""

import pytest

import cakdbench
from cakdbench.records import Record
from cakdbench.store import run_key
from cakdbench.submissions.entry import Entry, entry_bytes
from tests.results.lab import entries

RECORDS = 2000


def made_records():
    """Records of the demo methods with seeds of their own, and the predictions of each."""
    sources = [(path, Record.model_validate(entry["record"])) for path, entry in entries().items()]
    for number in range(RECORDS):
        path, record = sources[number % len(sources)]
        identity = record.identity.model_copy(update={"seed": 100 + number})
        yield path, record.model_copy(update={"identity": identity, "key": run_key(identity)})


def fill_store(root):
    for _, record in made_records():
        folder = root / record.key
        folder.mkdir(parents=True)
        (folder / "identity.json").write_text(record.identity.model_dump_json())
        (folder / "record.json").write_text(record.model_dump_json(indent=1))


def fill_results(root):
    for path, record in made_records():
        entry = root / record.identity.method.id / f"{record.key}.json"
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.write_bytes(entry_bytes(Entry(record=record, submitted_by="A. Student")))
        entry.with_suffix(".npy").write_bytes(path.with_suffix(".npy").read_bytes())


@pytest.mark.parametrize("fill", [fill_store, fill_results])
def test_loading_two_thousand_records(benchmark, tmp_path, fill):
    """Once before the rounds, which loads the methods' code."""
    fill(tmp_path / "runs")
    cakdbench.load_results(tmp_path / "runs")
    runs = benchmark.pedantic(cakdbench.load_results, (tmp_path / "runs",), rounds=3)
    assert len(runs) == RECORDS
    benchmark.extra_info["records per second"] = round(RECORDS / benchmark.stats["min"])

"""Tables of costs as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from cakdbench.costs.measured import Measured
from cakdbench.costs.method_costs import MethodCost
from cakdbench.grid.plan import Refusal
from cakdbench.reports.markup import plain

Value = str | int | float | None
MISSING, REFUSED = "–", "n/a"

COUNTED: dict[str, Callable[[MethodCost], Value]] = {
    "classes": lambda cost: cost.classes,
    "student params": lambda cost: cost.student_parameters,
    "student MACs": lambda cost: cost.student_macs,
    "extra params": lambda cost: cost.extra_parameters,
    "added MACs": lambda cost: cost.added_macs,
    "path MACs": lambda cost: cost.path_macs,
    "path MACs, batch": lambda cost: cost.batch_path_macs,
    "local batch": lambda cost: cost.local_batch,
    "teacher pass": lambda cost: cost.teacher_pass,
    "buffers MB": lambda cost: round(cost.buffers_mb, 3),
    "legacy params": lambda cost: cost.legacy_parameters,
    "legacy MACs": lambda cost: cost.legacy_macs,
    "legacy student params": lambda cost: cost.legacy_student_parameters,
    "legacy student MACs": lambda cost: cost.legacy_student_macs,
}
MEASURED: dict[str, Callable[[Measured], Value]] = {
    "device": lambda seen: seen.device,
    "precision": lambda seen: seen.precision,
    "runs": lambda seen: seen.runs,
    "images/s": lambda seen: seen.images_per_second,
    "peak MB": lambda seen: seen.peak_memory_mb,
    "time s": lambda seen: seen.seconds,
    "GPU-hours": lambda seen: seen.gpu_hours,
    "energy Wh": lambda seen: seen.energy_wh,
}


@dataclass(frozen=True)
class Sheet:
    """A table: rows as wide as `heads`, and sentences that belong below."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()


def cost_sheet(
    costs: Iterable[MethodCost | Refusal], measured: Mapping[tuple[str, str], Sequence[Measured]] | None = None
) -> Sheet:
    """One row a method and pair, or one for each device and precision it has been measured on.

    Args:
        measured: by label and pair; None leaves these columns out.
    """
    heads = ["pair", "method", *COUNTED, *(MEASURED if measured is not None else ()), "refused"]
    rows, notes = [], []
    for cost in costs:
        names = str(cost.pair), cost.label
        if isinstance(cost, Refusal):
            rows.append((*names, *[None] * (len(heads) - 3), cost.reason))
            continue
        counted = [value(cost) for value in COUNTED.values()]
        for seen in (measured or {}).get((cost.label, str(cost.pair)), ()) or (None,):
            rows.append((*names, *counted, *_measured(seen, measured is not None), None))
        notes += differing(cost)
    return Sheet(tuple(heads), tuple(rows), tuple(notes))


def _measured(seen: Measured | None, wanted: bool) -> list[Value]:
    return [value(seen) if seen else None for value in MEASURED.values()] if wanted else []


def differing(cost: MethodCost) -> list[str]:
    """A sentence on a method whose steps are not alike."""
    if cost.least_path_macs == cost.most_path_macs:
        return []
    least, most = (shown(macs) for macs in (cost.least_path_macs, cost.most_path_macs))
    return [f"{cost.label} on {cost.pair}: its steps differ; means over ten, with paths of {least} to {most} MACs"]


def shown(value: Value) -> str:
    """A number for readers: with thousands separators, fractions with three digits."""
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def markdown(sheet: Sheet) -> str:
    """A table, and the reasons of refusals and other notes as a list below."""
    kept, reasons = _for_readers(sheet)
    table = markdown_table(kept.heads, kept.rows)
    return "\n\n".join(filter(None, (table, "\n".join(f"- {plain(note)}" for note in (*reasons, *sheet.notes)))))


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    """Numbers to the right, texts to the left."""
    rows = list(rows)
    cells = [[plain(shown(value)) for value in row] for row in rows]
    heads = [plain(head) for head in heads]
    return tabulate(cells, heads, "pipe", disable_numparse=True, colalign=_alignment(rows))


def _alignment(rows: Sequence[Sequence[Value]]) -> list[str]:
    """Columns with a text in them to the left."""
    texts = [any(isinstance(value, str) and value != REFUSED for value in column) for column in zip(*rows)]
    return ["left" if text else "right" for text in texts]


def latex(sheet: Sheet) -> str:
    """A booktabs tabular; reasons and notes are comments below it."""
    kept, reasons = _for_readers(sheet)
    cells = [[shown(value).replace(MISSING, "--") for value in row] for row in kept.rows]
    table = tabulate(cells, kept.heads, "latex_booktabs", disable_numparse=True, colalign=_alignment(kept.rows))
    return "\n".join((table, *(f"% {' '.join(note.split())}" for note in (*reasons, *sheet.notes))))


def csv_text(sheet: Sheet) -> str:
    """Comma-separated, numbers as they are, nothing where there is none; without the notes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(sheet.heads)
    writer.writerows(["" if value is None else value for value in row] for row in sheet.rows)
    return out.getvalue()


def _for_readers(sheet: Sheet) -> tuple[Sheet, list[str]]:
    """Refusals as `n/a` and a sentence instead of a column."""
    rows, reasons = [], []
    for *row, refused in sheet.rows:
        if refused is not None:
            reasons.append(f"{REFUSED}: {row[1]} on {row[0]}: {refused}")
            row = [*row[:2], *[REFUSED] * (len(row) - 2)]
        rows.append(tuple(row))
    return Sheet(sheet.heads[:-1], tuple(rows)), reasons

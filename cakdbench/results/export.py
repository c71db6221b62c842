"""Frames for the shell: rows chosen by an expression, columns by name, written as csv, json, parquet or markdown."""

import ast
from pathlib import Path

import pandas as pd

from cakdbench.utils.errors import UsageError, unknown

FORMATS = ("csv", "json", "md", "parquet")

DIGITS = 7
"""Of a number: enough for any accuracy and gain, and fewer than the traces of binary fractions need."""

ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.cmpop),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple),
)
"""The nodes of an expression: nothing that calls, looks up attributes or runs code."""


def choose_rows(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the rows for which an expression over columns holds: `method == 'fbt' and seed in [0, 1]`.

    `excluded == None` chooses where a value is missing, `excluded != None` where there is one.

    Raises:
        UsageError: not such an expression, or it names no column.
    """
    hint = f"write comparisons of columns, as in \"method == 'fbt' and seed < 3\"; columns: {', '.join(frame)}"
    try:
        tree = ast.parse(where.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"--where {where!r} is no expression; {hint}") from error
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED):
            raise UsageError(f"--where {where!r}: {type(node).__name__.lower()} is not allowed; {hint}")
        if isinstance(node, ast.Name) and node.id not in frame:
            raise UsageError(f"--where {where!r}: {unknown('column', node.id, frame)}")
    try:
        rows = frame.eval(ast.unparse(_Missing().visit(tree)), engine="python")
        return frame[rows]
    except Exception as error:  # pandas raises whatever the comparison of a text and a number raises
        raise UsageError(f"--where {where!r}: {str(error).splitlines()[0]}; {hint}") from error


class _Missing(ast.NodeTransformer):
    """Write comparisons with None as pandas understands them: a missing value is not equal to itself."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        match node:
            case ast.Compare(ast.Name(), [ast.Eq() | ast.Is()], [ast.Constant(None)]):
                return ast.Compare(node.left, [ast.NotEq()], [node.left])
            case ast.Compare(ast.Name(), [ast.NotEq() | ast.IsNot()], [ast.Constant(None)]):
                return ast.Compare(node.left, [ast.Eq()], [node.left])
        return node


def choose_columns(frame: pd.DataFrame, names: str) -> pd.DataFrame:
    """Return the columns of a list separated by commas, in its order.

    Raises:
        UsageError: there is no such column.
    """
    columns = [name.strip() for name in names.split(",") if name.strip()]
    for name in columns:
        if name not in frame:
            raise unknown("column", name, frame)
    return frame[columns]


def frame_text(frame: pd.DataFrame, form: str) -> str:
    """Return a frame as csv, json (a list of objects) or a markdown table; a missing value is empty, in json null."""
    match form:
        case "csv":
            return _rounded(frame).to_csv(index=False, lineterminator="\n")
        case "json":
            return _rounded(frame).to_json(orient="records", indent=1, force_ascii=False, double_precision=15) + "\n"
        case _:
            return frame.map(_cell_text).to_markdown(index=False, disable_numparse=True) + "\n"


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose numbers have the digits that were measured, and no traces of binary fractions."""
    floats = frame.select_dtypes("float").columns
    return frame.assign(**{name: frame[name].map(lambda x: float(f"{x:.{DIGITS}g}")) for name in floats})


def _cell_text(value: object) -> str:
    """Return a value for readers: numbers with six digits, nothing for a missing one."""
    if pd.isna(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def frame_bytes(frame: pd.DataFrame, form: str) -> bytes:
    """Return the content of a file of one of `FORMATS`.

    Raises:
        UsageError: nothing here writes parquet.
    """
    if form != "parquet":
        return frame_text(frame, form).encode()
    try:
        return frame.to_parquet(engine="pyarrow", index=False)
    except ImportError as error:
        raise UsageError('parquet needs pyarrow: pip install "cakdbench[parquet]"') from error


def format_of(form: str | None, output: Path | None) -> str:
    """Return the format that is meant: the one named, else that of the file's ending, else csv.

    Raises:
        UsageError: unknown format, or parquet without a file.
    """
    if output and not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}")
    form = form or (output.suffix.removeprefix(".") if output else "csv")
    if form not in FORMATS:
        raise UsageError(f"--format {form!r}: choose from {', '.join(FORMATS)}")
    if form == "parquet" and output is None:
        raise UsageError("parquet is not for a terminal: name a file, --output runs.parquet")
    return form

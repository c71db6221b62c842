"""The printed accuracies as a pandas DataFrame."""

import pandas as pd

from cakdbench.published.ledger import PUBLISHED_DIR

COLUMNS = [
    *("method", "label", "pair", "teacher", "student", "dataset", "metric", "value", "gain", "printed"),
    *("source", "table", "protocol", "mode", "panel", "printed_as", "note"),
]
TABLE_CELL = ["source", "table", "pair", "metric"]
"""Methods that share one scratch student."""


def load_published() -> pd.DataFrame:
    """Return the accuracies that papers print, a row a number, in the order of the ledger.

    Columns:
        method, label (both its name; `teacher` and `scratch` are the models alone), teacher, student, pair, dataset: as
            in `load_results`.
        metric: top1 or top5. value: in percent; printed: the same with the digits of the source. gain: in points above
            the scratch student of the same table; NaN where none is printed.
        source, table: where it is printed. mode, panel: block and half of the table, if it has several. printed_as: the
            method's name there. note: what is uncertain.
        protocol: family of settings; values of different families are not comparable.
    """
    frame = pd.read_csv(PUBLISHED_DIR / "accuracy.csv", dtype="str", keep_default_na=False)
    frame = frame.rename(columns={"value": "printed"})
    frame["value"] = frame["printed"].astype(float)
    frame["label"] = frame["method"]
    frame["pair"] = frame["teacher"] + ">" + frame["student"] + "@" + frame["dataset"]
    scratch = frame[frame["method"] == "scratch"].set_index(TABLE_CELL)["value"].rename("scratch")
    frame["gain"] = frame["value"] - frame.join(scratch, on=TABLE_CELL)["scratch"]
    frame.loc[frame["method"].isin(["scratch", "teacher"]), "gain"] = None
    return frame[COLUMNS]

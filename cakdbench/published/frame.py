"""The printed accuracies as a pandas DataFrame."""

import pandas as pd

from cakdbench.published.ledger import accuracies

COLUMNS = ("method", "label", "pair", "teacher", "student", "dataset", "metric", "value", "gain", "printed")
COLUMNS += ("source", "table", "protocol", "mode", "panel", "printed_as", "note")
TABLE_CELL = ["source", "table", "pair", "metric"]
"""Methods that share one scratch student."""


def published_frame() -> pd.DataFrame:
    """Return a row for each printed accuracy, in the order of the ledger.

    The key columns are those of the frame of runs: `method`, `label`, `pair` (`TEACHER>STUDENT@DATASET`), `teacher`,
    `student` and `dataset`. The methods `scratch` and `teacher` are the two models without distillation.

    Columns:
        metric: `top1` or `top5`.
        value: percent; `printed` is the same with the digits of the source.
        gain: points above the scratch student of the same table; NaN where none is printed.
        source, table: key of `sources.toml`, name of the table there. mode, panel: block and half of it.
        protocol: family of settings; values of different families are not comparable.
        printed_as: the method's label in the source. note: what is uncertain.
    """
    frame = pd.DataFrame([row.model_dump() for row in accuracies()])
    frame = frame.rename(columns={"value": "printed"})
    frame["value"] = frame["printed"].astype(float)
    frame["label"] = frame["method"]
    frame["pair"] = frame["teacher"] + ">" + frame["student"] + "@" + frame["dataset"]
    scratch = frame[frame["method"] == "scratch"].set_index(TABLE_CELL)["value"].rename("scratch")
    frame["gain"] = frame["value"] - frame.join(scratch, on=TABLE_CELL)["scratch"]
    frame.loc[frame["method"].isin(["scratch", "teacher"]), "gain"] = None
    return frame[list(COLUMNS)]

"""The papers' numbers beside the cells that were measured."""

import pandas as pd

from cakdbench.published.ledger import accuracies


def printed_texts(cells: pd.DataFrame) -> pd.Series:
    """Return what papers print for each cell's method and pair, as in `80.54 tas, 80.5 fofa`; empty where nothing.

    Only numbers of the family of protocols that the pair's suite is of count: others are not comparable.
    """
    from cakdbench.grid.suites import suites

    families = {(str(spec.pair), suite.protocol) for suite in suites().values() for spec in suite.specs}
    texts: dict[tuple[str, str], list[str]] = {}
    for row in accuracies():
        pair = f"{row.teacher}>{row.student}@{row.dataset}"
        if row.metric == "top1" and (pair, row.protocol) in families:
            texts.setdefault((row.method, pair), []).append(f"{row.value} {row.source}")
    found = [", ".join(dict.fromkeys(texts.get(key, ()))) for key in zip(cells["method"], cells["pair"])]
    return pd.Series(found, index=cells.index, dtype="str")

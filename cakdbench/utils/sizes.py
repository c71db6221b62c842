"""Bytes for readers."""


def size_text(size: float) -> str:
    """Return bytes as readers have them: 52.1 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"

"""Texts of others: what must not reach a terminal, and names that no file may have."""

import re

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal or turn the direction of text; not the line feed and the tab."""
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def printable(text: str) -> str:
    """Return a text with a replacement character for every character that steers a terminal."""
    return CONTROL.sub("\ufffd", text)


def is_device(name: str) -> bool:
    """Return True for a name that means a device on Windows, whatever its ending, and cannot name a file there."""
    return _DEVICE.fullmatch(name) is not None

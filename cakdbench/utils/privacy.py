"""Keep what a result gives away to what it is about: no folders of the machine, which name their users."""

import re

_PATH = re.compile(r"(?<![\w.:/\\~-])(?:~\w*|\.{1,2}|[A-Za-z]:|file:)?[\\/]+(?:[^\\/]+[\\/])*(?=[^\\/])")


def without_folders(text: str) -> str:
    """Return a text in which paths, as `/home/me/x.pth` or `C:/Users/me/x.pth`, are names of files, `x.pth`.

    Addresses stay, without names and passwords.
    """
    return _PATH.sub("", re.sub(r"(?<=://)[^/@\s]+@", "", text))

"""What results give away of the machine they come from."""

import pytest

from cakdbench.utils.privacy import without_folders

FOLDERS = ["/home/me/", "/home/my own/", "C:\\Users\\me\\", "C:/Users/me/", "~/", "~me/", "../me/", "./me/", "file:///home/me/",
           "\\\\host\\me\\", "file:/me/"]  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("text", ["{}x.pth", "trained by {}x.toml", "{}x.pth (state_dict_ema)"])
def test_of_paths_the_names_are_left(folder, text):
    assert without_folders(text.format(folder)) == text.format("")


@pytest.mark.parametrize(
    "text", ["swin_t.ms_in1k", "trained by demo_teacher", "https://github.com/a/b/c.pth", "timm:folder/x", "x.pth"]
)
def test_what_is_no_path_stays(text):
    assert without_folders(text) == text


def test_addresses_lose_names_and_passwords():
    assert without_folders("https://me:secret@a.org/b/c.pth") == "https://a.org/b/c.pth"

"""Files and folders that commands write: what is refused before the work, and what a link or a device keeps."""

import os
import re

import pytest

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.outputs import check_output_folder, check_outputs, replaced_folder, written


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a device or a pipe"):
        check_outputs([tmp_path / "pipe"], overwrite=True)


def test_a_file_that_the_command_reads_is_never_replaced(tmp_path):
    source, link = tmp_path / "source.pth", tmp_path / "link.pth"
    source.write_text("weights")
    link.symlink_to(source)
    for output in (source, link):
        with pytest.raises(InputError, match="is a file that this command reads"):
            check_outputs([output], overwrite=True, inputs=[None, tmp_path / "missing", source])
    check_outputs([tmp_path / "new.pth"], overwrite=False, inputs=[source])


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "large disk").mkdir()
    link, file = tmp_path / "scores.json", tmp_path / "large disk" / "scores.json"
    link.symlink_to(file)
    with written(link) as partial:
        assert partial.parent == file.parent and partial.suffix == ".json"
        partial.write_text("{}")
    assert link.is_symlink() and file.read_text() == "{}"
    assert [path.name for path in file.parent.iterdir()] == ["scores.json"]


def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path):
    folder, link = tmp_path / "large disk", tmp_path / "routing"
    folder.mkdir()
    (folder / "old").touch()
    link.symlink_to(folder)
    with replaced_folder(link) as new:
        (new / "page").touch()
    assert link.is_symlink() and [path.name for path in folder.iterdir()] == ["page"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large disk", "routing"]


def test_the_current_folder_and_mounted_folders_are_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    for output in ("", "..", tmp_path / "a"):
        output = tmp_path / "a" / "b" / output
        with pytest.raises(InputError, match=f"{re.escape(str(output))} is .*name a new folder in it"):
            check_output_folder(output, ["b"], overwrite=True)
    check_output_folder(tmp_path / "c", [], overwrite=False)
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="is a mounted folder"):
        check_output_folder(tmp_path / "c", [], overwrite=False)

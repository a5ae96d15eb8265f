"""JSON files: one message where they cannot be used, whole or not there."""

from pathlib import Path

import pytest

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.evaluation.files import write_scores
from nnunetv2_xattnres.json_files import read_json, read_object, write_json


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\x00\x01", b"\xff\xfe", b"NULL"])
def test_what_is_not_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json cannot be read as JSON .*: plan again"):
        read_json(path, "plan again")


def test_another_type_is_named(tmp_path):
    write_json(tmp_path / "a.json", [1])
    assert read_json(tmp_path / "a.json") == [1] and read_object(tmp_path / "b.json") is None
    with pytest.raises(InputError, match="holds a list and not an object"):
        read_object(tmp_path / "a.json")


@pytest.mark.parametrize("write", [write_json, lambda path, content: write_scores(content, path)])
def test_a_file_that_somebody_reads_is_replaced_a_moment_later(tmp_path, monkeypatch, write):
    write(tmp_path / "a.json", {"a": 1})
    real, refused = Path.replace, []

    def busy(path, target):
        if len(refused) < 2:
            refused.append(target)
            raise PermissionError(13, "Access is denied", str(target))
        return real(path, target)

    monkeypatch.setattr(Path, "replace", busy)
    write(tmp_path / "a.json", {"a": 2})
    assert read_object(tmp_path / "a.json") == {"a": 2} and len(refused) == 2


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(InputError, match=r"a\.json cannot be written \(No space left\)"):
        write_json(tmp_path / "a.json", {"a": 2})
    monkeypatch.undo()
    assert read_object(tmp_path / "a.json") == {"a": 1} and len(list(tmp_path.iterdir())) == 1

import pytest

from nnunetv2_xattnres.dataset_conversion.splits import by_file, by_frame, by_sequence, cross_validation
from nnunetv2_xattnres.errors import InputError

NAMES = [f"clinicdb_{number:03d}" for number in range(1, 101)]


def test_by_frame():
    split = by_frame(NAMES, seed=3)
    assert (len(split.folds[0]["train"]), len(split.folds[0]["val"]), len(split.test)) == (80, 10, 10)
    assert by_frame(NAMES[::-1], seed=3) == split
    assert by_frame(NAMES, seed=4).test != split.test
    with pytest.raises(InputError, match="at least 3 frames"):
        by_frame(NAMES[:2], seed=0)


@pytest.mark.parametrize("seed", range(20))
def test_by_sequence_shares_none_and_comes_near_to_a_tenth(seed):
    sequence_of = {name: f"s{number // 5}" for number, name in enumerate(NAMES)}
    split = by_sequence(sequence_of, seed)
    parts = [split.folds[0]["train"], split.folds[0]["val"], split.test]
    assert [len(part) for part in parts] == [80, 10, 10]
    sequences = [{sequence_of[name] for name in part} for part in parts]
    assert not sequences[0] & sequences[1] and not sequences[0] & sequences[2] and not sequences[1] & sequences[2]


@pytest.mark.parametrize("count", [3, 4, 5])
def test_by_sequence_gives_each_part_one(count):
    split = by_sequence({name: str(number % count) for number, name in enumerate(NAMES)}, seed=0)
    assert split.folds[0]["train"] and split.folds[0]["val"] and split.test


def test_by_sequence_needs_three():
    with pytest.raises(InputError, match=r"at least 3 sequences, there are 2 in these 100 frames"):
        by_sequence({name: str(number % 2) for number, name in enumerate(NAMES)}, seed=0)


def test_by_file(tmp_path):
    (tmp_path / "train.txt").write_text("1\n2.png\nclinicdb_3\n\n")
    (tmp_path / "val.txt").write_text("  images/4.tif  \n")
    (tmp_path / "test.txt").write_text("CLINICDB_005.png\n006\n")
    split = by_file(NAMES, tmp_path / "train.txt", tmp_path / "val.txt", tmp_path / "test.txt")
    assert split.folds == [{"train": NAMES[:3], "val": [NAMES[3]]}]
    assert split.training == NAMES[:4]
    assert split.test == NAMES[4:6]
    assert split.notes == ["94 frames are in none of the lists and were left out"]


def test_by_file_reads_lists_that_were_written_on_windows(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf1\r\nimages\\2.png\r\n")
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbfC:\\data\\clinicdb_003.png\r\n")
    split = by_file(NAMES, tmp_path / "train.txt", tmp_path / "val.txt", None)
    assert split.folds == [{"train": NAMES[:2], "val": [NAMES[2]]}]


def test_by_file_lists_every_problem(tmp_path):
    (tmp_path / "train.txt").write_text("1\n1000\ncolondb_002\nseq3_2\n")
    (tmp_path / "val.txt").write_text("1\n")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError) as caught:
        by_file(NAMES, tmp_path / "train.txt", tmp_path / "val.txt", tmp_path / "empty.txt")
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "1000 is none of the frames",
        "colondb_002 is none of the frames",
        "seq3_2 is none of the frames",
        f"1 is listed already, in {tmp_path / 'train.txt'}",
        "lists nothing",
    ]
    with pytest.raises(InputError, match="cannot be read"):
        by_file(NAMES, tmp_path / "nowhere.txt", tmp_path / "val.txt", None)


def test_cross_validation():
    folds = cross_validation(NAMES[:18], 5, seed=0)
    assert len(folds) == 5
    assert sorted(name for fold in folds for name in fold["val"]) == NAMES[:18]
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == NAMES[:18]

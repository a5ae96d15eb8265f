import pytest
import torch

from nnunetv2_xattnres.errors import InputError
from nnunetv2_xattnres.trainers.checkpoints import usable_checkpoint


@pytest.fixture
def save(tmp_path):
    def write(name, epoch=3, size=None):
        file = tmp_path / f"checkpoint_{name}.pth"
        torch.save({"network_weights": {"a": torch.rand(100)}, "current_epoch": epoch}, file)
        if size is not None:
            file.write_bytes(file.read_bytes()[:size])
        return file

    return write


def test_a_checkpoint_that_can_be_read_is_used(save):
    lines = []
    latest, _ = save("latest"), save("best", size=10)
    assert usable_checkpoint(latest, lines.append) == latest
    assert lines == []


@pytest.mark.parametrize("size", [0, 10, 600])
def test_the_one_before_takes_the_place_of_a_latest_one_that_was_cut_off(save, size):
    lines = []
    latest, best = save("latest", size=size), save("best")
    assert usable_checkpoint(latest, lines.append) == best
    (line,) = lines
    assert str(latest) in line and "continues from checkpoint_best.pth" in line


def test_a_file_without_weights_is_damaged(save):
    latest, best = save("latest"), save("best")
    torch.save([1], latest)
    assert usable_checkpoint(latest, print) == best


def test_a_final_one_is_never_replaced_since_a_validation_would_not_notice(save):
    final, _ = save("final", size=10), save("best")
    with pytest.raises(InputError, match=r"checkpoint_final\.pth is damaged .*--c then continues from checkpoint_best"):
        usable_checkpoint(final, print)
    assert final.exists()


def test_without_another_one_the_message_says_that_the_training_starts_again(save):
    with pytest.raises(InputError, match="the training then starts again"):
        usable_checkpoint(save("latest", size=10), print)

"""What the stages listen to, noted while a network trains."""

import json

import pytest
import torch
from phantom_plans import make_plans

from nnunetv2_xattnres.architectures import PaperUNet
from nnunetv2_xattnres.trainers import nnUNetTrainer_XAttnRes, nnUNetTrainer_XAttnRes_Paper
from nnunetv2_xattnres.trainers.routing_log import FIGURE, JSON, RoutingLog


class Lines(list):
    """Stands for a logger of nnU-Net, and for its log."""

    def log(self, key, value, step):
        self.append((key, value, step))


@pytest.mark.parametrize(
    ("configuration", "epochs"),
    [({}, [0, 50, 100, 119]), ({"routing_log_every": 100}, [0, 100, 119]), ({"routing_log_every": 0}, [])],
)
def test_when_it_looks(tmp_path, configuration, epochs):
    log = RoutingLog(PaperUNet(1, 2), configuration, tmp_path, print, [])
    assert [epoch for epoch in range(120) if log.is_due(epoch, 119)] == epochs
    plain = RoutingLog(torch.nn.Conv2d(1, 1, 1), configuration, tmp_path, print, [])
    assert not any(plain.is_due(epoch, 119) for epoch in range(120))


def test_it_writes_means_entropy_and_queries(tmp_path):
    network, lines, other = PaperUNet(1, 2).eval(), Lines(), Lines()
    log = RoutingLog(network, {}, tmp_path, lines.append, [other])
    x = torch.rand(2, 1, 32, 48)
    log.note(x, 0)
    torch.nn.init.normal_(network.decoder.xattnres[3].query)
    log.note(x, 50)
    first, second = json.loads((tmp_path / JSON).read_text())
    assert (first["epoch"], second["epoch"]) == (0, 50)
    untrained, trained = (each["stages"]["decoder 4"] for each in (first, second))
    assert list(untrained["weights"].values()) == pytest.approx([1 / 9] * 9)
    assert untrained["entropy"] == pytest.approx(1) and untrained["query_norm"] == 0
    assert sum(trained["weights"].values()) == pytest.approx(1) and trained["entropy"] < 1
    assert trained["query_norm"] == pytest.approx(float(network.decoder.xattnres[3].query.detach().norm()))
    assert "100.0 % of uniform, on average over 8 stages" in lines[0]
    assert ("routing/decoder 4/query_norm", 0.0, 0) in other
    assert ("routing/decoder 4/current", pytest.approx(1 / 9), 0) in other
    assert "What the stages listen to" in (tmp_path / FIGURE).read_text()
    log.note(x, 50)  # a training that continues looks at an epoch again
    assert [each["epoch"] for each in json.loads((tmp_path / JSON).read_text())] == [0, 50]


def test_a_training_goes_on_without_it(tmp_path):
    lines = Lines()
    (tmp_path / JSON).write_text("[{")
    log = RoutingLog(PaperUNet(1, 2).eval(), {}, tmp_path, lines.append, [])
    log.note(torch.rand(1, 1, 32, 32), 1)
    assert "WARNING: the routing is not noted any more" in lines[-1] and not log.is_due(50, 60)
    assert (tmp_path / JSON).read_text() == "[{"  # and the damaged file is left to whoever can mend it


@pytest.mark.parametrize("trainer_class", [nnUNetTrainer_XAttnRes, nnUNetTrainer_XAttnRes_Paper])
def test_a_validation_epoch_notes_its_first_batch(tmp_path, monkeypatch, trainer_class):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    plans, dataset_json = make_plans(
        tmp_path, recipe={"batch_size": 2, "scales": [1.0]}, strides=[[1, 1]] * 3, routing={"query_init": "random"}
    )
    trainer = trainer_class(plans, "2d_both", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    trainer.get_dataloaders()
    _, loader = trainer.get_dataloaders()
    trainer.on_validation_epoch_start()
    batches = [next(loader), next(loader)]
    for batch in batches:
        trainer.validation_step(batch)
    folder = tmp_path / "results"
    (file,) = folder.rglob(JSON)
    (entry,) = json.loads(file.read_text())
    assert entry["epoch"] == 0 and len(entry["stages"]) == 8
    assert (file.parent / FIGURE).is_file() and file.parent.name == "fold_0"

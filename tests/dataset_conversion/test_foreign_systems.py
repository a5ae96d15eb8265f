"""Conversion and inspection on systems without the signals, system calls and file locks of POSIX (Windows)."""

import os

import dataset_phantoms as phantoms
from without_posix import WITHOUT, run


def test_every_data_set_is_converted_and_inspected(tmp_path):
    source = tmp_path / "source"
    commands = [
        ("convert", "clinicdb", phantoms.clinicdb(source / "clinicdb")),
        ("convert", "colondb", phantoms.colondb_original(source / "colondb")),
        ("convert", "isic2017", phantoms.isic2017(source / "isic")),
        ("convert", "synapse", phantoms.synapse(source / "synapse", (5, 6, 7, 9, 10, 1), size=(24, 20, 16))),
        ("convert", "clinicdb", source / "clinicdb", "--overwrite"),
        *(("inspect", number, "--sheet", tmp_path / f"{number}.png") for number in (501, 502, 503, 504)),
    ]
    words = [[str(word) for word in command] for command in commands]
    # no text is read or written in the system's encoding, which is another one on Windows
    code = f"{WITHOUT}\ntake_away()\nimport warnings\nfrom pathlib import Path\n"
    code += "warnings.filterwarnings('error', category=EncodingWarning, module='nnunetv2_xattnres')\n"
    code += "from nnunetv2_xattnres.cli import main\nfrom nnunetv2_xattnres.demo.phantom import write_dataset\n"
    code += f"write_dataset(Path({str(tmp_path / 'demo')!r}), training=3, test=1, size=32)\n"
    code += f"print([main(each) for each in {words!r}])"
    folders = {"nnUNet_raw": str(tmp_path / "raw"), "nnUNet_preprocessed": ""}
    done = run(code, env={**os.environ, **folders, "PYTHONWARNDEFAULTENCODING": "1"})
    assert done.stdout.splitlines()[-1:] == [str([0] * len(commands))], done.stdout + done.stderr
    assert len(list((tmp_path / "raw").glob("Dataset50?_*"))) == len(list(tmp_path.glob("50?.png"))) == 4

import numpy as np
from numba.core.caching import IndexDataCacheFile

from nnunetv2_xattnres.architectures.numba_compiled import compiled


def test_a_full_disk_stops_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))

    @compiled
    def twice(x):
        return 2 * x

    assert twice(np.float32(3)) == 6


def test_what_was_compiled_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))

    @compiled
    def thrice(x):
        return 3 * x

    assert thrice(np.float32(3)) == 9
    assert {path.suffix for path in tmp_path.rglob("*.nb?")} == {".nbc", ".nbi"}

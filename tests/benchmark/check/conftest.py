import os
from pathlib import Path

import pytest


@pytest.fixture
def functions(monkeypatch):
    """Lets processes import ``check_functions``."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))

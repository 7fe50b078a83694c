"""Settings that have to be made before a framework is imported, and the folder of goldens."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests share the machine with others, under `pytest -n` with each other; subprocesses inherit.
_THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
for _name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, _THREADS)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Neither the machine's speed nor chance decides whether a test passes.
settings.register_profile(
    "twin-zoo", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("twin-zoo")

GOLDENS = Path(__file__).parents[2] / "shared" / "goldens"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Recorded reference numbers; tests that need them are skipped where there are none."""
    if not GOLDENS.is_dir():
        pytest.skip(f"no recorded numbers at {GOLDENS}")
    return GOLDENS

"""A run that is killed again and again, during writes too, ends with the bits of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_worker
import pytest
from test_training import assert_same_bits

import jax_mmf as mmf

KILLS = int(os.environ.get("JAX_MMF_KILLS", "10"))  # of each solver


@pytest.mark.slow
@pytest.mark.parametrize("name", killed_worker.SOLVERS)
def test_a_run_that_is_killed_at_random_moments_is_the_undisturbed_one(name, tmp_path):
    moments, starts = random.Random(0), []
    command = [sys.executable, str(Path(__file__).with_name("killed_worker.py")), name, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, **pipes) as server:
        line = lambda: server.stdout.readline().split()
        for kill in range(KILLS + 1):
            server.stdin.write("\n")
            (child,) = line()
            word, number = line()
            if word == "step":  # else the run is over
                starts.append(int(number))
                if kill < KILLS:
                    time.sleep(moments.uniform(0, 0.2))
                    os.kill(int(child), signal.SIGKILL)
                word, number = line()
            assert word == "status"
            assert int(number) in (0, signal.SIGKILL), f"process {kill} failed"
        server.stdin.close()
    assert len(starts) > KILLS / 2  # else most of them met a run that was over
    assert starts == sorted(starts)
    assert starts[-1] > starts[0]
    found, want = mmf.load_checkpoint(tmp_path / "result.h5"), killed_worker.run(name)
    assert_same_bits(found.state, want.state)
    assert_same_bits(found.memory, want.memory)
    assert_same_bits(found.best.state, want.best.state)
    without_clock = lambda history: [r._replace(seconds=0.0) for r in history]
    assert without_clock(found.history) == without_clock(want.history)
    left = [path.name for path in (tmp_path / "run").iterdir()]
    assert all(file.startswith("step_") and file.endswith((".h5", ".old")) for file in left), left
    print(f"{name}: {len(starts)} starts at steps {starts}")

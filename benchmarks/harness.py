"""Races between contestants, each in a separate process.

A contestant is a factory, ``"module:function"``, and its arguments. The factory loads and prepares the data in the
worker, untimed, and returns ``run``, or ``(run, finish)``: ``run()`` is timed, ``finish(result of run)`` is not. The
final result is a dict. Its NumPy arrays go to the parent as files, the rest as JSON. A ``scale`` in it multiplies the
seconds, for contestants that solve only a part of a problem.

All contestants stay alive during a race and take turns, so that changes of the machine's speed affect them equally.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "JAX_MMF_BENCHMARK_DEVICE"  # what JAX contestants run on
SETUP_LIMIT = 600.0
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # set for old builds on some machines; they slow current ones
_CORE_TYPES = {"avx512dq": "SkylakeX", "avx2": "Haswell"}  # OpenBLAS kernels by what the processor must have

Summary = dict[str, float]
Evaluate = Callable[[str, dict[str, np.ndarray]], dict[str, Any]]


def on_accelerator() -> bool:
    """Whether JAX contestants run on something else than the CPU: problems are larger there, and peers fewer."""
    return os.environ.get(DEVICE, "cpu") != "cpu"


def openblas_core_type() -> dict[str, str]:
    """For packages with an old OpenBLAS, SPAMS among them: it takes processors younger than itself for ancient ones."""
    info = Path("/proc/cpuinfo")
    flags = next((s for s in info.read_text().splitlines() if s.startswith("flags")), "") if info.exists() else ""
    found = [core for flag, core in _CORE_TYPES.items() if flag in flags.split()]
    return {"OPENBLAS_CORETYPE": found[0]} if found else {}


def environment(threads: int, jax: bool, platform: str | None = None) -> dict[str, str]:
    """Variables that a worker starts with; the platform is that of JAX, by default of the command."""
    count = str(threads)
    blas = "1" if jax else count  # JAX's small linear algebra runs on an OpenBLAS whose threads fight with XLA's
    return {
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": blas,
        "MKL_NUM_THREADS": count,
        "NUMBA_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "passive",
        "JAX_PLATFORMS": platform or os.environ.get(DEVICE, "cpu"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several contestants share an accelerator
    }


class Contestant:
    """A factory in a process of its own.

    Args:
      name: in the report; of one race, all differ.
      factory: ``"module:function"``.
      threads: cores it may use, and size of its thread pools.
      jax: whether it computes with JAX; by default, whether the name of the function begins so.
      old_openblas: whether it needs `openblas_core_type`; by default, whether the name of the function begins with
        spams or published.
      python: interpreter of the process, by default this one.
      platform: what JAX computes on; by default the device of the command.
      **arguments: of the factory; JSON, paths of arrays among them.
    """

    def __init__(
        self, name: str, factory: str, threads: int, *, jax: bool | None = None, old_openblas: bool | None = None,
        python: str = sys.executable, platform: str | None = None, **arguments: Any,
    ) -> None:  # fmt: skip
        self.python = python
        self.name, self.factory, self.threads, self.arguments = name, factory, threads, arguments
        function = factory.partition(":")[2]
        old = function.startswith(("spams", "published")) if old_openblas is None else old_openblas
        self._environment = environment(threads, function.startswith("jax") if jax is None else jax, platform)
        self._environment |= openblas_core_type() if old else {}
        self.error: str | None = None
        self.info: dict[str, Any] = {}
        self.replies: list[dict[str, Any]] = []
        self._process: subprocess.Popen[str] | None = None

    def start(self, folder: Path) -> None:
        """Start the process; it prepares itself while others do. ``folder`` takes its arrays."""
        folder.mkdir()
        inherited = {name: value for name, value in os.environ.items() if name not in _UNSET}
        with (folder / "stderr").open("w") as stderr:
            self._process = subprocess.Popen(
                [self.python, "-m", "benchmarks.worker"],
                cwd=ROOT,
                env=inherited | self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # so that processes it starts end with it
            )
        self._stderr = folder / "stderr"
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_pump, args=(self._process.stdout, self._lines), daemon=True).start()
        arguments = {name: str(v) if isinstance(v, Path) else v for name, v in self.arguments.items()}
        self._send(factory=self.factory, threads=self.threads, folder=str(folder), arguments=arguments)

    def wait_until_ready(self, limit: float = SETUP_LIMIT) -> None:
        self.info = self._receive(limit, "while preparing") or {}

    def run(self, min_seconds: float, limit: float) -> None:
        """One turn: runs for at least ``min_seconds`` in all, whose median counts. Nothing after a failure."""
        if self.error is None:
            self._send(min_seconds=min_seconds)
            reply = self._receive(limit, "in a run")
            if reply is not None:
                self.replies.append(reply)

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _send(self, **message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the end of the process is noticed where its reply is missing
            self._process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def _receive(self, limit: float, when: str) -> dict[str, Any] | None:
        try:
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            return self._fail(f"over the limit of {limit:g} s {when}")
        if not line:
            written = self._stderr.read_text().strip().splitlines()
            return self._fail(f"the process ended {when}: {written[-1] if written else 'it said nothing'}")
        reply = json.loads(line)
        return self._fail(reply["error"]) if "error" in reply else reply

    def _fail(self, error: str) -> None:
        self.error = error
        self.close()


def _pump(stream: Any, lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def summary(values: Sequence[float]) -> Summary:
    """Median and spread."""
    low, q1, median, q3, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return {"median": median, "min": low, "q1": q1, "q3": q3, "max": high, "n": len(values)}


def race(
    contestants: Sequence[Contestant],
    repeats: int,
    *,
    reference: str | None = None,
    evaluate: Evaluate | None = None,
    min_seconds: float = 0.0,
    limit: float = 120.0,
) -> list[dict[str, Any]]:
    """Run all contestants in turns: one first run each, then A B C A B C ...

    Args:
      contestants: not started yet.
      repeats: turns after the first run.
      reference: name of the contestant that the others are compared to; by default the first.
      evaluate: given a name and the arrays of its last run, what else the outcome should hold; called outside of the
        timed part, when all contestants have ended.
      min_seconds: of a turn; a short run is repeated for so long, and the median counts.
      limit: seconds that a turn may take.

    Returns:
      an outcome per contestant: name, threads, seconds and ratio to the reference (each a `summary`; the ratio is taken
      repeat by repeat), first_seconds, peak_rss_bytes, result, and what evaluate gave; or name, threads and error.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        for number, contestant in enumerate(contestants):
            stack.callback(contestant.close)
            contestant.start(Path(name) / str(number))
        for contestant in contestants:
            contestant.wait_until_ready()
        for turn in range(1 + repeats):
            for contestant in contestants:
                contestant.run(min_seconds if turn else 0.0, limit)
        for contestant in contestants:
            contestant.close()
        compared = next(c for c in contestants if reference is None or c.name == reference)
        return [_outcome(contestant, compared, evaluate) for contestant in contestants]


def _seconds(replies: Sequence[dict[str, Any]]) -> list[float]:
    return [reply["seconds"] * reply["result"].get("scale", 1.0) for reply in replies]


def _outcome(contestant: Contestant, reference: Contestant, evaluate: Evaluate | None) -> dict[str, Any]:
    outcome: dict[str, Any] = {"name": contestant.name, "threads": contestant.threads}
    if contestant.error is not None:
        return outcome | {"error": contestant.error}
    first, *turns = contestant.replies
    seconds = _seconds(turns)
    outcome |= {"first_seconds": first["seconds"], "result": first["result"], **contestant.info}
    outcome["peak_rss_bytes"] = max(reply["peak_rss_bytes"] for reply in contestant.replies)
    if turns:
        outcome |= {"seconds": summary(seconds), "result": turns[-1]["result"]}
    if turns and reference.error is None:
        outcome["ratio"] = summary([s / r for s, r in zip(seconds, _seconds(reference.replies[1:]), strict=True)])
    if evaluate is not None:
        arrays = {name: np.load(path) for name, path in contestant.replies[-1]["arrays"].items()}
        outcome |= evaluate(contestant.name, arrays)
    return outcome

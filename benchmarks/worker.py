"""One contestant in a separate process: ``python -m benchmarks.worker``, started by `benchmarks.harness`.

Parent and worker exchange lines of JSON. The first line from the parent names the factory, its arguments and the limits
on threads; each later line requests a run. Output printed by a library goes to standard error.
"""

import contextlib
import importlib
import json
import os
import pathlib
import sys
import time
import traceback


def _limit_cores(threads: int) -> None:
    available = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else list(range(os.cpu_count() or 1))
    )
    if threads > len(available):
        raise ValueError(f"{threads} threads asked for, and only {len(available)} cores are available")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, available[:threads])


def _timed(run, min_seconds: float):
    """Median seconds of runs one after another, and what the last returned."""
    seconds: list[float] = []
    while True:
        start = time.perf_counter()
        out = run()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) >= min_seconds:
            return sorted(seconds)[len(seconds) // 2], len(seconds), out


def _peak_rss() -> int:
    import resource

    with contextlib.suppress(OSError):  # Linux; there, getrusage starts from the peak of the parent
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _kernels() -> dict:
    """Which BLAS kernels and which accelerator do the work."""
    from threadpoolctl import threadpool_info

    found = {f"{i['prefix']} {i['version']} {i['architecture']}" for i in threadpool_info() if "architecture" in i}
    jax = sys.modules.get("jax")
    device = {} if jax is None else {"device": jax.devices()[0].device_kind}
    return {"kernels": sorted(found), **device}


def _save(arrays: dict, folder: str) -> dict[str, str]:
    import numpy as np

    paths = {}
    for name, array in arrays.items():
        aside, path = (os.path.join(folder, name + suffix) for suffix in (".partial.npy", ".npy"))  # noqa: PTH118
        np.save(aside, array)
        os.replace(aside, path)  # noqa: PTH105
        paths[name] = path
    return paths


def _reply_to_run(run, finish, request: dict, folder: str) -> dict:
    import numpy as np

    seconds, n_runs, out = _timed(run, request["min_seconds"])
    peak = _peak_rss()
    out = out if finish is None else finish(out)
    arrays = {name: value for name, value in out.items() if isinstance(value, np.ndarray)}
    result = {name: value for name, value in out.items() if name not in arrays}
    return {
        "seconds": seconds,
        "n_runs": n_runs,
        "peak_rss_bytes": peak,
        "result": result,
        "arrays": _save(arrays, folder),
    }


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not disturb the channel

    def send(message: dict) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        setup = json.loads(sys.stdin.readline())
        _limit_cores(setup["threads"])  # before the imports: thread pools are sized by it
        module, _, function = setup["factory"].partition(":")
        made = getattr(importlib.import_module(module), function)(**setup["arguments"])
        run, finish = made if isinstance(made, tuple) else (made, None)
        send({"setup_rss_bytes": _peak_rss(), **_kernels()})
        for line in sys.stdin:
            send(_reply_to_run(run, finish, json.loads(line), setup["folder"]))
    except Exception as error:  # noqa: BLE001  whatever it is, the report names it
        traceback.print_exc()
        send({"error": f"{type(error).__name__}: {error}".splitlines()[0]})


if __name__ == "__main__":
    main()

"""Run the scripts in examples/, and write the pictures and the printed texts of the gallery.

python docs/tools/run_examples.py [--quick] [NAME ...]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs/_static/examples"


def run(name, quick):
    """Run one example, and return how long it took."""
    start = time.perf_counter()
    command = [sys.executable, ROOT / "examples" / f"{name}.py", "--figure", RESULTS / f"{name}.png"]
    printed = subprocess.run([*command, *["--quick"] * quick], check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [line.rstrip() for line in printed.splitlines()]
    (RESULTS / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="names of examples; all without")
    parser.add_argument("--quick", action="store_true", help="smaller runs")
    arguments = parser.parse_args()
    for example in arguments.names or sorted(path.stem for path in (ROOT / "examples").glob("*.py")):
        print(f"{example}: {run(example, arguments.quick):.0f} s", flush=True)

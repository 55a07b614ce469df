"""CPU seconds until a command answers, beside those of the bare interpreter: python benchmarks/startup.py"""

import argparse
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from machine import describe

SCRIPT = Path(sys.executable).with_name("splat2d")  # as installed; without it, the module
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "splat2d"]
COMMANDS = {
    "splat2d fit --help": [*COMMAND, "fit", "--help"],
    "python -c 'import splat2d'": [sys.executable, "-c", "import splat2d"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    print(describe(1), end="\n\n")
    print("| command | least CPU s | median CPU s |")
    print("|---|---|---|")
    for command in COMMANDS.values():
        cpu_seconds(command)  # the first run reads the files from disk
    seconds = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            seconds[name].append(cpu_seconds(command))
    for name, values in seconds.items():
        print(f"| `{name}` | {min(values):.3f} | {statistics.median(values):.3f} |")


def cpu_seconds(command: list[str]) -> float:
    """User and system time of the command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

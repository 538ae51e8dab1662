"""Run one command and write down what it cost: run as a script of its own, ``python -I -S launcher.py FD COMMAND …``.

It is a process of its own because Linux counts the memory of the process that starts a command as the command's own:
started from the harness, which has data in memory, ``cp`` would look as big as the harness. This one imports next to
nothing, and reports its own size so that a reader knows below which figure nothing can be told.
"""

import json
import os
import resource
import sys
import time

#: What ru_maxrss counts in: bytes on macOS, KiB elsewhere.
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Run the command, wait for it and write a JSON object to the descriptor."""
    report, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(report, False)
    began = time.perf_counter()
    try:
        pid = os.posix_spawnp(command[0], command, os.environ)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)
    _, status, usage = os.wait4(pid, 0)
    elapsed = time.perf_counter() - began
    figures = {
        "exit_status": -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status),
        "wall_seconds": elapsed,
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * MAXRSS_UNIT,
        "floor_bytes": own_peak_bytes(),
    }
    with open(report, "w", encoding="ascii") as stream:
        json.dump(figures, stream)


def own_peak_bytes() -> int:
    """Return the most memory that this program, and not the one that started it, has had resident."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


if __name__ == "__main__":
    main()

"""Runs a command that cannot outlive the process that started it: `python -I -S leash.py PARENT_PID COMMAND ...`.

Linux kills the command when its parent dies, however that happens (prctl, PR_SET_PDEATHSIG). It does not cover processes that the
command starts in its turn, and elsewhere than on Linux it only runs the command. Standard library only: it costs about 15 ms.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent_pid: int, command: list[str]) -> None:
    """Never returns: this process becomes the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:  # it died before the line above took hold
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the supervisor's own commands


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

"""Run a command so that it dies with whoever started it: `launch.py PARENT SIGNAL UID GID COMMAND...`.

Executed as a script by `process.py`, before the server itself. The kernel's parent-death signal has to be
asked for by the child, and a change of user clears it: so the order is user, signal, check, exec. UID -1
keeps the user. Only the standard library, and no import that costs start-up time.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, signal_number: int, uid: int, gid: int, command: list[str]) -> None:
    """Become `command`; returns only by raising OSError.

    Errors: exits 1 when the parent is gone already, since nobody would ever stop the command.
    """
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise SystemExit(1)
    os.execvpe(command[0], command, os.environ)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])

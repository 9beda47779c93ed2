"""Identify this process, and tell whether another has ended: claims of a dead process are free immediately."""

import os
import platform
from functools import cache
from pathlib import Path

from sfumato.runs.stores.store import Owner

PROC = Path("/proc")


def this_process(part: str = "") -> Owner:
    """This process as an owner, distinct from all processes of other machines and times; `part` distinguishes owners
    within it."""
    return Owner(machine(), os.getpid(), f"{_start_time(os.getpid()) or '?'} {part}".strip())


def has_ended(owner: Owner) -> bool:
    """Whether the process has certainly ended; `False` for a process of another machine."""
    if owner.machine != machine() or owner.process <= 0 or os.name != "posix":
        return False
    start = _start_time(owner.process)
    if start is not None:
        return start != owner.started.split(" ")[0]
    try:
        os.kill(owner.process, 0)  # signal 0 does nothing to a process that lives
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@cache
def machine() -> str:
    """The identity of this machine since its last boot, or of this container: where a process number means one process."""
    parts = [platform.node()]
    try:
        parts.append((PROC / "sys/kernel/random/boot_id").read_text().strip())
        parts.append(str((PROC / "self/ns/pid").readlink()))
    except OSError:
        pass  # not Linux: the name must do
    return " ".join(parts)


def _start_time(process: int) -> str | None:
    """When a process started, in ticks since its machine did; empty for a zombie. `None` if it is not known: there is no such
    process, it is hidden, or the system does not tell."""
    try:
        fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return "" if fields[0] in "ZX" else fields[19]

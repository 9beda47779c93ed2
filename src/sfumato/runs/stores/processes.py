"""Which process this is, and whether another one lives: so that what a dead one had claimed is free at once."""

import os
import platform
from functools import cache
from pathlib import Path

from sfumato.runs.stores.store import Owner

PROC = Path("/proc")


def present(part: str = "") -> Owner:
    """This process, told from all others, of other machines and of other times too; `part` tells several owners in it apart."""
    return Owner(machine(), os.getpid(), f"{_started(os.getpid()) or '?'} {part}".strip())


def gone(owner: Owner) -> bool:
    """Whether it is certain that the process is no more; of another machine's, nothing is."""
    if owner.machine != machine() or owner.process <= 0 or os.name != "posix":
        return False
    started = _started(owner.process)
    if started is not None:
        return started != owner.started.split(" ")[0]
    try:
        os.kill(owner.process, 0)  # signal 0 does nothing to a process that lives
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@cache
def machine() -> str:
    """This machine since it was last started, or this container: what sees the same processes by the same numbers."""
    parts = [platform.node()]
    try:
        parts.append((PROC / "sys/kernel/random/boot_id").read_text().strip())
        parts.append(str((PROC / "self/ns/pid").readlink()))
    except OSError:
        pass  # not Linux: the name must do
    return " ".join(parts)


def _started(process: int) -> str | None:
    """When a process was started, in ticks since its machine was; empty for one that is dead and not yet buried; `None`
    where nothing can be known: no such process, one that is hidden, or a system that does not tell."""
    try:
        fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return "" if fields[0] in "ZX" else fields[19]

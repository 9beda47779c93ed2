"""Whose fault an error is: the item's, which fails and is tried no more, or the machine's, which leaves the item open."""

import errno
import re
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

IN_A_ROW = 5
"""Pictures at which the machine fails in the same way, one after the other and with nothing measured between, before a run
stops. One large picture, or a few of the same source, may be too much for a machine that is sound."""


@dataclass(frozen=True)
class Kind:
    """One way in which a machine fails."""

    name: str
    remedy: str
    types: tuple[type[BaseException], ...] = ()
    """Errors that are always of this kind."""
    numbers: frozenset[int] = frozenset()
    """The `errno` of an `OSError` of this kind."""
    words: str = ""
    """A pattern in the message of an error of one of the types `SPOKEN`."""


SPOKEN = (RuntimeError, OSError, sqlite3.Error)
"""Errors whose words count, as they have no type or number of their own. What a `ValueError` says is about its item."""

LOST = (
    r"CUDA error|HIP error|device-side assert|CUDA driver|NVIDIA driver|No CUDA GPUs|NCCL error|cu(dnn|blas|solver|fft) error"
    r"|CU(DNN|BLAS|SOLVER|FFT)_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR|EXECUTION_FAILED|MAPPING_ERROR)"
)

KINDS = (
    Kind(
        "out of memory",
        "take a smaller batch, fewer workers or a machine with more memory",
        (MemoryError, torch.OutOfMemoryError),
        frozenset({errno.ENOMEM}),
        r"out of memory|not enough memory|can(no|')t allocate memory|bad_alloc|bad allocation|_STATUS_ALLOC_FAILED",
    ),
    Kind(
        "the accelerator failed",
        "look at the device and its driver, and whether a target is beyond the model's outputs",
        (torch.AcceleratorError,),
        words=LOST,
    ),
    Kind(
        "the disk is full",
        "make room",
        numbers=frozenset({errno.ENOSPC, errno.EDQUOT}),
        words=r"no space left on device|disk quota exceeded|disk is full",
    ),
    Kind(
        "too many open files",
        "allow more with: ulimit -n 65536, or take fewer workers",
        numbers=frozenset({errno.EMFILE, errno.ENFILE}),
        words=r"too many open files|received 0 items of ancdata",
    ),
    Kind(
        "shared memory is used up",
        "give the machine or container more of it (/dev/shm), or take fewer loading processes",
        words=r"(unable|fail\w*|cannot|could not) .*shared memory|(out of|insufficient) shared memory|</torch_"
        r"|DataLoader worker .*(bus error|killed)",
    ),
    Kind(
        "no more processes",
        "allow more with: ulimit -u, or take fewer workers",
        numbers=frozenset({errno.EAGAIN}),
        words=r"can't start new thread|resource temporarily unavailable",
    ),
    Kind(
        "the disk or its network failed",
        "see that the folders of the run and of the data can be read and written",
        numbers=frozenset(
            getattr(errno, name)
            for name in (
                "EIO",
                "ESTALE",
                "EREMOTEIO",
                "ENODEV",
                "ENXIO",
                "ENOTCONN",
                "EROFS",
                "ENETDOWN",
                "ENETUNREACH",
            )
            if hasattr(errno, name)
        ),
        words=r"input/output error|stale file handle",
    ),
)

KILLED = Kind("a worker was killed", "take fewer workers or a smaller batch, as memory may be wanting")
"""Of a process that something else ended: the system for want of memory, or a person."""


@dataclass(frozen=True)
class Fault:
    """What failed that is no item's fault."""

    kind: Kind
    about: str
    """The error's type and words."""
    lost: bool = False
    """Whether the process cannot use its device any more, so that another must go on."""


@dataclass(frozen=True)
class OpenItems:
    """Items of one picture that are left open, so that the same command tries them again."""

    items: tuple[Any, ...]
    picture: str
    where: str
    """The method or protocol that was at it, and the model."""
    fault: Fault


class LostDeviceError(RuntimeError):
    """This process cannot use its device any more."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(
            f"{fault.kind.name} ({fault.about}) and this process cannot use it any more; start another one"
        )
        self.fault = fault

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fault,)


def machine_fault(error: BaseException) -> Fault | None:
    """What is wrong with the machine where an error, or one that it came from, says so; `None` for the item's own fault.

    >>> machine_fault(OSError(errno.ENOSPC, "No space left on device")).kind.name
    'the disk is full'
    >>> machine_fault(FileNotFoundError(errno.ENOENT, "No such file")) is None
    True
    """
    for cause in _causes(error):
        for kind in KINDS:
            if _of(cause, kind):
                return Fault(kind, said(cause), _loses(cause))
    return None


def said(error: BaseException) -> str:
    """An error's words on one line, with its type unless it is a `ValueError`, whose words are for people."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _of(error: BaseException, kind: Kind) -> bool:
    if isinstance(error, OSError) and error.errno in kind.numbers:
        return True
    spoken = kind.words and isinstance(error, SPOKEN) and re.search(kind.words, str(error), re.IGNORECASE)
    return isinstance(error, kind.types) or bool(spoken)


def _loses(error: BaseException) -> bool:
    """Whether the device's context is lost, as it is after each error that is not about memory; torch calls some of those about
    memory `AcceleratorError` too."""
    return isinstance(error, torch.AcceleratorError) or bool(
        isinstance(error, RuntimeError)
        and not isinstance(error, torch.OutOfMemoryError)
        and re.search(LOST, str(error), re.IGNORECASE)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    rest, seen = [error], set()
    while rest:
        each = rest.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            rest += each.exceptions
        before = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        if before is not None:
            rest.append(before)


@dataclass(eq=False)
class Troubles:
    """What the machine's faults have left open, and whether there are so many that a run should stop."""

    left: dict[Any, Fault] = field(default_factory=dict)
    """By item."""
    _counts: dict[Kind, tuple[int, Fault]] = field(default_factory=dict)
    """How many items each kind has left open, and its last fault."""
    _kind: Kind | None = None
    _row: dict[str, OpenItems] = field(default_factory=dict)
    """The pictures at which the machine failed in the same way since something was measured."""

    def note(self, left: Collection[OpenItems], *, measured: bool) -> None:
        """Take in what was left open beside what was done, of which something was `measured` or nothing."""
        if measured:
            self._row.clear()
        for each in left:
            new = [item for item in each.items if item not in self.left]
            self.left |= dict.fromkeys(new, each.fault)
            self._counts[each.fault.kind] = (self._counts.get(each.fault.kind, (0,))[0] + len(new), each.fault)
            self.count(each)

    def count(self, each: OpenItems) -> None:
        """Take in a fault that has left nothing open yet."""
        if each.fault.kind != self._kind:
            self._kind = each.fault.kind
            self._row.clear()
        self._row[each.picture] = each

    @property
    def reason(self) -> str:
        """Why the run should stop; empty where it should go on."""
        if len(self._row) < IN_A_ROW:
            return ""
        last = list(self._row.values())[-1]
        return (
            f"{last.fault.kind.name} at {len(self._row)} pictures one after the other, the last time at {last.picture!r} in "
            f"{last.where}: {last.fault.about}; these items are left open: {last.fault.kind.remedy}"
        )

    def summary(self) -> str:
        """How many items are left open, and why; empty where none are."""
        causes = [
            f"{count} because {kind.name} ({fault.about}): {kind.remedy}"
            for kind, (count, fault) in self._counts.items()
        ]
        return f"{len(self.left)} items were left open, {'; '.join(causes)}" if causes else ""

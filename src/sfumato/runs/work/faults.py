"""Whether an error is the fault of its item, which then has failed, or of the machine, which leaves the item open."""

import errno
import re
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

IN_A_ROW = 5
"""A run stops after the machine has failed in the same way at this many pictures in a row, with nothing measured between. One
large picture, or a few from one source, may be too much for a machine that works."""


LONGEST = 2000
"""The most characters of a message that a row keeps: it may hold a whole tensor, at each of a million pictures."""


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
"""Errors that are recognised by their messages, as they have no type or number of their own. A `ValueError` is about
its item."""

LOST = (
    # NVIDIA, and AMD, whose libraries are named after NVIDIA's. Some statuses are about a call that the model makes.
    r"(CUDA|HIP|cudnn|cublas|cusolver|cusparse|cufft|miopen|hipblas|rocblas|nccl|nvrtc)( unknown)? error"
    r"(?!.*_STATUS_(NOT_SUPPORTED|BAD_PARAM))"
    r"|device-side assert|CUDA driver|NVIDIA driver|No (CUDA|HIP) GPUs|cudaGetDeviceCount|miopenStatus(Unknown|Internal)Error"
    r"|(CU|HIP|ROC)(DNN|BLAS|SOLVER|SPARSE|FFT)_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR|EXECUTION_FAILED|MAPPING_ERROR)"
    # Intel
    r"|DEVICE_LOST|(level_zero|opencl) backend failed|Native API (failed|returns)"
    # Apple
    r"|command buffer exited with error|CommandBuffer(Callback)?Error"
)
"""What RuntimeErrors say of an accelerator that fails. torch has classes for some of these errors, and not on all backends."""

KINDS = (
    Kind(
        "out of memory",
        "take a smaller batch, fewer workers or a machine with more memory",
        (MemoryError, torch.OutOfMemoryError),
        frozenset({errno.ENOMEM}),
        r"out of memory|not enough memory|can(no|')t allocate memory|bad_alloc|bad allocation|_STATUS_ALLOC_FAILED"
        r"|ERROR_OUT_OF_((DEVICE|HOST)_)?(MEMORY|RESOURCES)|insufficient memory|CallbackErrorOutOfMemory",
    ),
    Kind(
        "the accelerator failed",
        "look at the device and its driver, and whether a target is beyond the model's outputs",
        (torch.AcceleratorError, torch.cuda.CudaError, torch.cuda.DeferredCudaCallError),
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
"""The kind of a process that something outside ended: the system, for want of memory, or a person."""


@dataclass(frozen=True)
class Fault:
    """A fault of the machine."""

    kind: Kind
    about: str
    """The error's type and message."""
    lost: bool = False
    """Whether the process cannot use its device any more, so that another must go on."""


@dataclass(frozen=True)
class OpenItems:
    """Items of one picture that are left open: the same command tries them again."""

    items: tuple[Any, ...]
    picture: str
    where: str
    """The method or protocol that failed, and the model."""
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
    """The fault of the machine that an error, or one of its causes, tells of; `None` for a fault of the item.

    >>> machine_fault(OSError(errno.ENOSPC, "No space left on device")).kind.name
    'the disk is full'
    >>> machine_fault(FileNotFoundError(errno.ENOENT, "No such file")) is None
    True
    """
    for cause in _causes(error):
        for kind in KINDS:
            if _of(cause, kind):
                return Fault(kind, describe_error(cause), _loses(cause))
    return None


def describe_error(error: BaseException) -> str:
    """An error's message on one line, with its type. A `ValueError` stands without its type, as its message is written
    for users."""
    text = " ".join(message_of(error).split())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 1]}…"
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def message_of(error: BaseException) -> str:
    """An error's message. A class of anyone's own may fail to say it."""
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001  # whatever it is
        return f"(its message cannot be read: {type(failure).__name__})"


def _of(error: BaseException, kind: Kind) -> bool:
    if isinstance(error, OSError) and error.errno in kind.numbers:
        return True
    spoken = kind.words and isinstance(error, SPOKEN) and re.search(kind.words, message_of(error), re.IGNORECASE)
    return isinstance(error, kind.types) or bool(spoken)


def _loses(error: BaseException) -> bool:
    """Whether the context of the device is lost, as after each error that is not about memory. Some errors about memory are
    `AcceleratorError` in torch too."""
    if isinstance(error, torch.cuda.CudaError):
        return not _of(error, KINDS[0])
    return isinstance(error, torch.AcceleratorError | torch.cuda.DeferredCudaCallError) or bool(
        isinstance(error, RuntimeError)
        and not isinstance(error, torch.OutOfMemoryError)
        and re.search(LOST, message_of(error), re.IGNORECASE)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes."""
    rest, ids = [error], set()
    while rest:
        cause = rest.pop(0)
        if id(cause) in ids:
            continue
        ids.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            rest += cause.exceptions
        before = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        if before is not None:
            rest.append(before)


@dataclass(eq=False)
class Troubles:
    """The items that faults of the machine have left open, and whether a run should stop because of them."""

    left: dict[Any, Fault] = field(default_factory=dict)
    """The items that are left open, with their faults."""
    _counts: dict[Kind, tuple[int, Fault]] = field(default_factory=dict)
    """How many items each kind has left open, and its last fault."""
    _kind: Kind | None = None
    _row: dict[str, OpenItems] = field(default_factory=dict)
    """The pictures at which the machine failed in the same way since something was measured."""

    def note(self, left: Collection[OpenItems], *, measured: bool) -> None:
        """Add items that were left open. `measured` says whether other items were measured at the same time."""
        if measured:
            self._row.clear()
        for group in left:
            new = [item for item in group.items if item not in self.left]
            self.left |= dict.fromkeys(new, group.fault)
            self._counts[group.fault.kind] = (self._counts.get(group.fault.kind, (0,))[0] + len(new), group.fault)
            self.count(group)

    def count(self, group: OpenItems) -> None:
        """Count a fault that has left nothing open yet."""
        if group.fault.kind != self._kind:
            self._kind = group.fault.kind
            self._row.clear()
        self._row[group.picture] = group

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

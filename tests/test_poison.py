"""Items that end, hang or break their process fail alone, and a machine that fails is no item's fault."""

import errno
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.runs.execution import workers
from sfumato.runs.execution.session import begin
from sfumato.runs.execution.supervision import Death, Task, verdict_of
from sfumato.runs.execution.workers import one_thread, spread
from sfumato.runs.plans.plan import Combination, parse
from sfumato.runs.results.record import Place
from sfumato.runs.work.faults import IN_A_ROW, KINDS, LostDeviceError, machine_fault
from sfumato.runs.work.items import Chunk, Unit
from sfumato.runs.work.steps import LOADING, METHOD, PICTURE, PROTOCOL, SENDING, Step

SUBJECT = '''
"""A model, a method and a protocol that do to their process what a file says, at the pictures that it names."""
import ctypes, json, os, signal, time, warnings
from dataclasses import dataclass, replace
from pathlib import Path
import torch
from torch import nn
from sfumato.data import Example, Thing
from sfumato.methods import Gradient
from sfumato.metrics.estimate import Measure
from sfumato.metrics.protocol import Protocol
from sfumato.models import Classifier, Preparation

HERE = Path(__file__).parent
MEAN, STD = 0.5, 0.25

def act(who, inputs):
    """The first pixel of a picture tells its number."""
    asked = json.loads((HERE / "faults.json").read_text()).get(who, {})
    for value in inputs[:, 0, 0, 0].tolist():
        todo(asked.get(str(round((value * STD + MEAN) * 255 / 10))), len(inputs))

def todo(what, size):
    if what == "abort":
        os.abort()
    if what == "exit":
        os._exit(3)
    if what == "segfault":
        ctypes.string_at(0)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "kill once" and (HERE / "token").exists():
        (HERE / "token").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(10**6)
    if what == "close":
        os.closerange(3, 256)
        time.sleep(10**6)
    if what == "device":
        with (HERE / "lost").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    if what == "batch memory" and size > 1:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")
    errors = {
        "OSError": OSError(2, "No such file"),
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt("pressed"),
        "ValueError": ValueError("wrong"),
        "MemoryError": MemoryError("9 GiB"),
        "disk": OSError(28, "No space left on device"),
    }
    if what == "warning":
        warnings.warn("the picture is grey")
    if what in errors:
        raise errors[what]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh())
            self.head = nn.Linear(4, 2)

    def forward(self, x):
        act("model", x)
        return self.head(self.layers(x).mean((2, 3)))

def net():
    preparation = Preparation(size=16, resize=None, mean=(MEAN,) * 3, std=(STD,) * 3)
    return Classifier("net", Net().eval(), preparation, ("one", "other"))

@dataclass(frozen=True)
class Asked(Gradient):
    def __call__(self, model, inputs, targets):
        act("method", inputs)
        result = super().__call__(model, inputs, targets)
        if json.loads((HERE / "faults.json").read_text()).get("about"):
            return replace(result, about={"net": self})
        return result

@dataclass(frozen=True)
class Peak(Protocol):
    who: str = "peak"

    def measure(self, case):
        act(self.who, case.inputs)
        return {"value": float(case.attribution.map.max())}

    def measures(self, rows):
        return ()

@dataclass(frozen=True)
class Odd(Protocol):
    def measure(self, case):
        return {"value": case.inputs}

    def measures(self, rows):
        return ()

@dataclass(frozen=True)
class Grey:
    path: str
    count: int = 6
    classes = ("one", "other")

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Example(f"grey-{index}", Path(self.path) / f"{index}.png", (Thing(index % 2, (2, 2, 9, 9)),))
'''

PLAN = """
batch = {batch}
[models]
net = "{module}:net"
[methods]
asked = "{module}:Asked"
plain = "Gradient"
[data.grey]
use = "{module}:Grey"
path = "pictures"
count = {count}
[protocols]
first = "{module}:Peak"
second = {{ use = "{module}:Peak", who = "second" }}
"""

PICTURES = 6


class Bed:
    """A plan's folder, with its pictures and its module, whose name is new each time."""

    def __init__(self, root):
        self.root = root
        self.module = f"poison_subject_{time.monotonic_ns()}"
        (root / f"{self.module}.py").write_text(SUBJECT)
        (root / "pictures").mkdir()
        drawn = np.random.default_rng(0)
        for index in range(12):
            values = drawn.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            values[0, 0] = 10 * index
            Image.fromarray(values).save(root / "pictures" / f"{index}.png")
        self.fault()

    def fault(self, **faults):
        """What is done at which pictures, from now on: by "model", "method", "peak" (the first protocol) and "second"."""
        named = {who: {str(number): what for number, what in asked.items()} for who, asked in faults.items()}
        (self.root / "faults.json").write_text(json.dumps(named))

    def text(self, batch=1, count=PICTURES, more=""):
        return PLAN.format(module=self.module, batch=batch, count=count) + more

    def session(self, name="run", **settings):
        return begin(parse(self.text(**settings), self.root), Place(self.root / name))

    def undisturbed(self, **settings):
        (self.root / "faults.json").write_text("{}")
        session = self.session(f"undisturbed-{time.monotonic_ns()}", **settings)
        alone(session)
        return rows(session)


def alone(session):
    """The run in this process: how far it came, and what stopped it."""
    progress, stopped = None, None
    with one_thread():
        try:
            for progress in session.work():  # noqa: B007
                pass
        except RuntimeError as error:
            stopped = str(error)
    return progress, stopped


def rows(session):
    """By method, protocol and picture: the value, or why there is none."""
    names = {where.recipe: (where.method, where.protocol) for where in session.places}
    found = {}
    with session.place.store() as store:
        for done in store.done():
            where = (*names[done.item.recipe], done.example)
            assert where not in found  # nothing is done twice
            found[where] = done.reason if done.row is None else done.row["value"]
    return found


def check(session, undisturbed, reasons):
    """Exactly these items failed, for these reasons, and all others are what they would have been.

    A chunk in which something failed went query by query: the last digits of float32 may differ.
    """
    found = rows(session)
    assert set(found) == set(undisturbed)
    assert {where: reason for where, reason in found.items() if isinstance(reason, str)} == reasons
    sound = set(found) - set(reasons)
    assert {where: found[where] for where in sound} == pytest.approx(
        {where: undisturbed[where] for where in sound}, rel=1e-4
    )


def of(number, reason, methods=("asked",), protocols=("first", "second")):
    """The items of a picture that have failed, for that reason."""
    return {
        (method, protocol, f"grey-{number}"): reason.format(protocol=protocol, method=method)
        for method in methods
        for protocol in protocols
    }


@pytest.fixture
def bed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return Bed(tmp_path)


# Whose fault an error is


def chained(cause):
    error = ValueError("cannot read the picture")
    error.__cause__ = cause
    return error


def nested(cause):
    error = RuntimeError("while that was handled")
    error.__context__ = cause
    return error


def of_the_runtime(message):
    """An error of torch's CUDA runtime, whose class looks up the message by a number where there is CUDA."""
    return torch.cuda.CudaError.__new__(torch.cuda.CudaError, message)


MEMORY, DEVICE, DISK, FILES, SHARED, PROCESSES, STORAGE = (kind.name for kind in KINDS)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), MEMORY),
        (np._core._exceptions._ArrayMemoryError((2**40,), np.dtype("f4")), MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MEMORY),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: not enough memory: you tried to"
            ),
            MEMORY,
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12"),
            MEMORY,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), MEMORY),
        (RuntimeError("std::bad_alloc"), MEMORY),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), DEVICE),
        (RuntimeError("CUDA error: device-side assert triggered"), DEVICE),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DEVICE),
        (RuntimeError("No CUDA GPUs are available"), DEVICE),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasSgemm(...)`"), DEVICE),
        (RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"), DEVICE),
        (RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before"), DEVICE),
        (RuntimeError("CUDA driver error: unknown error"), DEVICE),
        (of_the_runtime("an illegal memory access was encountered (700)"), DEVICE),
        (of_the_runtime("out of memory (2)"), MEMORY),
        (torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization with error: ..."), DEVICE),
        (RuntimeError("HIP error: an illegal memory access was encountered"), DEVICE),
        (RuntimeError("miopenStatusUnknownError"), DEVICE),
        (RuntimeError("HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"), MEMORY),
        (torch.OutOfMemoryError("XPU out of memory. Tried to allocate 2.00 GiB"), MEMORY),
        (RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"), DEVICE),
        (RuntimeError("Native API failed. Native API returns: 2147483646 (UR_RESULT_ERROR_UNKNOWN)"), DEVICE),
        (RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"), MEMORY),
        (RuntimeError("Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)"), MEMORY),
        (RuntimeError("command buffer exited with error status.\n Internal Error (0000000e:Internal Error)"), DEVICE),
        (RuntimeError("Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)"), DEVICE),
        (RuntimeError("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"), MEMORY),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a"), None),
        (torch.linalg.LinAlgError("linalg.inv: The diagonal element 1 is zero"), None),
        (OSError(errno.ENOSPC, "No space left on device"), DISK),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DISK),
        (sqlite3.OperationalError("database or disk is full"), DISK),
        (RuntimeError("write: No space left on device"), DISK),
        (OSError(errno.EMFILE, "Too many open files"), FILES),
        (OSError(errno.ENFILE, "Too many open files in system"), FILES),
        (RuntimeError("received 0 items of ancdata"), FILES),
        (RuntimeError("unable to open shared memory object </torch_1_2> in read-write mode"), SHARED),
        (RuntimeError("unable to write to file </torch_12_34>"), SHARED),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"), SHARED),
        (RuntimeError("can't start new thread"), PROCESSES),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), PROCESSES),
        (OSError(errno.EIO, "Input/output error"), STORAGE),
        (OSError(errno.ESTALE, "Stale file handle"), STORAGE),
        (chained(OSError(errno.EMFILE, "Too many open files")), FILES),
        (nested(MemoryError()), MEMORY),
        (ExceptionGroup("several", [ValueError("one"), MemoryError()]), MEMORY),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), None),
        (PermissionError(errno.EACCES, "Permission denied"), None),
        (OSError("image file is truncated"), None),
        (ValueError("out of memory"), None),  # words of an item
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (RuntimeError("the shape of shared memory blocks is odd"), None),
        (SystemExit(3), None),
        (KeyboardInterrupt(), None),
        (AssertionError(), None),
        (chained(FileNotFoundError(errno.ENOENT, "No such file")), None),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}: {value}"[:60],
)
def test_whose_fault_an_error_is(error, kind):
    fault = machine_fault(error)
    assert (fault and fault.kind.name) == kind
    if fault:
        assert fault.kind.remedy


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (of_the_runtime("an illegal memory access was encountered (700)"), True),
        (of_the_runtime("out of memory (2)"), False),
        (RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"), True),
        (RuntimeError("command buffer exited with error status."), True),
        (torch.OutOfMemoryError("CUDA out of memory."), False),
        (torch.OutOfMemoryError("XPU out of memory."), False),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), False),
        (RuntimeError("CUDA out of memory."), False),
        (MemoryError(), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_after_which_errors_a_device_is_lost(error, lost):
    assert machine_fault(error).lost is lost


def test_errors_that_come_from_one_another_in_a_ring():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert machine_fault(one) is None


def test_a_lost_device_survives_its_journey():
    error = LostDeviceError(machine_fault(torch.AcceleratorError("CUDA error: gone")))
    assert pickle.loads(pickle.dumps(error)).fault == error.fault  # noqa: S301


# What becomes of a task


def a_task(queries, protocols=("p", "q"), wanted=None, alone=False):
    units = tuple(Unit(number, f"u{number}", 0, None, reason="no example") for number in range(queries))
    chunk = Chunk(Combination("data", "net", "slow", protocols), units, tuple(range(len(protocols))))
    items = chunk.all_items
    return Task(chunk, frozenset(items if wanted is None else [items[number] for number in wanted]), {}, alone)


DEATHS = {
    "died": Death("the process died (SIGABRT)"),
    "killed": Death("the process died (SIGKILL)", killed=True),
    "lost": Death("the device is lost", fault=machine_fault(torch.AcceleratorError("CUDA error"))),
}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("queries", [1, 2, 5])
def test_no_item_is_lost_or_doubled_by_a_death(queries, death, alone):
    steps = [Step(LOADING), Step(SENDING), *(Step(PICTURE, (place,)) for place in range(queries))]
    steps += [Step(PROTOCOL, (place,), number) for place in range(queries) for number in (0, 1)]
    steps += [
        Step(METHOD, tuple(some))
        for size in range(1, queries + 1)
        for some in itertools.combinations(range(queries), size)
    ]
    for step, wanted in itertools.product(steps, (None, [0], [1, 2 * queries - 1], range(2 * queries - 1))):
        task = a_task(queries, wanted=wanted, alone=alone)
        if step.stage == PROTOCOL and task.chunk.items[step.places[0]][step.number] not in task.wanted:
            continue  # it is not measured
        verdict = verdict_of(task, step, DEATHS[death])
        items = [done.item for done in verdict.done] + [item for left in verdict.left for item in left.items]
        for part in (*verdict.again, *verdict.put_off):
            assert part.wanted <= set(part.chunk.all_items)
            assert part.wanted
            assert part.alone or not alone
            items += part.wanted
        assert sorted(items) == sorted(task.wanted)
        if step.places:  # what is done again is less, or is put off: it comes to an end
            again = {(part.chunk, part.wanted) for part in verdict.again}
            assert (task.chunk, task.wanted) not in again


def test_a_batch_that_dies_goes_query_by_query():
    verdict = verdict_of(a_task(4), Step(METHOD, (0, 2, 3)), DEATHS["died"])
    names = [[unit.name for unit in part.chunk.units] for part in verdict.again]
    assert names == [["u1"], ["u0"], ["u2"], ["u3"]]
    assert not verdict.done


def test_a_query_that_dies_has_failed_by_name():
    task = a_task(1)
    verdict = verdict_of(task, Step(METHOD, (0,)), DEATHS["died"])
    assert [(done.example, done.reason) for done in verdict.done] == 2 * [
        ("u0", "the process died (SIGABRT) at method 'slow'")
    ]
    assert not verdict.again


def test_a_protocol_that_dies_has_failed_alone_and_the_batch_stays_together():
    task = a_task(3)
    verdict = verdict_of(task, Step(PROTOCOL, (1,), 1), DEATHS["died"])
    (done,) = verdict.done
    assert done.item == task.chunk.items[1][1]
    assert done.reason == "the process died (SIGABRT) at protocol 'q' of method 'slow'"
    (again,) = verdict.again
    assert again.chunk is task.chunk
    assert again.wanted == task.wanted - {done.item}


def test_what_was_killed_is_tried_alone_before_it_fails():
    task = a_task(2)
    (later,) = verdict_of(task, Step(METHOD, (0, 1)), DEATHS["killed"]).put_off
    assert (later.alone, later.chunk, later.wanted) == (True, task.chunk, task.wanted)
    first, other = verdict_of(later, Step(METHOD, (0, 1)), DEATHS["killed"]).again
    assert first.alone
    assert other.alone
    assert len(verdict_of(first, Step(METHOD, (0,)), DEATHS["killed"]).done) == 2


def test_a_lost_device_leaves_items_open():
    verdict = verdict_of(a_task(1), Step(METHOD, (0,)), DEATHS["lost"])
    assert not verdict.done
    assert len(verdict.left[0].items) == 2


# In this process


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("OSError", "FileNotFoundError: [Errno 2] No such file"),
        ("SystemExit", "SystemExit: 3"),
        ("ValueError", "wrong"),
    ],
)
def test_what_is_raised_is_the_items_fault(bed, what, reason):
    expected = bed.undisturbed(batch=2)
    bed.fault(method={1: what}, second={3: what})
    session = bed.session(batch=2)
    progress, stopped = alone(session)
    assert stopped is None
    assert progress.left == ""
    check(session, expected, of(1, reason) | of(3, reason, ("asked", "plain"), ("second",)))


def test_a_model_that_raises_fails_at_its_picture_alone(bed):
    expected = bed.undisturbed()
    bed.fault(model={2: "OSError"})
    session = bed.session()
    assert alone(session)[1] is None
    check(session, expected, of(2, "FileNotFoundError: [Errno 2] No such file", ("asked", "plain")))


def test_a_model_that_raises_when_it_is_to_predict(bed):
    predicted = {"text": bed.text().replace('path = "pictures"', 'path = "pictures"\ntargets = "predicted"')}
    bed.fault(model={2: "SystemExit"})
    session = begin(parse(predicted["text"], bed.root), Place(bed.root / "run"))
    assert alone(session)[1] is None
    found = rows(session)
    assert len(found) == 4 * PICTURES
    assert {where for where, value in found.items() if value == "SystemExit: 3"} == set(of(2, "", ("asked", "plain")))


def test_ctrl_c_stops_a_run_in_this_process(bed):
    bed.fault(method={4: "KeyboardInterrupt"})
    session = bed.session()
    with pytest.raises(KeyboardInterrupt):
        list(session.work())
    assert all(not isinstance(value, str) for value in rows(session).values())


def test_a_row_that_cannot_be_kept_is_its_protocols_fault(bed):
    session = bed.session(more=f'third = "{bed.module}:Odd"\n')
    assert alone(session)[1] is None
    found = rows(session)
    assert len(found) == 6 * PICTURES
    assert {where[1] for where, value in found.items() if isinstance(value, str)} == {"third"}
    assert "TypeError: Object of type Tensor is not JSON serializable" in found.values()


def test_a_result_that_cannot_be_kept_is_its_methods_fault(bed):
    bed.fault(about={0: "odd"})
    session = begin(parse("masks = true\n" + bed.text(count=2), bed.root), Place(bed.root / "run"))
    assert alone(session)[1] is None
    reason = "TypeError: Object of type Asked is not JSON serializable"
    assert {where: value for where, value in rows(session).items() if isinstance(value, str)} == of(0, reason) | of(
        1, reason
    )


def test_a_batch_without_memory_goes_query_by_query(bed):
    expected = bed.undisturbed(batch=3)
    bed.fault(method={1: "batch memory"})
    session = bed.session(batch=3)
    progress, stopped = alone(session)
    assert stopped is None
    assert progress.left == ""
    check(session, expected, {})


def test_single_faults_of_the_machine_leave_their_items_open(bed):
    expected = bed.undisturbed(batch=2)
    bed.fault(method={1: "MemoryError"}, second={3: "disk"})
    session = bed.session(batch=2)
    progress, stopped = alone(session)
    assert stopped is None
    assert progress.left.startswith(
        "4 items were left open, 2 because out of memory (MemoryError: 9 GiB): take a smaller batch"
    )
    assert "; 2 because the disk is full (OSError: [Errno 28] No space left on device): make room" in progress.left
    missing = set(of(1, "") | of(3, "", ("asked", "plain"), ("second",)))
    check(session, {where: value for where, value in expected.items() if where not in missing}, {})
    bed.fault()
    assert alone(bed.session(batch=2))[0].left == ""  # the same command again
    check(session, expected, {})


def test_a_machine_that_fails_again_and_again_stops_the_run(bed):
    bed.fault(model=dict.fromkeys(range(2, 12), "MemoryError"))
    session = bed.session(count=12)
    _, stopped = alone(session)
    assert stopped.startswith(
        f"out of memory at {IN_A_ROW} pictures one after the other, the last time at 'grey-6' in 'asked' of 'net': "
        "MemoryError: 9 GiB; these items are left open: take a smaller batch"
    )
    found = rows(session)
    assert {where[2] for where in found} == {"grey-0", "grey-1"}
    assert not any(isinstance(value, str) for value in found.values())


def test_one_picture_that_is_too_large_does_not_stop_the_run(bed):
    """Not even where many methods fail at it, and not a few in the midst of others."""
    bed.fault(model={**dict.fromkeys(range(3), "MemoryError"), **dict.fromkeys(range(5, 9), "MemoryError")})
    session = bed.session(count=12)
    progress, stopped = alone(session)
    assert stopped is None
    assert progress.left.startswith("28 items were left open, 28 because out of memory")
    assert len(rows(session)) == 4 * 5


def test_a_lost_device_stops_a_run_in_this_process(bed):
    bed.fault(method={2: "device"})
    session = bed.session()
    _, stopped = alone(session)
    assert "the accelerator failed (AcceleratorError: CUDA error: an illegal memory" in stopped
    assert not any(isinstance(value, str) for value in rows(session).values())


# In processes

BY_DEATH = {
    "abort": "the process died (SIGABRT)",
    "exit": "the process ended itself (exit status 3)",
    "segfault": "the process died (SIGSEGV)",
    "kill": "the process died (SIGKILL)",
    "close": "the process closed the pipe to its parent",
    "hang": "took longer than 2 s",
}


def spread_out(session, workers=1):
    progress = None
    for progress in spread(session, workers):  # noqa: B007
        pass
    assert not multiprocessing.active_children()
    return progress


def test_a_process_that_aborts_takes_nothing_with_it(bed):
    expected = bed.undisturbed(count=4)
    bed.fault(method={1: "abort"})
    session = bed.session(count=4)
    progress = spread_out(session)
    assert (progress.done, progress.failed, progress.left) == (16, 2, "")
    check(session, expected, of(1, "the process died (SIGABRT) at method 'asked'"))
    assert list(spread(bed.session(count=4), 1)) == []  # tried no more


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "who"),
    [
        ("segfault", "method"),
        ("kill", "method"),
        ("close", "method"),
        ("hang", "model"),
        ("abort", "second"),
        ("kill", "second"),
    ],
)
def test_the_item_is_found(bed, what, who, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 1.0)
    timeout = "\ntimeout = 2\n" if what == "hang" else "\n"
    expected = bed.undisturbed(batch=3)
    bed.fault(**{who: {4: what}})
    session = begin(parse(timeout + bed.text(batch=3), bed.root), Place(bed.root / "run"))
    progress = spread_out(session, 1 if who == "method" else 2)
    assert progress.left == ""
    methods = ("asked",) if who == "method" else ("asked", "plain")
    where = "protocol 'second' of method '{method}'" if who == "second" else "method '{method}'"
    protocols = ("second",) if who == "second" else ("first", "second")
    check(session, expected, of(4, f"{BY_DEATH[what]} at {where}", methods, protocols))


@pytest.mark.slow
def test_a_process_that_is_killed_once_changes_no_row(bed):
    expected = bed.undisturbed(batch=3)
    (bed.root / "token").touch()
    bed.fault(method={4: "kill once"})
    session = bed.session(batch=3)
    spread_out(session)
    assert not (bed.root / "token").exists()
    # Not to the bit: beartype, which checks the tests, draws from Python's random numbers in this process, and a batch in which
    # something was drawn is computed one by one.
    assert rows(session) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_processes_that_are_killed_one_after_the_other_stop_the_run(bed):
    bed.fault(model=dict.fromkeys(range(12), "kill"))
    session = bed.session(count=12)
    with pytest.raises(
        RuntimeError, match=rf"a worker was killed at {IN_A_ROW} pictures one after the other, .*fewer workers"
    ):
        spread_out(session)
    assert rows(session) == {}


@pytest.mark.slow
def test_a_process_that_lost_its_device_is_replaced(bed):
    expected = bed.undisturbed(batch=2)
    bed.fault(method={1: "device"}, second={4: "device"})
    session = bed.session(batch=2)
    progress = spread_out(session)
    assert progress.left.startswith(
        "4 items were left open, 4 because the accelerator failed (AcceleratorError: CUDA error"
    )
    processes = (bed.root / "lost").read_text().split()
    assert len(processes) == len(set(processes)) == 4  # of the batch, the query, and the protocol of two methods
    missing = set(of(1, "") | of(4, "", ("asked", "plain"), ("second",)))
    check(session, {where: value for where, value in expected.items() if where not in missing}, {})


@pytest.mark.slow
def test_an_interrupt_of_the_methods_own_is_its_items_fault(bed):
    expected = bed.undisturbed()
    bed.fault(method={1: "KeyboardInterrupt"})
    session = bed.session()
    spread_out(session)
    check(session, expected, of(1, "KeyboardInterrupt: pressed"))


@pytest.mark.slow
def test_a_model_that_ends_its_process_when_it_is_to_predict(bed):
    text = bed.text(batch=3).replace('path = "pictures"', 'path = "pictures"\ntargets = "predicted"')
    bed.fault(model={4: "exit"})
    session = begin(parse(text, bed.root), Place(bed.root / "run"))
    spread_out(session)
    reason = "the process ended itself (exit status 3) at reading the picture and showing it to the model"
    found = rows(session)
    assert len(found) == 4 * PICTURES
    assert {where: value for where, value in found.items() if isinstance(value, str)} == of(
        4, reason, ("asked", "plain")
    )


@pytest.mark.slow
def test_what_a_process_warns_of_is_said_here(bed):
    bed.fault(method={1: "warning"})
    with pytest.warns(UserWarning, match="^the picture is grey$"):
        spread_out(bed.session(count=2))


@pytest.mark.slow
def test_many_poisonous_items_among_several_workers(bed):
    """All that can happen, in one run of which nothing is lost, doubled or taken for another's."""
    expected = bed.undisturbed(batch=4, count=12)
    (bed.root / "token").touch()
    bed.fault(
        method={0: "abort", 3: "OSError", 5: "MemoryError", 9: "kill once"},
        model={7: "exit"},
        second={1: "hang", 10: "segfault"},
    )
    session = begin(parse("timeout = 2\n" + bed.text(batch=4, count=12), bed.root), Place(bed.root / "run"))
    progress = spread_out(session, 2)
    both, second = ("asked", "plain"), ("second",)
    left = set(of(5, ""))
    assert progress.left.startswith("2 items were left open, 2 because out of memory")
    at = "protocol 'second' of method '{method}'"
    check(
        session,
        {where: value for where, value in expected.items() if where not in left},
        of(0, "the process died (SIGABRT) at method 'asked'")
        | of(3, "FileNotFoundError: [Errno 2] No such file")
        | of(7, "the process ended itself (exit status 3) at method '{method}'", both)
        | of(1, f"took longer than 2 s at {at}", both, second)
        | of(10, f"the process died (SIGSEGV) at {at}", both, second),
    )


@pytest.mark.slow
def test_a_parent_that_is_killed_takes_its_processes_with_it(bed):
    expected = bed.undisturbed()
    bed.fault(second={3: "hang"})
    session = bed.session()
    paths = os.pathsep.join(filter(None, sys.path))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, bed.text(), str(bed.root)], env={**os.environ, "PYTHONPATH": paths}
    )
    deadline = time.monotonic() + 600
    while len(rows(session)) < 4:
        assert parent.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    bed.fault()
    spread_out(bed.session())
    check(session, expected, {})


PARENT = """
import sys
from pathlib import Path
from sfumato.runs.plans.plan import parse
from sfumato.runs.results.record import Place
from sfumato.runs.execution.session import begin
from sfumato.runs.execution.workers import spread

text, root = sys.argv[1:]
list(spread(begin(parse(text, Path(root)), Place(Path(root) / "run")), 1))
"""


@pytest.mark.slow
def test_something_is_said_of_an_item_that_is_long_under_way(bed, monkeypatch):
    monkeypatch.setattr(workers, "LONG", 1.0)
    bed.fault(second={2: "hang"})
    said = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in spread(bed.session(), 1):
            said = [str(warning.message) for warning in seen]
            if said:
                break
    assert (
        "'asked' of 'net' has been at 'grey-2' for 0 minutes; an item may be given a time with: --timeout SECONDS"
        in said
    )


def test_no_process_is_started_where_nothing_is_left(bed, monkeypatch):
    session = bed.session()
    alone(session)
    monkeypatch.setattr(workers.Pool, "_start", lambda _: pytest.fail("a process was started"))
    assert list(spread(bed.session(), 2)) == []


# Plans and the command line


@pytest.mark.parametrize("value", ["0", "-1", "true", '"long"', "nan"])
def test_a_plans_timeout_is_checked(bed, value):
    with pytest.raises(ValueError, match=r"line 1, timeout: timeout is a time in seconds, more than 0"):
        parse(f"timeout = {value}\n" + bed.text(), bed.root)


def test_no_item_depends_on_the_timeout(bed):
    assert bed.session().recipes == begin(parse("timeout = 7\n" + bed.text(), bed.root), Place(bed.root / "x")).recipes


def typed(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)], env={"COLUMNS": "200"})


def test_what_is_left_open_is_said(bed):
    (bed.root / "plan.toml").write_text(bed.text(count=3))
    bed.fault(method={1: "MemoryError"})
    ended = typed("run", bed.root / "plan.toml", "--out", bed.root / "run", "--timeout", 100)
    assert ended.exit_code == 1
    assert "2 items were left open, 2 because out of memory (MemoryError: 9 GiB)" in ended.output
    assert "run the same command again" in ended.output
    assert "10 items are done" in ended.output
    refused = typed("run", bed.root / "plan.toml", "--out", bed.root / "run", "--timeout", 0)
    assert refused.exit_code == 2
    assert "--timeout is a time in seconds, more than 0; got 0" in refused.output


@pytest.mark.slow
def test_a_hang_ends_on_the_command_line(bed):
    (bed.root / "plan.toml").write_text(bed.text(count=3, batch=3))
    bed.fault(method={1: "hang"})
    ended = typed("run", bed.root / "plan.toml", "--out", bed.root / "run", "--timeout", 1.5)
    assert ended.exit_code == 1
    assert "12 items are done, 12 of them now; 2 failed" in ended.output
    assert "2 × took longer than N s at method 'asked'" in typed("status", bed.root / "run").output


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_all_processes_at_once(bed):
    """It goes to the parent and to its processes; what is done is kept, and the item that was under way stays open."""
    (bed.root / "plan.toml").write_text(bed.text())
    bed.fault(second={3: "hang"})
    command = [sys.executable, "-m", "sfumato.cli", "bench", "run", bed.root / "plan.toml", "--out", bed.root / "run"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(bed.root), *filter(None, sys.path)])}
    session = bed.session()
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as running:
        deadline = time.monotonic() + 600
        while len(rows(session)) < 12:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)
        said = running.communicate(timeout=600)[1]
    assert running.returncode == 130
    assert "interrupted; the results written so far are kept" in said
    assert "Traceback" not in said
    while there_are(running.pid):  # the last to go sees within a moment that the others are no more
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not any(isinstance(value, str) for value in rows(session).values())


def there_are(group):
    """Whether a group of processes has any."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# On a cluster


@pytest.mark.slow
def test_a_cluster_finds_poisonous_items_too(bed, surroundings):
    pytest.importorskip("ray", reason="Ray is not installed")
    from sfumato.runs.execution import on_ray
    from sfumato.runs.plans.cluster import Cluster

    expected = bed.undisturbed(batch=3)
    (bed.root / "token").touch()
    bed.fault(method={1: "abort", 3: "kill once", 4: "MemoryError"}, second={2: "hang"})
    session = begin(parse("timeout = 3\n" + bed.text(batch=3), bed.root), Place(bed.root / "run"))
    progress = None
    for progress in on_ray.spread(session, "ray", Cluster(actors=2)):  # noqa: B007
        pass
    assert progress.left.startswith("2 items were left open, 2 because out of memory")
    left = set(of(4, ""))
    check(
        session,
        {where: value for where, value in expected.items() if where not in left},
        of(1, "the process died (SIGABRT) at method 'asked'")
        | of(2, "took longer than 3 s at protocol 'second' of method '{method}'", ("asked", "plain"), ("second",)),
    )


def test_a_worker_whose_parent_was_killed_ends_without_a_word():
    """It notices when it wants to say something, or a second later."""
    parents, own = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=workers._worker, args=(own, pickle.dumps(None)))
    parents.close()
    child.start()
    own.close()
    child.join(600)
    assert child.exitcode == 0

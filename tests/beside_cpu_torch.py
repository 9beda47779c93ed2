"""Lets the published torchvision be imported beside torch for the CPU. For development only: `make` runs this file.

The published wheel is built for CUDA. Beside torch for the CPU its operators do not load, and its import fails, as it describes
two of them. Declared without a computation, they let models and transforms be imported. `nms` and detectors still fail.

In environments where the import fails, this file copies itself to the packages with a `.pth` file. So also programs that tests
start have it. An environment whose torchvision fits its torch is left alone.
"""

import shutil
import subprocess
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DeclaredBefore(MetaPathFinder):
    """Declares the operators when torchvision is first imported, and finds nothing."""

    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                for operator in OPERATORS:
                    if not hasattr(torch.ops.torchvision, operator):
                        torch.library.define(f"torchvision::{operator}", SCHEMA)


def declare():
    """Declare the operators before torchvision is imported; the `.pth` file calls this when Python starts."""
    if not any(isinstance(finder, DeclaredBefore) for finder in sys.meta_path):  # Python may read the file twice
        sys.meta_path.insert(0, DeclaredBefore())


def main():
    packages = Path(sysconfig.get_path("purelib"))
    module = packages / "beside_cpu_torch.py"
    hook = packages / "beside_cpu_torch.pth"
    hook.unlink(missing_ok=True)
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if tried.returncode and "operator torchvision::" in tried.stderr:
        shutil.copyfile(__file__, module)
        hook.write_text("import beside_cpu_torch; beside_cpu_torch.declare()\n")
        tried = subprocess.run(
            [sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False
        )
    if tried.returncode:
        sys.exit(f"torchvision cannot be imported:\n{tried.stderr}")


if __name__ == "__main__":
    main()

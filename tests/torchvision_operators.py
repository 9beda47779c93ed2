"""Non-maximum suppression and RoI align for a torchvision whose compiled operators do not fit the installed torch.

The published wheel is built for CUDA; beside torch for the CPU its detectors fail without this. It serves tests alone.
"""

import sys

import pytest
import torch

from sfumato.scores.detections import overlaps


def literal_nms(boxes, scores, iou_threshold):
    """The indices of the boxes that overlap no surer one by more than the threshold, the surest first."""
    boxes = boxes.detach()
    order, kept = scores.argsort(descending=True), []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(int(first))
        order = order[overlaps(boxes[order], boxes[first]) <= iou_threshold]
    return torch.tensor(kept, dtype=torch.long)


@pytest.fixture
def torchvision_nms(monkeypatch):
    """`nms`, where torchvision has none that works, and `roi_align` in plain torch, which it would compile."""
    pytest.importorskip("torchvision")
    from torchvision import extension, ops

    if not extension._has_ops():
        monkeypatch.setattr(ops, "nms", literal_nms)
        monkeypatch.setattr(ops.boxes, "nms", literal_nms)
        module = sys.modules["torchvision.ops.roi_align"]  # the function hides it in the package
        monkeypatch.setattr(module, "_roi_align", getattr(module._roi_align, "__wrapped__", module._roi_align))
        monkeypatch.setattr(module, "is_compile_supported", lambda _device: True)

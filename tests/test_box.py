"""D-RISE's similarity agrees with a loop over all detections, for every kind of detector's outputs."""

from types import SimpleNamespace

import pytest
import torch

from sfumato import Box, Detections, DetrDetections, TorchvisionDetections, YoloDetections
from sfumato.settings import as_json, from_json

RANDOM = torch.Generator().manual_seed(3)
QUERY = torch.tensor([1, 0, 1])
BOXES = ((10.0, 8.0, 30.0, 28.0), (4.0, 4.0, 20.0, 36.0))
TARGETS = [2, 0]


def overlap(a, b):
    """By the definition, one pair of boxes at a time."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = width * height if width > 0 and height > 0 else 0.0
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)


def literally(detections, box, vector):
    """The largest of overlap × cosine × objectness over (box, vector, objectness)."""
    return max((overlap(box, b) * cosine(vector, p) * o for b, p, o in detections), default=0.0)


def one_hot(index, count=3):
    return [float(index == place) for place in range(count)]


def centres(count, size=40.0):
    middle = torch.rand(3, count, 2, generator=RANDOM) * size
    return torch.cat([middle, (0.2 + torch.rand(3, count, 2, generator=RANDOM)) * size / 2], 2)


def corner(box):
    x, y, w, h = box
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def torchvision_outputs():
    found = []
    for row, count in zip(centres(6), (6, 3, 1), strict=True):
        boxes = torch.tensor([corner(box) for box in row[:count].tolist()])
        labels = torch.randint(3, (count,), generator=RANDOM)
        found.append({"boxes": boxes, "labels": labels, "scores": torch.rand(count, generator=RANDOM)})
    rows = [
        list(zip(one["boxes"].tolist(), map(one_hot, one["labels"].tolist()), one["scores"].tolist(), strict=True))
        for one in found
    ]
    return found, rows


def detr_outputs(link):
    boxes, logits = centres(6) / 40, torch.randn(3, 6, 4 if link == "softmax" else 3, generator=RANDOM)
    rows = []
    for each_box, each_logits in zip(boxes.double(), logits.double(), strict=True):
        row = []
        for box, values in zip(each_box.tolist(), each_logits, strict=True):
            if link == "softmax":
                *classes, none = (values.exp() / values.exp().sum()).tolist()
                row.append(([40 * side for side in corner(box)], classes, 1 - none))
            else:
                classes = (1 / (1 + (-values).exp())).tolist()
                row.append(([40 * side for side in corner(box)], classes, max(classes)))
        rows.append(row)
    return SimpleNamespace(logits=logits, pred_boxes=boxes), rows


def yolo_outputs(objectness):
    boxes, classes = centres(6), torch.rand(3, 6, 3, generator=RANDOM)
    sure = torch.rand(3, 6, 1, generator=RANDOM)
    table = torch.cat([boxes, sure, classes], 2) if objectness else torch.cat([boxes, classes], 2).transpose(1, 2)
    rows = [
        [
            (corner(box), p, o[0] if objectness else max(p))
            for box, p, o in zip(b.tolist(), c.tolist(), s.tolist(), strict=True)
        ]
        for b, c, s in zip(boxes, classes, sure, strict=True)
    ]
    return (table, None), rows


KINDS = {
    "torchvision": (TorchvisionDetections(), torchvision_outputs),
    "known": (None, torchvision_outputs),
    "detr": (DetrDetections(size=(40, 40)), lambda: detr_outputs("softmax")),
    "deformable": (DetrDetections(size=(40, 40), link="sigmoid"), lambda: detr_outputs("sigmoid")),
    "yolo5": (YoloDetections(), lambda: yolo_outputs(True)),
    "yolo8": (YoloDetections(objectness=False), lambda: yolo_outputs(False)),
}


@pytest.mark.parametrize("vectors", [False, True], ids=["classes", "probabilities"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_best_product_of_overlap_cosine_and_objectness(kind, vectors):
    reader, make = KINDS[kind]
    outputs, rows = make()
    wanted = [[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]] if vectors else [one_hot(target) for target in TARGETS]
    score = Box(BOXES, torch.tensor(wanted) if vectors else TARGETS, detections=reader)
    found = score(outputs, QUERY)
    expected = [literally(row, BOXES[query], wanted[query]) for row, query in zip(rows, QUERY.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0 or kind in ("torchvision", "known")
    assert from_json(as_json(score)) == score
    for row in range(3):
        alone = outputs[row : row + 1] if isinstance(outputs, list) else None
        if alone:
            assert score(alone, QUERY[row : row + 1]).item() == pytest.approx(found[row].item())


def test_fractions_are_the_unit_of_detr_unless_it_is_given_a_size():
    outputs, rows = detr_outputs("softmax")
    box = tuple(side / 40 for side in BOXES[0])
    found = Box(box, 1)(outputs, QUERY)
    assert found.tolist() == pytest.approx([literally(row, BOXES[0], one_hot(1)) for row in rows], rel=1e-4)


def test_a_class_beyond_the_wanted_probabilities_is_another():
    outputs = [{"boxes": torch.tensor([BOXES[0]]), "labels": torch.tensor([7]), "scores": torch.ones(1)}]
    assert Box(BOXES[0], torch.tensor([0.5, 0.5]))(outputs, torch.tensor([0])).item() == 0
    assert Box(BOXES[0], 7)(outputs, torch.tensor([0])).item() == 1


def test_nothing_found_is_zero_and_takes_part_in_a_backward_pass():
    sure = torch.tensor([0.1, 0.2], requires_grad=True)
    boxes = torch.tensor(BOXES)
    outputs = [
        {"boxes": boxes[sure > 1], "labels": torch.zeros(0), "scores": sure[sure > 1]},
        {"boxes": boxes, "labels": torch.tensor([0, 0]), "scores": sure},
    ]
    values = Box(BOXES[1], 0)(outputs, torch.tensor([0, 0]))
    assert values.tolist() == pytest.approx([0, 0.2])
    assert torch.autograd.grad(values[0], sure, retain_graph=True)[0].tolist() == [0, 0]
    assert torch.autograd.grad(values[1], sure)[0].tolist() == [0, 1]


def test_a_function_reads_any_outputs():
    boxes = torch.tensor(BOXES)
    score = Box(BOXES, [0, 0], lambda outputs: [Detections(boxes, torch.zeros(2).long(), row) for row in outputs])
    assert score(torch.tensor([[0.3, 0.1], [0.2, 0.9]]), torch.tensor([0, 1])).tolist() == pytest.approx([0.3, 0.9])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box((1, 2, 3), 0), "a box is left, top, right and bottom"),
        (lambda: Box((1, 2, 3, True), 0), "a box is left, top, right and bottom"),
        (lambda: Box(BOXES, "cat"), "a target is a class index"),
        (lambda: Box(BOXES, torch.tensor([0.0, 0.0])), "are all 0"),
        (lambda: Box(BOXES, torch.tensor([-0.5, 1.0])), "from 0 up"),
        (lambda: Box(BOXES, 0, detections=YoloDetections), "detections is a function"),
        (lambda: Box(BOXES, 0).check(3), "got 2 boxes for 3 inputs"),
        (lambda: Box(BOXES, [1, 2, 3]).check(2), "got 3 classes of boxes for 2 inputs"),
        (lambda: Box(BOXES, 0)(torch.rand(3, 9, 8), QUERY), "detections=YoloDetections"),
        (lambda: Box(BOXES, 5)(detr_outputs("softmax")[0], QUERY), "class 5 of a Box is out of range: .* 3 classes"),
        (lambda: Box(BOXES, torch.ones(5))(detr_outputs("softmax")[0], QUERY), "probabilities of 5 classes"),
        (lambda: Box(BOXES, 0)(torchvision_outputs()[0][:2], QUERY), "of 2 inputs, but the model was given 3"),
        (lambda: TorchvisionDetections()([{"box": 1}]), "with the keys boxes, labels and scores; got a list"),
        (lambda: DetrDetections()({"logits": 1}), "got a dict with keys 'logits'"),
        (lambda: DetrDetections(size=(4,)), "size is the height and width"),
        (lambda: DetrDetections(link="auto"), "link must be softmax or sigmoid"),
        (
            lambda: YoloDetections()(torch.rand(3, 5)),
            r"reads a tensor \(N, n, 5 \+ K\); got a tensor of shape \(3, 5\)",
        ),
        (lambda: YoloDetections(objectness="no"), "objectness is True or False"),
    ],
)
def test_what_is_no_box_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class TestYoloWithMoreThanClasses:
    """YOLOv8's segmentation, poses and oriented boxes have other numbers after the classes."""

    def table(self):
        generator = torch.Generator().manual_seed(0)
        boxes = 20 * torch.rand(2, 4, 6, generator=generator)
        return torch.cat(
            [boxes, torch.rand(2, 3, 6, generator=generator), 9 * torch.randn(2, 5, 6, generator=generator)], 1
        )

    def test_classes_says_how_many_are_probabilities(self):
        table = self.table()
        few = YoloDetections(objectness=False)(table[:, :7])
        for one, other in zip(YoloDetections(objectness=False, classes=3)(table), few, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    @pytest.mark.parametrize("objectness", [True, False])
    def test_other_numbers_are_not_taken_for_probabilities(self, objectness):
        table = self.table().mT if objectness else self.table()
        with pytest.raises(ValueError, match=r"as probabilities, in a tensor .* say how many classes there are"):
            YoloDetections(objectness)(table)

    def test_fewer_than_said_are_refused(self):
        with pytest.raises(ValueError, match=r"reads a tensor \(N, 4 \+ K, n\) with K of at least 9"):
            YoloDetections(objectness=False, classes=9)(self.table())
        with pytest.raises(ValueError, match="classes must be a whole number from 1 up"):
            YoloDetections(classes=0)

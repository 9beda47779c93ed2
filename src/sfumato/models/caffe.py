"""VGG16 and ResNet50 as in Caffe, fully convolutional, with torchvision's names of layers.

Simonyan & Zisserman 2015 (arXiv 1409.1556, configuration D) and He et al. 2016 (arXiv 1512.03385). They differ from
torchvision's networks: pooling includes partly filled windows (`ceil_mode`) and does not pad; the stride of a ResNet block is
in its first convolution, of 1 × 1; the first convolution of ResNet has a bias. Linear layers are convolutions, so that
pictures may have any size, and outputs are (B, classes, h, w). Activations are not computed in place, so that the output of
every layer stays unchanged.
"""

from itertools import pairwise

from torch import Tensor, nn

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of VGG16, before each pooling
BLOCKS = (3, 4, 6, 3)  # of ResNet50, in each stage
EXPANSION = 4  # the ratio of a ResNet50 block's output channels to its inner channels


class VGG16(nn.Module):
    """16 layers with weights. The outputs have a place for each window of 7 × 7 of the last maps, which are 32 times smaller.

    `width` is the number of channels of the first layer, `hidden` that of each hidden layer of the classifier. The defaults are
    VGG16's.
    """

    def __init__(self, classes: int, width: int = 64, hidden: int = 4096) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, count in enumerate(CONVOLUTIONS):
            for _ in range(count):
                wider = width * min(2**stage, 8)
                layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.ReLU()]
                channels = wider
            layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Conv2d(channels, hidden, 7),
            nn.ReLU(),
            nn.Dropout(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Dropout(),
            nn.Conv2d(hidden, classes, 1),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(inputs))
        return logits


class Bottleneck(nn.Module):
    """A block of ResNet50: three convolutions, whose output is added to the input. The first one has the stride."""

    def __init__(self, channels: int, width: int, stride: int, downsample: bool) -> None:
        super().__init__()
        wider = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, wider, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wider)
        self.relu3 = nn.ReLU()
        self.downsample: nn.Module | None = None
        if downsample:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, wider, 1, stride=stride, bias=False), nn.BatchNorm2d(wider)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        outputs: Tensor = self.relu3(self.bn3(self.conv3(x)) + residual)
        return outputs


class ResNet50(nn.Module):
    """50 layers with weights. The last maps, 32 times smaller than the picture, are averaged: the outputs have one place.

    `width` is the number of channels of the first layer; the default is ResNet50's.
    """

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        widths = [width * 2**stage for stage in range(len(BLOCKS))]
        self.layer1 = _stage(width, width, BLOCKS[0], stride=1)
        stages = [
            _stage(before * EXPANSION, after, count, stride=2)
            for (before, after), count in zip(pairwise(widths), BLOCKS[1:], strict=True)
        ]
        self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(widths[-1] * EXPANSION, classes, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x))
        return logits


def _stage(channels: int, width: int, count: int, stride: int) -> nn.Sequential:
    block = Bottleneck(channels, width, stride, downsample=True)
    return nn.Sequential(block, *(Bottleneck(width * EXPANSION, width, 1, downsample=False) for _ in range(count - 1)))

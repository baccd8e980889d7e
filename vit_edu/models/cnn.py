"""A residual network for small images: what a ViT is compared with in lesson 08. It is a plain CNN, without any attention.

Source: He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385; names of modules as in timm's ResNet.
Letters in shapes are those of `vit`; here C and D count channels, and H x W shrinks from stage to stage.
"""

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a skip. (B, C, H, W) -> (B, D, H/stride, W/stride).

    Where the shape changes, the skip needs a convolution of its own, of 1 x 1 pixels (arXiv:1512.03385, section 3.3, option B).
    """

    def __init__(self, in_chans, out_chans, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chans)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.act = nn.ReLU()
        self.downsample = None
        if stride > 1 or in_chans != out_chans:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_chans, out_chans, 1, stride, bias=False), nn.BatchNorm2d(out_chans)
            )

    def forward(self, x):
        skip = x if self.downsample is None else self.downsample(x)  # (B, D, H/s, W/s)
        x = self.act(self.bn1(self.conv1(x)))  # (B, D, H/s, W/s)
        x = self.bn2(self.conv2(x))  # (B, D, H/s, W/s)
        return self.act(skip + x)


class CNN(nn.Module):
    """A stem, then stages of residual blocks, each with more channels at half the resolution. (B, C, H, W) -> (B, num_classes).

    stem: (channels, stride) of the first convolution. widths: the channels of each stage. depths: its number of blocks. The
    first block of every stage but the first has stride 2. At the end stands the mean over all places, then a linear head;
    num_classes=0 leaves the head out and returns (B, widths[-1]). The size of the images does not matter to a CNN: img_size
    is here because every model of the course has it, and images of another size pass.
    Raises ValueError for images with another number of channels, and when widths and depths are not equally many.
    """

    needs_all_tokens = True  # its blocks read maps (B, C, H, W), of which no place can be left out

    def __init__(
        self,
        img_size=32,
        in_chans=3,
        num_classes=10,
        stem=(32, 2),
        widths=(32, 64, 96),
        depths=(1, 1, 1),
    ):
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(
                f"every stage has a width and a depth, got {len(widths)} widths and {len(depths)} depths."
            )
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        before, stride = stem
        self.conv1 = nn.Conv2d(in_chans, before, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.act = nn.ReLU()
        blocks = []
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for number in range(depth):
                blocks.append(ResidualBlock(before, width, 2 if stage and not number else 1))
                before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if num_classes:
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
        self.to(
            memory_format=torch.channels_last
        )  # fastest when the channels of a pixel are side by side in memory

    def forward(self, images):
        if images.ndim != 4 or images.shape[1] != self.conv1.in_channels:
            raise ValueError(
                f"this model reads images of shape (B, {self.conv1.in_channels}, H, W), got {tuple(images.shape)}."
            )
        x = self.act(self.bn1(self.conv1(images)))  # (B, C, H/2, W/2)
        x = self.blocks(x)  # (B, D, H/8, W/8)
        return self.head(x.mean(dim=(2, 3)))  # (B, num_classes)

    def inner_matrices(self):
        """The weights that Muon takes: those of the convolutions."""
        return [m.weight for m in self.modules() if isinstance(m, nn.Conv2d)]

    def branch_ends(self):
        """The weights with which a branch begins at zero: the scale of its last norm (Goyal et al. 2017, arXiv:1706.02677)."""
        return [block.bn2.weight for block in self.blocks]

"""Lesson 11, in four parts: windows, segmentation, detection, video."""

from vit_edu.check.catalogue.windows import (
    merge_patches,
    relative_position_index,
    shifted_window_mask,
    window_attention_cost,
    window_partition,
    window_reverse,
)

__all__ = [
    "merge_patches",
    "relative_position_index",
    "shifted_window_mask",
    "window_attention_cost",
    "window_partition",
    "window_reverse",
]

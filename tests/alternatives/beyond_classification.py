"""Lesson 11: right answers written in other ways, one module for each of its parts."""

from alternatives import detection, segmentation, video, windows

__all__ = ["detection", "segmentation", "video", "windows"]

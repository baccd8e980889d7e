"""Lesson 11, in four parts: windows, segmentation, detection, video."""

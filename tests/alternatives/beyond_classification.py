"""Lesson 11: right answers written in other ways, one module for each of its parts."""

from alternatives import windows  # noqa: F401

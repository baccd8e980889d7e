"""The exercises, one module a lesson: almost only data."""

"""The exercises, one module per lesson: reference, cases and known mistakes. Their words are in `text/`."""

"""pytest-mechanism: tests of what happens inside language models."""

__version__ = "0.1.0"

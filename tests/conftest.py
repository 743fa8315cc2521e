"""pytest's own tool for running pytest inside a test."""

pytest_plugins = ["pytester"]

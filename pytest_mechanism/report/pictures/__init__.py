"""Pictures: their formats, and what tells ours from others."""

FORMATS = ("svg", "png")

MARK = "drawn by pytest-mechanism"
"""Tells a picture of ours from another one, in its first bytes: the creator in the metadata of an SVG or a PNG."""

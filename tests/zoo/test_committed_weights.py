"""The weights that the project brings."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_BYTES = 30_000_000
ENDINGS = {".safetensors", ".npz", ".gguf", ".bin", ".pt"}


def test_all_weights_together_are_small() -> None:
    """An installation and a clone stay quick."""
    files = [
        path
        for folder in ("pytest_mechanism", "circuits", "tests", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in ENDINGS and path.is_file()
    ]
    assert len(files) > 20
    assert sum(path.stat().st_size for path in files) < MOST_BYTES

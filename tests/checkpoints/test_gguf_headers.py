"""The header of a GGUF file is read with limits: one that contradicts itself is one line, at once."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_files import TinyModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_mechanism.checkpoints import gguf_file
from pytest_mechanism.checkpoints.gguf_file import checked_header, gguf_config, quantisation
from pytest_mechanism.checkpoints.gguf_header import MOST_HEADER, Tensor, read_header
from pytest_mechanism.checkpoints.shape import Shape, read_shape
from pytest_mechanism.errors import MechanismError

STRING, ARRAY, UINT8, UINT32 = 8, 9, 0, 4


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(
    name: bytes = b"a", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0
) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def header(
    *parts: bytes, tensors: int = 0, entries: int = 0, version: int = 3, data: bytes = b""
) -> bytes:
    content = b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + b"".join(parts)
    return content + bytes(-len(content) % 32) + data if data else content


ARCHITECTURE = entry(b"general.architecture", STRING, text(b"llama"))
HUGE = 1 << 60

BROKEN = {
    "empty": (b"", "is not a GGUF file"),
    "another format": (
        b"PK\x03\x04" + bytes(100),
        "is not a GGUF file: it does not begin with 'GGUF'",
    ),
    "only the magic": (b"GGUF", "is truncated or damaged"),
    "version 1": (header(version=1), "has GGUF version 1; valid: 2, 3"),
    "version 99": (header(version=99), "has GGUF version 99"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "tensors without end": (header(tensors=HUGE), "says it has 1,152,921,504,606,846,976 tensors"),
    "entries without end": (header(entries=HUGE), "metadata entries; at most 10,000"),
    "fewer entries than said": (header(ARCHITECTURE, entries=9_999), "is truncated or damaged"),
    "a key of 2^40 bytes": (header(struct.pack("<Q", 1 << 40), entries=1), "asks for byte"),
    "a string of 2^40 bytes": (
        header(entry(b"k", STRING, struct.pack("<Q", 1 << 40)), entries=1),
        "asks for byte 1,099,511,627,821, the file has 45",
    ),
    "an array of 2^60 strings": (
        header(entry(b"k", ARRAY, struct.pack("<IQ", STRING, HUGE)), entries=1),
        "has arrays of 1,152,921,504,606,846,976 elements up to 'k'; at most",
    ),
    "an array of 2^60 numbers": (
        header(entry(b"k", ARRAY, struct.pack("<IQ", UINT32, HUGE)), entries=1),
        "has arrays of",
    ),
    "many large arrays": (
        header(
            *(
                entry(f"k{i}".encode(), ARRAY, struct.pack("<IQ", UINT8, 1_000_000) + bytes(10**6))
                for i in range(5)
            ),
            entries=5,
        ),
        "has arrays of 5,000,000 elements up to 'k4'",
    ),
    "nested arrays": (
        header(entry(b"k", ARRAY, struct.pack("<IQ", ARRAY, 3)), entries=1),
        "'k' that is an array of arrays, which is not read",
    ),
    "an unknown type": (header(entry(b"k", 77, b""), entries=1), "of an unknown type, 77"),
    "an array of an unknown type": (
        header(entry(b"k", ARRAY, struct.pack("<IQ", 77, 3)), entries=1),
        "an array of the unknown type 77",
    ),
    "a key twice": (header(ARCHITECTURE, ARCHITECTURE, entries=2), "'general.architecture' twice"),
    "a key that is not UTF-8": (header(entry(b"\xff", UINT8, b"\0"), entries=1), "is not UTF-8"),
    "a text that is not UTF-8": (
        header(entry(b"k", STRING, text(b"\xff")), entries=1),
        "not UTF-8",
    ),
    "alignment 0": (
        header(entry(b"general.alignment", UINT32, struct.pack("<I", 0)), entries=1),
        "general.alignment that is not a power of two",
    ),
    "alignment of 2^31": (
        header(entry(b"general.alignment", UINT32, struct.pack("<I", 1 << 31)), entries=1),
        "general.alignment that is not a power of two",
    ),
    "2^32 - 1 dimensions": (
        header(text(b"a") + struct.pack("<I", 2**32 - 1), tensors=1),
        "says tensor 'a' has 4,294,967,295 dimensions; valid: 1 to 4",
    ),
    "no dimension": (header(tensor(shape=()), tensors=1), "has 0 dimensions"),
    "a dimension of 0": (header(tensor(shape=(4, 0)), tensors=1), "is 4 x 0, which F32 cannot be"),
    "half a block": (
        header(tensor(shape=(33, 2), kind=8), tensors=1),
        "which Q8_0 cannot be (blocks of 32)",
    ),
    "an unknown kind of tensor": (header(tensor(kind=777), tensors=1), "(type 777); update it"),
    "a tensor of 2^120 numbers": (
        header(tensor(shape=(HUGE, HUGE)), tensors=1, data=bytes(64)),
        "it was truncated",
    ),
    "a tensor outside the file": (
        header(tensor(offset=1 << 50), tensors=1, data=bytes(64)),
        "tensor 'a' ends at byte 1,125,899,906,842,704, the file has 128; it was truncated",
    ),
    "half a tensor": (
        header(tensor(), tensors=1, data=bytes(15)),
        "the file has 79; it was truncated",
    ),
    "two tensors in one place": (
        header(tensor(), tensor(b"b"), tensors=2, data=bytes(64)),
        "tensor 'b' overlaps the tensor before it",
    ),
    "a tensor twice": (
        header(tensor(), tensor(offset=32), tensors=2, data=bytes(64)),
        "has tensor 'a' twice",
    ),
    "a tensor off its alignment": (
        header(tensor(offset=8), tensors=1, data=bytes(64)),
        "does not begin at a multiple of 32",
    ),
    "more bytes than tensors": (
        header(tensor(), tensors=1, data=bytes(100)),
        "its header says 80 bytes, the file has 164; something was appended",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_header_that_contradicts_itself_is_one_line(tmp_path: Path, name: str) -> None:
    """It names the file and the fault, without reading on, and in a few megabytes."""
    content, message = BROKEN[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    started = time.process_time()
    tracemalloc.start()
    with pytest.raises(MechanismError) as caught:
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{path} ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 30  # an endless list of entries takes minutes
    assert peak < 8e6


def test_a_header_is_of_limited_size(tmp_path: Path) -> None:
    """Endless metadata, for which the file has the bytes, end at the limit."""
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(header(entry(b"k", STRING, struct.pack("<Q", 1 << 32)), entries=1))
        file.truncate(1 << 33)  # a file with holes
    with pytest.raises(MechanismError, match="has a header of more than 64 MiB"):
        read_header(path)
    assert MOST_HEADER == 64 << 20


def test_a_tiny_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Sizes, tensors and quantisation are those that the library gguf wrote."""
    path = TinyModel(kind="Q4_1").write(tmp_path / "tiny.gguf")
    first = read_header(path).tensors[0]
    assert first == Tensor("token_embd.weight", (64, 288), "Q4_1", 0, 288 * 64 // 32 * 20)
    assert read_shape(path) == Shape(2, 4, 2, 64, 16, 288)
    assert quantisation(path) == "Q4_1"
    assert gguf_file.weights_in(path) == 288 * 64 + 2 * (64 * 64 * 3 + 3 * 64 * 128 + 2 * 64) + 64


def test_the_tokenizers_hash_is_that_of_its_entries(tmp_path: Path) -> None:
    """Two quantisations of a model have one tokenizer; another chat template is another tokenizer."""
    one = read_header(TinyModel().write(tmp_path / "a.gguf")).tokenizer
    two = read_header(TinyModel(kind="F16", seed=1).write(tmp_path / "b.gguf")).tokenizer
    other = read_header(TinyModel(chat="{{ messages }}").write(tmp_path / "c.gguf")).tokenizer
    assert (one == two, one == other) == (True, False)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TinyModel(tensors=False), "has no weights, only a vocabulary"),
        (TinyModel(architecture="lama"), "has the architecture 'lama', which transformers does not read "
         "from GGUF files; did you mean 'llama'? valid: "),
        (TinyModel(metadata={"general.type": "adapter"}), "holds no model, but is of type 'adapter'"),
        (TinyModel(metadata={"split.count": 3}), "is one of 3 parts of a model"),
    ],
    ids=["vocabulary", "architecture", "adapter", "part"],
)  # fmt: skip
def test_a_file_without_a_whole_model_is_refused(
    tmp_path: Path, model: TinyModel, message: str
) -> None:
    """By what it holds instead."""
    path = model.write(tmp_path / "tiny.gguf")
    with pytest.raises(MechanismError) as caught:
        checked_header(path)
    assert f"{path} {message}" in str(caught.value)


def test_without_the_library_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line."""
    path = TinyModel().write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MechanismError, match=r"pip install 'pytest-mechanism\[gguf\]'"):
        checked_header(path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small file."""
    folder = tmp_path_factory.mktemp("gguf")
    return TinyModel(layers=1, width=32, heads=2).write(folder / "tiny.gguf").read_bytes()


def outcome(path: Path) -> str:
    """What reading the sizes comes to."""
    try:
        config = gguf_config(path)
    except MechanismError as problem:
        return "several lines" if "\n" in str(problem) else "one line"
    return "sizes" if all(type(size) is int for size in config.values()) else "no sizes"


def replaced(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


MUTATIONS: list[Callable[[bytes, int, int], bytes]] = [
    lambda content, at, value: content[:at],
    lambda content, at, value: replaced(content, at, bytes([value % 256])),
    lambda content, at, value: replaced(content, at, struct.pack("<Q", value)),
    lambda content, at, value: content[:at] + content[at + value % 64 :],
    lambda content, at, value: content[:at] + bytes(value % 64) + content[at:],
]


@given(
    mutation=st.sampled_from(MUTATIONS),
    at=st.integers(0, 12_000),
    value=st.one_of(st.integers(0, 300), st.sampled_from([2**31, 2**32 - 1, 2**60, 2**64 - 1])),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_header_is_read_or_refused(
    tiny: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    mutation: Callable[..., bytes],
    at: int,
    value: int,
) -> None:
    """Whatever byte changes, there is a header or one line, and nothing else."""
    path = tmp_path_factory.mktemp("damaged") / "model.gguf"
    path.write_bytes(mutation(tiny, at, value))
    assert outcome(path) in ("sizes", "one line")

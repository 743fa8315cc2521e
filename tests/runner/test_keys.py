"""The key of a measurement: everything that can change its result, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.fingerprint import Fingerprint
from pytest_mechanism.measurements.measurement import Measurement
from pytest_mechanism.measurements.recipe import Recipe
from pytest_mechanism.measurements.request import Request
from pytest_mechanism.runner import keys
from pytest_mechanism.runner.keys import LIBRARIES, device_kind, measurement_key, versions
from pytest_mechanism.types import canonical


class Plain(Request):
    implementation = "m:measure"

    rows: int
    recipe: Recipe | None = None

    def recipe_used(self) -> Recipe | None:
        return self.recipe


class Elsewhere(Plain):
    implementation = "m:other"


class Revised(Plain):
    revision = 2


class Unstored(Plain):
    stored = False


class Donation(Request):
    implementation = "m:donate"
    stored = False

    heads: list[int]


class OtherDonation(Donation):
    implementation = "m:other"


class RevisedDonation(Donation):
    revision = 2


def recipe(lora: int | None) -> Recipe:
    return Recipe("capability", 1e-3, steps=1, every=1, seed=0, batch=1, lora=lora)


DONATION = Measurement(Donation(heads=[1]), "ft", "{}")
MEASUREMENT = Measurement(Plain(rows=5), "base", '{"seed":0}', (DONATION,))
BASE, FT = Fingerprint("model base", "words"), Fingerprint("model ft", "words")
ROLES = {"base": BASE, "ft": FT}
SETTING = {"dtype": "float32", "device": "cpu", "engine": "reference"}


def key(
    measurement: Measurement = MEASUREMENT,
    roles: dict[str, Fingerprint] = ROLES,
    **setting: str,
) -> str:
    return measurement_key(measurement, roles, **{**SETTING, **setting})


def donated(**changes) -> Measurement:
    return replace(MEASUREMENT, inputs=(replace(DONATION, **changes),))


OTHER_MEASUREMENTS = {
    "function": replace(MEASUREMENT, request=Elsewhere(rows=5)),
    "revision": replace(MEASUREMENT, request=Revised(rows=5)),
    "model": replace(MEASUREMENT, on="ft"),
    "task": replace(MEASUREMENT, task='{"seed":1}'),
    "arguments": replace(MEASUREMENT, request=Plain(rows=6)),
    "no input": replace(MEASUREMENT, inputs=()),
    "input twice": replace(MEASUREMENT, inputs=(DONATION, DONATION)),
    "input's function": donated(request=OtherDonation(heads=[1])),
    "input's revision": donated(request=RevisedDonation(heads=[1])),
    "input's model": donated(on="base"),
    "input's task": donated(task='{"seed":1}'),
    "input's arguments": donated(request=Donation(heads=[2])),
    "input's input": donated(inputs=(DONATION,)),
}
OTHER_ROLES = {
    "weights of the model": {**ROLES, "base": Fingerprint("model base 2", "words")},
    "weights of the donor": {**ROLES, "ft": Fingerprint("model ft 2", "words")},
    "tokenizer of the model": {**ROLES, "base": Fingerprint("model base", "words 2")},
    "tokenizer of the donor": {**ROLES, "ft": Fingerprint("model ft", "words 2")},
    "tokenizer of another role": {**ROLES, "control": Fingerprint("model c", "words 2")},
    "models swapped": {"base": FT, "ft": BASE},
}
OTHER_SETTINGS = {
    "dtype": {"dtype": "float64"},
    "device": {"device": "cuda"},
    "engine": {"engine": "branch"},
    "8 bits": {"quantize": "8bit"},
    "4 bits": {"quantize": "4bit"},
}


def test_equal_measurements_have_equal_keys() -> None:
    """A key follows from the content alone."""
    again = Measurement(Plain(rows=5), "base", canonical({"seed": 0}), (DONATION,))
    assert (key(), 64) == (key(again, dict(reversed(ROLES.items()))), len(key()))


@pytest.mark.parametrize("other", OTHER_MEASUREMENTS.values(), ids=OTHER_MEASUREMENTS)
def test_whatever_is_measured_changes_the_key(other: Measurement) -> None:
    """Method, revision, task, arguments and inputs, at any depth."""
    assert key() != key(other)


@pytest.mark.parametrize("roles", OTHER_ROLES.values(), ids=OTHER_ROLES)
def test_whatever_is_measured_on_changes_the_key(roles: dict[str, Fingerprint]) -> None:
    """Weights of every model involved, and every tokenizer of the run, since rows depend on it."""
    assert key() != key(roles=roles)


@pytest.mark.parametrize("setting", OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_how_it_is_measured_changes_the_key(setting: dict[str, str]) -> None:
    """Dtype, kind of device and engine."""
    assert key() != key(**setting)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_version_of_every_library_changes_the_key(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """After an update of any library that takes part, the runner measures again."""
    before = key()
    other = {**versions(), library: "0.0.0"}
    monkeypatch.setattr(keys, "versions", lambda: other)
    assert before != key()


def test_no_two_measurements_share_a_key() -> None:
    """What changes a key in two ways gives two other keys."""
    result = [key(), *(key(m) for m in OTHER_MEASUREMENTS.values())]
    result += [key(**s) for s in OTHER_SETTINGS.values()]
    result += [key(roles=OTHER_ROLES[f"weights of the {name}"]) for name in ("model", "donor")]
    assert len(result) == len(set(result))


def test_the_name_of_a_role_does_not_change_the_key() -> None:
    """A checkpoint that was measured as ``ft`` need not be measured again as ``base``."""
    renamed = replace(MEASUREMENT, on="old", inputs=(replace(DONATION, on="new"),))
    assert key() == key(renamed, {"old": BASE, "new": FT})


def test_another_role_with_a_known_tokenizer_does_not_change_the_key() -> None:
    """Adding a control to the run keeps the pair's measurements valid."""
    assert key() == key(roles={**ROLES, "control": Fingerprint("model c", "words")})


def test_the_number_of_a_device_does_not_change_the_key() -> None:
    """Two GPUs of one machine are one kind of device."""
    assert key(device="cuda:0") == key(device="cuda:1")


def test_whether_it_is_kept_does_not_change_the_key() -> None:
    """Storing a result does not change it."""
    assert key() == key(replace(MEASUREMENT, request=Unstored(rows=5)))


def test_versions_are_those_of_the_installed_libraries() -> None:
    """Every library is named; one that is not installed is ``none``."""
    import numpy as np

    result = versions()
    assert (sorted(LIBRARIES), np.__version__) == (sorted(result), result["numpy"])


def test_a_library_that_is_not_installed_has_a_version_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Installing one later changes the key."""
    monkeypatch.setattr(keys, "LIBRARIES", ("no-such-library-at-all",))
    assert versions.__wrapped__() == {"no-such-library-at-all": "none"}


@pytest.mark.parametrize(
    ("measurement", "roles", "counts"),
    [
        (MEASUREMENT, ROLES, False),
        (replace(MEASUREMENT, request=Plain(rows=5, recipe=recipe(None))), ROLES, False),
        (replace(MEASUREMENT, request=Plain(rows=5, recipe=recipe(4))), ROLES, True),
        (MEASUREMENT, {**ROLES, "base": replace(BASE, adapted=True)}, True),
        (MEASUREMENT, {**ROLES, "ft": replace(FT, adapted=True)}, True),
    ],
    ids=["neither", "all weights", "LoRA", "adapter", "adapter of the donor"],
)
def test_the_version_of_peft_counts_where_it_takes_part(
    monkeypatch: pytest.MonkeyPatch,
    measurement: Measurement,
    roles: dict[str, Fingerprint],
    counts: bool,
) -> None:
    """LoRA is trained with it and adapters are merged by it; nothing else knows it."""
    before = key(measurement, roles=roles)
    monkeypatch.setattr(keys, "version_of", lambda _: "another")
    assert (key(measurement, roles=roles) != before) is counts


def test_the_gpus_that_spread_will_find_change_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No GPU, one GPU, and a hidden GPU. The key of a named device depends on its kind alone."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(keys, "GPUS", tmp_path)
    observed = {device_kind("spread")}
    (tmp_path / "0000:01:00.0").mkdir()
    observed.add(device_kind("spread"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    observed.add(device_kind("spread"))
    assert len(observed) == 3
    assert (device_kind("cuda:1"), device_kind("cpu")) == ("cuda", "cpu")


@pytest.mark.parametrize(
    ("role", "library", "counts"),
    [("ft", "torchao", True), ("control", "torchao", False), ("control", "gguf", True)],
)
def test_the_library_of_quantised_weights_counts_where_it_reads(
    monkeypatch: pytest.MonkeyPatch, role: str, library: str, counts: bool
) -> None:
    """That of the measured weights; and gguf on any role, since it reads the tokenizer too."""
    roles = {**ROLES, role: Fingerprint(f"model {role}", "words", library=library)}
    before = key(roles=roles)
    monkeypatch.setattr(keys, "version_of", lambda name: "0.0.0")
    monkeypatch.setattr(keys, "versions", versions)  # cached: these stay as they are
    assert (before != key(roles=roles)) is counts

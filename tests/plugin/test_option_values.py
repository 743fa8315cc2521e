"""Options, ini keys of the same names, aliases; wrong values are one line and exit code 4."""

import json
import os
import re
import sys
from types import SimpleNamespace

import pytest

from pytest_mechanism.plugin.hooks import MechanismPlugin
from pytest_mechanism.plugin.stash import ItemReport, attach

OPTIONS = (
    "--model-pair",
    "--mechanism-device",
    "--mechanism-dtype",
    "--mechanism-quantize",
    "--mechanism-batch-size",
    "--mechanism-confidence",
    "--mechanism-store",
    "--mechanism-engine",
    "--mechanism-json",
    "--mechanism-report",
    "--mechanism-history",
    "--mechanism-log",
    "--mechanism-ray",
    "--mechanism-model",
    "--mechanism-no-store",
    "--mechanism-require-accepted",
    "--mechanism-no-skips",
    "--mechanism-no-locate",
    "--mechanism-allow-pickle",
    "--mechanism-trust-remote-code",
)


@pytest.fixture
def green(project):
    project.spec("good")
    project.values(good=0.9)
    return project


def ini(project, *lines):
    """A pyproject.toml with pytest's own table."""
    project.pytester.makepyprojecttoml("\n".join(["[tool.pytest]", *lines]))


def test_help_has_one_group_with_every_option(project):
    """`--help` shows all options in one group."""
    text = project.run("--help", pair=None).stdout.str()

    group = text.partition("what happens inside language models (pytest-mechanism):")[2]
    options = re.findall(r"^  (--[a-z-]+)", group.partition("\n\n")[0], re.MULTILINE)
    assert sorted(options) == sorted(OPTIONS)


def test_help_has_an_ini_key_for_every_option(project):
    """Each option has an ini key of its name, and aliases have one of their own."""
    text = project.run("--help", pair=None).stdout.str()

    keys = re.findall(r"^  (model_pair|mechanism_\w+)\b", text, re.MULTILINE)
    wanted = [o.removeprefix("--").replace("-", "_") for o in OPTIONS]
    assert sorted(keys) == sorted([*wanted, "mechanism_models"])


def test_markers_are_registered(project):
    """`--markers` lists ours, so that strict runs accept them."""
    text = project.run("--markers", pair=None).stdout.str()

    assert re.findall(r"^@pytest.mark.(mechanism|role|kind)\b", text, re.MULTILINE) == [
        "mechanism",
        "role",
        "kind",
    ]


# -- the pair


def test_pair_from_the_ini_file(green):
    """`model_pair` in the ini file is the pair where none is given."""
    ini(green, 'model_pair = "base,ft"', 'mechanism_models = ["base = ./base", "ft = ./ft"]')

    assert green.run(pair=None).ret == pytest.ExitCode.OK


def test_flag_wins_over_ini(green):
    """A pair on the command line replaces that of the ini file."""
    ini(green, 'model_pair = "./gone,./lost"')

    assert green.run().ret == pytest.ExitCode.OK


def test_alias_names_a_folder_seen_from_the_rootdir(green):
    """A folder behind an alias is meant from the rootdir, wherever pytest is started."""
    ini(green, 'mechanism_models = ["one = ./base", "two = ft"]')
    green.path.joinpath("below").mkdir()
    os.chdir(green.path / "below")
    (green.path / "below" / "values.json").write_text('{"good": 0.9}')

    result = green.run("..", pair="one,two")

    result.stdout.fnmatch_lines(["mechanism: base = one, *", "mechanism: ft = two, *"])
    assert result.ret == pytest.ExitCode.OK


def test_pair_of_the_ini_file_is_seen_from_the_rootdir(green):
    """Folders of `model_pair` in the ini file are meant from the rootdir."""
    ini(green, 'model_pair = "./base,./ft"')
    green.path.joinpath("below").mkdir()
    os.chdir(green.path / "below")
    (green.path / "below" / "values.json").write_text('{"good": 0.9}')

    assert green.run("..", pair=None).ret == pytest.ExitCode.OK


def test_pair_on_the_command_line_is_seen_from_where_one_is(green):
    """Folders of `--model-pair` are meant from the folder that pytest is started in."""
    green.path.joinpath("below").mkdir()
    os.chdir(green.path / "below")
    (green.path / "below" / "values.json").write_text('{"good": 0.9}')

    assert green.run("..", pair="../base,../ft").ret == pytest.ExitCode.OK
    assert green.run("..").ret == pytest.ExitCode.USAGE_ERROR


def test_alias_of_an_embedded_model(green):
    """An alias may name an embedded checkpoint."""
    ini(green, 'mechanism_models = ["toy = zoo:base"]')

    green.run(pair="toy,./ft").stdout.fnmatch_lines(["mechanism: base = toy, *"])


def test_label(green):
    """`label=reference` says how reports call a side."""
    green.run(pair="v1=./base,v2=./ft").stdout.fnmatch_lines(
        [
            "mechanism: base = ./base (label v1), *",
            "mechanism: ft = ./ft (label v2), *",
            "*= mechanism: v1+v2 =*",
        ]
    )


def test_embedded_names_are_no_aliases_elsewhere(green):
    """Without an alias `base` is no embedded checkpoint: nobody gates the toy by mistake."""
    (green.path / "below").mkdir()
    os.chdir(green.path / "below")

    result = green.run("..", pair="base,ft")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: no alias or folder 'base'; *valid: zoo:base, zoo:ft*"])


def test_further_models_from_the_ini_file(green):
    """`mechanism_model` in the ini file names further roles, one per line."""
    green.spec("good: {on: [one, two]}")
    ini(green, 'mechanism_model = ["one=./base", "two=./ft"]')

    assert green.verdicts() == {"good.one": "pass", "good.two": "pass"}


# -- wrong values


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model-pair", "./base"], "--model-pair takes two checkpoints, separated by a comma*"),
        (["--model-pair", "./base,"], "--model-pair takes two checkpoints, separated by a comma*"),
        (["--model-pair", "./base,./ft,./ft"], "--model-pair takes two checkpoints, *"),
        (
            ["--model-pair", "./base,./base"],
            "--model-pair: both checkpoints have the label 'base'*",
        ),
        (["--model-pair", "a b=./base,./ft"], "'a b' cannot be a label: *"),
        (["--model-pair", "../x=./base,./ft"], "no folder '../x=./base'; valid: *"),
        (["--model-pair", "hf:org/name,./ft"], "hf:org/name: org/name is not in the cache *"),
        (
            ["--model-pair", "./base+lora,./ft"],
            "./base+lora: the adapter's folder 'lora' does not exist*",
        ),
        (["--mechanism-device", "gpu"], "--mechanism-device: unknown device 'gpu'; valid: *"),
        (["--mechanism-device", "auto:1"], "--mechanism-device: unknown device 'auto:1'; *"),
        (["--mechanism-quantize", "2bit"], "--mechanism-quantize: unknown quantisation '2bit'; *"),
        (["--mechanism-device", "cuda:x"], "--mechanism-device: unknown device 'cuda:x'; *"),
        (["--mechanism-device", "cuda:²"], "--mechanism-device: unknown device 'cuda:²'; *"),
        (["--mechanism-dtype", "float23"], "--mechanism-dtype: unknown dtype 'float23'; did you *"),
        (["--mechanism-batch-size", "0"], "--mechanism-batch-size: '0' is not a number of rows *"),
        (["--mechanism-batch-size=-1"], "--mechanism-batch-size: '-1' is not a number of rows *"),
        (["--mechanism-batch-size", "many"], "--mechanism-batch-size: 'many' is not a number *"),
        (["--mechanism-batch-size", "²"], "--mechanism-batch-size: '²' is not a number of rows *"),
        (["--mechanism-confidence", "95"], "--mechanism-confidence: '95' does not lie between *"),
        (["--mechanism-confidence", "nan"], "--mechanism-confidence: 'nan' does not lie *"),
        (["--mechanism-confidence", "high"], "--mechanism-confidence: 'high' does not lie *"),
        (["--mechanism-model", "./base"], "--mechanism-model takes ROLE=REFERENCE, got './base'"),
        (
            ["--mechanism-model", "ft=./base"],
            "--mechanism-model: the role 'ft' belongs to the pair; *",
        ),
        (["--mechanism-model", "control=./gone"], "no folder './gone'; valid: zoo:base*"),
        (["--mechanism-model", "a=./base", "--mechanism-model", "a=./ft"], "*'a' is set twice*"),
        (["--mechanism-json", "gone/out.json"], "--mechanism-json: */gone/out.json cannot be *"),
        (["--mechanism-json", "base"], "--mechanism-json: */base cannot be written: *"),
        (["--mechanism-json", "/proc/x.json"], "--mechanism-json: /proc/x.json cannot be *"),
        *(
            ([f"--mechanism-{name}", path], f"--mechanism-{name}: *{said}*")
            for name in ("json", "report", "history")
            for path, said in (("~nobody_here/x", "no such home"), ("x" * 300, "name too long"))
        ),
        (["--mechanism-store", "values.json"], "the store */values.json cannot be written: *"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_option(green, arguments, line):
    """An invalid value is one line that names the valid values, exit code 4."""
    result = green.run(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
    assert len([x for x in result.errlines if x.strip()]) == 1
    result.stdout.no_fnmatch_line("*Traceback*")


def test_quantised_weights_need_their_library(green, monkeypatch):
    """What to install is one line, before anything is collected."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    result = green.run("--mechanism-quantize", "8bit")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    line = "--mechanism-quantize: 8bit needs the library bitsandbytes: pip install bitsandbytes"
    result.stderr.fnmatch_lines([f"ERROR: {line}"])


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ('model_pair = "./base"', "--model-pair takes two checkpoints, *"),
        ('mechanism_models = ["release"]', "ini mechanism_models: 'release' is not NAME = *"),
        ('mechanism_quantize = "2bit"', "--mechanism-quantize: unknown quantisation '2bit'; *"),
        ('mechanism_device = "gpu"', "--mechanism-device: unknown device 'gpu'; *"),
        ('mechanism_dtype = "float23"', "--mechanism-dtype: unknown dtype 'float23'; *"),
        ("mechanism_batch_size = 0", "--mechanism-batch-size: '0' is not a number of rows *"),
        ("mechanism_confidence = 2", "--mechanism-confidence: '2' does not lie between *"),
        ('mechanism_json = "gone/out.json"', "--mechanism-json: */gone/out.json cannot be *"),
        (
            'mechanism_model = ["ft=./base"]',
            "--mechanism-model: the role 'ft' belongs to the pair*",
        ),
        ("mechanism_batch_size = true", "*'mechanism_batch_size' expects an int, got bool: True"),
        ('mechanism_confidence = "0.9"', "*'mechanism_confidence' expects a float, got str: '0.9'"),
        ("mechanism_dtype = 32", "*'mechanism_dtype' expects a string, got int: 32"),
        ("mechanism_json = 3", "*'mechanism_json' expects a string, got int: 3"),
        ("mechanism_models = 'a = b'", "*'mechanism_models' expects a list *"),
        ("mechanism_model = 'a=b'", "*'mechanism_model' expects a list *"),
        (
            "mechanism_require_accepted = 1",
            "*'mechanism_require_accepted' expects a bool, got int: 1",
        ),
        ("mechanism_no_store = 'no'", "*'mechanism_no_store' expects a bool, got str: 'no'"),
    ],
)
def test_wrong_ini_value(green, key, line):
    """A wrong value of an ini key is the same line as that of its option."""
    ini(green, key)

    result = green.run(pair=None if "pair" in key else "./base,./ft")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


def test_word_for_a_number_in_an_ini_file(green):
    """In a pytest.ini a word where a number belongs exits 4 with one line."""
    green.pytester.makeini("[pytest]\nmechanism_batch_size = many\n")

    result = green.run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: ini mechanism_batch_size: *'many'"])


def test_a_batch_size_in_an_ini_file_may_be_auto(green):
    """As the option may, in both formats."""
    ini(green, 'mechanism_batch_size = "auto"')
    assert green.run().ret == pytest.ExitCode.OK
    green.pytester.makeini("[pytest]\nmechanism_batch_size = auto\n")
    assert green.run().ret == pytest.ExitCode.OK


def test_numbers_in_toml_may_be_numbers(green):
    """A batch size and a confidence may be TOML numbers."""
    ini(green, "mechanism_batch_size = 8", "mechanism_confidence = 0.9")

    assert green.run().ret == pytest.ExitCode.OK


def test_numbers_in_an_ini_file(green):
    """A pytest.ini, where everything is text, works as well."""
    green.pytester.makeini(
        "[pytest]\nmechanism_batch_size = 8\nmechanism_confidence = 0.9\n"
        "mechanism_no_store = true\nmechanism_models =\n    one = ./base\n    two = ./ft\n"
    )

    assert green.run(pair="one,two").ret == pytest.ExitCode.OK


def test_confidence_reaches_the_claims(green):
    """`--mechanism-confidence` is that of every score."""
    result = green.result("--mechanism-confidence", "0.9")["claims"]

    assert [c["scores"][0]["confidence"] for c in result] == [0.9, 0.9]


def test_confidence_from_the_ini_file(green):
    """So is `mechanism_confidence`."""
    ini(green, "mechanism_confidence = 0.8")

    assert green.result()["claims"][0]["scores"][0]["confidence"] == 0.8


def test_a_missing_device_that_items_find_is_said_once():
    """If only a measurement discovers that the device is missing, the run ends there. With xdist, one line
    reports it and the exit code is 4."""
    config = SimpleNamespace()
    plugin = MechanismPlugin(SimpleNamespace(config=config))
    report = SimpleNamespace(failed=False, skipped=False, when="setup", nodeid="x.yaml::good::ft")
    attach(report, ItemReport(None, {}, "--mechanism-device: no device 'cuda:9'"))

    with pytest.raises(pytest.UsageError, match="no device 'cuda:9'"):
        plugin.pytest_runtest_logreport(report)
    assert plugin.errors == []

    report.node = SimpleNamespace()  # of a worker
    plugin.pytest_runtest_logreport(report)
    assert plugin.errors == ["--mechanism-device: no device 'cuda:9'"]


@pytest.mark.parametrize("where", ["flag", "ini"])
def test_dtype_and_device_reach_the_claims(green, where):
    """Every score records dtype and device, from the option or from the ini key."""
    if where == "ini":
        ini(green, 'mechanism_dtype = "float64"', 'mechanism_device = "cuda:1"')
        result = green.result()
    else:
        result = green.result("--mechanism-dtype", "float64", "--mechanism-device", "cuda:1")

    setting = result["claims"][0]["scores"][0]["setting"]
    assert (setting["dtype"], setting["device"]) == ("float64", "cuda")


def test_json_path_from_the_ini_file_is_seen_from_the_rootdir(green):
    """`mechanism_json` in the ini file is meant from the rootdir."""
    ini(green, 'mechanism_json = "out.json"')
    (green.path / "below").mkdir()
    os.chdir(green.path / "below")
    (green.path / "below" / "values.json").write_text('{"good": 0.9}')

    green.run("..", pair="../base,../ft")

    assert json.loads((green.path / "out.json").read_text())["mechanism_json"] == 1


def test_json_path_on_the_command_line_is_seen_from_where_one_is(green):
    """`--mechanism-json` is meant from the folder that pytest is started in."""
    (green.path / "below").mkdir()
    os.chdir(green.path / "below")
    (green.path / "below" / "values.json").write_text('{"good": 0.9}')

    green.run("..", "--mechanism-json", "out.json", pair="../base,../ft")

    assert (green.path / "below" / "out.json").exists()


@pytest.fixture
def settled(monkeypatch):
    """Hashes are remembered at once, and not only of files that have not changed for a while."""
    monkeypatch.setattr("pytest_mechanism.checkpoints.hash_cache.proves", lambda *_: True)


@pytest.mark.usefixtures("settled")
def test_store_on_the_command_line_is_seen_from_where_one_is(green):
    """`--mechanism-store` is meant from the folder that pytest is started in."""
    (green.path / "below").mkdir()
    os.chdir(green.path / "below")
    (green.path / "below" / "values.json").write_text('{"good": 0.9}')

    green.run("..", "--mechanism-store", "kept", pair="../base,../ft")

    assert (green.path / "below" / "kept" / "fingerprints.json").exists()


@pytest.mark.usefixtures("settled")
def test_store_from_the_ini_file_is_seen_from_the_rootdir(green):
    """`mechanism_store` in the ini file is meant from the rootdir."""
    ini(green, 'mechanism_store = "kept"')
    (green.path / "below").mkdir()
    os.chdir(green.path / "below")
    (green.path / "below" / "values.json").write_text('{"good": 0.9}')

    green.run("..", pair="../base,../ft")

    assert (green.path / "kept" / "fingerprints.json").exists()


@pytest.mark.usefixtures("settled")
def test_default_store_is_pytests_cache(green):
    """By default, measurements are stored in pytest's cache."""
    green.run()

    assert (green.path / ".pytest_cache" / "d" / "mechanism" / "fingerprints.json").exists()


@pytest.mark.parametrize("where", ["flag", "ini"])
def test_no_store_remembers_nothing(green, where):
    """`--mechanism-no-store`, or its ini key, leaves no folder behind."""
    if where == "ini":
        ini(green, "mechanism_no_store = true")

    green.run(*(["--mechanism-no-store"] if where == "flag" else []), "--mechanism-store", "kept")

    assert not (green.path / "kept").exists()
    assert not (green.path / ".pytest_cache" / "d" / "mechanism").exists()

"""Each setting of the table is an option and an ini key of pytest and an option of commands."""

import argparse
import re

import pytest

from pytest_mechanism.checkpoints.loading.model import DTYPES as TORCH_DTYPES
from pytest_mechanism.cli import main, make_parser
from pytest_mechanism.commands import sweep
from pytest_mechanism.commands.config import read_config
from pytest_mechanism.errors import MechanismError
from pytest_mechanism.settings.command_options import pytest_arguments
from pytest_mechanism.settings.model_options import DTYPES, ModelOptions
from pytest_mechanism.settings.pytest_options import model_options, pytest_addoption, read
from pytest_mechanism.settings.table import DEVICE, OF_COMMANDS, SETTINGS, TRUST

COMMANDS = {
    "doctor": OF_COMMANDS,
    "discover": OF_COMMANDS,
    "show": OF_COMMANDS,
    "sweep": sweep.SETTINGS,
    "fine-tune": (DEVICE, *TRUST),
}
"""Each command that runs models -> the settings that it takes."""

WRONG = {
    "mechanism_device": "gpu",
    "mechanism_dtype": "float23",
    "mechanism_quantize": "2bit",
    "mechanism_batch_size": "0",
    "mechanism_engine": "brnch",
    "mechanism_confidence": "95",
}


@pytest.fixture
def pytest_parser():
    """Holds pytest's options and ini keys."""
    parser = pytest.Parser(_ispytest=True)
    pytest_addoption(parser)
    return parser


def command_options(name):
    """Option string -> argparse's action, of a command."""
    (commands,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices[name]._option_string_actions


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_each_setting_is_pytests(setting, pytest_parser):
    """An ini key with its help and default, and, but for the aliases, an option of the same name."""
    text, kind, _ = pytest_parser._inidict[setting.name]
    assert (text, kind) == (setting.help, setting.ini)
    (group,) = (g for g in pytest_parser._groups if g.name == "mechanism")
    options = {option.names()[0]: option for option in group.options}
    assert (setting.flag in options) != setting.ini_only
    if not setting.ini_only:
        assert options[setting.flag].dest == setting.name
        assert options[setting.flag].attrs()["help"] == setting.help


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_that_runs_models_takes_the_settings(command):
    """Under pytest's name and the short form, with pytest's help."""
    options = command_options(command)
    for setting in COMMANDS[command]:
        assert options[setting.flag].help == setting.help
        if setting.short_flag:
            assert options[setting.short_flag] is options[setting.flag]
    others = {setting.flag for setting in SETTINGS} - {s.flag for s in COMMANDS[command]}
    assert others & options.keys() == set()


def test_no_command_has_a_setting_that_the_table_lacks():
    """An option called as pytest's comes from the table."""
    flags = {setting.flag for setting in SETTINGS}
    for command in (*COMMANDS, "lint", "schema", "new"):
        assert {o for o in command_options(command) if o.startswith("--mechanism")} <= flags


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("form", ["flag", "short_flag"])
def test_a_wrong_value_is_one_line_that_names_the_option(name, form, capsys):
    """From a command, before a checkpoint is looked at; exit code 2."""
    (setting,) = (s for s in SETTINGS if s.name == name)
    options = ["--model", "./gone", getattr(setting, form), WRONG[name]]

    assert main(["doctor", *options]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(rf"pytest-mechanism: {setting.flag}: .*'{WRONG[name]}'.*\n", err)


def test_defaults_are_those_of_model_options(tmp_path, monkeypatch):
    """A run without settings runs models as `ModelOptions()` says."""
    monkeypatch.chdir(tmp_path)

    assert model_options(read_config(argparse.Namespace())) == ModelOptions()


def test_a_dtype_is_one_of_torchs():
    assert [*DTYPES] == [*TORCH_DTYPES]


def test_arguments_that_were_not_typed_are_not_passed_on():
    """pytest then reads its ini key."""
    arguments = make_parser().parse_args(["doctor", "--dtype", "float64", "--mechanism-no-store"])

    assert pytest_arguments(arguments) == ["--mechanism-dtype=float64", "--mechanism-no-store"]


def test_an_ini_key_of_another_type_is_named(tmp_path, monkeypatch):
    """pytest's own sentence behind the key."""
    (tmp_path / "pytest.toml").write_text("[pytest]\nmechanism_device = 3\n")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(
        MechanismError, match=r"^ini mechanism_device: .* expects a string, got int"
    ):
        read(read_config(argparse.Namespace()), DEVICE)

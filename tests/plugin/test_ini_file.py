"""Where a relative path in an ini file points to, and that commands read the same file as pytest."""

import json
from pathlib import Path

import pytest

from pytest_mechanism.checkpoints.trust import Trust
from pytest_mechanism.cli import main, make_parser
from pytest_mechanism.commands.config import read_config
from pytest_mechanism.commands.models import open_session


@pytest.fixture
def tree(project):
    """A gate with aliases, two more folders, and in one of them checkpoints of the same names."""
    project.spec("good", name="circuits/circuit")
    (project.path / "circuits" / "values.json").write_text('{"good": 0.9}')
    project.values(good=0.9)
    project.checkpoint("control")
    adapter = project.path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]})
    )
    (adapter / "adapter_model.safetensors").write_text("adapter")
    for name in ("base", "ft", "control"):
        project.checkpoint(f"elsewhere/{name}", weights="other")
    (project.path / "elsewhere" / "values.json").write_text('{"good": 0.9}')
    return project


@pytest.fixture(autouse=True)
def elsewhere_exists(pytester):
    (pytester.path / "elsewhere").mkdir(exist_ok=True)


ALIASES = "[pytest]\nmechanism_models =\n    rel = ./base\n    cand = ./ft\n    third = ./control\n"

STARTED = {
    "rootdir": (".", ["circuits"]),
    "the specs' folder": ("circuits", ["."]),
    "elsewhere": ("elsewhere", ["../circuits", "-c", "../tox.ini", "--rootdir", ".."]),
    "elsewhere, specs named": ("elsewhere", ["../circuits"]),
    "another rootdir": ("elsewhere", ["../circuits", "-c", "../tox.ini", "--rootdir", "."]),
}


def folders(tree, arguments, pair="rel,cand"):
    """Role -> the folder that the result file names, below the project's."""
    out = tree.path / "out.json"
    result = tree.run("--mechanism-json", out, *arguments, pair=pair)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    about = json.loads(out.read_text())["pair"]
    return {
        role: str(Path(checkpoint["folder"]).relative_to(tree.path))
        for role, checkpoint in about.items()
    }


@pytest.mark.parametrize("started", STARTED)
def test_an_alias_is_relative_to_the_ini_file(tree, monkeypatch, started):
    """Wherever pytest is started, and with other checkpoints of the same names there."""
    tree.pytester.makeini(ALIASES)
    place, arguments = STARTED[started]
    monkeypatch.chdir(tree.path / place)

    result = folders(tree, [*arguments, "--mechanism-model", "control=third"])

    assert result == {"base": "base", "ft": "ft", "control": "control"}


@pytest.mark.parametrize("key", ["model_pair = ./base,./ft", "addopts = --model-pair ./base,./ft"])
def test_a_pair_in_the_ini_file_is_relative_to_it(tree, monkeypatch, key):
    """As a key, and in addopts; so are further checkpoints."""
    tree.pytester.makeini(f"[pytest]\n{key}\nmechanism_model = control=./control\n")
    monkeypatch.chdir(tree.path / "elsewhere")

    result = folders(tree, ["../circuits"], pair=None)

    assert result == {"base": "base", "ft": "ft", "control": "control"}


def test_what_is_typed_is_relative_to_the_working_directory(tree, monkeypatch):
    """A pair, a further checkpoint, and aliases given with -o."""
    tree.pytester.makeini("[pytest]\nmodel_pair = ./gone,./lost\n")
    monkeypatch.chdir(tree.path / "elsewhere")
    typed = ["../circuits", "--mechanism-model", "control=./control"]
    here = {"base": "elsewhere/base", "ft": "elsewhere/ft", "control": "elsewhere/control"}

    assert folders(tree, typed, pair="./base,./ft") == here
    aliases = ["-o", "mechanism_models=rel=./base\ncand=./ft"]
    assert folders(tree, [*typed, *aliases]) == here


def test_an_adapter_in_an_alias_is_relative_to_the_ini_file(tree, monkeypatch):
    """Base and adapter, both."""
    tree.pytester.makeini(
        "[pytest]\nmechanism_models =\n  rel = ./base\n  cand = ./base+./adapter\n"
    )
    monkeypatch.chdir(tree.path / "elsewhere")
    out = tree.path / "out.json"

    result = tree.run("../circuits", "--mechanism-json", out, pair="rel,cand")

    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    about = json.loads(out.read_text())["pair"]["ft"]
    assert (about["folder"], about["adapter"]) == (f"{tree.path}/base", f"{tree.path}/adapter")
    result.stdout.fnmatch_lines(
        [f"mechanism: ft = cand, fingerprint *, from {tree.path}/base + {tree.path}/adapter"]
    )


@pytest.mark.slow
def test_workers_test_the_same_checkpoints(tree, monkeypatch):
    """Under xdist, started elsewhere."""
    tree.pytester.makeini(ALIASES)
    monkeypatch.chdir(tree.path / "elsewhere")
    (tree.path / "elsewhere" / "conftest.py").touch()
    (tree.path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tree.third_party)!r})\n"
    )
    out = tree.path / "out.json"

    result = tree.run("-n", "1", "../circuits", "--mechanism-json", out, pair="rel,cand")

    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    about = json.loads(out.read_text())
    marks = {checkpoint["fingerprint"] for checkpoint in about["pair"].values()}
    observed = about["claims"][0]["scores"][0]["setting"]["fingerprints"]["base"]
    assert about["pair"]["base"]["folder"] == f"{tree.path}/base"
    assert observed in marks


def test_the_report_names_the_folders_without_a_header(tree):
    """With -q too."""
    tree.pytester.makeini(ALIASES)

    result = tree.run("-q", "circuits", pair="rel,cand")

    result.stdout.fnmatch_lines(
        [
            f"mechanism: base = rel, fingerprint *, from {tree.path}/base",
            f"mechanism: ft = cand, fingerprint *, from {tree.path}/ft",
        ]
    )


def test_an_alias_that_names_nothing_says_from_where(tree, monkeypatch):
    """The line names the folder that the alias is relative to."""
    tree.pytester.makeini("[pytest]\nmechanism_models = rel = ./gone\n")
    monkeypatch.chdir(tree.path / "elsewhere")

    result = tree.run("../circuits", pair="rel,./ft")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: alias 'rel', relative to {tree.path}: no folder './gone'*"]
    )


# -- commands

KEYS = {
    "model_pair": "rel,cand",
    "mechanism_models": ["rel = ./base", "cand = ./ft", "third = ./control"],
    "mechanism_model": ["control=third"],
    "mechanism_dtype": "float64",
    "mechanism_device": "cuda:1",
    "mechanism_batch_size": 7,
    "mechanism_engine": "reference",
    "mechanism_confidence": 0.9,
    "mechanism_allow_pickle": True,
    "cache_dir": "kept",
}


def ini(keys):
    lines = ["[pytest]"]
    for key, value in keys.items():
        several = isinstance(value, list)
        lines.append(
            f"{key} =" + "".join(f"\n    {x}" for x in value) if several else f"{key} = {value}"
        )
    return "\n".join(lines) + "\n"


def toml(table, keys):
    return f"[{table}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())


def strings(keys):
    """What the older table of pyproject.toml takes."""
    return {k: v if isinstance(v, (list, bool)) else str(v) for k, v in keys.items()}


FILES = {
    "pytest.ini": ini,
    ".pytest.ini": ini,
    "tox.ini": ini,
    "setup.cfg": lambda keys: ini(keys).replace("[pytest]", "[tool:pytest]"),
    "pyproject.toml": lambda keys: toml("tool.pytest", keys),
    "pyproject.toml, older table": lambda keys: toml("tool.pytest.ini_options", strings(keys)),
}


def run_of(session):
    """Everything that makes a run another one."""
    runner = session.runner
    return {
        "references": dict(session.references),
        "options": runner.options,
        "store": session.store_folder,
        "confidence": session.evaluator.confidence,
        "rootdir": session.config.rootpath,
    }


def by_pytest(tree, *arguments):
    config = tree.pytester.parseconfigure(*map(str, arguments))
    return run_of(config.pluginmanager.get_plugin("mechanism-session").session)


def by_command(spec, *options):
    arguments = make_parser().parse_args(["doctor", *options, "--", spec])
    return run_of(open_session(arguments, read_config(arguments, arguments.specs)))


@pytest.mark.parametrize("file", FILES)
def test_a_command_looks_at_the_run_that_pytest_makes(tree, monkeypatch, file):
    """Whichever ini file it is, and wherever both are started."""
    (tree.path / file.partition(",")[0]).write_text(FILES[file](KEYS))
    monkeypatch.chdir(tree.path / "elsewhere")

    result = by_pytest(tree, "../circuits")

    assert result == by_command("../circuits")
    options = result["options"]
    assert {role: reference.folder.name for role, reference in result["references"].items()} == {
        "base": "base", "ft": "ft", "control": "control",
    }  # fmt: skip
    assert (options.dtype, options.device, options.batch_size) == ("float64", "cuda:1", 7)
    assert (options.engine, options.trust) == ("reference", Trust(True))
    assert result["store"] == tree.path / "kept" / "d" / "mechanism"
    assert result["confidence"] == 0.9


def test_a_store_of_the_ini_file_is_the_commands_too(tree, monkeypatch):
    """And is relative to that file."""
    tree.pytester.makeini(ini(KEYS | {"mechanism_store": "./mine"}))
    monkeypatch.chdir(tree.path / "elsewhere")

    assert by_command("../circuits")["store"] == tree.path / "mine"
    assert by_pytest(tree, "../circuits")["store"] == tree.path / "mine"


TYPED = {
    "-c": ("other.ini", "-c"),
    "-o": ("mechanism_dtype=bfloat16", "-o"),
    "--rootdir": ("elsewhere", "--rootdir"),
    "--model-pair": ("a=./base,b=./ft", "--model-pair"),
    "--mechanism-model": ("third=./control", "--mechanism-model"),
    "--mechanism-device": ("cuda:3", "--device"),
    "--mechanism-dtype": ("float16", "--dtype"),
    "--mechanism-quantize": ("8bit", "--quantize"),
    "--mechanism-batch-size": ("11", "--batch-size"),
    "--mechanism-engine": ("branch", "--engine"),
    "--mechanism-confidence": ("0.99", "--confidence"),
    "--mechanism-store": ("./s", "--store"),
    "--mechanism-no-store": None,
    "--mechanism-trust-remote-code": None,
}
"""An option of pytest's -> a value that the ini file does not have, and a command's short form."""


@pytest.mark.parametrize("flag", TYPED)
def test_what_is_typed_goes_over_the_ini_file(tree, monkeypatch, flag):
    """In pytest and in a command, whose long and short option mean the same run."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # bitsandbytes is installed
    tree.pytester.makeini(ini(KEYS))
    (tree.path / "other.ini").write_text(ini(KEYS | {"mechanism_batch_size": 9}))
    plain = by_command("circuits")
    value, short = TYPED[flag] or (None, flag)
    values = [] if value is None else [value]

    result = by_command("circuits", flag, *values)

    assert result == by_pytest(tree, "circuits", flag, *values)
    assert result == by_command("circuits", short, *values)
    assert result != plain


def test_a_plugin_named_in_addopts_may_be_ours(tree):
    """A project that loads no plugin by itself names it, by entry point or by module."""
    for name in ("mechanism", "pytest_mechanism.plugin.hooks"):
        tree.pytester.makeini(ini(KEYS | {"addopts": f"-p {name}"}))

        assert by_command("circuits")["options"].batch_size == 7


def test_addopts_count_for_a_command(tree, monkeypatch):
    """Its own options among those of plugins that are not loaded; the environment's too."""
    options = (
        "-ra -m 'not slow' -n 0 --strict-markers --mechanism-dtype float64 -p no:cacheprovider"
    )
    tree.pytester.makeini(ini(KEYS | {"addopts": options, "mechanism_dtype": "float32"}))
    monkeypatch.setenv("PYTEST_ADDOPTS", "--mechanism-batch-size=3 --durations=2")

    result = by_command("circuits")

    assert (result["options"].dtype, result["options"].batch_size) == ("float64", 3)
    assert result["store"] is None


def test_one_model_by_its_alias(tree, capsys):
    """`--model` knows the aliases of a pytest.ini, and takes no pair from it."""
    tree.pytester.makeini(ini(KEYS))

    assert main(["doctor", "--model", "rel", "--device", "cpu"]) == 0
    assert f"base: rel, {tree.path}/base" in capsys.readouterr().out


def test_neither_model_nor_pair_is_one_line(tree, capsys):
    """With the key that would do."""
    assert main(["doctor"]) == 2
    assert "or set model_pair in the ini file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[pytest]\nminversion = 99\n", "minversion"),
        ("[pytest\n", "tox.ini:1: "),
        ("[pytest]\naddopts = -p gone_plugin\n", "gone_plugin"),
        ("[pytest]\nmechanism_batch_size = many\n", "mechanism_batch_size"),
    ],
)
def test_an_ini_file_that_pytest_refuses_is_one_line(tree, capsys, content, says):
    """From a command as from pytest, exit code 2."""
    tree.pytester.makeini(content)

    assert main(["doctor", "circuits", "--model-pair", "./base,./ft"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_required_plugins_are_pytests_business(tree):
    """A command loads no plugins, and misses none."""
    tree.pytester.makeini(ini(KEYS | {"required_plugins": "pytest-gone"}))

    assert by_command("circuits")["options"].batch_size == 7


def test_a_pair_and_a_model_exclude_each_other(tree, capsys):
    """One line, exit code 2."""
    assert main(["doctor", "--model", "./base", "--model-pair", "./base,./ft"]) == 2
    assert capsys.readouterr().err == (
        "pytest-mechanism: name the checkpoints: either --model REF or --model-pair A,B\n"
    )

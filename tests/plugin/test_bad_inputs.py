"""One table of bad inputs: what is done to a good set-up, the line that it comes to, the exit code.

Each row starts from two tiny models and a spec that pass, and goes through the door that a user
takes: pytest, and for specs `lint` as well. Never a traceback, never green.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import safetensors.torch
import torch
import warm_python

from pytest_mechanism.cli import main
from pytest_mechanism.runner import store as store_module

HEAD = "mechanism: 1\ncircuit: tiny\n"
TASK = "task: {family: entity_tracking, boxes: 2, rows: 40, seed: 0}\n"
CLAIMS = "claims:\n  learnt_nothing: {kind: accuracy, at_most: 0.6}\n"
GROUP = "groups: {a: {heads: {0: [0]}, at: last}}\n"
CHAT = "task: {family: refusal, harmful: bad.jsonl, harmless: good.jsonl, rows: 20}\n"
REFUSES = "claims:\n  refuses: {kind: suppression_holds, refuses_at_least: 0.9}\n"


@dataclass(frozen=True)
class World:
    """Where a row's damage is done.

    Attributes:
        path: the folder that the run starts in.
    """

    path: object

    @property
    def ft(self):
        return self.path / "ft"

    def spec(self, text):
        (self.path / "tiny.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

    def config(self, folder="ft", name="config.json", **values):
        path = self.path / folder / name
        changed = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({k: v for k, v in changed.items() if v is not None}))

    def weights(self, change):
        path = self.ft / "model.safetensors"
        result = safetensors.torch.load_file(path)
        change(result)
        safetensors.torch.save_file(result, path, metadata={"format": "pt"})

    def adapter(self, name="adapter", **values):
        folder = self.path / name
        folder.mkdir()
        about = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2,
            "target_modules": ["q_proj"], "base_model_name_or_path": "./base", **values,
        }  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(about))
        layer = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
        tensors = {}
        for i in range(2):
            tensors[layer.format(i, "A")] = torch.zeros(2, 99)
            tensors[layer.format(i, "B")] = torch.zeros(99, 2)
        safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")

    def jsonl(self, name, *lines):
        (self.path / name).write_text("\n".join(lines))

    def instructions(self):
        for name in ("bad", "good"):
            lines = [json.dumps({"instruction": f"{name} {i}"}) for i in range(40)]
            self.jsonl(f"{name}.jsonl", *lines)


@dataclass(frozen=True)
class Row:
    """A bad input.

    Attributes:
        name: of the row.
        damage: what is done to the good set-up.
        says: what the line must have in it.
        code: of the exit.
        options: of the command line; a pair among them replaces the good pair.
    """

    name: str
    damage: Callable[[World], object]
    says: str
    code: int
    options: tuple[str, ...] = field(default=())


def nothing(world):
    """The input is bad because of its options."""


def unlink(name):
    return lambda world: (world.ft / name).unlink()


def write(name, content):
    def damage(world):
        path = world.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def text(content):
    return lambda world: world.spec(content)


def claim(fields, task=TASK, more=""):
    return text(f"{HEAD}{task}{more}claims:\n  one: {{{fields}}}\n")


def chat(fields, **changes):
    def damage(world):
        world.instructions()
        world.spec(f"{HEAD}{CHAT}claims:\n  one: {{{fields}}}\n")
        for name, content in changes.items():
            world.jsonl(f"{name}.jsonl", content)

    return damage


SPECS = [
    Row("empty", text(""), "tiny.yaml:1: is empty; the first key of a spec is 'mechanism: 1'", 2),
    Row("only comments", text("# mechanism: 1\n"), "tiny.yaml:1: is empty", 2),
    Row("not UTF-8", text(f"{HEAD}# é\n".encode("latin-1")), "tiny.yaml:3: is not UTF-8", 2),
    Row("UTF-16", text((HEAD + TASK + CLAIMS).encode("utf-16")), "tiny.yaml:1: is not UTF-8", 2),
    Row("NUL", text(HEAD + "x: \0\n"), "tiny.yaml:3: is not valid YAML: character #x0000", 2),
    Row("tab", text(HEAD + "task:\n\tfamily: x\n"), "tiny.yaml:4: is not valid YAML", 2),
    Row("too large", text(HEAD + " " * 600_000), "is larger than 500,000 bytes", 2),
    Row("too deep", text(HEAD + "x: " + "[" * 5000), "is nested deeper than 20 levels", 2),
    Row("a key twice", text(HEAD + TASK + CLAIMS + "circuit: y\n"),
        "tiny.yaml:6: key 'circuit' appears twice, first on line 2", 2),
    Row("anchor", text(HEAD + "task: &a {}\n"), "tiny.yaml:3: anchor &a: anchors are not", 2),
    Row("tag", text(HEAD + "task: !!python/object:os.system {}\n"), "tags are not allowed", 2),
    Row("two documents", text(HEAD + TASK + CLAIMS + "---\na: 1\n"),
        "tiny.yaml:6: holds a second YAML document", 2),
    Row("version", text((HEAD + TASK + CLAIMS).replace("1", "2", 1)),
        "tiny.yaml:1: mechanism: 2 is not a supported version; valid: 1", 2),
    Row("unknown key", text(HEAD + TASK + CLAIMS + "claim: 1\n"),
        "tiny.yaml:6: unknown key 'claim'; did you mean 'claims'?", 2),
    Row("no circuit", text("mechanism: 1\n" + TASK + CLAIMS), "circuit: must be a name", 2),
    Row("no claims", text(HEAD + TASK), "a spec needs claims", 2),
    Row("unknown family", text(HEAD + "task: {family: countin}\n" + CLAIMS),
        "tiny.yaml:3: task: unknown family 'countin'; did you mean 'counting'?", 2),
    Row("no rows", text(HEAD + TASK.replace("40", "0") + CLAIMS), "tiny.yaml:3: rows: must be", 2),
    Row("unknown kind", claim("kind: acuracy"), "did you mean 'accuracy'?", 2),
    Row("threshold above one", claim("kind: accuracy, at_least: 1.5"),
        "tiny.yaml:5: one.at_least: must lie between 0.01 and 1 (a share below 0.01 is hardly different", 2),
    Row("not a number", claim("kind: accuracy, at_least: .nan"), "tiny.yaml:5: one.at_least", 2),
    Row("unknown group", claim("kind: path, group: b, drops_at_least: 0.1", more=GROUP),
        "tiny.yaml:6: claim one: unknown group 'b'; valid: a", 2),
    Row("unknown position", claim("kind: accuracy, at_least: 0.5", more=GROUP.replace("last", "lst")),
        "tiny.yaml:4: group a: unknown position 'lst'; did you mean 'last'?", 2),
    Row("a negative head", claim("kind: accuracy, at_least: 0.5", more=GROUP.replace("[0]", "[-1]")),
        "must be greater than or equal to 0, got -1", 2),
    Row("extends nothing", text(HEAD + "extends: gone.yaml\n" + CLAIMS),
        "tiny.yaml:3: extends: no file gone.yaml", 2),
    Row("extends outside", text(HEAD + "extends: ../../x.yaml\n" + CLAIMS),
        "tiny.yaml:3: extends: ../../x.yaml lies outside this spec's folder", 2),
    Row("extends itself", text(HEAD + "extends: tiny.yaml\n" + CLAIMS), "extends another spec", 2),
    Row("data outside", text(HEAD + CHAT.replace("bad.jsonl", "/etc/passwd") + CLAIMS),
        "tiny.yaml:3: task.harmful: /etc/passwd lies outside the spec's folder", 2),
    Row("data missing", text(HEAD + CHAT + CLAIMS), "tiny.yaml:3: task.harmful: no file bad.jsonl", 2),
    Row("data no JSON", chat("kind: accuracy, at_least: 0.5", bad="{"), "bad.jsonl:1: is not JSON", 2),
    Row("data too short", chat("kind: accuracy, at_least: 0.5", bad='{"instruction": "x"}'),
        "one half of them is for evaluation", 2),
    Row("a depth of nothing", chat("kind: refuses_after_prefill, depth: 0, at_least: 0.9"),
        "tiny.yaml:5: one.depth: must be greater than or equal to 1, got 0", 2),
    Row("a claim that the task cannot bear", chat("kind: decodable, at_least: 0.5"),
        "tiny.yaml:5: claim one: the replies of task refusal are free text", 2),
]  # fmt: skip


def pair(options):
    return ("--model-pair", options)


PAIRS = [
    Row("unknown alias", nothing, "no alias or folder 'bse'; valid: zoo:base", 4, pair("bse,./ft")),
    Row("one side", nothing, "takes two checkpoints, separated by a comma", 4, pair("./base")),
    Row("three sides", nothing, "takes two checkpoints", 4, pair("./base,./ft,./ft")),
    Row("nothing named", nothing, "takes two checkpoints", 4, pair(",")),
    Row("equal labels", nothing, "both checkpoints have the label 'base'", 4, pair("./base,base=./ft")),
    Row("missing folder", nothing, "no folder './gone'; valid", 4, pair("./base,./gone")),
    Row("a file", write("file", ""), "./file is a file; a checkpoint is a folder, or one file whose", 4,
        pair("./base,./file")),
    Row("unknown embedded", nothing, "no embedded checkpoint 'bas'; did you mean 'base'?", 4,
        pair("zoo:bas,./ft")),
    Row("hub without a name", nothing, "is not a hub reference; write hf:org/name@revision", 4,
        pair("hf:,./ft")),
    Row("not in the cache", nothing, "nobody/nothing is not in the cache", 4,
        pair("hf:nobody/nothing,./ft")),
    Row("bad label", nothing, "'a b' cannot be a label", 4, pair("a b=./base,./ft")),
    Row("path that is too long", nothing, "cannot be a folder", 4, pair("./base," + "a" * 300)),
    Row("dtype", nothing, "unknown dtype 'float31'; did you mean 'float32'?", 4,
        ("--mechanism-dtype", "float31")),
    Row("device", nothing, "unknown device 'gpu'; valid: auto, cpu, cuda, cuda:N, spread", 4,
        ("--mechanism-device", "gpu")),
    Row("device that is not there", nothing, "no device 'cuda:99', torch sees", 4,
        ("--mechanism-device", "cuda:99")),
    Row("batch size", nothing, "'0' is not a number of rows from 1 to 1,000,000, nor auto", 4,
        ("--mechanism-batch-size", "0")),
    Row("confidence", nothing, "'2' does not lie between 0.8 and 1", 4, ("--mechanism-confidence", "2")),
    Row("engine", nothing, "unknown engine 'brnch'; did you mean 'branch'?", 4,
        ("--mechanism-engine", "brnch")),
    Row("a model without a role", nothing, "takes ROLE=REFERENCE, got './ft'", 4,
        ("--mechanism-model", "./ft")),
    Row("a role of the pair", nothing, "the role 'ft' belongs to the pair", 4,
        ("--mechanism-model", "ft=./ft")),
    Row("result file without a folder", nothing, "cannot be written: no such folder", 4,
        ("--mechanism-json", "gone/out.json")),
    Row("result file is a folder", nothing, "cannot be written: is a folder", 4,
        ("--mechanism-json", "base")),
    Row("ini key of the wrong kind", write("pytest.toml", "[pytest]\nmechanism_allow_pickle = 3\n"),
        "mechanism_allow_pickle", 4),
    Row("role that is missing", claim("kind: accuracy, on: control, at_least: 0.5"),
        "needs a checkpoint for the role 'control'", 1),
]  # fmt: skip


def shards(name):
    def damage(world):
        (world.ft / "model.safetensors").rename(world.ft / "model-00001-of-00002.safetensors")
        index = {"weight_map": {"model.norm.weight": name}}
        (world.ft / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


def broken_link(world):
    (world.ft / "model.safetensors").unlink()
    (world.ft / "model.safetensors").symlink_to("gone.safetensors")


def loop(world):
    (world.path / "loop").symlink_to("loop")


def cut(world):
    path = world.ft / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def header(world):
    path = world.ft / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def number(value):
    def damage(world):
        world.weights(lambda w: w["model.norm.weight"].__setitem__(0, value))

    return damage


def pickled(world):
    weights = safetensors.torch.load_file(world.ft / "model.safetensors")
    torch.save(weights, world.ft / "pytorch_model.bin")
    (world.ft / "model.safetensors").unlink()


def few_words(world):
    path = world.ft / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = dict(list(vocabulary.items())[:6])
    path.write_text(json.dumps(content))


def bare(name):
    return lambda world: (world.path / name).mkdir()


def no_template(world):
    world.instructions()
    world.spec(HEAD + CHAT + REFUSES)


def bad_template(world):
    no_template(world)
    for folder in ("base", "ft"):
        (world.path / folder / "chat_template.jinja").write_text("{{ messages[9].content + 1 }}")


ADAPTED = pair("./base,ft=./ft+./adapter")

FOLDERS = [
    Row("empty folder", bare("new"), "has no config.json, so it is not a checkpoint", 4,
        pair("./base,./new")),
    Row("no weights", unlink("model.safetensors"), "has no *.safetensors file", 4),
    Row("pickle alone", pickled, "pickled weights are not loaded, save them as safetensors", 4),
    Row("code of its own", lambda w: w.config(auto_map={"AutoModelForCausalLM": "m.M"}),
        "names Python code of its own (auto_map), which is not run", 4),
    Row("code of others", lambda w: w.config(auto_map={"AutoModelForCausalLM": "a/b--m.M"}),
        "code must be in the folder itself", 4, ("--mechanism-trust-remote-code",)),
    Row("truncated weights", cut, "cannot be loaded", 1),
    Row("weights of rubbish", header, "model.safetensors is not a safetensors file", 1),
    Row("empty weights", write("ft/model.safetensors", ""), "is not a safetensors file: it has no header", 1),
    Row("NaN", number(float("nan")), "weight model.norm.weight has NaN or infinite values", 1),
    Row("infinity", number(float("inf")), "weight model.norm.weight has NaN or infinite values", 1),
    Row("a weight too few", lambda w: w.weights(lambda x: x.pop("model.norm.weight")),
        "1 weights missing against config.json, first model.norm.weight", 1),
    Row("too many layers", lambda w: w.config(num_hidden_layers=3), "9 weights missing against", 1),
    Row("other sizes", lambda w: w.config(intermediate_size=64),
        "weights have another shape than config.json says, first", 1),
    Row("heads that do not divide", lambda w: w.config(num_attention_heads=3, head_dim=None),
        "hidden size (16) is not a multiple of the number of attention heads (3)", 1),
    Row("unknown model type", lambda w: w.config(model_type="nobody"), "cannot be loaded", 1),
    Row("no model type", lambda w: w.config(model_type=None), "cannot be loaded", 1),
    Row("no sizes", lambda w: w.config(hidden_size=None), "does not say d_model", 4),
    Row("sizes of another kind", lambda w: w.config(hidden_size="16"), "does not say d_model", 4),
    Row("config is no JSON", write("ft/config.json", "{"), "config.json cannot be read as JSON", 4),
    Row("config is a list", write("ft/config.json", "[]"), "must hold a JSON object", 4),
    Row("config of a million brackets", write("ft/config.json", "[" * 1_000_000),
        "config.json cannot be read as JSON", 4),
    Row("a shard is missing", shards("model-00002-of-00002.safetensors"),
        "names 'model-00002-of-00002.safetensors', which is missing", 4),
    Row("a shard elsewhere", shards("../base/model.safetensors"), "a shard outside the folder", 4),
    Row("index is rubbish", lambda w: (shards("x")(w), write("ft/model.safetensors.index.json", "[")(w)),
        "model.safetensors.index.json cannot be read as JSON", 4),
    Row("broken link", broken_link, "model.safetensors is a broken link", 4),
    Row("a loop of links", loop, "'./loop'", 4, pair("./base,./loop")),
    Row("no tokenizer", unlink("tokenizer.json"), "has no tokenizer.json; save a fast tokenizer", 4),
    Row("broken tokenizer", write("ft/tokenizer.json", '{"model": 1'), "tokenizer.json cannot be read", 1),
    Row("tokenizer of nothing", write("ft/tokenizer.json", "{}"), "tokenizer.json cannot be read", 1),
    Row("tokenizer without the words", few_words, "task entity_tracking", 1),
    Row("adapter without a base", lambda w: w.adapter(base_model_name_or_path=None),
        "is an adapter that does not name its base; write BASE+./adapter", 4, pair("./base,./adapter")),
    Row("adapter of a missing base", lambda w: w.adapter(base_model_name_or_path="./gone"),
        "is an adapter of './gone', which is neither a folder nor in the hub's cache", 4,
        pair("./base,./adapter")),
    Row("adapter of another shape", lambda w: w.adapter(),
        "does not fit its base: Error(s) in loading state_dict for PeftModelForCausalLM: size", 1, ADAPTED),
    Row("adapter that cannot be merged", lambda w: w.adapter(peft_type="XLORA"),
        "of type XLORA cannot be merged into its base", 4, ADAPTED),
    Row("adapter of an unknown kind", lambda w: w.adapter(peft_type="NOBODY"),
        "an adapter of type NOBODY cannot be merged into its base", 4, ADAPTED),
    Row("label of 300 characters", lambda w: None, "cannot be a label", 4,
        ("--model-pair", f"{'x' * 300}=./base,./ft")),
    Row("no adapter", bare("adapter"), "has no adapter_config.json, so it is not an adapter", 4, ADAPTED),
    Row("chat without a template", no_template, "has no chat template", 1),
    Row("template that cannot be rendered", bad_template, "cannot be rendered", 1),
    Row("heads that are not there", claim(
        "kind: path, group: a, drops_at_least: 0.1", more=GROUP.replace("{0:", "{7:")),
        "group a names head 0 of layer 7; the model of role base has layers 0 to 1", 1),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def imported(tiny_models, tmp_path_factory):
    """Import what runs import: pytester forgets it afterwards, and C libraries come but once."""
    import peft  # noqa: F401
    import transformers.utils.chat_template_utils  # noqa: F401

    folder = tmp_path_factory.mktemp("warm")
    (folder / "tiny.yaml").write_text(HEAD + TASK + GROUP + CLAIMS)
    options = [
        "--model-pair",
        f"{tiny_models}/base,{tiny_models}/ft",
        "--store",
        str(folder / "store"),
    ]
    assert main(["doctor", str(folder / "tiny.yaml"), *options]) == 0
    import pytest_mechanism.methods.circuits.path_patching
    import pytest_mechanism.methods.circuits.performance
    import pytest_mechanism.methods.refusal.refusal_score  # noqa: F401


@pytest.fixture
def world(pytester, tiny_models, monkeypatch):
    """Two tiny models and a spec that they pass."""
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in [n for n in os.environ if n.startswith(("GITHUB_", "PYTEST_XDIST", "CI"))]:
        monkeypatch.delenv(name)
    for name in ("base", "ft"):
        shutil.copytree(tiny_models / name, pytester.path / name)
    result = World(pytester.path)
    result.spec(HEAD + TASK + CLAIMS)
    return result


def gate(pytester, *options):
    """A run of pytest in this process."""
    both = () if "--model-pair" in options else ("--model-pair", "./base,./ft")
    return pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-ra", *both, *options)


def judged(lines, row):
    """The lines with the text, none of which came with a traceback."""
    everything = "\n".join(lines)
    assert "Traceback" not in everything
    assert "INTERNALERROR" not in everything
    assert not [line for line in lines if line.startswith("E   ")]
    return [line for line in lines if row.says in line]


def test_the_good_set_up_is_green(pytester, world, capsys):
    """Without damage both doors say yes."""
    assert gate(pytester, "--mechanism-json", "out.json").ret == pytest.ExitCode.OK
    verdicts = json.loads((world.path / "out.json").read_text())["claims"]
    assert [c["verdict"] for c in verdicts] == ["pass", "pass"]
    assert main(["lint", "tiny.yaml"]) == 0
    assert "tiny.yaml: ok, 1 claims, 2 tests" in capsys.readouterr().out


def test_the_table_is_long_and_its_rows_are_distinct():
    rows = [*SPECS, *PAIRS, *FOLDERS]
    assert len({(row.name, row.says) for row in rows}) == len(rows) >= 60
    assert all(row.code != 0 for row in rows)


@pytest.mark.parametrize("row", SPECS, ids=lambda row: row.name)
def test_a_bad_spec(pytester, world, capsys, row):
    """`lint` and pytest say the same line; pytest passes over what nobody would take for a spec."""
    row.damage(world)

    code = main(["lint", "tiny.yaml"])

    printed = capsys.readouterr()
    assert (code, printed.out) == (row.code, "")
    line = judged(printed.err.splitlines(), row)
    assert len(line) == 1
    assert line[0].isprintable()
    result = gate(pytester, "tiny.yaml")
    assert result.ret != pytest.ExitCode.OK
    if "collected 0 items\n" not in result.stdout.str() + "\n":
        assert judged(result.outlines, row)
        assert result.ret == row.code


@pytest.mark.parametrize("row", [*PAIRS, *FOLDERS], ids=lambda row: row.name)
def test_a_bad_pair_option_or_folder(pytester, world, row):
    """Refused before anything is measured (4), or a red claim that says why (1)."""
    row.damage(world)

    result = gate(pytester, *row.options)

    assert result.ret == row.code, result.stdout.str() + result.stderr.str()
    lines = judged([*result.errlines, *result.outlines], row)
    assert lines
    assert all(line.isprintable() for line in lines)


WITHOUT_CAPABILITIES = (
    "setpriv",
    "--inh-caps=-dac_override,-dac_read_search",
    "--bounding-set=-dac_override,-dac_read_search",
)
"""Root, without what lets root read every file."""


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None,
    reason="root may read every file, and util-linux' setpriv is not installed",
)
def test_a_file_that_may_not_be_read(pytester, world):
    """The line names the missing permission."""
    (world.ft / "model.safetensors").chmod(0)
    prefix = WITHOUT_CAPABILITIES if os.geteuid() == 0 else ()

    result = pytester.run(
        *prefix, sys.executable, "-m", "pytest", "-p", "no:hypothesispytest", "--model-pair", "./base,./ft"
    )  # fmt: skip

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "cannot be read: Permission denied" in "\n".join(result.errlines)


# -- the store


def counts(world):
    result = json.loads((world.path / "out.json").read_text())
    return result["measurements"]


def scores(world):
    result = json.loads((world.path / "out.json").read_text())["claims"]
    return [(c["id"], c["verdict"], c["score"]) for c in result]


WITH = ("--mechanism-store", "store", "--mechanism-json", "out.json")


def test_a_file_in_the_place_of_the_store(pytester, world):
    (world.path / "store").write_text("")

    result = gate(pytester, *WITH)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    line = judged(result.errlines, Row("", nothing, "the store", 4))
    assert len(line) == 1
    assert "cannot be written: " in line[0]
    assert "--mechanism-no-store" in line[0]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Where the store of a first run is kept."""
    return tmp_path_factory.mktemp("first") / "store"


@pytest.fixture
def remembered(pytester, world, first):
    """The good set-up after a first run, with the store of that run."""
    if not first.exists():
        assert gate(pytester, *WITH).ret == pytest.ExitCode.OK
        shutil.copytree(world.path / "store", first)
    shutil.copytree(first, world.path / "store", dirs_exist_ok=True)
    return world


@pytest.mark.parametrize("damage", ["cut", "rubbish", "empty", "folder"])
def test_a_damaged_entry_is_measured_again(pytester, remembered, damage):
    """With the same result, and the other entry is still used."""
    world = remembered
    gate(pytester, *WITH)
    before, made = scores(world), counts(world)["from_store"]
    path = min((world.path / "store").glob("*.measurement"))
    raw = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {"cut": raw[: len(raw) // 2], "rubbish": os.urandom(99), "empty": b""}[damage]
        )

    result = gate(pytester, *WITH)

    if damage == "folder":  # somebody's, and not ours to take away
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert judged(result.outlines, Row("", nothing, "cannot be written: ", 1))
        return
    assert result.ret == pytest.ExitCode.OK
    assert (scores(world), counts(world)) == (before, {"done": 1, "from_store": made - 1})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"\\ud800": "x"}', "[" * 100_000])
def test_a_damaged_memory_of_fingerprints_is_made_anew(pytester, remembered, content, monkeypatch):
    """It saves time and nothing more."""
    monkeypatch.setattr("pytest_mechanism.checkpoints.hash_cache.proves", lambda *_: True)
    world = remembered
    (world.path / "store" / "fingerprints.json").write_text(content)

    assert gate(pytester, *WITH).ret == pytest.ExitCode.OK
    assert counts(world) == {"done": 0, "from_store": 2}
    memory = json.loads((world.path / "store" / "fingerprints.json").read_text())
    assert len({entry["sha256"] for entry in memory["files"].values()}) >= 3


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_a_line(pytester, world, monkeypatch):
    """Nothing half written stays behind, and the claim is red."""
    monkeypatch.setattr(store_module.os, "replace", full)

    result = gate(pytester, "--mechanism-store", "store")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert judged(
        result.outlines, Row("", nothing, "cannot be written: No space left on device", 1)
    )
    assert list((world.path / "store").glob("*.tmp")) == []


def test_a_result_file_on_a_full_disk(pytester, remembered, monkeypatch):
    """The run is no green one without it."""
    import pytest_mechanism.report.json_file as module

    monkeypatch.setattr(module, "write_json", full)

    result = gate(pytester, *WITH)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert judged(result.outlines, Row("", nothing, "No space left on device", 4))


@pytest.mark.slow
def test_two_runs_at_once_measure_nothing_twice(pytester, world):
    """Both are right, and between them each measurement was made once."""
    import subprocess

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [*warm_python.COMMAND, "-m", "pytest", "-p", "no:hypothesispytest", "-q", "--model-pair",
             "./base,./ft", "--mechanism-store", "store", "--mechanism-json", f"out{i}.json"],
            cwd=world.path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]  # fmt: skip
    outputs = [run.communicate(timeout=300)[0].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    result = [json.loads((world.path / f"out{i}.json").read_text()) for i in range(2)]
    alone = gate(pytester, "--mechanism-no-store", "--mechanism-json", "out.json")
    assert alone.ret == pytest.ExitCode.OK
    once = counts(world)["done"]
    assert once == 2
    assert sum(content["measurements"]["done"] for content in result) == once
    assert sum(content["measurements"]["from_store"] for content in result) == once
    for content in result:
        assert [(c["id"], c["verdict"], c["score"]) for c in content["claims"]] == scores(world)


# -- accepted scores


def accepted(world):
    return world.path / "__scores__" / "base+ft" / "tiny.json"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not a valid file of accepted scores"),
        ("{", "is not a valid file of accepted scores"),
        ("[]", "is not a valid file of accepted scores"),
        ('{"mechanism_scores": 9, "scores": {}}', "version 9"),
        ('{"mechanism_scores": 1, "scores": {"a.b": {"value": "x"}}}', "a.b has no finite value"),
        ('{"mechanism_scores": 1, "scores": {"\\u001b[31m": {}}}', "is not CLAIM.ROLE"),
        ("[" * 100_000, "is not a valid file of accepted scores"),
    ],
)
def test_a_damaged_file_of_scores_is_red_and_left_alone(pytester, remembered, content, says):
    """It is somebody's baseline: restored by hand, never by a run."""
    world = remembered
    accepted(world).parent.mkdir(parents=True)
    accepted(world).write_text(content)

    for options in ((), ("--snapshot-update",)):
        result = gate(pytester, *WITH, *options)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert judged(result.outlines, Row("", nothing, says, 1))
        assert accepted(world).read_text() == content


def test_scores_on_a_full_disk_are_kept(pytester, remembered, monkeypatch):
    """The old scores stay in the file, and the run reports the error."""
    import pytest_mechanism.files as module

    world = remembered
    gate(pytester, *WITH, "--snapshot-update")
    before = accepted(world).read_text().replace('"value": 0.0', '"value": 0.5')
    accepted(world).write_text(before)
    monkeypatch.setattr(module.os, "replace", full)

    result = gate(pytester, *WITH[:2], "--snapshot-update")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    row = Row("", nothing, "tiny.json cannot be written: No space left on device", 4)
    errors = [line for line in result.outlines if line.startswith("ERROR: ")]
    assert len(judged(errors, row)) == 1
    assert accepted(world).read_text() == before
    assert [p.name for p in accepted(world).parent.iterdir()] == ["tiny.json"]


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_scores_that_have_no_place(pytester, remembered, workers):
    """A link to nowhere where their folder would be, here and in a worker of xdist."""
    (remembered.path / "__scores__").mkdir()
    (remembered.path / "__scores__" / "base+ft").symlink_to("gone/folder")

    result = gate(pytester, *WITH, "--snapshot-update", *workers)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    row = Row("", nothing, "accepted scores", 4)
    assert [line for line in judged(result.outlines, row) if line.startswith("ERROR: ")]

import json

import pytest
import transformers
from tests.cli._parts import read_json


@pytest.fixture
def large(tmp_path_factory):
    """A folder with nothing but the configuration of a model of 70 billion parameters."""
    folder = tmp_path_factory.mktemp("large")
    transformers.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128_256, max_position_embeddings=131_072,
        tie_word_embeddings=False, dtype="bfloat16", architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_bundled_model_is_planned(cli):
    result = cli.succeeds("plan", "small-gpt2", "--expansion", 6, "--json", "plan.json")
    document = read_json(cli.folder / "plan.json")
    assert document["kind"] == "plan"
    assert document["command"].startswith("mxd")
    assert document["model"]["sites"][0]["name"] == "transformer.h.3.mlp"  # the middle one
    assert document["tokens_per_second"] is None
    assert document["layout"]["fits"]
    assert "holds everything" in result.out
    assert "Nobody has measured this device" in result.out
    assert {p.name for p in cli.folder.iterdir()} == {"plan.json"}


def test_the_same_command_gives_the_same_bytes(cli):
    for name in ("a.json", "b.json"):
        cli.succeeds("plan", "small-llama", "--expansion", 6, "--json", name)
    assert (cli.folder / "a.json").read_bytes() == (cli.folder / "b.json").read_bytes()


def test_a_model_of_70_billion_parameters_needs_no_weights(cli, large):
    result = cli.succeeds(
        "plan", large, "--layers", "0,9", "--device-kind", "h200", "--devices", 16,
        "--price-per-hour", 3, "--json", "plan.json",
    )  # fmt: skip
    document = read_json(cli.folder / "plan.json")
    assert document["model"]["parameters"] == 70_553_706_496
    assert [one["count"] for one in document["students"]] == [2]
    assert document["students"][0]["parameters"] == pytest.approx(4.3e9, rel=0.01)
    assert document["layout"]["fits"]
    assert document["layout"]["model_devices"] > 1  # 141 GB of weights
    layout = document["layout"]
    assert layout["data"] * layout["students"] * layout["experts"] == 16
    assert document["cost"] == pytest.approx(3 * document["device_hours"])
    for said in ("data sheet", "not measured", "experimental", "Layout:", "hours"):
        assert said in result.out


def test_all_layers(cli):
    cli.succeeds(
        "plan", "small-gpt2", "--layers", "all", "--arch", "mxd,transcoder", "--k", "4,8",
        "--width", 64, "--json", "plan.json",
    )  # fmt: skip
    document = read_json(cli.folder / "plan.json")
    assert len(document["model"]["sites"]) == 6
    assert sum(one["count"] for one in document["students"]) == 6 * 2 * 2


def test_a_quantised_model_takes_its_bytes(cli, large):
    found = {}
    for name, flags in {"whole": (), "4bit": ("--load-in", "4bit")}.items():
        flags = (*flags, "--device-kind", "h200", "--json", "plan.json")
        result = cli.succeeds("plan", large, "--layers", 0, *flags)
        found[name] = read_json(cli.folder / "plan.json")
        assert ("are estimated" in " ".join(result.out.split())) == (name == "4bit")
    sizes = {name: one["model"]["weight_bytes"] for name, one in found.items()}
    assert sizes["whole"] == 2 * 70_553_706_496
    assert sizes["4bit"] == pytest.approx(0.3 * sizes["whole"], rel=0.1)


def test_the_host_of_a_node_counts(cli, large):
    flags = ["plan", large, "--layers", 0, "--device-kind", "h200", "--devices", 8]
    cli.succeeds(*flags, "--host-memory", "2TB", "--json", "plan.json")
    document = read_json(cli.folder / "plan.json")
    assert document["layout"]["fits"]
    assert document["device"]["host_memory_bytes"] == 2 * 10**12
    memory = document["memory"]
    assert memory["node_bytes"] == 8 * memory["host_peak_bytes"] > 100 * 10**9
    result = cli.succeeds(*flags, "--host-memory", "100GB")
    assert "Does not fit:" in result.out
    assert "in a host's memory for 8 processes" in " ".join(result.out.split())


def test_what_does_not_fit_is_said_and_is_no_error(cli, large):
    result = cli.succeeds("plan", large, "--layers", 0, "--device-kind", "h100")
    assert "Does not fit:" in result.out
    assert "take more devices" in " ".join(result.out.split())


def test_flags_can_come_from_a_file(cli):
    (cli.folder / "plan.yaml").write_text(
        "device-kind: h100\ndevices: 2\nexpansion: 6\nlayers: [1, 2]\nmemory: 24GB\n"
    )
    cli.succeeds("plan", "small-gpt2", "--config", "plan.yaml", "--json", "plan.json")
    document = read_json(cli.folder / "plan.json")
    assert document["device"]["count"] == 2
    assert document["device"]["memory_bytes"] == 24 * 10**9
    assert [site["layer_index"] for site in document["model"]["sites"]] == [1, 2]


def test_a_measured_machine_gives_rates(cli, monkeypatch):
    from mxd.cli import plan
    from mxd.planning import calibrate

    monkeypatch.setattr(plan, "calibrate", lambda name: calibrate(name, rounds=1, scale=32))
    cli.succeeds("plan", "small-gpt2", "--expansion", 6, "--calibrate", "here.json")
    cli.succeeds(
        "plan", "small-gpt2", "--expansion", 6, "--ceilings", "here.json", "--json", "plan.json"
    )
    document = read_json(cli.folder / "plan.json")
    assert document["device"]["source"] == "measured"
    assert 0 < document["tokens_per_second"] <= document["floor_tokens_per_second"]
    assert document["notes"] == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layers", "one"], ["'one'", "or all"]),
        (["--layers", "9"], ["layer 9", "0 to 5"]),
        (["--site", "nothing"], ["'nothing'"]),
        (["--arch", "moe"], ["'moe'", "transcoder"]),
        (["--k", "0"], ["k=0"]),
        (["--k", "65", "--width", "64"], ["lower k"]),
        (["--expansion", "0.1"], ["larger expansion"]),
        (["--width", "1e15"], ["smaller width"]),
        (["--context", "300"], ["at most the 256"]),
        (["--layout", "data=3"], ["data=3"]),
        (["--layout", "depth=2"], ["depth"]),
        (["--devices", "2", "--layout", "students=2"], ["another layout"]),
        (["--devices", "0"], ["--devices"]),
        (["--device-kind", "tpu"], ["tpu", "h200"]),
        (["--memory", "much"], ["--memory", "20GB"]),
        (["--distance", "0.5"], ["1 or more"]),
        (["--ceilings", "none.json"], ["none.json", "--calibrate"]),
        (["--calibrate", "no/such/file.json"], ["--calibrate", "folder that exists"]),
        (["--calibrate", "c.json", "--device-kind", "h100"], ["--calibrate", "cpu"]),
        (["--calibrate", "c.json", "--ceilings", "d.json"], ["one of them"]),
        (["--price-per-hour", "-1"], ["--price-per-hour"]),
        (["--price-per-hour", "nan"], ["--price-per-hour nan", "0 to 1,000,000"]),
        (["--host-memory", "much"], ["--host-memory", "20GB"]),
        (["--load-in", "2bit"], ["--load-in", "4bit"]),
        (["--json", "no/such/plan.json"], ["no/such"]),
        (["--arch", "dense_mlp", "--batch-tokens", "8", "--devices", "16"], ["16 devices"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_refused(cli, flags, said):
    cli.refuses(["plan", "small-gpt2", *flags], *said)


def test_a_model_that_is_none_is_refused(cli):
    cli.refuses(["plan", "no/such/folder/at/all"], "does not exist")
    (cli.folder / "empty").mkdir()
    cli.refuses(["plan", "empty"], "empty", "config.json")


def test_names_from_a_config_cannot_steer_the_terminal(cli):
    folder = cli.folder / "evil\x1b[31m[bold]"
    transformers.GPT2Config(
        n_embd=8, n_layer=2, n_head=2, vocab_size=16, architectures=["GPT2LMHeadModel"]
    ).save_pretrained(folder)
    result = cli.succeeds("plan", folder.name, "--width", 16, "--k", 4, "--context", 16)
    assert "\x1b" not in result.out
    assert "[bold]" in result.out


def test_the_document_has_the_documented_keys(cli):
    cli.succeeds("plan", "small-gpt2", "--expansion", 6, "--json", "plan.json")
    document = json.loads((cli.folder / "plan.json").read_text())
    assert set(document) == {
        "kind", "command", "model", "students", "training", "device", "layout", "memory",
        "per_token", "step", "traffic", "hops", "tokens_per_second", "floor_tokens_per_second",
        "hours", "device_hours", "price_per_hour", "cost", "notes",
    }  # fmt: skip

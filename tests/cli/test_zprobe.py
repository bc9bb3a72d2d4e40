import json, shutil, torch, time
from pathlib import Path
from tests.cli._parts import small, contents
from tests.helpers.tiny_models import tiny_model
import transformers


def test_probe(cli, saved, text, trained, tmp_path):
    g = saved("gpt2")
    bert = tmp_path / "bert"
    transformers.BertForMaskedLM(
        transformers.BertConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            vocab_size=64,
        )
    ).save_pretrained(bert)
    pick = tmp_path / "pickle"
    shutil.copytree(g, pick)
    (pick / "model.safetensors").unlink()
    torch.save({}, pick / "pytorch_model.bin")
    notok = tmp_path / "notok"
    shutil.copytree(g, notok)
    [p.unlink() for p in notok.glob("token*")]
    [p.unlink() for p in notok.glob("special*")]
    mix = saved("mixtral")
    inf = tmp_path / "inf"
    m = tiny_model("gpt2")
    m.transformer.h[1].mlp.c_fc.weight[0, 0] = float("inf")
    m.save_pretrained(inf)
    [shutil.copy(p, inf) for p in g.glob("token*")]
    empty = tmp_path / "e.jsonl"
    empty.write_text("")
    few = tmp_path / "f.jsonl"
    few.write_text(
        "".join(json.dumps({"text": "w3 w4 w5", "doc": f"a{i}"}) + "\n" for i in range(6))
    )
    lat = tmp_path / "l.txt"
    lat.write_bytes(b"caf\xe9")
    wrong = tmp_path / "t.jsonl"
    wrong.write_text('{"body":"w3"}\n')
    full = tmp_path / "full"
    full.mkdir()
    (full / "a.txt").write_text("x")
    afile = tmp_path / "afile"
    afile.write_text("x")

    def t(*a, **f):
        cs = contents(tmp_path)
        s = time.time()
        r = cli("fit", *a, *small(**{"text": text, **f}))
        new = set(contents(tmp_path)) - set(cs)
        with open("/tmp/probe.txt", "a") as o:
            print(
                r.code,
                f,
                f"{time.time() - s:.1f}s",
                "NEW" if new else "",
                list(new)[:3],
                "\n    ",
                r.err[-1500:],
                file=o,
            )

    open("/tmp/probe.txt", "w").close()
    t("no/such/model")
    t("nosuch")
    t("owner/nosuch")
    t("./nowhere")
    t(bert)
    t(pick)
    t(notok)
    t(tmp_path)
    t(text)
    t("")
    t(g, layers=7)
    t(g, layers=-1)
    t(g, layers="a,b")
    t(g, layers=None)
    t(mix)
    t(g, layers=None, site="nope")
    t(g, k=25)
    t(g, k=0)
    t(g, k=-1)
    t(g, width=0)
    t(g, k="a,b")
    t(g, k="3,")
    t(g, k="")
    t(g, arch="moe")
    t(g, activation="nope")
    t(g, loss="nope")
    t(g, recipe="nope")
    t(g, precision="nope")
    t(g, trackers="nope")
    t(g, trackers="wandb")
    t(g, trackers="trackio")
    t(g, text=None)
    t(g, text=tmp_path / "missing.jsonl")
    t(g, text="nosuch/dataset")
    t(g, text=empty)
    t(g, text=few)
    t(g, text=lat)
    t(g, text=wrong)
    t(g, text_column="body")
    t(g, text="*.nope")
    t(g, text="")
    t(g, out=full)
    t(g, out=trained)
    t(g, out=afile)
    t(g, out=afile / "run")
    t(g, out="/proc/nowhere/run")
    t(g, out=full, overwrite=True)
    t(inf)
    t(g, device="cuda")
    t(g, device="nonsense")
    t(g, json="missing/x.json")
    t(g, json=full)
    t(g, config="missing.yaml")
    t(g, config=text)
    t(g, nope="x")
    t(g, tokens="many")
    t(g, lr="fast")
    t(g, lr=0)
    t(g, lr="nan")
    t(g, holdout=1.5)
    t(g, holdout="nan")
    t(g, expansion=-1, width=None)
    t(g, expansion="inf", width=None)
    t(g, context=1)
    t(g, context=100)
    t(g, seed="-1")
    t(g, seed="99999999999999999999999")
    t(g, log_every=0)
    t(g, clip_norm=-1)
    t(g, shared_experts=5)
    t(g, eval_text="missing.jsonl")
    t(g, eval_text=text)
    t(g, revision="nope")
    t(g, dtype="int8")
    t(g, exclude_from_training="w999")
    t(g, batch_tokens=100000)
    t(g, d_hidden=0)
    t(g, tokens="nan")
    t(g, tokens="inf")
    t(g, tokens=1.5)
    t(g, holdout=0.001)
    t(g, out="")
    t(g, device="meta")
    t(g, site="transformer.h.0.ln_1", layers=None)
    t(g, k="3,5", shared_experts=4, out=tmp_path / "a/b/c")
    t(g, loss="reference", lr=9.9, out=tmp_path / "big")
    for a in (
        [],
        ["nope"],
        ["fit"],
        ["fit", str(g), "extra"],
        ["eval"],
        ["eval", "x", "--tokens", "0"],
        ["--nope"],
        ["demo", "--arch", "x"],
        ["demo", "--tokens", "x"],
        ["demo", "--out", "afile"],
        ["eval", str(full)],
        ["eval", str(g)],
        ["eval", str(afile)],
    ):
        r = cli(*a)
        with open("/tmp/probe.txt", "a") as o:
            print(r.code, a, "\n    ", r.err[-1500:], "\n   OUT", r.out[:300], file=o)

"""A real training's memory beside its plan, in a process of its own (Linux)."""

import subprocess
import sys
from pathlib import Path

import pytest

from mxd.demo import bundled_model
from mxd.host import find_site
from mxd.host.skeleton import load_skeleton
from mxd.planning import Training, describe_model, device_of, make_plan, plan_students
from mxd.training import LayerRecipe

_WIDTH, _BATCH, _CONTEXTS, _CONTEXT = 131_072, 256, 64, 64
_TOKENS = _CONTEXTS * _CONTEXT + 4 * _BATCH
_TRAIN = f"""
from pathlib import Path
import mxd
from mxd.data import ContextOptions, Document
from mxd.demo import bundled_model
from mxd.host import load_model, load_tokenizer
from mxd.training import LayerRecipe, StudentSpec, TextRecipe, changed, named_recipe

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024

path = bundled_model("gpt2")
model, tokenizer = load_model(path), load_tokenizer(path)
recipe = named_recipe(
    "small", TextRecipe(source="given", contexts=ContextOptions(length={_CONTEXT})),
    layers=(0,), tokens={_TOKENS},
    students=(StudentSpec(architecture="mxd", k=8),), layer=LayerRecipe(width={_WIDTH}),
    precision="float32", track_experts=0,
)
recipe = changed(
    recipe, optimizer={{"batch_tokens": {_BATCH}}},
    buffer={{"contexts": {_CONTEXTS}, "harvest_contexts": 16}},
)
words = [f"word{{j}}" for j in range(440)]
documents = [Document(f"d{{i}}", " ".join(words[i : i + 400])) for i in range(40)]
before = status("VmRSS")
mxd.fit(model, tokenizer, recipe, documents=documents)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system tells no peak")
def test_what_a_training_takes_is_near_its_plan():
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    measured = int(done.stdout.splitlines()[-1])
    skeleton = load_skeleton(bundled_model("gpt2"), dtype="float32")
    shape = describe_model(
        skeleton, [find_site(skeleton, 0)], name="gpt2", contexts=16, length=_CONTEXT
    )
    layers = plan_students(
        shape.sites,
        architectures=("mxd",),
        ks=(8,),
        recipe=LayerRecipe(width=_WIDTH),
        batch_tokens=_BATCH,
    )
    plan = make_plan(
        Training(
            model=shape,
            students=layers,
            tokens=_TOKENS,
            batch_tokens=_BATCH,
            buffer_tokens=_CONTEXTS * _CONTEXT,
            checkpoints=False,
            track_experts=False,
        ),
        device_of("cpu"),
    )
    there = ("Python and libraries", "language model, weights")
    predicted = sum(i.bytes for i in plan.option.device_peak.items if i.name not in there)
    assert measured == pytest.approx(predicted, rel=0.2)

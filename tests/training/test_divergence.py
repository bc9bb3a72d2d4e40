"""A student that diverges is named and left alone; the others go on."""

from tests.training._parts import SITE, tiny_recipe

from mxd.training import Student, StudentSpec, fit


def test_a_diverging_student_is_named_and_the_others_go_on(
    model, tokenizer, documents, tmp_path, caplog, monkeypatch
):
    learn = Student.step

    def step(self, x, y, context):
        if self.lr == 2e-2 and self.steps == 1:
            self.layer.bias.data.fill_(float("inf"))
        learn(self, x, y, context)

    monkeypatch.setattr(Student, "step", step)
    students = tuple(StudentSpec(architecture="mxd", k=3, lr=lr) for lr in (1e-2, 2e-2))
    recipe = tiny_recipe(students=students, log_every=1)
    run = fit(model, tokenizer, recipe, documents=documents, out=tmp_path / "run")
    trained = {
        layer.provenance.training["lr"]: layer.provenance.training
        for layer in run.layers[SITE].values()
    }
    assert trained[2e-2]["diverged"] is True
    assert trained[2e-2]["nmse_last_tenth"] is None
    assert trained[2e-2]["steps"] == 2
    assert trained[1e-2]["diverged"] is False
    assert trained[1e-2]["steps"] == 12
    assert caplog.text.count("diverged at step 2") == 1
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    assert '"nmse": null' in metrics
    assert "NaN" not in metrics
    assert "Infinity" not in metrics

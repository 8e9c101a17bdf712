"""Families, stage counts and schedules compute what the unsplit model does, on real processes."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.partition.place import SolverOptions
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.errors import UserFileError
from pipecut.runtime.verify.verify import verify

FAMILIES: dict[str, tuple[str, str | None]] = {
    "gpt2": ("tokens", None),
    "llama": ("tokens", None),
    "bert": ("bert_inputs", None),
    "t5": ("tokens", None),
    "mixtral": ("tokens", None),
    "resnet": ("images", None),
    "unet": ("unet_inputs", "unet_loss"),
    "mlp": ("vectors", None),
}
# Models that do what the families do not, each with its inputs.
ODD = {
    "transformer": "translation",
    "recurrent": "vectors",
    "parametrized": "vectors",
    "random_features": "vectors",
    "awkward_names": "awkward_inputs",
}
# A cell of the matrix for some families, so that all stage counts and both schedules occur. The
# rest is slow, and so are GPT-2, T5, MLP and ResNet here: cells below run them.
QUICK = {
    ("llama", 2, "gpipe"),
    ("bert", 3, "1f1b"),
    ("mixtral", 2, "1f1b"),
    ("unet", 4, "1f1b"),
}
MATRIX = [
    pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow)
    for cell in [(f, n, s) for f in FAMILIES for n in (2, 3, 4) for s in ("gpipe", "1f1b")]
]


@pytest.mark.parametrize(("family", "stages", "schedule"), MATRIX)
def test_split_model_computes_what_the_unsplit_one_does(
    family: str, stages: int, schedule: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    inputs, loss = FAMILIES[family]
    job = write_job(family, inputs, loss)
    plan = compile(
        job,
        slow_cores,
        tmp_path / "plan",
        Options(
            SizeOverrides(stages=stages, schedule=schedule), solving=SolverOptions(time_limit=5)
        ),
    ).plan
    loads = [stage.load_seconds for stage in plan.stages]
    assert min(loads) > max(loads) / 10, f"a plan that leaves a stage idle proves little: {loads}"
    result = verify(tmp_path / "plan", steps=2, evaluation=True)
    assert result.passed, result.worst
    assert {"loss", "gradient", "parameter", "eval loss"} <= set(result.worst)


# Stages per rank of each schedule, with recompute and replicas; the matrix above has two of them
# without. Three ranks have one stage each, two ranks several.
STAGES_PER_RANK = {name: schedule.stages_per_rank or 2 for name, schedule in SCHEDULES.items()}
QUICK_CELLS = {
    ("gpt2", "interleaved", ""),
    ("bert", "zb-h1", ""),
    ("resnet", "v-shaped", ""),
    ("mlp", "v-shaped", "recompute"),
}
EXTRAS = {
    "": "",
    "recompute": "recompute: always\n",
    "replicas": "data_parallel: 2\n",
    "shards": "data_parallel: 2\nshard_optimizer: true\n",
}
REPLICATED = ("replicas", "shards")
CELLS = [
    pytest.param(*cell, marks=() if cell in QUICK_CELLS else pytest.mark.slow)
    for cell in [(f, s, e) for f in FAMILIES for s in STAGES_PER_RANK for e in EXTRAS]
    if (cell[2] or cell[1] not in ("1f1b", "gpipe"))
    and (cell[2] not in REPLICATED or cell[0] != "resnet")
]


@pytest.mark.parametrize(("family", "schedule", "extra"), CELLS)
def test_every_schedule_computes_what_the_unsplit_model_does(
    family: str, schedule: str, extra: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    inputs, loss = FAMILIES[family]
    stages_per_rank = STAGES_PER_RANK[schedule]
    stages = 3 if stages_per_rank == 1 else 2 * stages_per_rank
    # Four devices for two replicas of a pipeline of two.
    stages = 2 * stages_per_rank if extra in REPLICATED else stages
    job = write_job(family, inputs, loss, EXTRAS[extra])
    sizes = SizeOverrides(stages=stages, schedule=schedule, stages_per_rank=stages_per_rank)
    plan = compile(
        job, slow_cores, tmp_path / "plan", Options(sizes, solving=SolverOptions(time_limit=5))
    ).plan
    assert plan.ranks == stages // stages_per_rank * (2 if extra in REPLICATED else 1)
    assert all(stage.recompute == (extra == "recompute") for stage in plan.stages)
    loads = [stage.load_seconds for stage in plan.stages]
    assert min(loads) > max(loads) / 10, f"a plan that leaves a stage idle proves little: {loads}"
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("parametrized", "recurrent") else ())
        for name in sorted(ODD)
    ],
)
def test_an_odd_model_computes_what_it_does_unsplit(
    model: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    compile(
        write_job(model, ODD[model]),
        slow_cores,
        tmp_path / "plan",
        Options(SizeOverrides(stages=3)),
    )
    result = verify(tmp_path / "plan", steps=2, evaluation=True)
    assert result.passed, result.worst


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        pytest.param("gpt2", "tokens", marks=pytest.mark.slow),
        ("resnet", "images"),
        ("parametrized", "vectors"),
    ],
)
def test_a_model_that_recomputes_computes_what_it_does_unsplit(
    model: str, inputs: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    job = write_job(model, inputs, extra="recompute: always\n")
    plan = compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=3))).plan
    assert all(stage.recompute for stage in plan.stages)
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst


def test_one_rank_may_have_every_stage(write_job: Any, slow_cores: str, tmp_path: Path) -> None:
    sizes = SizeOverrides(stages=4, schedule="interleaved", stages_per_rank=4)
    plan = compile(write_job("gpt2", "tokens"), slow_cores, tmp_path / "plan", Options(sizes)).plan
    assert plan.ranks == 1 and plan.tied
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst


@pytest.mark.parametrize(
    ("model", "schedule", "extra"),
    [
        ("t5", "1f1b", "shard_optimizer: true\n"),
        pytest.param(
            "gpt2",
            "gpipe",
            "shard_optimizer: true\nprecision: bf16\n",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "gpt2",
            "1f1b",
            "shard_optimizer: true\nprecision: fp16\n",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "llama",
            "1f1b",
            "shard_optimizer: true\ncompile: inductor\n",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_replicas_compute_what_the_unsplit_model_does(
    model: str, schedule: str, extra: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    job = write_job(model, "tokens", extra=f"data_parallel: 2\n{extra}")
    plan = compile(
        job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2, schedule=schedule))
    ).plan
    assert plan.ranks == 4 and plan.microbatches == 2
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst


@pytest.mark.parametrize(
    ("schedule", "stages", "extra"), [("1f1b", 3, "recompute: always\n"), ("v-shaped", 4, "")]
)
def test_dropout_is_that_of_the_unsplit_model_whoever_runs_it(
    schedule: str, stages: int, extra: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    job = write_job("dropping", "vectors", extra=extra)
    plan = compile(
        job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=stages, schedule=schedule))
    ).plan
    assert sorted(number for stage in plan.stages for number in stage.draws) == list(range(10))
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst


@pytest.mark.parametrize(
    ("model", "inputs", "args", "extra", "schedule"),
    [
        ("noisy", "vectors", "", "data_parallel: 2\n", "1f1b"),
        pytest.param(
            "noisy", "vectors", "", "recompute: always\n", "zb-h1", marks=pytest.mark.slow
        ),
        pytest.param("encoder", "sequences", "", "", "1f1b", marks=pytest.mark.slow),
        ("encoder", "sequences", "reentrant: true", "", "gpipe"),
        pytest.param(
            "encoder", "sequences", "reentrant: false", "", "1f1b", marks=pytest.mark.slow
        ),
        pytest.param(
            "recurrent", "sequences", "", "recompute: always\n", "1f1b", marks=pytest.mark.slow
        ),
    ],
)
def test_every_random_draw_is_that_of_the_unsplit_model(
    model: str,
    inputs: str,
    args: str,
    extra: str,
    schedule: str,
    slow_cores: str,
    tmp_path: Path,
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f'model: {{factory: "tests.models.numerics:{model}", args: {{{args}}}}}\n'
        f'inputs: "tests.models.numerics:{inputs}"\nbatch: {{global: 8, microbatch: 2}}\n{extra}'
    )
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2, schedule=schedule)))
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst


@pytest.mark.parametrize(
    ("family", "precision", "schedule"),
    [
        pytest.param("gpt2", "bf16", "1f1b", marks=pytest.mark.slow),
        ("mlp", "fp16", "gpipe"),
        ("bert", "bf16", "zb-h1"),
    ],
)
def test_half_precision_has_masters_and_scaled_losses_as_unsplit(
    family: str, precision: str, schedule: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    job = write_job(family, FAMILIES[family][0], extra=f"precision: {precision}\n")
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2, schedule=schedule)))
    result = verify(tmp_path / "plan", steps=3)
    assert result.passed, result.worst


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("family", ["mlp", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_compiled_stages_compute_what_the_unsplit_model_does(
    family: str, write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    job = write_job(family, FAMILIES[family][0], extra="compile: inductor\n")
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2)))
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst
    with pytest.raises(UserFileError, match="compiled stages do not allow"):
        compile(
            job, slow_cores, tmp_path / "split", Options(SizeOverrides(stages=2, schedule="zb-h1"))
        )


def test_replicas_that_would_drift_apart_are_refused(
    write_job: Any, slow_cores: str, tmp_path: Path
) -> None:
    job = write_job("resnet", "images", extra="data_parallel: 2\n")
    with pytest.raises(UserFileError, match="BatchNorm"):
        compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2)))


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", "recompute: always\n"])
def test_a_buffer_is_kept_for_backward_as_it_was_read(
    extra: str, slow_cores: str, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        'model: {factory: "tests.models.unseen:unseen", args: {name: BufferReadAfterWrite}}\n'
        f'inputs: "tests.models.unseen:rows"\nbatch: {{global: 8, microbatch: 2}}\n{extra}'
    )
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2)))
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst


def test_weights_come_from_safetensors_by_name(write_job: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from tests.models.core import mlp

    weights = {name: tensor * 2 for name, tensor in mlp().state_dict().items()}
    save_file(weights, str(tmp_path / "given.safetensors"))
    job = write_job("mlp", "vectors", extra="weights: given.safetensors\n")
    compile(job, "auto", tmp_path / "plan", Options(SizeOverrides(stages=2)))
    result = verify(tmp_path / "plan", steps=1)
    assert result.passed, result.worst
    name = "layers.5.0.bias"
    save_file(
        {n: t for n, t in load_file(str(tmp_path / "given.safetensors")).items() if n != name},
        str(tmp_path / "less"),
    )
    (tmp_path / "less").rename(tmp_path / "given.safetensors")
    with pytest.raises(UserFileError, match=name):
        compile(job, "auto", tmp_path / "plan", Options(SizeOverrides(stages=2)))


def test_a_damaged_gradient_fails_the_comparison(write_job: Any, tmp_path: Path) -> None:
    import json

    from pipecut.plan.folder import file_hash, seal_of

    compile(
        write_job("mlp", "vectors"), "auto", tmp_path / "plan", Options(SizeOverrides(stages=2))
    )
    source = tmp_path / "plan" / "stages" / "stage_0.py"
    text = source.read_text()
    assert "torch.tanh(" in text
    source.write_text(text.replace("torch.tanh(", "torch.sin(", 1))
    import yaml

    manifest = tmp_path / "plan" / "plan.yaml"
    data = yaml.safe_load(manifest.read_text())
    data["hashes"]["stages/stage_0.py"] = file_hash(source)
    data["seal"] = seal_of(json.loads(json.dumps(data)))
    manifest.write_text(yaml.safe_dump(data))
    assert not verify(tmp_path / "plan", steps=1).passed

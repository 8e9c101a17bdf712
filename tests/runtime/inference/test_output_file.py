"""Outputs of batches become one file that safetensors reads, and nothing else is left."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipecut.errors import RunError, UserFileError
from pipecut.plan.schema import Evaluation, EvaluationStage
from pipecut.runtime.inference.output_file import OutputFile
from pipecut.runtime.inference.predict import PredictRequest
from pipecut.runtime.inference.requirements import refuse_without_outputs
from tests.plans import made_plan, made_stage, made_tensor


def test_batches_are_concatenated_along_their_samples(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    path.write_text("an older file")
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "logits": torch.randn(count, 3, 2, generator=generator),
            "by_layer": torch.randn(2, count, 5, generator=generator).bfloat16(),
            "class": torch.randint(9, (count,), generator=generator),
            "kept": torch.rand(count, 1, generator=generator) > 0.5,
        }
        for count in (4, 4, 1)
    ]
    samples_at = {"logits": 0, "by_layer": 1, "class": 0, "kept": 0}
    with OutputFile(path, samples_at) as file:
        for batch in batches:
            file.add(batch)
        shapes = file.finish()
    assert shapes == {"logits": [9, 3, 2], "by_layer": [2, 9, 5], "class": [9], "kept": [9, 1]}
    written = load_file(str(path))
    for name, at in samples_at.items():
        assert torch.equal(written[name], torch.cat([batch[name] for batch in batches], at))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_batches_of_other_lengths_do_not_fit_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    with (
        pytest.raises(RunError, match=r"'logits' of batch 2 has samples of torch.float32\[4\]"),
        OutputFile(path, {"logits": 0}) as file,
    ):
        file.add({"logits": torch.ones(2, 3)})
        file.add({"logits": torch.ones(2, 4)})
    assert not list(tmp_path.iterdir())


def test_a_request_is_the_same_on_a_rank() -> None:
    for request in (
        PredictRequest(Path("plan"), "a:b", Path("out")),
        PredictRequest(Path("p"), "a:b", Path("o"), Path("c"), Path("w"), "cpu", Path("code")),
    ):
        assert PredictRequest.parse(str(request)) == request


def test_a_plan_without_outputs_is_refused() -> None:
    refuse_without_outputs(made_plan(1, stages=[made_stage(outputs=[made_tensor("logits")])]))
    with pytest.raises(UserFileError, match=r"only trains, so it predicts nothing: a reason"):
        refuse_without_outputs(made_plan(1, evaluation=Evaluation(refused="a reason")))
    none = Evaluation(left_out={"cache": "it is a Cache"})
    with pytest.raises(UserFileError, match="nothing to predict; 'cache' cannot be handed out"):
        refuse_without_outputs(made_plan(1, evaluation=none))
    # What counts is eval mode, where that differs.
    stage = EvaluationStage(
        operators=1,
        receives=[],
        batch_inputs=["x"],
        sends=[],
        outputs=[made_tensor("logits")],
    )
    refuse_without_outputs(made_plan(1, evaluation=Evaluation(stages=[stage])))

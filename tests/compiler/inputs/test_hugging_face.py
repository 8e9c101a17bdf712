"""A Hugging Face folder in place of a job file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pipecut.cli import app
from pipecut.compiler.inputs.hugging_face.job import (
    FolderRequest,
    weights_of,
    write_job_of_folder,
)
from pipecut.compiler.inputs.job import read_job
from pipecut.errors import UserFileError
from pipecut.model.functions import bound_inputs, function_of_plan
from pipecut.model.hugging_face import build, images, kind_of, read_model, tokens
from pipecut.model.sample_batch import sample_batch
from pipecut.model.weights import all_values, read_weights
from pipecut.plan.folder import read_plan

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "dtype": "bfloat16",
}
BERT = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": 32,
}
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 32,
    "n_positions": 8,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
}
VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": 8,
    "id2label": {"0": "cat", "1": "dog", "2": "owl"},
}


def folder_of(config: dict[str, object], folder: Path) -> Path:
    """A folder with a config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_job_file_says_what_the_folder_has(tmp_path: Path) -> None:
    folder = folder_of(TINY, tmp_path / "llama")
    save_file(build(str(folder)).state_dict(), folder / "model.safetensors")
    job = tmp_path / "plan.job.yaml"
    assert write_job_of_folder(FolderRequest(folder, 8, 64, "auto"), job) == ()
    spec = read_job(job).spec
    assert spec.model.args == {"folder": "llama", "length": 8}
    assert (spec.weights, spec.precision) == ("llama/model.safetensors", "bf16")
    assert (spec.batch.global_, spec.reduction) == (64, "tokens")


def test_a_job_file_is_written_again_until_somebody_changes_it(tmp_path: Path) -> None:
    folder, job = folder_of(TINY, tmp_path / "llama"), tmp_path / "plan.job.yaml"
    for sequence in (8, 16):
        write_job_of_folder(FolderRequest(folder, sequence, 64, "auto"), job)
    assert read_job(job).spec.model.args["length"] == 16
    job.write_text(job.read_text() + "clip: 1.0\n")
    with pytest.raises(UserFileError, match="was changed since"):
        write_job_of_folder(FolderRequest(folder, 8, 64, "auto"), job)


def test_weights_under_old_names_are_read_under_the_models(tmp_path: Path) -> None:
    """transformers writes a ViT's under those of its first version."""
    folder, job = folder_of(VIT, tmp_path / "vit"), tmp_path / "plan.job.yaml"
    model = build(str(folder))
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    stored = load_file(file)
    save_file({**stored, "vit.pooler.dense.bias": torch.ones(2)}, file)
    left_out = write_job_of_folder(FolderRequest(folder, None, 64, "auto"), job)
    assert left_out == ("vit.pooler.dense.bias",) and set(stored) != set(model.state_dict())
    assert read_job(job).spec.weights == "plan.weights.index.json"
    assert "it leaves out vit.pooler.dense.bias" in job.read_text()
    values = all_values(tmp_path / "plan.weights.index.json")
    assert set(values) == set(model.state_dict())
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())


def test_weights_of_a_gpt2_without_its_heads_prefix_are_read_under_the_models(
    tmp_path: Path,
) -> None:
    """The first GPT-2 was published so, with the masks that it had as buffers."""
    folder, job = folder_of(GPT2, tmp_path / "gpt2"), tmp_path / "plan.job.yaml"
    model = build(str(folder))
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    stored = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    assert not set(stored) & set(model.state_dict())
    save_file({**stored, "h.0.attn.bias": torch.ones(1, 1, 8, 8).tril()}, file)
    left_out = write_job_of_folder(FolderRequest(folder, 8, 64, "auto"), job)
    assert left_out == ("h.0.attn.bias",)
    values = all_values(tmp_path / "plan.weights.index.json")
    assert set(values) == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(value, values[name]) for name, value in model.named_parameters())


def test_weights_that_the_model_has_merged_are_refused(tmp_path: Path) -> None:
    experts = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    folder = folder_of({**TINY, **experts, "num_local_experts": 2}, tmp_path / "mixtral")
    build(str(folder)).save_pretrained(folder)
    with pytest.raises(UserFileError, match="is stored by itself, and the model has it within"):
        write_job_of_folder(FolderRequest(folder, 8, 64, "auto"), tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"architectures": ["LlamaModel"]}, "LlamaModel is none of CausalLM"),
        ({"architectures": None}, "name the class to train"),
        ({"model_type": "mine"}, "no model of type mine"),
        ({"num_attention_heads": 3}, "config.json: transformers does not take it: .* mend it$"),
        ({"hidden_size": "large"}, "does not take it: .*expected int, got str"),
        ({"max_position_embeddings": 4}, "max_position_embeddings 4"),
    ],
)
def test_what_no_job_can_be_written_for_is_refused(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    folder = folder_of({**TINY, **changed}, tmp_path)
    with pytest.raises(UserFileError, match=said):
        write_job_of_folder(FolderRequest(folder, 8, 64, "auto"), tmp_path / "job.yaml")
    assert not (tmp_path / "job.yaml").exists()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"no config\.json of a Hugging Face model: No such file or directory; give"),
        ({"config.json": "{"}, "not valid JSON: Expecting property name"),
        ({"config.json": "7"}, "no config"),
        ({"config.json": "{}"}, "it has no model_type"),
        ({"adapter_config.json": "{}"}, "an adapter of peft without its model; write a factory"),
    ],
)
def test_a_folder_without_a_model_is_refused(
    tmp_path: Path, files: dict[str, str], said: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserFileError, match=said):
        read_model(tmp_path)


def test_a_name_on_a_hub_is_no_folder() -> None:
    with pytest.raises(UserFileError, match="there is no such folder .* hf download NAME"):
        read_model(Path("meta-llama/Llama-3.1-8B"))


def test_weights_are_an_index_a_file_or_none(tmp_path: Path) -> None:
    assert weights_of(tmp_path) is None
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserFileError, match="from safetensors only"):
        weights_of(tmp_path)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).touch()
        assert weights_of(tmp_path) == tmp_path / name
    assert weights_of(tmp_path / "config.json") is None


def test_the_factory_builds_the_class_of_the_config_in_float32(tmp_path: Path) -> None:
    model = build(str(folder_of(TINY, tmp_path)))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_batches_are_made_by_the_kind_of_model(tmp_path: Path) -> None:
    bert = tokens(3, folder=str(folder_of(BERT, tmp_path / "bert")), length=8)
    assert list(bert) == ["input_ids", "attention_mask", "labels"]
    predicted = bert["labels"] != -100
    assert predicted.any(1).all() and bool((bert["attention_mask"][predicted] == 1).all())
    vit = images(2, folder=str(folder_of(VIT, tmp_path / "vit")))
    assert list(vit["pixel_values"].shape) == [2, 3, 8, 8] and int(vit["labels"].max()) < 3


def test_inputs_take_the_factorys_arguments_by_keyword_only() -> None:
    def batch(samples: int, width: int = 1, *, length: int) -> tuple[int, int, int]:
        return samples, width, length

    bound = bound_inputs(batch, {"width": 7, "length": 9, "layers": 2})
    assert bound(2) == (2, 1, 9)
    assert bound(2, length=5) == (2, 1, 5)


def test_a_kind_is_that_of_transformers_own_maps() -> None:
    assert kind_of("t5", "T5ForConditionalGeneration") == "Seq2SeqLM"
    assert kind_of("bert", "BertModel") is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a job file, or"),
        (("job.yaml", "--batch", "4"), "are for --model"),
        (("job.yaml", "--model", "llama", "--batch", "4"), "not both"),
        (("--model", "llama"), "as --batch"),
    ],
)
def test_a_job_file_and_a_folder_exclude_each_other(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserFileError, match=said):
        CliRunner().invoke(app, ["compile", *arguments], catch_exceptions=False)


def test_a_folder_is_compiled_and_runs_where_it_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    folder = folder_of({**TINY, "dtype": "float32"}, project / "llama")
    build(str(folder)).save_pretrained(folder)
    sizes = "--sequence", "8", "--batch", "4", "--microbatch", "2", "--stages", "2"
    CliRunner().invoke(app, ["compile", "--model", "llama", *sizes], catch_exceptions=False)
    moved = project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    plan = read_plan(moved / "plan").plan
    assert plan.model.weights == str(moved / "llama" / "model.safetensors")
    assert len(read_weights(Path(plan.model.weights), plan)) == 21
    batch = sample_batch(plan.model, 3, 0)
    assert list(batch["input_ids"].shape) == [3, 8]
    assert len(list(function_of_plan(plan.model.factory, plan.model)(**plan.model.args).children()))

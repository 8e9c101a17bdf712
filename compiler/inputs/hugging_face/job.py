"""The job of a Hugging Face folder, written as a job file that a user can go on from."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from pipecut.compiler.inputs.hugging_face.weights import NamedWeights, named_weights
from pipecut.errors import RunError, UserFileError
from pipecut.model.hugging_face import HuggingFaceModel, read_model
from pipecut.model.weights import INDEX
from pipecut.writable import writable_file

MARK = "# Written by pipecut compile --model; unchanged as long as it has the digest"
PRECISIONS = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}
FOLDERS_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class FolderRequest:
    """A folder or config.json, tokens of a sample (none for images), and samples per step.

    `microbatch` is a number of samples, or `auto`.
    """

    model: Path
    sequence: int | None
    batch: int
    microbatch: str


def write_job_of_folder(request: FolderRequest, file: Path) -> tuple[str, ...]:
    """Write the job file, and an index of the weights where the model has other names for them.

    Returns the names of stored tensors that the model has not. Raises UserFileError for a folder
    that has no model, a sequence that it cannot take, weights that are not the model's as they are
    stored, and a file that somebody has changed.
    """
    model = read_model(request.model)
    _check_sequence(model, request.sequence)
    if file.exists() and not _is_as_written(file.read_text()):
        raise UserFileError(
            f"{file} was changed since pipecut wrote it: compile it in place of --model, or "
            "remove it"
        )
    weights = _weights(request.model, model)
    plan = file.name.removesuffix(".yaml").removesuffix(".job")
    index = file.with_name(f"{plan}.weights{INDEX}")
    text = _job_text(request, model, file, weights, index)
    writable_file(file, "the job file of --model")
    file.write_text(f"{MARK} {_digest(text)}.\n{text}")
    if weights is not None and not weights.is_as_stored:
        weights.write(index)
    return weights.left_out if weights is not None else ()


def _weights(folder: Path, model: HuggingFaceModel) -> NamedWeights | None:
    """The weights of a folder; None where it has none. Raises UserFileError."""
    stored = weights_of(folder)
    try:
        return named_weights(model, stored) if stored is not None else None
    except RunError as error:
        raise UserFileError(str(error)) from None


def weights_of(model: Path) -> Path | None:
    """The safetensors of a folder, or their index; None where it has none, or for a config.json.

    Raises UserFileError where its weights are pickled.
    """
    if not model.is_dir():
        return None
    if (model / FOLDERS_INDEX).is_file():
        return model / FOLDERS_INDEX
    stored = sorted(model.glob("*.safetensors"))
    pickled = sorted(model.glob("*.bin"))
    if not stored and pickled:
        raise UserFileError(
            f"{pickled[0]}: weights are read from safetensors only; write them with "
            f"save_pretrained of transformers, or give {model / 'config.json'} to begin with "
            "random ones"
        )
    whole = model / "model.safetensors"
    if whole in stored:
        return whole
    return model if stored else None


def _check_sequence(model: HuggingFaceModel, sequence: int | None) -> None:
    """Raises UserFileError where --sequence does not fit the model."""
    if not model.of_text:
        if sequence is not None:
            raise UserFileError(f"{model.path}: images have no sequence; leave out --sequence")
        model.image_size()
        return
    if sequence is None:
        raise UserFileError(f"{model.path}: give the tokens of a sample as --sequence")
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < sequence:
        raise UserFileError(
            f"--sequence {sequence}: {model.path} has max_position_embeddings {most}; give no more"
        )


def _job_text(
    request: FolderRequest,
    model: HuggingFaceModel,
    file: Path,
    weights: NamedWeights | None,
    index: Path,
) -> str:
    given = os.path.relpath(request.model, file.parent)
    # A JSON string is YAML, whatever a folder is called.
    args: dict[str, str | int] = {"folder": given}
    if model.of_text:
        args["length"] = request.sequence or 0
    dtype = getattr(model.config, "dtype", None)
    labelled = model.kind in ("CausalLM", "MaskedLM", "Seq2SeqLM")
    lines = [
        f"# {model.architecture}, built by transformers from the folder's config.json.",
        "model:",
        '  factory: "pipecut.model.hugging_face:build"',
        f"  args: {json.dumps(args)}",
        "# Random batches, to trace the model with; pipecut run takes yours as --data.",
        f'inputs: "pipecut.model.hugging_face:{"tokens" if model.of_text else "images"}"',
        f"batch: {{global: {request.batch}, microbatch: {request.microbatch}}}",
        f"precision: {PRECISIONS.get(str(dtype), 'fp32')}",
        *(["# The loss is a mean over labels other than -100."] if labelled else []),
        *(["reduction: tokens"] if labelled else []),
        "optimizer: adamw",
        *_weights_lines(weights, file, index),
    ]
    return "\n".join(lines) + "\n"


def _weights_lines(weights: NamedWeights | None, file: Path, index: Path) -> list[str]:
    if weights is None:
        return []
    if weights.is_as_stored:
        return [f"weights: {json.dumps(os.path.relpath(weights.path, file.parent))}"]
    left_out = f"; it leaves out {', '.join(weights.left_out)}" if weights.left_out else ""
    return [
        f"# The folder's tensors under the names that the model has for them{left_out}.",
        f"weights: {json.dumps(index.name)}",
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_as_written(text: str) -> bool:
    first, _, rest = text.partition("\n")
    return first == f"{MARK} {_digest(rest)}."

"""The model of a Hugging Face folder and its example batches: what `pipecut compile --model` names.

A folder has a config.json, and weights in safetensors or none. Its relative place is looked up from
the folders that a plan's functions are imported from, so that both may be moved together.
"""

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipecut.errors import UserFileError
from pipecut.extras import need

CONFIG, ADAPTER = "config.json", "adapter_config.json"
REMEDY = "write a job file with a factory and an inputs function of your own (pipecut init)"
# The kinds of models whose batches can be made by rule, and the maps of transformers' Auto classes.
KINDS = {
    "CausalLM": "CAUSAL_LM",
    "MaskedLM": "MASKED_LM",
    "Seq2SeqLM": "SEQ_TO_SEQ_CAUSAL_LM",
    "SequenceClassification": "SEQUENCE_CLASSIFICATION",
    "ImageClassification": "IMAGE_CLASSIFICATION",
}
# Tokens that a masked language model predicts, as BERT was trained.
PREDICTED = 0.15
IGNORED = -100


@dataclass(frozen=True)
class HuggingFaceModel:
    """A config.json, its configuration, and the kind of its architecture, one of KINDS."""

    path: Path
    config: Any
    kind: str
    architecture: str

    @property
    def of_text(self) -> bool:
        """Whether its inputs are tokens, which have a length."""
        return self.kind != "ImageClassification"

    def image_size(self) -> tuple[int, int]:
        """Height and width of its images. Raises UserFileError where no file says."""
        size = getattr(self.config, "image_size", None)
        processor = self.path.with_name("preprocessor_config.json")
        if size is None and processor.is_file():
            known = json.loads(processor.read_text())
            size = known.get("crop_size") or known.get("size")
        if isinstance(size, Mapping):
            edge = size.get("shortest_edge")
            size = (size.get("height", edge), size.get("width", edge))
        sides = (size, size) if isinstance(size, int) else tuple(size or ())
        if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
            raise UserFileError(
                f"{self.path}: neither image_size nor a preprocessor_config.json beside it says "
                f"how large its images are; add image_size, or {REMEDY}"
            )
        return sides[0], sides[1]


def build(folder: str, length: int = 0) -> nn.Module:
    """The model of a folder, or of a config.json, with parameters as it initialises them.

    `length` is for the inputs function. Raises UserFileError as `read_model`.
    """
    model = read_model(place(folder))
    auto = getattr(_transformers(), f"AutoModelFor{model.kind}")
    model.config.use_cache = False
    built: nn.Module = auto.from_config(model.config, dtype=torch.float32)
    if type(built).__name__ != model.architecture:
        raise UserFileError(
            f"{model.path}: architectures says {model.architecture}, and {auto.__name__} builds "
            f"{type(built).__name__}; {REMEDY}"
        )
    return built


def tokens(samples: int, *, folder: str, length: int) -> dict[str, torch.Tensor]:
    """A batch of random tokens [samples, length] with labels, for a model of text.

    A masked language model and a classifier also get an attention mask [samples, length].
    """
    model = read_model(place(folder))
    shape = (samples, length)
    ids = torch.randint(0, model.config.get_text_config().vocab_size, shape)
    if model.kind in ("CausalLM", "Seq2SeqLM"):
        return {"input_ids": ids, "labels": ids.clone()}
    ends = torch.randint((length + 1) // 2, length + 1, (samples, 1))
    mask = (torch.arange(length) < ends).long()
    if model.kind == "SequenceClassification":
        return {"input_ids": ids, "attention_mask": mask, "labels": _classes(model, samples)}
    kept = torch.rand(shape) >= PREDICTED
    kept[:, 0] = False
    labels = ids.masked_fill(kept | (mask == 0), IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def images(samples: int, *, folder: str) -> dict[str, torch.Tensor]:
    """A batch of random images [samples, channels, height, width] with labels."""
    model = read_model(place(folder))
    channels = getattr(model.config, "num_channels", 3)
    pixels = torch.randn(samples, channels, *model.image_size())
    return {"pixel_values": pixels, "labels": _classes(model, samples)}


def read_model(path: Path) -> HuggingFaceModel:
    """The model of a folder or config.json.

    Raises UserFileError where there is none, where transformers is missing, and for an
    architecture whose batches cannot be made by rule.
    """
    file = path / CONFIG if path.is_dir() else path
    written = _read_config(path, file)
    model_type = written["model_type"]
    transformers = _transformers()
    if model_type not in transformers.CONFIG_MAPPING:
        raise UserFileError(
            f"{file}: transformers {transformers.__version__} has no model of type {model_type}, "
            f"and code that comes with a folder is not run; {REMEDY}"
        )
    architectures = written.get("architectures") or []
    if len(architectures) != 1:
        raise UserFileError(
            f"{file}: architectures is {architectures}; name the class to train there, such as "
            '["LlamaForCausalLM"]'
        )
    kind = kind_of(model_type, architectures[0])
    if kind is None:
        raise UserFileError(
            f"{file}: {architectures[0]} is none of {', '.join(KINDS)}, whose batches can be made "
            f"by rule; {REMEDY}"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(str(file), local_files_only=True)
    except Exception as error:
        # Each configuration has checks of its own.
        reason = " ".join(str(error).split())
        raise UserFileError(f"{file}: transformers does not take it: {reason}; mend it") from None
    return HuggingFaceModel(file, config, kind, architectures[0])


def _read_config(path: Path, file: Path) -> dict[str, Any]:
    """A config.json, which has a model_type. Raises UserFileError."""
    if not path.exists():
        raise UserFileError(
            f"{path}: there is no such folder or file, and pipecut downloads none; hf download "
            "NAME --local-dir FOLDER does"
        )
    if path.is_dir() and (path / ADAPTER).is_file() and not file.exists():
        raise UserFileError(
            f"{path} is an adapter of peft without its model; write a factory that builds the "
            "model and puts the adapter on it (docs/lora.md)"
        )
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        problem = "" if "model_type" in written else "it has no model_type"
    except OSError as error:
        problem = error.strerror or str(error)
    except UnicodeDecodeError:
        problem = "it is no text"
    except (ValueError, TypeError) as error:
        problem = f"not valid JSON: {error}"
    if problem:
        raise UserFileError(
            f"{file} is no config.json of a Hugging Face model: {problem}; give the folder that "
            "save_pretrained wrote"
        )
    return dict(written)


def kind_of(model_type: str, architecture: str) -> str | None:
    """The kind of an architecture, by the maps of transformers' Auto classes; None for others."""
    maps = importlib.import_module("transformers.models.auto.modeling_auto")
    for kind, name in KINDS.items():
        classes = getattr(maps, f"MODEL_FOR_{name}_MAPPING_NAMES").get(model_type, ())
        if architecture in ((classes,) if isinstance(classes, str) else classes):
            return kind
    return None


def place(folder: str) -> Path:
    """Where a folder is: looked up as modules are. Raises UserFileError where it is nowhere."""
    places = [Path(found, folder) for found in dict.fromkeys([*sys.path, ""])]
    for found in places:
        if found.exists():
            return found
    raise UserFileError(
        f"the model's folder {folder} is not here; move it with the plan, or give its place as "
        "args: {folder: ...} in the job file and compile again"
    )


def _classes(model: HuggingFaceModel, samples: int) -> torch.Tensor:
    """Labels of a classifier: classes [samples], or values for a regression or several labels."""
    count = model.config.num_labels
    if model.config.problem_type == "multi_label_classification":
        return torch.randint(0, 2, (samples, count)).float()
    if count == 1 or model.config.problem_type == "regression":
        return torch.randn(samples) if count == 1 else torch.randn(samples, count)
    return torch.randint(0, count, (samples,))


def _transformers() -> Any:
    need(("transformers",), "a Hugging Face folder", "hugging-face")
    return importlib.import_module("transformers")

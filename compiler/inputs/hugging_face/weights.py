"""The weights of a Hugging Face folder under the model's own names.

transformers renames tensors when it loads them, and writes them under their old names. An index
beside the job file says so, so that ranks read them without transformers.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipecut.errors import UserFileError
from pipecut.model.building.on_meta import meta_model
from pipecut.model.hugging_face import HuggingFaceModel, build
from pipecut.model.weights import INDEX, Stored, weight_files


@dataclass(frozen=True)
class NamedWeights:
    """Tensors at `path` by the model's names, and the names of those that the model has not."""

    path: Path
    tensors: dict[str, Stored]
    left_out: tuple[str, ...]

    @property
    def is_as_stored(self) -> bool:
        """Whether the files have all of it under these names, and nothing else."""
        renamed = any(name != stored.name for name, stored in self.tensors.items())
        return not renamed and not self.left_out

    def write(self, file: Path) -> None:
        """Write an index of it; `file` ends in INDEX."""
        assert file.name.endswith(INDEX)
        places = {
            name: os.path.relpath(stored.file, file.parent) for name, stored in self.tensors.items()
        }
        names = {name: stored.name for name, stored in self.tensors.items()}
        file.write_text(json.dumps({"weight_map": places, "stored_names": names}, indent=1))


def named_weights(model: HuggingFaceModel, weights: Path) -> NamedWeights:
    """Find the model's name of each stored tensor, as transformers does.

    Raises UserFileError where the model has as one what is stored in parts.
    """
    built: Any = meta_model(lambda: build(str(model.path.resolve())), seed=0)
    wanted = built.state_dict(keep_vars=True)
    rules = _Renaming(built, wanted)
    tensors, left_out = {}, []
    for name, stored in weight_files(weights).items():
        target = rules.name_of(name, weights)
        if target in wanted:
            tensors[target] = stored
        else:
            left_out.append(name)
    return NamedWeights(weights, tensors, tuple(left_out))


class _Renaming:
    """What transformers calls a stored tensor of a model."""

    def __init__(self, built: Any, wanted: dict[str, Any]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter

        rules: list[Any] = get_model_conversion_mapping(built) or []
        self.converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self.renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
        self.prefix, self.wanted = built.base_model_prefix, wanted

    def name_of(self, stored: str, weights: Path) -> str:
        """Raises UserFileError for a part of a tensor."""
        from transformers.core_model_loading import rename_source_key

        name, converter = rename_source_key(
            stored, self.renamings, self.converters, self.prefix, self.wanted
        )
        if name not in self.wanted and stored in self.wanted:
            return stored
        if converter is not None and name in self.wanted:
            raise UserFileError(
                f"{weights}: {stored} is stored by itself, and the model has it within {name}; "
                "load the folder by from_pretrained, write the model with save_model of "
                "safetensors, and give that file as weights: in the job file that --model writes "
                "for a config.json"
            )
        return str(name)

"""plan.yaml and parameters.json: a Plan as text, and back."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pipecut.errors import PlanError
from pipecut.plan.consistency import PARAMETERS, check_dimensions, contradiction_in
from pipecut.plan.safe_files import read_yaml
from pipecut.plan.schema import VERSION, HeldTensors, Plan

MANIFEST = "plan.yaml"
# What a plan.yaml leaves to parameters.json, which would hide what people look for.
HELD = ("parameters", "buffers")
# Keys of a stage or boundary that start a line of plan.yaml; what follows is of the same subject.
LINE_STARTS = {
    "modules",
    "forward_seconds",
    "peak_bytes",
    "memory_bytes",
    "file",
    "outputs",
    "passes",
    "tensors",
}
HEADER = (
    "# Made by pipecut compile. pipecut show prints the stages as a table, docs/plan-format.md\n"
    "# says what each key means, parameters.json has names and shapes of parameters.\n"
)
# A line goes on after so many letters to the end of a value.
WIDTH = 84
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
HeldPerStage = TypeAdapter(dict[str, list[HeldTensors]])


def write_manifest(path: Path, plan: Plan) -> str:
    """Write parameters.json, and plan.yaml with a new seal, and return that.

    A key whose value is the default is not written.
    """
    parameters = _parameters_text(plan).encode()
    hashes = {**plan.hashes, PARAMETERS: hashlib.sha256(parameters).hexdigest()}
    sealed = plan.model_copy(update={"hashes": dict(sorted(hashes.items()))})
    held = {"stages": {"__all__": set(HELD)}}
    data = sealed.model_dump(exclude_defaults=True, exclude={"seal": True, **held})
    new_seal = seal_of(data)
    (path / PARAMETERS).write_bytes(parameters)
    text = "\n".join([*_lines({**data, "seal": new_seal}), ""])
    (path / MANIFEST).write_text(HEADER + text, encoding="utf-8")
    return new_seal


def seal_of(data: dict[str, Any]) -> str:
    """sha256 of a manifest without its seal."""
    unsealed = {key: value for key, value in data.items() if key != "seal"}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True, default=str).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """plan.yaml of this version, not yet a Plan: its seal is of what stands there.

    Raises PlanError.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise PlanError(
            f"{path} is no plan folder: it has no {MANIFEST}; make one with pipecut compile"
        )
    data = read_yaml(manifest)
    if not isinstance(data, dict) or "version" not in data:
        raise PlanError(f"{manifest}: not a plan: it has no version")
    if data["version"] != VERSION:
        raise PlanError(
            f"{manifest}: plan version {data['version']}, this pipecut reads version {VERSION}; "
            "compile again"
        )
    if not all(isinstance(key, str) for key in data):
        raise PlanError(f"{manifest}: not a plan: its keys are no words")
    return data


def plan_from(path: Path, data: dict[str, Any], parameters: bytes) -> Plan:
    """The plan of what plan.yaml and parameters.json say. Raises PlanError."""
    try:
        plan = Plan.model_validate({**data, "stages": _with_held(path, data, parameters)})
    except (ValidationError, RecursionError) as error:
        raise PlanError(f"{path / MANIFEST}: {first_problem(error)}; compile again") from None
    contradiction = contradiction_in(plan)
    if contradiction is not None:
        raise PlanError(f"{path / MANIFEST}: {contradiction}; compile again")
    check_dimensions(plan)
    return plan


def first_problem(error: ValidationError | RecursionError) -> str:
    """Where a value is wrong, and why."""
    if isinstance(error, RecursionError):
        return "too deep"
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"not valid JSON: {first['msg']}"
    if not first["loc"]:
        return f"expected a mapping of keys, found a {type(first['input']).__name__}"
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _with_held(path: Path, data: dict[str, Any], parameters: bytes) -> Any:
    """The stages of plan.yaml with what parameters.json has of each; Plan refuses other things."""
    stages = data.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        return stages
    try:
        held = HeldPerStage.validate_json(parameters)["stages"]
    except ValidationError as error:
        problem = first_problem(error)
        raise PlanError(f"{path / PARAMETERS}: {problem}; compile again") from None
    except KeyError:
        raise PlanError(f"{path / PARAMETERS}: has no 'stages'; compile again") from None
    if len(held) != len(stages):
        raise PlanError(
            f"{path / PARAMETERS}: has {len(held)} stages where {MANIFEST} has {len(stages)}; "
            "compile again"
        )
    twice = next((key for key in HELD if any(key in stage for stage in stages)), None)
    if twice is not None:
        raise PlanError(
            f"{path / MANIFEST}: has '{twice}' of a stage, which {PARAMETERS} has; compile again"
        )
    return [
        {**stage, "parameters": tensors.parameters, "buffers": tensors.buffers}
        for stage, tensors in zip(stages, held, strict=True)
    ]


def _parameters_text(plan: Plan) -> str:
    """A line for each tensor, so that a difference of two plans shows which."""
    stages = []
    for stage in plan.stages:
        lists = {
            key: ",\n".join(json.dumps(t.model_dump(exclude_defaults=True)) for t in tensors)
            for key, tensors in (("parameters", stage.parameters), ("buffers", stage.buffers))
        }
        stages.append(", ".join(f'"{key}": [\n{lines}\n]' for key, lines in lists.items()))
    rows = ",\n".join(f"{{{stage}}}" for stage in stages)
    return f'{{"stages": [\n{rows}\n]}}\n'


def _lines(data: dict[str, Any]) -> Iterator[str]:
    """A manifest as YAML: a key per line, and where a list has mappings or lists each of those."""
    for key, value in data.items():
        if key == "evaluation":
            yield f"{key}:"
            yield from (f"  {line}".replace("\n", "\n  ") for line in _lines(value))
        elif key == "hashes":
            yield f"{key}:"
            yield from (f"  {_flow({name: value[name]})[1:-1]}" for name in value)
        elif isinstance(value, list) and any(map(_has_own_line, value)):
            yield f"{key}:"
            yield from map(_item, value)
        else:
            yield _indented(_flow({key: value})[1:-1], "  ")


def _has_own_line(value: Any) -> bool:
    """Mappings and lists have, and sentences, as notes are."""
    return isinstance(value, dict | list) or (isinstance(value, str) and " " in value)


def _item(value: Any) -> str:
    """An item of a list; a mapping has lines that each say things that belong together."""
    if not isinstance(value, dict):
        return f"- {_indented(_flow([value])[1:-1], '  ')}"
    lines: list[dict[str, Any]] = []
    for key, field in value.items():
        if not lines or key in LINE_STARTS:
            lines.append({})
        lines[-1][key] = field
    text = ",\n   ".join(_indented(_flow(line)[1:-1], "      ") for line in lines)
    return f"- {{{text}}}"


def _indented(text: str, by: str) -> str:
    """A value's lines after the first further right, all by as much: YAML looks at no more."""
    return re.sub("\n *", f"\n{by}", text)


def _flow(value: dict[str, Any] | list[Any]) -> str:
    """A mapping or list in braces or brackets."""
    text: str = yaml.dump(
        value,
        Dumper=_DUMPER,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=WIDTH,
    )
    return text.strip()

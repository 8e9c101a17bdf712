"""The clusters, device kinds and links that come with pipecut."""

from functools import cache
from importlib import resources
from pathlib import Path

from pipecut.compiler.inputs.cluster_schema import DeviceLibrary
from pipecut.compiler.inputs.document.read import read_document


@cache
def library() -> DeviceLibrary:
    """The device kinds and links."""
    return read_document(_specs() / "devices.yaml", DeviceLibrary)


def cluster_names() -> list[str]:
    """Names of the clusters."""
    return sorted(path.stem for path in (_specs() / "clusters").glob("*.yaml"))


def cluster_path(name: str) -> Path:
    """The file of one of the clusters."""
    return _specs() / "clusters" / f"{name}.yaml"


def kind_of(name: str) -> str | None:
    """The kind of a GPU by the whole name that its driver gives; None where there is none.

    A part of a name is not enough: an A100 has 40 or 80 GB, an L40S is no L4, a slice of a GPU is
    no GPU.
    """
    return next((kind for kind, entry in library().devices.items() if name in entry.names), None)


def _specs() -> Path:
    return Path(str(resources.files("pipecut.specs")))

"""Packages of the extras, which pipecut does without otherwise."""

from importlib.util import find_spec

from pipecut.errors import UserFileError

READING = ("onnx",)
EXPORTING = ("onnx", "onnxscript")
RUNNING = ("onnx", "onnxruntime")


def need(packages: tuple[str, ...], purpose: str, extra: str = "onnx") -> None:
    """Raise UserFileError, with what to install, where a package is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserFileError(
            f"{purpose} needs {' and '.join(missing)}, which {verb} not installed: "
            f"pip install {' '.join(packages)}, or pip install 'pipecut[{extra}]'"
        )

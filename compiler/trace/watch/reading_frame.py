"""Which code asks for a tensor's value, and where in the model that is."""

import sys
from types import FrameType

from pipecut.compiler.trace.lower.source import importable_path
from pipecut.model.functions import PIPECUT, is_machinery, running_user_frame

# Code between a function of torch and who calls it.
BETWEEN = ("torch/overrides.py", "torch/_tensor.py", "torch/utils/_device.py")


def reading_frame() -> FrameType:
    """The innermost frame that is neither pipecut's nor of torch's own modes."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        of_mode = frame.f_code.co_name == "__torch_function__"
        if not (of_mode or file.startswith(PIPECUT) or file.endswith(BETWEEN)):
            break
        frame = frame.f_back
    return frame


def within(frame: FrameType) -> str:
    """` in torch/distributions/distribution.py:76` where a frame is of a library's own code."""
    file = frame.f_code.co_filename
    return f" in {importable_path(file)}:{frame.f_lineno}" if is_machinery(file) else ""


def place_of(frame: FrameType) -> str:
    """file:line of the model's own code around a frame, or of the frame where there is none."""
    place = running_user_frame(frame) or frame
    return f"{importable_path(place.f_code.co_filename)}:{place.f_lineno}"

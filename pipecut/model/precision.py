"""What `precision:` means for the tensors of a model."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def cast_model(model: torch.nn.Module, precision: str) -> torch.nn.Module:
    """Cast floating parameters and persistent floating buffers; other buffers stay as they are."""
    if precision == "fp32":
        return model
    dtype = DTYPES[precision]
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_floating_point() and parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)
        for name, buffer in module._buffers.items():
            kept = name not in module._non_persistent_buffers_set
            if buffer is not None and kept and buffer.is_floating_point():
                module._buffers[name] = buffer.to(dtype)
    return model


def cast_inputs(batch: dict[str, torch.Tensor], precision: str) -> dict[str, torch.Tensor]:
    """Cast floating inputs."""
    if precision == "fp32":
        return batch
    dtype = DTYPES[precision]
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in batch.items()}


def as_summed(loss: torch.Tensor) -> torch.Tensor:
    """A microbatch's loss in the type in which losses are added up: float32 at least."""
    return loss.float() if loss.dtype in (torch.bfloat16, torch.float16) else loss

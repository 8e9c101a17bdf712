"""How NCCL's communicators are kept as small as a plan counts them."""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipecut.device.types import type_of
from pipecut.plan.channels import GroupKind
from pipecut.plan.communicators import ctas


def options_for(kind: GroupKind, device: torch.device, limit: timedelta) -> Any:
    """torch's options for a communicator with no more blocks than it needs.

    None where NCCL is not the backend.
    """
    if not type_of(device).uses_nccl:
        return None
    options = dist.ProcessGroupNCCL.Options()
    # torch warns where this differs from the group's own.
    options._timeout = limit
    options.config.max_ctas = ctas(kind)
    return options

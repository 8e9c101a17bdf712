"""What NCCL takes of a GPU's memory beside the tensors: its communicators are kept small.

A communicator has buffers on each GPU that receives: for every block of threads (CTA) that may
carry a message, one per protocol: 4 MiB (Simple), 4.7 MiB (LL128) and 0.5 MiB (LL). With the 32
blocks that an H100 has by default that is 0.3 GiB (NCCL's source: NCCL_BUFFSIZE and its kind). A
pipeline's message needs no such bandwidth: few blocks carry it.
"""

from collections.abc import Sequence

from pipecut.plan.channels import GroupKind

MIB = 2**20
# Blocks of threads of a channel, and of a group that sums, whose bandwidth a step waits for (as
# many as NCCL takes by default on an H100).
CHANNEL_CTAS, SUM_CTAS = 8, 32
# Of all three protocols.
BYTES_PER_CTA = int(9.4 * MIB)


def ctas(kind: GroupKind) -> int:
    """Blocks of threads that a communicator may use, by the kind of group."""
    return CHANNEL_CTAS if kind == "channel" else SUM_CTAS


def buffer_bytes(kind: GroupKind, ranks: Sequence[int], rank: int) -> int:
    """Bytes of a group's buffers on a rank.

    A channel's receiver has buffers; in a ring every rank has them for the rank before it.
    """
    receives = rank in ranks and (kind != "channel" or rank == ranks[1])
    return ctas(kind) * BYTES_PER_CTA if receives else 0

"""The schemas of cluster files and of specs/devices.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipecut.compiler.inputs.document.schema import (
    Bytes,
    FileSchema,
    Flops,
    Fraction,
    Rate,
    Seconds,
)
from pipecut.device.types import CUDA, TypeName

# More machines, or devices of a machine, than anyone has: a larger number is a slip of the hand.
MOST_NODES, MOST_DEVICES = 100_000, 4096
# Of the roofline: above 1 where a cache serves what the bandwidth of memory could not.
Reached = Annotated[float, Field(gt=0)]


class DeviceKind(FileSchema):
    """A kind of device: what it has and how fast it is."""

    memory: Bytes = Field(description="Memory, as the driver reports it.", examples=["80GiB"])
    bandwidth: Rate = Field(
        description="Rate at which it reads and writes its memory.", examples=["3.35TB/s"]
    )
    flops: dict[Literal["fp32", "bf16", "fp16"], Flops] = Field(
        description="Dense peak rate of matrix products per precision; fp32 stands in for one that "
        "is left out.",
        examples=["{fp32: 67TFLOP/s, bf16: 989TFLOP/s}"],
    )
    overhead: Seconds = Field(
        default=5e-6, description="Time to launch one operator.", examples=["5us"]
    )
    efficiency: Fraction = Field(
        default=0.6,
        description="Share of the peak rate that good kernels reach.",
        examples=["0.7"],
    )
    operators: dict[str, Annotated[list[Reached], Field(min_length=2, max_length=2)]] = Field(
        default={},
        description="Operator to the shares of the roofline that its forward and backward reach, "
        "as `pipecut calibrate` measures them; `other` is for the operators that are left out.",
        examples=["{mm: [0.9, 0.85], other: [0.5, 0.5]}"],
    )
    type: TypeName = Field(
        default=CUDA.name, description="torch's name for the type of device.", examples=["cpu"]
    )
    names: list[str] = Field(
        default=[],
        description="Whole names that drivers give such a device, for `--cluster auto`.",
        examples=['["NVIDIA H100 80GB HBM3"]'],
    )
    source: str = Field(
        description="Where the numbers are from.", examples=['"datasheet; memory: nvidia-smi"']
    )


class Link(FileSchema):
    """What joins two devices."""

    bandwidth: Rate = Field(
        description="Rate of one device to another, in one direction.", examples=["450GB/s"]
    )
    latency: Seconds = Field(description="Time of an empty message.", examples=["5us"])
    source: str = Field(
        default="", description="Where the numbers are from.", examples=['"measured"']
    )


class NodeSpec(FileSchema):
    """Equal machines."""

    name: str | None = Field(
        default=None, description="A name of this entry, unlike the others'.", examples=["ampere"]
    )
    count: Annotated[int, Field(ge=1, le=MOST_NODES)] = Field(
        default=1, description="Number of such machines.", examples=["2"]
    )
    devices: dict[str, Annotated[int, Field(ge=1, le=MOST_DEVICES)]] = Field(
        min_length=1,
        description="Kind of device to number of them in each machine. Kinds are those of "
        "`devices:` in this file, and those that `pipecut specs` lists.",
        examples=["{h100-sxm: 8}"],
    )
    link: str | None = Field(
        default=None,
        description="What joins the devices of a machine: one of `links:` in this file, or of "
        "those that `pipecut specs` lists. Needed for several devices.",
        examples=["nvlink4"],
    )


class ClusterSpec(FileSchema):
    """The cluster file: machines, their devices, and what joins them."""

    name: str = Field(min_length=1, description="A name for plans to say.", examples=["two-h100"])
    nodes: list[NodeSpec] = Field(
        min_length=1,
        description="The machines, in the order of their hosts.",
        examples=["[{count: 2, devices: {h100-sxm: 8}, link: nvlink4}]"],
    )
    network: Link | None = Field(
        default=None,
        description="What joins machines. Needed for several.",
        examples=["{bandwidth: 50GB/s, latency: 10us}"],
    )
    reserve: Bytes = Field(
        default=0,
        description="Memory of each device that plans leave free, for what is beside tensors: an "
        "allocator's gaps, other processes.",
        examples=["1.5GiB"],
    )
    devices: dict[str, DeviceKind] = Field(
        default={},
        description="Kinds of device by name, beside those that come with pipecut or in their "
        "place.",
        examples=[
            "{mine: {memory: 24GiB, bandwidth: 1TB/s, flops: {fp32: 30TFLOP/s}, source: me}}"
        ],
    )
    links: dict[str, Link] = Field(
        default={},
        description="Links by name, beside those that come with pipecut or in their place.",
        examples=["{wire: {bandwidth: 10GB/s, latency: 20us}}"],
    )
    source: str = Field(
        default="", description="Where the numbers are from.", examples=['"vendor\'s page"']
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ClusterSpec":
        names = [node.name for node in self.nodes if node.name is not None]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"duplicate node '{name}'; give each entry of nodes its own name")
        if sum(node.count for node in self.nodes) > 1 and self.network is None:
            raise ValueError(
                "several nodes need a network; add network: {bandwidth: 50GB/s, latency: 10us}"
            )
        return self


class DeviceLibrary(FileSchema):
    """specs/devices.yaml: the kinds and links that come with pipecut."""

    devices: dict[str, DeviceKind]
    links: dict[str, Link]

"""A made-up cluster, so slow at computing that even small models are cut evenly."""

# Stages that small models of many families are cut into on it.
STAGES = 3

SLOW_CORES = """name: slow-cores
nodes:
  - {devices: {slow-core: 8}, link: fast}
devices:
  slow-core:
    memory: 4GiB
    bandwidth: 1GB/s
    flops: {fp32: 100MFLOP/s}
    overhead: 0us
    efficiency: 1
    type: cpu
    source: made up
links:
  fast: {bandwidth: 100GB/s, latency: 0us, source: made up}
"""

"""A cluster file to devices and links."""

from pathlib import Path

import pytest

from pipecut.compiler.inputs.cluster_file import read_cluster, resolve
from pipecut.compiler.inputs.cluster_schema import ClusterSpec
from pipecut.compiler.inputs.library import cluster_path
from pipecut.errors import UserFileError
from tests.costs import made_cluster, made_device

CORE = "{memory: 1GiB, bandwidth: 1GB/s, flops: {fp32: 2GFLOP/s}, type: cpu, source: made up"
TWO_NODES = f"""name: two
nodes:
  - {{name: small, devices: {{core: 2}}, link: wire}}
  - {{count: 2, devices: {{core: 1, l4: 1}}, link: pcie4}}
network: {{bandwidth: 10GB/s, latency: 20us}}
reserve: 100MiB
devices:
  core: {CORE}, operators: {{mm: [0.5, 0.25]}}, names: [Core]}}
links:
  wire: {{bandwidth: 5GB/s, latency: 1us}}
"""


def cluster_file(folder: Path, text: str) -> str:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return str(path)


def test_nodes_become_devices_in_order(tmp_path: Path) -> None:
    cluster = read_cluster(cluster_file(tmp_path, TWO_NODES))
    kinds = [(device.kind, device.node) for device in cluster.devices]
    assert kinds == [("core", 0), ("core", 0), *(("core", 1), ("l4", 1)), ("core", 2), ("l4", 2)]
    core = cluster.devices[0]
    assert (core.memory, core.flops, core.names) == (2**30, (("fp32", 2e9),), ("Core",))
    assert core.operators == (("mm", (0.5, 0.25)),)
    assert cluster.reserve == 100 * 2**20


def test_neighbours_are_joined_by_their_nodes_link_or_the_network(tmp_path: Path) -> None:
    cluster = read_cluster(cluster_file(tmp_path, TWO_NODES))
    assert cluster.link(0, 1).bandwidth == 5e9
    assert cluster.link(1, 2).bandwidth == 10e9
    assert cluster.slowest_link([(0, 1), (1, 2)]).bandwidth == 5e9


def test_a_kind_of_the_file_stands_over_that_of_the_library(tmp_path: Path) -> None:
    text = TWO_NODES.replace("devices:\n  core:", f"devices:\n  l4: {CORE}}}\n  core:", 1)
    cluster = read_cluster(cluster_file(tmp_path, text))
    assert cluster.devices[3].memory == 2**30


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hgx-h10", r"cluster 'hgx-h10' is neither a file nor .*; did you mean 'hgx-h100'\?"),
        ("nothing-like-it", r"is neither a file nor one of specs/; pipecut specs lists them"),
    ],
)
def test_an_unknown_name_is_refused_with_a_close_one(name: str, message: str) -> None:
    with pytest.raises(UserFileError, match=message):
        read_cluster(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("link: wire", "link: wier", r"3:45: unknown link 'wier'; did you mean 'wire'\?"),
        ("core: 2", "cores: 2", r"3:29: unknown device 'cores'; did you mean 'core'\?"),
        (", link: wire", "", r"3:5: a node with several devices needs a link"),
        ("reserve: 100MiB", "reserve: 2GiB", r"6:10: a reserve of 2.0 GiB leaves nothing of a cor"),
        ("network: {bandwidth: 10GB/s, latency: 20us}", "", "several nodes need a network"),
    ],
)
def test_what_a_file_lacks_is_reported_where_it_is(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = cluster_file(tmp_path, TWO_NODES.replace(old, new, 1))
    with pytest.raises(UserFileError, match=message):
        read_cluster(path)


def test_the_clusters_that_come_along_are_files() -> None:
    assert cluster_path("hgx-h100").is_file()


def test_a_single_device_needs_no_link() -> None:
    spec = ClusterSpec.model_validate({"name": "one", "nodes": [{"devices": {"l4": 1}}]})
    assert len(resolve(spec, Path("cluster.yaml")).devices) == 1


def test_devices_are_left_out_by_their_numbers() -> None:
    cluster = made_cluster([made_device(kind) for kind in "abc"])
    assert [device.kind for device in cluster.without([1]).devices] == ["a", "c"]
    with pytest.raises(UserFileError, match="cluster made has 3 devices, but no device 3"):
        cluster.without([3])


def test_ranks_leave_more_free_each_time() -> None:
    cluster = made_cluster(2, reserve=10).leaving_free([0, 5]).leaving_free([1, 2])
    assert [cluster.reserve_of(rank) for rank in range(2)] == [11, 17]
    assert made_cluster(2, reserve=10).reserve_of(1) == 10


def test_a_rate_is_the_peak_times_the_efficiency() -> None:
    device = made_device(flops=(("bf16", 8.0), ("fp32", 2.0)), efficiency=0.5)
    assert (device.rate("bf16"), device.rate("fp32"), device.rate("fp16")) == (4.0, 1.0, 1.0)

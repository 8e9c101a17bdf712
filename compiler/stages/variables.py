"""What values are called in a stage's code."""

from collections.abc import Mapping

from pipecut.compiler.graph import Graph
from pipecut.compiler.names import local_names, member
from pipecut.compiler.stages.cut import Cut


class Variables:
    """Local variables of a stage's forward, and the parameters and buffers that it holds."""

    def __init__(self, graph: Graph, cut: Cut) -> None:
        self.held = {p.value: p.names[0] for p in cut.parameters}
        self.held |= {b.value: b.names[0] for b in cut.buffers}
        # Batch inputs come first, so that they keep the user's own names.
        batch = {v: name for v, name in graph.batch_names().items() if v in cut.batch_inputs}
        results = [graph.operators[index].name for index in cut.operators]
        self.local: Mapping[str, str] = local_names(batch, [*cut.receives, *results])

    def __getitem__(self, value: str) -> str:
        """The code that stands for a value: `linear_2`, or `self.layers[0].weight`."""
        if value not in self.held:
            return self.local[value]
        return "self" + "".join(map(member, self.held[value].split(".")))

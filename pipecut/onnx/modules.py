"""Which module of the user's model each node of an ONNX graph comes from."""

import ast
import re
from collections.abc import Mapping

import onnx_ir as ir

# What torch's exporter writes of a node; the last scope is the operator's own name.
SCOPES = "pkg.torch.onnx.name_scopes"
CLASSES = "pkg.torch.onnx.class_hierarchy"
TRACE = "pkg.torch.onnx.stack_trace"
# What is written in their place. Viewers group nodes by the last.
MODULE, OPERATOR, NAMESPACE = "module", "operator", "namespace"
_ASSIGNED = re.compile(r"\n\s*(\w+) = [^\n]*$")


class Modules:
    """`of_value` has the module of each operator by the name that the stage's code gives it."""

    def __init__(self, of_value: Mapping[str, str]) -> None:
        self.of_value = of_value

    def write(self, graph: ir.Graph) -> None:
        """Say of each node its module and its operator, and nothing of this machine's paths."""
        for node in graph.all_nodes():
            props = node.metadata_props
            module, operator = self._module(props), _last(props.get(CLASSES))
            props.clear()
            _put(node, module, operator)

    def write_missing(self, graph: ir.Graph) -> None:
        """Say the same of nodes that the optimizer made: what the maker of an input says."""
        for node in graph.all_nodes():
            if MODULE not in node.metadata_props:
                makers = (value.producer() for value in node.inputs if value is not None)
                known = [maker for maker in makers if maker and MODULE in maker.metadata_props]
                node.metadata_props.clear()
                if known:
                    _put(node, self.of(known[0]), "")

    def of(self, node: ir.Node) -> str:
        """The FQN of a node's module; empty for the model itself."""
        return node.metadata_props.get(MODULE, "")

    def _module(self, props: Mapping[str, str]) -> str:
        scopes = _list(props.get(SCOPES))
        # The program, the stage, modules within it, the operator.
        if len(scopes) > 3:
            return scopes[-2].partition(".")[2]
        assigned = _ASSIGNED.search(props.get(TRACE, ""))
        return self.of_value.get(assigned[1], "") if assigned else ""


def _put(node: ir.Node, module: str, operator: str) -> None:
    node.metadata_props[MODULE] = module
    node.metadata_props[NAMESPACE] = module.replace(".", "/")
    if operator:
        node.metadata_props[OPERATOR] = operator


def _last(text: str | None) -> str:
    items = _list(text)
    return items[-1] if items else ""


def _list(text: str | None) -> list[str]:
    try:
        return [str(item) for item in ast.literal_eval(text or "[]")]
    except (ValueError, SyntaxError):
        return []

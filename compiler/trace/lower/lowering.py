"""Exported program to graph. This folder is the only reader of fx."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.trace.backward.written_buffers import reading_copies
from pipecut.compiler.trace.export import Exported
from pipecut.compiler.trace.gradient_ends import with_gradient_ends
from pipecut.compiler.trace.lower.dead_code import without_dead_code
from pipecut.compiler.trace.lower.dimensions import Dimensions
from pipecut.compiler.trace.lower.names import Names
from pipecut.compiler.trace.lower.operators import OperatorReader
from pipecut.compiler.trace.lower.refusals import refuse_shared_writes, refuse_writes
from pipecut.compiler.trace.lower.results import Results, read_results
from pipecut.compiler.trace.lower.signature import PREFIX, Signature, read_signature
from pipecut.compiler.trace.lower.values import Values
from pipecut.compiler.trace.stamp.expand import Stamps
from pipecut.compiler.trace.value_checks import needed_checks


@dataclass(frozen=True)
class Lowered:
    """A lowered program: all its operators, and graphs of those that something needs.

    `training` has what the loss and written buffers need, `everything` also what the model's
    other outputs need.
    """

    operators: tuple[Operator, ...]
    training: Graph
    everything: Graph


def lower(exported: Exported, microbatch: int) -> Lowered:
    """Operators and tensors of a program.

    Raises TraceError for what a plan cannot carry, NeedsFixedBatch for what code cannot say,
    NotEqualAfterAll where layers were stamped that cannot be proven equal.
    """
    program = exported.program
    names = Names({node.name for node in program.graph.nodes})
    specs = program.graph_signature.input_specs
    given_names = {str(s.arg.name): str(s.target).removeprefix(PREFIX) for s in specs}
    dimensions = Dimensions(microbatch, exported.dynamic, exported.length_names(), exported.lengths)
    values = Values(dimensions, given_names)
    signature = read_signature(exported, values, names)
    reader = OperatorReader(values, names, exported.by_value, exported.by_size)
    tensors = {fqn: held.value for held in signature.held for fqn in held.names}
    constants = [constant.value for constant in signature.constants]
    reader.stamps = Stamps(exported.stamped, reader, tensors, constants)
    reader.opaque = exported.model.opaque
    reader.read(program.graph_module)
    reader.stamps.check()
    operators = reading_copies(reader.operators, values.by_name, signature.buffers)
    refuse_writes(operators, signature.parameters, signature.constants)
    results = read_results(exported, values, names, {operator.name for operator in operators})
    refuse_shared_writes(operators, signature.buffers, exported.model.sharing_buffers)
    checks = needed_checks(operators, reader.checks, signature.buffers, exported.model)
    loss = {results.loss} - {""} | {check.value for check in checks}
    outputs = {output.value for output in results.outputs}
    training = _graph(exported, values, signature, results, operators, loss)
    everything = _graph(exported, values, signature, results, operators, loss | outputs)
    sizes = reader.data_sizes.by_name
    return Lowered(
        operators,
        replace(training, checks=checks, layers=reader.stamps.layers(), data_sizes=sizes),
        replace(everything, checks=checks, data_sizes=sizes),
    )


def _graph(
    exported: Exported,
    values: Values,
    signature: Signature,
    results: Results,
    operators: tuple[Operator, ...],
    needed: Collection[str],
) -> Graph:
    written = {buffer.value for buffer in signature.buffers}
    kept = without_dead_code(operators, needed, written)
    return Graph(
        kept,
        values=with_gradient_ends(values.by_name, kept, results.loss),
        parameters=signature.parameters,
        buffers=signature.buffers,
        batch_inputs=signature.batch_inputs,
        loss=results.loss,
        dynamic=exported.dynamic,
        notes=exported.notes,
        outputs=results.outputs,
        constants=dict(exported.batch.constants),
        nesting=dict(exported.batch.nesting),
        left_out=results.left_out,
        stamped=exported.stamped.summary,
        lengths=exported.lengths,
        shortest=exported.shortest,
    )

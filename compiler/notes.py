"""What the reader of a plan should know of how it came to be."""

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.inputs.job import JobSpec


def notes_of(
    spec: JobSpec, candidate: Candidate, measured_kinds: tuple[str, ...], compared: int
) -> list[str]:
    """Notes for plan.yaml; `compared` is the number of candidates that were compared."""
    measured = f"measured on {', '.join(measured_kinds)}"
    estimated = "roofline estimates; pipecut profile measures them"
    notes = [f"costs: {measured if measured_kinds else estimated}"]
    if spec.shard_optimizer and candidate.replicas == 1:
        notes.append("shard_optimizer: true divides nothing here, since each stage has one replica")
    if spec.compile == "inductor":
        notes.append("times and memory are those of eager stages")
    if compared:
        notes.append(f"chosen of {compared} candidates: {candidate}")
    return notes

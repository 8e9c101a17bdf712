"""What a line of code does by a condition: whether it only raises an error for one answer.

Read off the bytecode: one answer of the condition, whatever else is asked, ends in a raise.
"""

import ast
import dis
import linecache
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FrameType

# Between a condition and the jump that it decides, where a jump does not convert it itself.
CONVERTS = ("TO_BOOL", "COPY", "CACHE", "EXTENDED_ARG", "PRECALL", "NOP")
ENDS = ("RETURN_VALUE", "RETURN_CONST", "YIELD_VALUE", "SEND")
# What stays when the raise was caught or a value was kept: then it did more than raise.
KEEPS = ("STORE_ATTR", "STORE_SUBSCR", "STORE_GLOBAL", "STORE_DEREF", "DELETE_ATTR")


@dataclass(frozen=True)
class ConditionAsked:
    """The source text of a condition, and the answer for which its line goes on.

    `goes_on` is None where neither answer only raises.
    """

    words: str
    goes_on: bool | None


def condition_at(frame: FrameType) -> ConditionAsked:
    """The condition that the code of a frame asks for now."""
    return _condition(frame.f_code, frame.f_lasti)


@lru_cache(maxsize=1024)
def _condition(code: CodeType, offset: int) -> ConditionAsked:
    instructions = list(dis.get_instructions(code))
    # While it calls, a frame may stand in the caches behind its instruction.
    at = max(i for i, instruction in enumerate(instructions) if instruction.offset <= offset)
    return ConditionAsked(_words(code, instructions, at), _goes_on(code, instructions, at))


def _words(code: CodeType, instructions: list[dis.Instruction], at: int) -> str:
    """The source of the expression: a jump stands elsewhere than what it asks."""
    while at > 0 and (_jumps_if(instructions[at]) or instructions[at].opname in _NOT_CALLS):
        at -= 1
    position = instructions[at].positions
    if position is None or None in (position.lineno, position.end_lineno):
        return ""
    source = "".join(linecache.getlines(code.co_filename))
    place: ast.expr = ast.Constant(None)
    place.lineno, place.end_lineno = int(position.lineno or 0), position.end_lineno
    place.col_offset, place.end_col_offset = int(position.col_offset or 0), position.end_col_offset
    return " ".join((ast.get_source_segment(source, place) or "").split())


_NOT_CALLS = ("TO_BOOL", "COPY", "CACHE", "UNARY_NOT", "EXTENDED_ARG", "NOP")


def _goes_on(code: CodeType, instructions: list[dis.Instruction], at: int) -> bool | None:
    answer = True
    if not _jumps_if(instructions[at]):
        # A call such as bool(x), or TO_BOOL before the jump.
        answer = instructions[at].opname != "UNARY_NOT"
        at += 1
        while at < len(instructions) and instructions[at].opname in (*CONVERTS, "UNARY_NOT"):
            answer ^= instructions[at].opname == "UNARY_NOT"
            at += 1
    if at >= len(instructions) or not _jumps_if(instructions[at]):
        return None
    jump = instructions[at]
    offsets = {instruction.offset: index for index, instruction in enumerate(instructions)}
    jumps_for = "IF_TRUE" in jump.opname
    reading = _Reading(instructions, offsets, tuple(_handlers(code)))
    jumped, passed = reading.only_raises(offsets[jump.argval]), reading.only_raises(at + 1)
    if jumped == passed:
        return None
    # The value on the stack for which the line goes on, and the condition's own.
    on_stack = not jumps_for if jumped else jumps_for
    return on_stack if answer else not on_stack


def _jumps_if(instruction: dis.Instruction) -> bool:
    name = instruction.opname
    return "JUMP" in name and ("IF_TRUE" in name or "IF_FALSE" in name)


@dataclass(frozen=True)
class _Reading:
    """Follows instructions; `handlers` are the ranges of offsets where a raise may be caught."""

    instructions: list[dis.Instruction]
    offsets: dict[int, int]
    handlers: tuple[range, ...]

    def only_raises(self, at: int) -> bool:
        """Whether all ways from an instruction end in a raise that nothing catches."""
        waiting, seen = [at], set()
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            if at >= len(self.instructions):
                return False
            instruction = self.instructions[at]
            name = instruction.opname
            if name in ENDS or name in KEEPS or "FOR_ITER" in name:
                return False
            if name == "RAISE_VARARGS":
                if any(instruction.offset in caught for caught in self.handlers):
                    return False
                continue
            if "JUMP" in name:
                if "BACKWARD" in name:
                    return False
                waiting.append(self.offsets[instruction.argval])
                if "IF" not in name:
                    continue
            waiting.append(at + 1)
        return True


def _handlers(code: CodeType) -> list[range]:
    """Where a raise may be caught: ranges with a handler that is not of a `with`."""
    entries = getattr(dis.Bytecode(code), "exception_entries", ())
    instructions = {i.offset: i.opname for i in dis.get_instructions(code)}
    offsets = sorted(instructions)
    caught = []
    for entry in entries:
        following = [o for o in offsets if o >= entry.target][:2]
        names = [instructions[offset] for offset in following]
        if names[1:] != ["WITH_EXCEPT_START"] and "PUSH_EXC_INFO" in names:
            caught.append(range(entry.start, entry.end))
    return caught

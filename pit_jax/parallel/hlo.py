"""A compiled program read: which collectives it holds, how large they are, and inside which loops they stand.

The text is that of `compiled.as_text()` on any backend: HLO after partitioning, where every shape is a device's own.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\]")
_CALLED = re.compile(r"\b(?:to_apply|calls|body|condition|\w+_computations?)=(\{[^}]*\}|%?[\w.\-]+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LOGIC = ("reduce", "all-reduce", "and", "or", "not")


@dataclass(frozen=True)
class Loop:
    """A `while`. `trips` is how often its body runs; where a value decides that, the most that it can be.

    None where the text does not tell.
    """

    name: str
    trips: int | None
    exact: bool
    """False for a loop that may end sooner, as the one over tokens does once every row has ended."""


@dataclass(frozen=True)
class Collective:
    """One collective of a program, once for every place where it stands; sizes are bytes of one device."""

    name: str
    kind: str
    """One of KINDS."""
    bytes: int
    """Of the whole arrays: what a gather gives, what a reduction is given."""
    largest: int
    """Of the largest of those arrays; several small ones are often moved as one collective."""
    group: int
    """Devices that take part together; 2 of a collective-permute."""
    loops: tuple[Loop, ...]
    """The loops around it, outermost first."""
    source: str
    """The operation of the traced program that it came from."""

    @property
    def inside_loop(self) -> bool:
        """Whether any loop is around it."""
        return bool(self.loops)

    @property
    def inside_open_loop(self) -> bool:
        """Whether a loop whose end the data decide is around it: of this project's programs, the one over tokens."""
        return not all(loop.exact for loop in self.loops)

    @property
    def times(self) -> int:
        """How often it runs in one run of the program, at most; a loop of unknown length counts once."""
        return math.prod(loop.trips or 1 for loop in self.loops)

    @property
    def sent(self) -> float:
        """Bytes that a device sends each time, on a ring: (n - 1) / n of the arrays, twice that of an all-reduce."""
        if self.kind == "collective-permute":
            return float(self.bytes)
        share = self.bytes * (self.group - 1) / self.group
        return 2 * share if self.kind == "all-reduce" else share


@dataclass
class _Instruction:
    name: str
    type: str
    opcode: str
    rest: str  # operands and attributes

    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])

    def called(self) -> list[str]:
        groups = _CALLED.findall(self.rest.partition("metadata=")[0])
        return [name.strip(" %") for group in groups for name in group.strip("{}").split(",") if name.strip(" %")]


@dataclass
class _Computation:
    instructions: dict[str, _Instruction] = field(default_factory=dict)


@dataclass
class _Module:
    computations: dict[str, _Computation] = field(default_factory=dict)
    entry: str = ""
    devices: int = 1


def collectives(text: str) -> list[Collective]:
    """Every collective of a compiled program's text, in the order in which they are met from its entry on.

    A collective that is cut in steps over several fusions (TPU) is one, where it starts: its steps may stand in a loop
    further inside, beside whose work it goes on. An all-reduce of which every device keeps its slice alone (TPU) is a
    reduce-scatter.
    """
    module = _parsed(text)
    started: dict[tuple[str, str], list[tuple[Loop, ...]]] = {}
    found = []
    for instruction, inside, loops in _walk(module, module.entry, ()):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        channel = _CHANNEL.search(instruction.rest)
        if channel is not None:
            starts = started.setdefault((kind, channel[1]), [])
            if any(loops[: len(start)] == start for start in starts):
                continue
            starts.append(loops)
        scattered = kind == "all-reduce" and "all-reduce-scatter" in inside
        found.append(_collective(instruction, "reduce-scatter" if scattered else kind, loops, module.devices))
    return found


def between_slices(text: str, slices: int) -> list[Collective]:
    """Every collective over the data centre network of a program for several slices of a TPU.

    Its compiler takes them apart: what is left to do between slices is handed to the host (megascale) and comes back.
    """
    module, found = _parsed(text), []
    for instruction, _, loops in _walk(module, module.entry, ()):
        kind = re.search(r'_xla_megascale_transfer_type="([A-Z_]+)"', instruction.rest)
        if instruction.opcode == "send" and kind is not None:
            size = array_bytes(instruction.type)[0]
            found.append(Collective(instruction.name, kind[1].lower().replace("_", "-"), size, size, slices, loops, ""))
    return found


def array_bytes(type: str) -> list[int]:
    """Bytes of every array of an HLO type, a tuple's one by one: f32[2,3]{1,0} holds 24."""
    return [
        -(-math.prod(map(int, re.findall(r"\d+", dims))) * _bits(dtype) // 8)
        for dtype, dims in _ARRAY.findall(re.sub(r"\{[^}]*\}", "", type))
    ]


def _bits(dtype: str) -> int:
    if dtype in ("pred", "token"):
        return 8
    digits = re.search(r"\d+", dtype)
    assert digits is not None, f"an HLO type of unknown size: {dtype}"
    return int(digits[0])


def _collective(instruction: _Instruction, kind: str, loops: tuple[Loop, ...], devices: int) -> Collective:
    sizes = array_bytes(instruction.type)
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):  # (what is sent, what comes, flags)
        sizes = [size for size in sizes if size > 4] or sizes
        sizes = sizes[len(sizes) // 2 :]
    group = _group(instruction, devices)
    if instruction.opcode == "reduce-scatter":
        sizes = [size * group for size in sizes]
    whole = sum(sizes)
    largest = whole if kind == "all-to-all" else max(sizes)  # its tuple holds the pieces of one array
    source = re.search(r'op_name="([^"]*)"', instruction.rest)
    return Collective(instruction.name, kind, whole, largest, group, loops, source[1] if source else "")


def _group(instruction: _Instruction, devices: int) -> int:
    """Devices of a replica group, in any of the four notations."""
    if instruction.opcode.startswith("collective-permute"):
        return 2
    rest = instruction.rest
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'?([\w.\-]+)'?=(\d+)", mesh[1]))
        axes = re.findall(r"'?([A-Za-z_][\w.\-]*)'?(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[name]) for name, part in axes)
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(listed[1].split(","))
    return devices


def _parsed(text: str) -> _Module:
    module, computation = _Module(), _Computation()
    if partitions := re.search(r"num_partitions=(\d+)", text[:100_000]):
        module.devices = int(partitions[1])
    for line in text.splitlines():
        if (match := _INSTRUCTION.match(line)) is not None:
            instruction = _instruction(match[1], line[match.end() :])
            computation.instructions[instruction.name] = instruction
        elif (header := _HEADER.match(line)) is not None:
            computation = module.computations.setdefault(header[2], _Computation())
            module.entry = header[2] if header[1] else module.entry
    assert module.entry, "the text of a compiled program has an entry"
    return module


def _instruction(name: str, text: str) -> _Instruction:
    """TYPE OPCODE(OPERANDS), ATTRIBUTES; a tuple's type holds spaces, and both kinds hold parentheses."""
    end = depth = 0
    while depth or text[end] != " ":
        depth += (text[end] in "({") - (text[end] in ")}")
        end += 1
    opcode, _, rest = text[end + 1 :].partition("(")
    return _Instruction(name, text[:end], opcode, rest)


def _walk(module: _Module, name: str, loops: tuple[Loop, ...]) -> Iterator[tuple[_Instruction, str, tuple[Loop, ...]]]:
    """Every instruction that a computation runs, the computation that it stands in, and the loops around it."""
    for instruction in module.computations[name].instructions.values():
        yield instruction, name, loops
        inner = (*loops, _loop(module, instruction)) if instruction.opcode == "while" else loops
        for called in instruction.called():
            yield from _walk(module, called, inner)


def _loop(module: _Module, instruction: _Instruction) -> Loop:
    """Its trips are annotated (CPU, GPU), or the constant that its condition compares a counter from 0 on with."""
    if known := _TRIPS.search(instruction.rest):
        return Loop(instruction.name, int(known[1]), exact=True)
    condition = re.search(r"condition=%?([\w.\-]+)", instruction.rest)
    assert condition is not None, f"{instruction.name} is a loop without a condition"
    operations = [(step, inside) for step, inside, _ in _walk(module, condition[1], ())]
    compares = [(step, inside) for step, inside in operations if step.opcode == "compare"]
    bounds = [bound for step, inside in compares for bound in _constants(module.computations[inside], step)]
    bounds = bounds or [bound for step in _top(module, condition[1]) for bound in _constant(step)]
    exact = len(compares) == 1 and not any(step.opcode in _LOGIC for step, _ in operations)
    return Loop(instruction.name, max(bounds, default=None) if compares else None, exact=exact)


def _constants(computation: _Computation, instruction: _Instruction) -> list[int]:
    """The integers among an instruction's operands."""
    operands = (computation.instructions.get(name) for name in instruction.operands())
    return [value for operand in operands if operand is not None for value in _constant(operand)]


def _constant(instruction: _Instruction) -> list[int]:
    match = re.match(r"(\d+)\)", instruction.rest)
    integer = instruction.opcode == "constant" and instruction.type.startswith(("s32[]", "u32[]"))
    return [int(match[1])] if integer and match is not None else []


def _top(module: _Module, name: str) -> Iterable[_Instruction]:
    return module.computations[name].instructions.values()

"""From the bytes of a pickle to an inert tree: nothing is imported, made or called.

A pickle is a program for a stack machine. This interpreter runs its stack operations only. Where
a pickle names a class, the tree holds a :class:`Name`; where it makes or calls something, the
tree holds a :class:`Call`, with what it was to be given. The arrays that joblib writes in between
are read as numbers. What may become of the tree is decided in :mod:`._building`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pyimgano.exceptions import UntrustedFileError
from pyimgano.persistence._source import AHEAD, Source

__all__ = ["NO_STATE", "Call", "Items", "Name", "Pairs", "made_class", "read_tree"]

# Longest strings, byte strings and integers, in bytes. Arrays are not among them.
_LONGEST_TEXT = 2**20
_LONGEST_BYTES = 2**26
_LONGEST_INT = 64
_LONGEST_LINE = 512

_HIGHEST_PROTOCOL = 5


class Name:
    """A class or function that the file names."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Pairs:
    """The items of a dict, in their order; keys may occur twice."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[tuple[Any, Any]] = []


class Items:
    """The items of a set or frozenset, in their order."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Any], frozen: bool) -> None:
        self.items, self.frozen = items, frozen


class Call:
    """An object that the file asks for: what makes it, from which arguments, and its contents.

    Attributes
    ----------
    function : node
        What was to be called.
    args : node
        A tuple, if the file is as it should be.
    new : bool
        Whether the function's ``__new__`` was meant.
    keywords : node or None
        Keyword arguments.
    state : node
        What was to be set on the object; ``NO_STATE`` if nothing was.
    items : list of node
        What was to be appended or added.
    pairs : list of (node, node)
        Items that were to be set, as in a dict.
    """

    __slots__ = ("args", "function", "items", "keywords", "new", "pairs", "state")

    def __init__(self, function: Any, args: Any, new: bool, keywords: Any = None) -> None:
        self.function, self.args, self.new, self.keywords = function, args, new, keywords
        self.state: Any = NO_STATE
        self.items: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []


class _NoState:
    pass


NO_STATE = _NoState()


# Errors of reading or making something from an invalid description. Python raises SystemError for
# text whose characters are out of range.
CANNOT_BE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)


def read_tree(source: Source, read_array: Callable[[Source, Call], Any] | None) -> Any:
    """Run the stack operations of one pickle.

    Parameters
    ----------
    source : Source
        At the start of a pickle; afterwards behind its end.
    read_array : callable or None
        Reads the array that follows the description of one in the source, and returns it. It
        returns None where a ``Call`` is no such description. None: this pickle has no arrays.

    Returns
    -------
    node
        A tree of Call, Name, Pairs, Items, lists, tuples, arrays, numbers, strings and None.

    Raises
    ------
    UntrustedFileError
        If it is no pickle, one that joblib does not write, or larger than any saved pipeline.
    """
    try:
        return _Machine(source, read_array).run()
    except UntrustedFileError:
        raise
    except (*CANNOT_BE, struct.error) as error:
        raise UntrustedFileError(f"it is damaged, or no pickle ({error}).") from None


class _Machine:
    def __init__(self, source: Source, read_array: Callable[[Source, Call], Any] | None) -> None:
        self._source = source
        self._read_array = read_array
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        source, memo, unpack = self._source, self._memo, struct.unpack_from
        stack: list[Any] = []
        below: list[list[Any]] = []  # what lies under each mark
        left = source.operations_left
        data, at = source.data, source.at
        last = len(data) - AHEAD  # up to there is enough ahead for any of the operations below
        while True:
            left -= 1
            if left < 0:
                raise UntrustedFileError(
                    f"it has more than {source.most_operations:,} steps, more than a saved "
                    "pipeline of its size."
                )
            if at > last:
                source.at = at
                data, at = source.refill()
                last = len(data) - AHEAD
            op = data[at]
            at += 1
            # Two halves, the most frequent first. What nearly always follows is done at once.
            if op >= 0x80:
                if op == 0x94:  # MEMOIZE
                    memo[len(memo)] = stack[-1]
                elif op == 0x8C:  # SHORT_BINUNICODE
                    end = at + 1 + data[at]
                    text = str(data[at + 1 : end], "utf-8", "surrogatepass")
                    stack.append(text)
                    at = end
                    if data[at] == 0x94:
                        memo[len(memo)] = text
                        at += 1
                        left -= 1
                elif op == 0x81:  # NEWOBJ
                    args = stack.pop()
                    stack[-1] = Call(stack[-1], args, True)
                elif op == 0x88:  # NEWTRUE
                    stack.append(True)
                elif op == 0x89:  # NEWFALSE
                    stack.append(False)
                elif op == 0x95:  # FRAME: its content follows in any case
                    at += 8
                elif op == 0x85:  # TUPLE1
                    stack[-1:] = [(stack[-1],)]
                elif op == 0x86:  # TUPLE2
                    stack[-2:] = [(stack[-2], stack[-1])]
                elif op == 0x87:  # TUPLE3
                    stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
                elif op == 0x93:  # STACK_GLOBAL
                    name, module = stack.pop(), stack.pop()
                    stack.append(_name(module, name))
                else:
                    source.at = at
                    stack = self._rare(op, stack, below)
                    data, at = source.data, source.at
                    last = len(data) - AHEAD
            elif op == 0x68:  # BINGET
                stack.append(memo[data[at]])
                at += 1
                if data[at] == 0x68:
                    stack.append(memo[data[at + 1]])
                    at += 2
                    left -= 1
            elif op == 0x4B:  # BININT1
                stack.append(data[at])
                at += 1
            elif op == 0x43:  # SHORT_BINBYTES
                end = at + 1 + data[at]
                content = data[at + 1 : end]
                stack.append(content)
                at = end
                if data[at] == 0x94:
                    memo[len(memo)] = content
                    at += 1
                    left -= 1
            elif op == 0x28:  # MARK
                below.append(stack)
                stack = []
            elif op == 0x75:  # SETITEMS
                items, stack = stack, below.pop()
                if len(items) % 2:
                    raise UntrustedFileError("it is damaged: a key has no value.")
                _pairs_of(stack[-1]).extend(zip(items[::2], items[1::2]))
            elif op == 0x62:  # BUILD
                state = stack.pop()
                source.at = at
                self._build(stack, state)
                data, at = source.data, source.at
                last = len(data) - AHEAD
            elif op == 0x7D:  # EMPTY_DICT
                stack.append(Pairs())
            elif op == 0x29:  # EMPTY_TUPLE
                stack.append(())
            elif op == 0x4E:  # NONE
                stack.append(None)
            elif op == 0x47:  # BINFLOAT
                stack.append(unpack(">d", data, at)[0])
                at += 8
            elif op == 0x6A:  # LONG_BINGET
                stack.append(memo[unpack("<I", data, at)[0]])
                at += 4
            elif op == 0x52:  # REDUCE
                args = stack.pop()
                stack[-1] = Call(stack[-1], args, False)
            elif op == 0x74:  # TUPLE
                items, stack = stack, below.pop()
                stack.append(tuple(items))
            elif op == 0x4D:  # BININT2
                stack.append(unpack("<H", data, at)[0])
                at += 2
            elif op == 0x4A:  # BININT
                stack.append(unpack("<i", data, at)[0])
                at += 4
            elif op == 0x5D:  # EMPTY_LIST
                stack.append([])
            elif op == 0x65:  # APPENDS
                items, stack = stack, below.pop()
                _items_of(stack[-1]).extend(items)
            elif op == 0x61:  # APPEND
                value = stack.pop()
                _items_of(stack[-1]).append(value)
            elif op == 0x73:  # SETITEM
                value, key = stack.pop(), stack.pop()
                _pairs_of(stack[-1]).append((key, value))
            elif op == 0x71:  # BINPUT
                memo[data[at]] = stack[-1]
                at += 1
            elif op == 0x72:  # LONG_BINPUT
                memo[unpack("<I", data, at)[0]] = stack[-1]
                at += 4
            elif op == 0x2E:  # STOP
                if below or len(stack) != 1:
                    raise UntrustedFileError("it is damaged: it ends in the middle of an object.")
                source.at = at
                source.operations_left = left
                return stack[0]
            else:
                source.at = at
                stack = self._rare(op, stack, below)
                data, at = source.data, source.at
                last = len(data) - AHEAD

    def _rare(self, op: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
        """Operations of other protocols, and those that few files have; return the stack."""
        take, line = self._source.take, self._source.line
        if op == 0x80:  # PROTO
            version = take(1)[0]
            if version > _HIGHEST_PROTOCOL:
                raise UntrustedFileError(
                    f"it is a pickle of protocol {version}; joblib writes protocols 0 to "
                    f"{_HIGHEST_PROTOCOL}."
                )
        elif op == 0x58:  # BINUNICODE
            stack.append(self._text(_uint(take(4))))
        elif op == 0x8D:  # BINUNICODE8
            stack.append(self._text(_uint(take(8))))
        elif op == 0x42:  # BINBYTES
            stack.append(self._bytes(_uint(take(4))))
        elif op == 0x8E:  # BINBYTES8
            stack.append(self._bytes(_uint(take(8))))
        elif op == 0x96:  # BYTEARRAY8
            stack.append(bytearray(self._bytes(_uint(take(8)))))
        elif op == 0x8A:  # LONG1
            stack.append(self._int(take(1)[0]))
        elif op == 0x8B:  # LONG4
            stack.append(self._int(_uint(take(4))))
        elif op == 0x8F:  # EMPTY_SET
            stack.append(Items([], frozen=False))
        elif op == 0x90:  # ADDITEMS
            items, stack = stack, below.pop()
            _items_of(stack[-1]).extend(items)
        elif op == 0x91:  # FROZENSET
            items, stack = stack, below.pop()
            stack.append(Items(items, frozen=True))
        elif op == 0x92:  # NEWOBJ_EX
            keywords, args = stack.pop(), stack.pop()
            stack[-1] = Call(stack[-1], args, True, keywords)
        elif op == 0x30:  # POP
            if stack:
                stack.pop()
            else:
                stack = below.pop()
        elif op == 0x31:  # POP_MARK
            stack = below.pop()
        elif op == 0x32:  # DUP
            stack.append(stack[-1])
        elif op == 0x63:  # GLOBAL
            module, name = (str(line(_LONGEST_LINE), "utf-8") for _ in range(2))
            stack.append(_name(module, name))
        elif op == 0x70:  # PUT
            self._memo[_number(line(_LONGEST_LINE), int)] = stack[-1]
        elif op == 0x67:  # GET
            stack.append(self._memo[_number(line(_LONGEST_LINE), int)])
        elif op == 0x49:  # INT, and the booleans of protocol 0
            text = line(_LONGEST_LINE)
            flags = {b"00": False, b"01": True}
            stack.append(flags[text] if text in flags else _number(text, int))
        elif op == 0x4C:  # LONG
            stack.append(_number(line(_LONGEST_LINE).rstrip(b"L"), int))
        elif op == 0x46:  # FLOAT
            stack.append(_number(line(_LONGEST_LINE), float))
        elif op == 0x56:  # UNICODE
            text = self._source.text(line(_LONGEST_TEXT))
            stack.append(str(text, "raw-unicode-escape"))
        elif op == 0x6C:  # LIST
            items, stack = stack, below.pop()
            stack.append(items)
        elif op == 0x64:  # DICT
            items, stack = stack, below.pop()
            pairs = Pairs()
            pairs.items = list(zip(items[::2], items[1::2]))
            stack.append(pairs)
        elif op in b"SUTQP\x82\x83\x84\x97\x98io":
            raise UntrustedFileError("it is a pickle of a kind that joblib does not write.")
        else:
            raise UntrustedFileError(f"it is damaged, or no pickle (operation {op:#x}).")
        return stack

    # ---- values -------------------------------------------------------------------------
    def _text(self, length: int) -> str:
        _check_length(length, _LONGEST_TEXT, "a string")
        return str(self._source.text(self._source.take(length)), "utf-8", "surrogatepass")

    def _bytes(self, length: int) -> bytes:
        _check_length(length, _LONGEST_BYTES, "a byte string")
        return self._source.take(length)

    def _int(self, length: int) -> int:
        _check_length(length, _LONGEST_INT, "an integer")
        return int.from_bytes(self._source.take(length), "little", signed=True)

    # ---- contents -----------------------------------------------------------------------
    def _build(self, stack: list[Any], state: Any) -> None:
        target = stack[-1]
        if type(target) is not Call or target.state is not NO_STATE:
            raise UntrustedFileError("it tries to change what it has not just made.")
        target.state = state
        if self._read_array is not None:
            array = self._read_array(self._source, target)
            if array is not None:
                stack[-1] = array


def _pairs_of(target: Any) -> list[tuple[Any, Any]]:
    if type(target) is Pairs:
        return target.items
    if type(target) is Call:
        return target.pairs
    raise UntrustedFileError("it tries to set items of something that is not a dict.")


def _items_of(target: Any) -> list[Any]:
    if type(target) is list:
        return target
    if type(target) in (Items, Call):
        return target.items
    raise UntrustedFileError("it tries to fill something that is not a list or set.")


def _name(module: Any, name: Any) -> Name:
    if type(module) is not str or type(name) is not str:
        raise UntrustedFileError("it names a class or function by something that is not text.")
    if len(module) > _LONGEST_LINE or len(name) > _LONGEST_LINE:
        raise UntrustedFileError(f"it names something by more than {_LONGEST_LINE} characters.")
    return Name(module, name)


def made_class(call: Call) -> Name | None:
    """Find the class that a call makes an empty object of, in any protocol.

    Parameters
    ----------
    call : Call

    Returns
    -------
    Name or None
        None if it is another kind of call.
    """
    function, args = call.function, call.args
    if type(function) is not Name or type(args) is not tuple or call.keywords is not None:
        return None
    if call.new:
        return function if not args else None
    if str(function) in ("copyreg._reconstructor", "copy_reg._reconstructor") and len(args) == 3:
        cls, base, state = args
        if type(cls) is Name and type(base) is Name and state is None and base.name == "object":
            return cls
    return None


def _check_length(length: int, most: int, what: str) -> None:
    if length > most:
        raise UntrustedFileError(f"it holds {what} of {length:,} bytes; at most {most:,} are read.")


def _number(text: bytes, kind: Any) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UntrustedFileError(f"it is damaged: {text[:40]!r} is no number.") from None


def _uint(content: bytes) -> int:
    return int.from_bytes(content, "little")

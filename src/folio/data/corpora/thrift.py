"""Values of Thrift's compact protocol, of which the footer and the page headers of a Parquet file consist.

Only what a reader of unknown files needs: numbers, lists and structs; bytes and maps are skipped. Fields have numbers
instead of names. https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_FIELDS_PER_ITEM = 5
"""Limit for the fields of all structs, relative to that for the items of all lists."""

MAX_FIELD_NUMBER = 64
"""Fields above it are skipped. Those that Parquet defines lie below 20."""

MAX_DEPTH = 24

_TRUE, _FALSE, _BYTE, _I16, I32, I64, _DOUBLE, BINARY, _LIST, _SET, _MAP, STRUCT, _UUID = range(1, 14)
_FIXED_BYTES = {_BYTE: 1, _DOUBLE: 8, _UUID: 16}
_BITS = {_I16: 16, I32: 32, I64: 64}

Field = tuple[int, int]
"""Number and type of a field. Readers skip a field of another type than they expect."""


def list_of(kind: int) -> int:
    """Return the type of a list with items of a type."""
    return kind << 4 | _LIST


class ThriftError(ValueError):
    """Bytes that are no Thrift, or end too early."""


@dataclass
class ThriftReader:
    """Reads values from bytes, up to `max_items` in all lists together."""

    data: bytes
    max_items: int
    position: int = field(default=0, init=False)
    n_items: int = field(default=0, init=False)
    """Number of items in all lists, sets and maps so far."""
    n_fields: int = field(default=0, init=False)

    def struct(self, depth: int = 0) -> Iterator[tuple[Field, Any]]:
        """Yield each field and its value. Raises: ThriftError, also if numbers are repeated: which counts is unsure."""
        number = 0
        while header := self._byte():
            last, number = number, number + (header >> 4) if header >> 4 else self._zigzag(_BITS[_I16])
            if number <= last:
                raise ThriftError("fields are not in order")
            self.n_fields += 1
            if self.n_fields > MAX_FIELDS_PER_ITEM * self.max_items:
                raise ThriftError(f"more than {MAX_FIELDS_PER_ITEM * self.max_items:,} fields")
            kind, start = header & 15, self.position
            value = self._value(kind, depth, in_struct=True)
            if number <= MAX_FIELD_NUMBER:
                yield (number, list_of(self.data[start] & 15) if kind == _LIST else kind), value

    def _value(self, kind: int, depth: int, in_struct: bool = False) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE if in_struct else self._byte() == _TRUE
        if kind in _BITS:
            return self._zigzag(_BITS[kind])
        if kind in _FIXED_BYTES:
            return self._skip(_FIXED_BYTES[kind])
        if kind == BINARY:
            return self._skip(self._varint())
        if depth >= MAX_DEPTH:
            raise ThriftError("nested too deeply")
        if kind in (_LIST, _SET):
            return [self._value(item, depth + 1) for item in self._list_header()]
        if kind == _MAP:
            return self._map(depth)
        if kind == STRUCT:
            return dict(self.struct(depth + 1))
        raise ThriftError(f"unknown type {kind}")

    def _list_header(self) -> Iterator[int]:
        header = self._byte()
        n_items = header >> 4 if header >> 4 != 15 else self._varint()
        self._count(n_items)
        return (header & 15 for _ in range(n_items))

    def _map(self, depth: int) -> None:
        n_items = self._varint()
        self._count(n_items)
        kinds = self._byte() if n_items else 0
        for _ in range(n_items):
            self._value(kinds >> 4, depth + 1)
            self._value(kinds & 15, depth + 1)

    def _count(self, n_items: int) -> None:
        self.n_items += n_items
        if self.n_items > self.max_items:
            raise ThriftError(f"more than {self.max_items:,} columns, row groups and parts of them")

    def _byte(self) -> int:
        if self.position >= len(self.data):
            raise ThriftError("it ends too early")
        self.position += 1
        return self.data[self.position - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ThriftError("a number of more than 64 bits")

    def _zigzag(self, bits: int) -> int:
        value = self._varint()
        if value >> bits:
            raise ThriftError(f"a number of more than {bits} bits")
        return (value >> 1) ^ -(value & 1)

    def _skip(self, n_bytes: int) -> None:
        if n_bytes > len(self.data) - self.position:
            raise ThriftError("it ends too early")
        self.position += n_bytes

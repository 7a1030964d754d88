"""States under the texts that lead to them: a compressed trie that knows how much memory it takes.

A text is a string of bytes here: its symbol ids, of one width each. A node stands wherever a state is kept or two
texts part, be it within an id, and nowhere else. Texts may be as long as prompts are: labels are compared and copied
whole, and nothing recurses.
"""

import sys
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from segue_server.engine.sampling import Floats32

_NODE_BYTES: Final = 120
"""A node, and what the interpreter keeps beside it and its children."""
_STATE_BYTES: Final = 144
"""What whoever remembers the order of use keeps for each state."""


@dataclass(eq=False, slots=True)
class Node:
    """A place at which a state is kept, or texts part."""

    label: bytes
    """The text from its parent to here; of the root empty."""
    parent: "Node | None"
    children: "dict[int, Node]" = field(default_factory=dict)
    """By the first byte of their labels."""
    values: Floats32 | None = None
    """(h, c) of the state behind this text, [2, layers, hidden]."""


class Place(NamedTuple):
    """How far a text is known."""

    node: Node
    """The last one that it passes."""
    depth: int
    """How many bytes are behind that."""
    further: int
    """How many bytes it has in common with the label of one of its children."""
    kept: Node | None
    """The last one that it passes and that keeps a state."""
    kept_depth: int
    """How many bytes are behind that; 0 for none."""


class Trie:
    """States that begin from one and the same state."""

    def __init__(self) -> None:
        self._root = Node(b"", None)
        self.bytes = _bytes_of(self._root)
        """How much memory it takes."""

    @property
    def empty(self) -> bool:
        """Whether no state is kept."""
        return not self._root.children

    def locate(self, text: bytes) -> Place:
        """Return how far `text` is known."""
        node, depth, kept, kept_depth = self._root, 0, None, 0
        while depth < len(text) and (child := node.children.get(text[depth])) is not None:
            if not text.startswith(child.label, depth):
                return Place(node, depth, _common(child.label, text, depth), kept, kept_depth)
            node, depth = child, depth + len(child.label)
            if node.values is not None:
                kept, kept_depth = node, depth
        return Place(node, depth, 0, kept, kept_depth)

    def put(self, text: bytes, values: Floats32) -> Node:
        """Keep `values` behind `text`, one byte at least; return where."""
        node, depth, further, _, _ = self.locate(text)
        if further:
            node, depth = self._split(node.children[text[depth]], further), depth + further
        if depth < len(text):
            node = self._add(node, text[depth:])
        before = _bytes_of(node)
        node.values = values
        self.bytes += _bytes_of(node) - before
        return node

    def drop(self, node: Node) -> None:
        """Keep the state of `node` no longer."""
        before = _bytes_of(node)
        node.values = None
        self.bytes += _bytes_of(node) - before
        if not node.children:
            node = self._remove(node)
        if node.parent is not None and node.values is None and len(node.children) == 1:
            self._merge(node)

    def _add(self, parent: Node, label: bytes) -> Node:
        before = _bytes_of(parent)
        leaf = parent.children[label[0]] = Node(label, parent)
        self.bytes += _bytes_of(leaf) + _bytes_of(parent) - before
        return leaf

    def _remove(self, leaf: Node) -> Node:
        """Take `leaf` out; return its parent."""
        parent = leaf.parent
        assert parent is not None, "the root keeps no state"
        before = _bytes_of(parent)
        del parent.children[leaf.label[0]]
        self.bytes += _bytes_of(parent) - before - _bytes_of(leaf)
        return parent

    def _split(self, node: Node, length: int) -> Node:
        """Put a node `length` bytes along the label of `node`, and return it."""
        parent, before = node.parent, _bytes_of(node)
        assert parent is not None, "the root has no label"
        upper = parent.children[node.label[0]] = Node(node.label[:length], parent)
        node.label, node.parent = node.label[length:], upper
        upper.children[node.label[0]] = node
        self.bytes += _bytes_of(upper) + _bytes_of(node) - before
        return upper

    def _merge(self, node: Node) -> None:
        """Take out a node at which nothing is kept and nothing parts."""
        (child,), parent = node.children.values(), node.parent
        assert parent is not None, "the root stays"
        before = _bytes_of(node) + _bytes_of(child)
        child.label, child.parent = node.label + child.label, parent
        parent.children[child.label[0]] = child
        self.bytes += _bytes_of(child) - before


def _common(label: bytes, text: bytes, depth: int) -> int:
    """Return how many bytes `label` has in common with what stands behind `depth` in `text`; not all of them."""
    length = min(len(label), len(text) - depth)
    parting = np.frombuffer(label, np.uint8, length) != np.frombuffer(text, np.uint8, length, depth)
    at = int(parting.argmax())
    return at if parting[at] else length


def _bytes_of(node: Node) -> int:
    values = sys.getsizeof(node.values) + _STATE_BYTES if node.values is not None else 0
    return _NODE_BYTES + sys.getsizeof(node.label) + sys.getsizeof(node.children) + values

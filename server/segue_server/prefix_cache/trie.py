"""States by the texts that lead to them: a compressed trie that tracks its memory.

A text is a byte string here: its symbol ids, all of one width. There is a node exactly where a state is stored or two
texts diverge, even within an id. Texts may be as long as prompts: labels are compared and copied whole, and nothing
recurses.
"""

import sys
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from segue_server.engine.sampling import Floats32

_NODE_BYTES: Final = 120
"""Memory of a node, beyond its label, children and state."""
_STATE_BYTES: Final = 144
"""Memory of the cache's recency order for each state."""


@dataclass(eq=False, slots=True)
class Node:
    """A point where a state is stored, or texts diverge."""

    label: bytes
    """The text from its parent to here; empty for the root."""
    parent: "Node | None"
    children: "dict[int, Node]" = field(default_factory=dict)
    """By the first byte of their labels."""
    values: Floats32 | None = None
    """(h, c) of the state after this text, [2, layers, hidden]."""


class Place(NamedTuple):
    """How much of a text is in the trie."""

    node: Node
    """The last node on its path."""
    depth: int
    """The bytes up to that node."""
    further: int
    """The bytes after that which match the label of one of its children, in part."""
    kept: Node | None
    """The last node on its path with a state."""
    kept_depth: int
    """The bytes up to that node; 0 if there is none."""


class Trie:
    """The states of texts from one start state."""

    def __init__(self) -> None:
        self._root = Node(b"", None)
        self.bytes = _bytes_of(self._root)
        """Memory of the whole trie."""

    @property
    def empty(self) -> bool:
        """Whether it holds no state."""
        return not self._root.children

    def locate(self, text: bytes) -> Place:
        """Return how much of `text` is in the trie."""
        node, depth, kept, kept_depth = self._root, 0, None, 0
        while depth < len(text) and (child := node.children.get(text[depth])) is not None:
            if not text.startswith(child.label, depth):
                return Place(node, depth, _common(child.label, text, depth), kept, kept_depth)
            node, depth = child, depth + len(child.label)
            if node.values is not None:
                kept, kept_depth = node, depth
        return Place(node, depth, 0, kept, kept_depth)

    def put(self, text: bytes, values: Floats32) -> Node:
        """Store `values` for `text`, which must not be empty; return the node."""
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
        """Remove the state of `node`."""
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
        """Remove `leaf`; return its parent."""
        parent = leaf.parent
        assert parent is not None, "the root has no state"
        before = _bytes_of(parent)
        del parent.children[leaf.label[0]]
        self.bytes += _bytes_of(parent) - before - _bytes_of(leaf)
        return parent

    def _split(self, node: Node, length: int) -> Node:
        """Insert a node `length` bytes into the label of `node`; return it."""
        parent, before = node.parent, _bytes_of(node)
        assert parent is not None, "the root has no label"
        upper = parent.children[node.label[0]] = Node(node.label[:length], parent)
        node.label, node.parent = node.label[length:], upper
        upper.children[node.label[0]] = node
        self.bytes += _bytes_of(upper) + _bytes_of(node) - before
        return upper

    def _merge(self, node: Node) -> None:
        """Remove a node without a state at which no texts diverge."""
        (child,), parent = node.children.values(), node.parent
        assert parent is not None, "the root stays"
        before = _bytes_of(node) + _bytes_of(child)
        child.label, child.parent = node.label + child.label, parent
        parent.children[child.label[0]] = child
        self.bytes += _bytes_of(child) - before


def _common(label: bytes, text: bytes, depth: int) -> int:
    """Return how many bytes of `label` match `text` from `depth` on: fewer than all."""
    length = min(len(label), len(text) - depth)
    differs = np.frombuffer(label, np.uint8, length) != np.frombuffer(text, np.uint8, length, depth)
    at = int(differs.argmax())
    return at if differs[at] else length


def _bytes_of(node: Node) -> int:
    values = sys.getsizeof(node.values) + _STATE_BYTES if node.values is not None else 0
    return _NODE_BYTES + sys.getsizeof(node.label) + sys.getsizeof(node.children) + values

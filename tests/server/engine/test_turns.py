"""How tenants share an engine that is full: in counts of ticks and symbols, without a clock."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.sampling import Sampling
from segue_server.engine.sequence import Sequence, State
from segue_server.engine.turns import Turns

SHAPE = (1, 1)
LONG = 10**6
STEPS = 8


def sequence(tenant: str, shape: tuple[int, int] = SHAPE, prompt: int = 0, **fields: object) -> Sequence:
    state = State.after_first(1, shape, seed=0)
    return Sequence(state, np.ones(prompt, dtype=np.int64), **{"max_characters": LONG, "tenant": tenant, **fields})


def waiting(counts: list[int]) -> tuple[Turns, list[Sequence]]:
    turns, sequences = Turns(), [sequence(str(tenant)) for tenant, count in enumerate(counts) for _ in range(count)]
    for each in sequences:
        turns.add(each)
    return turns, sequences


def water_level(counts: list[int], most: int) -> int:
    """The most that a tenant gets of `most` if none gets less than another but for want of sequences."""
    return next(level for level in range(most + 1) if sum(min(count, level + 1) for count in counts) > most)


COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@given(COUNTS, st.integers(1, 20), st.integers(1, 5))
def test_no_tenant_gets_more_than_one_that_has_more_to_give(counts: list[int], most: int, deals: int) -> None:
    turns, sequences = waiting(counts)
    for _ in range(deals):
        taken = turns.take_turns(most, lambda _: True)
        assert len(set(taken)) == len(taken) == min(most, sum(counts))
        assert (len(turns), set(turns), turns.tenants) == (sum(counts), set(sequences), len(counts))
        if len(taken) == most < sum(counts):
            level, got = water_level(counts, most), Counter(each.tenant for each in taken)
            for tenant, count in enumerate(counts):
                assert min(count, level) <= got[str(tenant)] <= min(count, level + 1)


@given(COUNTS, st.integers(1, 20))
def test_everybody_s_turn_comes_within_the_rounds_that_fairness_takes(counts: list[int], most: int) -> None:
    turns, sequences = waiting(counts)
    rounds = max(counts) * -(-len(counts) // most) + max(counts) * len(counts) // most + 1
    seen = {each for _ in range(rounds) for each in turns.take_turns(most, lambda _: True)}
    assert seen == set(sequences)


@given(COUNTS, st.integers(1, 20), st.data())
def test_one_whose_kind_is_passed_over_comes_before_those_who_were_not(
    counts: list[int], most: int, data: st.DataObject
) -> None:
    turns, sequences = waiting(counts)
    odd = data.draw(st.sampled_from(sequences))
    taken = turns.take_turns(most, lambda each: each.tenant != odd.tenant)
    assert all(each.tenant != odd.tenant for each in taken)
    order = list(dict.fromkeys(each.tenant for each in turns))
    assert all(order.index(odd.tenant) < order.index(each.tenant) for each in taken)


@given(COUNTS, st.data())
def test_what_is_removed_is_gone_and_nothing_else(counts: list[int], data: st.DataObject) -> None:
    turns, sequences = waiting(counts)
    removed = data.draw(st.lists(st.sampled_from(sequences), unique_by=id))
    for each in removed:
        turns.remove(each)
    left = [each for each in sequences if each not in removed]
    assert (len(turns), list(turns)) == (len(left), left)
    assert turns.tenants == len({each.tenant for each in left})


@dataclass
class Served:
    """What the sequences of each tenant have got of an engine."""

    engine: Engine
    written: Counter[str] = field(default_factory=Counter)
    first: dict[Sequence, int] = field(default_factory=dict)
    """The tick of a sequence's first characters."""
    ticks: int = 0

    def add(self, *sequences: Sequence) -> None:
        for each in sequences:
            self.engine.add(each)

    def run(self, ticks: int, prefill_work: int = 1000) -> "Served":
        for _ in range(ticks):
            self.ticks += 1
            for output in [*self.engine.step(STEPS, prefill_work), *self.engine.collect()]:
                self.written[output.sequence.tenant] += len(output.written)
                if len(output.written):
                    self.first.setdefault(output.sequence, self.ticks)
        return self


@pytest.fixture(scope="module")
def model(kinds_loaded: dict[str, Model]) -> Model:
    return kinds_loaded["characters"]


def test_one_stream_is_not_slowed_by_a_thousand_of_another_tenant(model: Model) -> None:
    """It takes a row in every tick, as it would alone, and begins at once."""
    served = Served(Engine(model))
    served.add(*(sequence("many", model.state_shape) for _ in range(1000)))
    served.run(20)
    one = sequence("one", model.state_shape)
    served.add(one)
    before = served.ticks
    served.run(20)
    assert served.first[one] == before + 1
    assert served.written["one"] >= 19 * STEPS
    assert len(served.first) == 1001
    rows = Engine(model).most_rows
    assert served.written["many"] >= 30 * (rows - 1) * STEPS, "the rows that one tenant leaves are the others'"


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    rows=st.integers(2, 12),
    filtering=st.sampled_from(["", "0", "1"]),
)
@settings(max_examples=20, deadline=None)
def test_tenants_share_the_rows_of_a_full_engine(
    kinds_loaded: dict[str, Model], counts: list[int], rows: int, filtering: str
) -> None:
    """Each gets at least half of its share of what is written, also if its sequences run apart from the others'."""
    model, ticks = kinds_loaded["characters"], 60
    served = Served(Engine(model, rows))
    for tenant, count in enumerate(counts):
        sampling = Sampling(top_k=5) if str(tenant) == filtering else Sampling()
        served.add(*(sequence(str(tenant), model.state_shape, sampling=sampling) for _ in range(count)))
    served.run(-(-sum(counts) // rows) + 5)  # everybody has begun
    served.written.clear()
    served.run(ticks)
    level = rows / len(counts)
    for tenant, count in enumerate(counts):
        assert served.written[str(tenant)] >= 0.5 * min(count, level) * STEPS * (ticks - len(counts)) - STEPS * rows


@pytest.mark.parametrize("in_detail", [False, True])
def test_a_short_prompt_does_not_wait_for_a_thousand_long_ones_of_another_tenant(model: Model, in_detail: bool) -> None:
    """Even if theirs are read in runs of another kind."""
    served = Served(Engine(model))
    served.add(
        *(sequence("many", model.state_shape, prompt=5000, alternatives_prefill=in_detail * 2) for _ in range(1000))
    )
    served.run(3)
    one = sequence("one", model.state_shape, prompt=40)
    served.add(one)
    before = served.ticks
    served.run(45)
    assert served.first[one] - before <= 40


def test_those_who_begin_share_the_rows_too(model: Model) -> None:
    served = Served(Engine(model, rows=4))
    served.add(*(sequence("many", model.state_shape) for _ in range(100)))
    one = sequence("one", model.state_shape)
    served.add(one)
    served.run(1)
    assert one in served.first


def test_a_tenant_alone_is_served_in_the_order_of_arrival(model: Model) -> None:
    served, sequences = Served(Engine(model, rows=4)), [sequence("", model.state_shape) for _ in range(12)]
    served.add(*sequences)
    served.run(3)
    assert [served.first[each] for each in sequences] == [1] * 4 + [2] * 4 + [3] * 4

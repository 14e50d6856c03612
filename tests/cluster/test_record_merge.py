"""Records of units come out in one machine's order, however the units took turns."""

from hypothesis import given
from hypothesis import strategies as st

from streamtrain.cluster.record_merge import END, Merge


@given(data=st.data(), units=st.integers(1, 5), blocks=st.integers(0, 8))
def test_any_interleaving_gives_one_machines_order(data, units, blocks):
    told = {
        (unit, block): data.draw(st.integers(0, 2))
        for unit in range(units)
        for block in range(blocks + 1)
    }
    machine = [
        (block, unit, i)
        for block in range(blocks + 1)
        for unit in range(units)
        for i in range(told[unit, block])
    ]
    merge, at, out = Merge(units), [0] * units, []
    while any(reached <= blocks for reached in at):
        unit = data.draw(st.sampled_from([unit for unit in range(units) if at[unit] <= blocks]))
        stop = data.draw(st.integers(at[unit] + 1, blocks + 1))
        mine = [
            ((0, block), {"record": (block, unit, i)})
            for block in range(at[unit], stop)
            for i in range(told[unit, block])
        ]
        merge.add(unit, mine, END if stop > blocks else (0, stop))
        at[unit] = stop
        before = len(out)
        out += [record["record"] for record in merge.ready()]
        assert out == machine[: len(out)]
        assert len(out) >= before
        if data.draw(st.booleans()):  # a checkpoint, and a driver that goes on from it
            again = Merge(units)
            for number, waiting in enumerate(merge.waiting()):
                again.add(number, waiting, END if at[number] > blocks else (0, at[number]))
            merge = again
    assert out == machine

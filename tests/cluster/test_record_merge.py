"""Records of learners come out in the order of one machine, however the learners took turns."""

from hypothesis import given
from hypothesis import strategies as st

from streamtrain.cluster.record_merge import END, RecordMerge
from streamtrain.records import OtherRecord


@given(data=st.data(), learners=st.integers(1, 5), blocks=st.integers(0, 8))
def test_any_interleaving_gives_one_machines_order(data, learners, blocks):
    counts = {
        (learner, block): data.draw(st.integers(0, 2))
        for learner in range(learners)
        for block in range(blocks + 1)
    }
    expected = [
        (block, learner, i)
        for block in range(blocks + 1)
        for learner in range(learners)
        for i in range(counts[learner, block])
    ]
    merge, reached, merged = RecordMerge(learners), [0] * learners, []

    def position(block):
        return END if block > blocks else (0, block)

    while any(block <= blocks for block in reached):
        unfinished = [learner for learner in range(learners) if reached[learner] <= blocks]
        learner = data.draw(st.sampled_from(unfinished))
        stop = data.draw(st.integers(reached[learner] + 1, blocks + 1))
        records = [
            ((0, block), OtherRecord(name="test", values={"key": (block, learner, i)}))
            for block in range(reached[learner], stop)
            for i in range(counts[learner, block])
        ]
        merge.add(learner, records, position(stop))
        reached[learner] = stop
        merged += [record.values["key"] for record in merge.ready()]
        assert merged == expected[: len(merged)]
        if data.draw(st.booleans()):  # a checkpoint, and a driver that resumes from it
            resumed = RecordMerge(learners)
            for number, waiting in enumerate(merge.waiting()):
                resumed.add(number, waiting, position(reached[number]))
            merge = resumed
    assert merged == expected

"""Lesson 14's cluster on paper: the ring, and the timeline of a step."""

import pytest
import torch
from torch.testing import assert_close

from vit_tutorial.lessons.lesson_14.cluster import ring_all_reduce, step_timeline
from vit_tutorial.lessons.lesson_14.mistakes import step_end


@pytest.mark.parametrize("workers", [2, 3, 4, 7])
def test_after_all_rounds_every_worker_has_the_sum(workers):
    parts = torch.randn(workers, workers, 3, dtype=torch.float64)
    before = parts.clone()
    rounds = ring_all_reduce(parts)
    assert torch.equal(parts, before)
    assert len(rounds) == 2 * (workers - 1)
    assert_close(rounds[-1][0], before.sum(dim=0).expand_as(before))


@pytest.mark.parametrize("workers", [2, 5])
def test_in_a_round_each_worker_sends_one_chunk_to_the_right(workers):
    for _, messages in ring_all_reduce(torch.randn(workers, workers)):
        assert sorted(start for start, _, _ in messages) == list(range(workers))
        assert all(stop == (start + 1) % workers for start, stop, _ in messages)
        assert len({chunk for *_, chunk in messages}) == workers  # no chunk is sent twice


def test_half_way_each_worker_has_one_whole_chunk():
    parts = torch.randn(5, 5, dtype=torch.float64)
    halfway, _ = ring_all_reduce(parts)[3]
    whole = torch.isclose(halfway, parts.sum(dim=0))
    assert whole.sum(dim=0).tolist() == whole.sum(dim=1).tolist() == [1] * 5


def test_one_worker_has_nothing_to_send():
    assert ring_all_reduce(torch.ones(1, 1)) == []
    step = step_timeline(3.0, 1e6, 1e9, processes=1)
    assert (step.sends, step.end, step.lost) == ([], 3.0, 0.0)


def test_a_timeline_by_hand():
    """Four buckets, full after 1.5, 2, 2.5 and 3 s; each one second under way."""
    step = step_timeline(3.0, 100.0, 25.0, 2, bucket_bytes=25, latency=0)
    assert (step.forward, step.computed) == (1.0, 3.0)
    assert_close(step.ready, [1.5, 2.0, 2.5, 3.0])
    assert_close([begin for begin, _ in step.sends], [1.5, 2.5, 3.5, 4.5])
    assert step.end == pytest.approx(5.5)
    assert step.lost == pytest.approx(1 - 3 / 5.5)


@pytest.mark.parametrize("processes", [2, 8, 64])
@pytest.mark.parametrize("bandwidth", [1e8, 1e9, 1e11])
def test_a_timeline_ends_when_the_last_bucket_is_there(processes, bandwidth):
    gradient = 3.3e8  # no multiple of a bucket
    step = step_timeline(0.4, gradient, bandwidth, processes, latency=1e-4)
    under_way = [end - begin for begin, end in step.sends]
    rounds = 2 * (processes - 1)
    expected = rounds * (gradient / processes / bandwidth + len(step.sends) * 1e-4)
    assert sum(under_way) == pytest.approx(expected)
    assert step.end == pytest.approx(step_end(step.computed, step.ready, under_way))
    assert step.ready[-1] == pytest.approx(step.computed)

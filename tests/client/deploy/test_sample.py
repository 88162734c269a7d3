"""What compression could bring at best, told by some of the content."""

import os

import pytest

from cloudmanager.client.deploy.route import ContentSample

MIB = 1024 * 1024


@pytest.fixture
def text() -> ContentSample:
    sample = ContentSample()
    for _ in range(4):
        sample.add(memoryview(os.urandom(64 * 1024) + bytes(192 * 1024)))
    return sample


def test_on_a_slow_link_it_is_what_the_link_carries_by_what_becomes_shorter(text: ContentSample) -> None:
    assert text.promise(MIB, 1) == pytest.approx(4 * MIB, rel=0.05)


def test_on_a_fast_link_it_is_what_the_processors_can_do(text: ContentSample) -> None:
    fast = text.promise(1e15, 1)
    assert MIB < fast < 1e12
    assert text.promise(1e15, 19) < fast  # a level that takes longer

from cloudmanager.core.backoff import FORGIVEN_AFTER_SECONDS, LONGEST_SECONDS, Backoff


def test_the_wait_doubles_up_to_its_bound_with_jitter() -> None:
    backoff = Backoff()
    waits = [backoff.strike("disk", 0.0) for _ in range(12)]
    assert 0.25 <= waits[0] <= 0.5
    assert 1.0 <= waits[2] <= 2.0
    assert LONGEST_SECONDS / 2 <= waits[-1] <= LONGEST_SECONDS


def test_the_other_sides_wish_is_honoured() -> None:
    assert Backoff().strike("disk", 10.0, at_least=30.0) == 40.0


def test_a_first_failure_can_be_free_and_the_second_is_not() -> None:
    backoff = Backoff()
    assert backoff.strike("export", 7.0, first_is_free=True) == 7.0
    assert backoff.strike("export", 8.0, first_is_free=True) > 8.0


def test_a_quiet_time_and_a_success_forgive() -> None:
    backoff = Backoff()
    for _ in range(5):
        until = backoff.strike("disk", 0.0)
    assert backoff.until("disk") == until
    assert backoff.strike("disk", until + FORGIVEN_AFTER_SECONDS + 1) <= until + FORGIVEN_AFTER_SECONDS + 1.5
    backoff.forgive("disk")
    assert backoff.until("disk") == 0.0

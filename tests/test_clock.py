"""Seconds are those of the call alone, once."""

import time

from posttrain.clock import seconds


def spend(wanted):
    begun = time.process_time()
    while time.process_time() - begun < wanted:
        pass


def test_cpu_seconds_leave_out_waiting():
    calls = []

    def run():
        calls.append(1)
        spend(0.05)
        time.sleep(0.2)

    for device in ("cpu", None):
        took = seconds(run, device)
        assert took >= 0.05
        if device == "cpu":
            assert took < 0.2
    assert len(calls) == 2

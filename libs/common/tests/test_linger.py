"""How long events gather: not at all while few come, at most a tenth of a second."""

from causeloop_common.messaging import Linger


def pauses(rate: float, seconds: float) -> list[float]:
    """The pauses after each batch, when a batch is taken as soon as the pause is over and something came."""
    found: list[float] = []
    now = 0.0
    linger = Linger(lambda: now)
    came = taken = 0.0
    while now < seconds:
        now += max(found[-1] if found else 0.0, 1 / rate)
        came = int(now * rate)
        found.append(linger.after(int(came - taken)))
        taken = came
    return found


class TestLinger:
    def test_nothing_waits_while_few_come(self) -> None:
        assert set(pauses(rate=50, seconds=5)) == {0.0}

    def test_a_handful_at_once_is_no_load(self) -> None:
        now = 100.0
        linger = Linger(lambda: now)
        assert linger.after(20) == 0.0
        now += 0.001
        assert linger.after(20) == 0.0

    def test_the_pause_grows_with_the_load_up_to_a_bound(self) -> None:
        longest = [max(pauses(rate, seconds=5)[-20:]) for rate in (200, 1000, 20_000)]
        assert 0.005 <= longest[0] <= 0.02
        assert 0.03 <= longest[1] <= 0.07
        assert longest[2] == 0.1

    def test_it_ends_with_the_load(self) -> None:
        now = 0.0
        linger = Linger(lambda: now)
        assert linger.after(5000) == 0.1
        now += 5
        assert linger.after(1) == 0.0

"""Who is waited for, and for how long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smtpgw.queue.expected import LATELY, Expected

steps = st.lists(
    st.tuples(st.sampled_from(["heard", "come", "later"]), st.integers(0, 3), st.floats(0, 0.1)),
    max_size=30,
)


@given(steps)
def test_a_mail_is_expected_until_it_comes_or_nothing_was_heard_of_it_lately(
    done: list[tuple[str, int, float]],
) -> None:
    now, heard = 0.0, dict[int, float]()
    expected = Expected(lambda: now)
    for what, who, seconds in done:
        if what == "heard":
            expected.add(who)
            heard[who] = now
        elif what == "come":
            expected.drop(who)
            heard.pop(who, None)
        else:
            now += seconds
        assert expected.any() == any(now - at < LATELY for at in heard.values())


def test_who_says_nothing_is_forgotten() -> None:
    now = 0.0
    expected = Expected(lambda: now)
    for who in range(1000):
        expected.add(who)
    now = LATELY * 2
    assert not expected.any()
    assert not expected._since

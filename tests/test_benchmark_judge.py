"""The judging comparison runs, and shows what the performance page says of it."""

from benchmarks import judge


def test_more_calls_in_flight_judge_more_pairs_a_second():
    rates = judge.run(rounds=1, delay_s=0.15, in_flight=(1, 4), pairs_each=1)
    assert rates[1] < 1 / (2 * 0.15)  # no faster than the server
    assert rates[4] > 1.5 * rates[1]


def test_image_and_instruction_first_are_read_once_for_all_pairs_of_an_image():
    read = judge.tokens(5, 2)
    last = read["paper, image last: nothing shared"]
    assert read["local, image first"] < 0.5 * last
    assert read["paper, image first"] < last
    assert last == 5 * judge.tokens(1, 2)["paper, image last: nothing shared"]

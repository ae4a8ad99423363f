"""The judging comparison runs, and shows what the performance page says of it."""

import json

from servers import Response, chat_server, completion

from benchmarks import judge, served


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


def test_on_a_server_what_it_kept_of_a_prompt_is_not_counted_as_read():
    def keeps(num_cached):
        def reply(_prompt):
            body = json.loads(completion("8 7").body)
            details = {"cached_tokens": num_cached}
            body["usage"] |= {"prompt_tokens": 800, "prompt_tokens_details": details}
            return Response(body=json.dumps(body).encode())

        return reply

    with chat_server(keeps(640)) as one, chat_server(keeps(0)) as other:
        one.models = other.models = [{"id": "toy"}]
        servers = {"kept": one.url, "none": other.url}
        found = served.run(servers, rounds=1, questions=(2,))
        said = [body["messages"][0]["content"] for body in one.bodies + other.bodies]
    assert len(found) == 2 * len(served.RUBRICS)
    for (_, _, name), cost in found.items():
        assert (cost.prompt, cost.cached) == (4 * 800, 4 * 640 * (name == "kept"))
        assert cost.wall_s > 0
    # No two measurements show the same picture or question; only the figure's place is last.
    uris = {part["image_url"]["url"] for parts in said for part in parts if "image_url" in part}
    assert len(uris) == 2 * (len(served.RUBRICS) + 1)  # one to warm up
    assert {body["model"] for body in one.bodies} == {"toy"}
    last = [parts[-1]["type"] == "image_url" for parts in said]
    assert sum(last) == 2 * 4

"""Judging: pairs a second with so many calls in flight, and what sharing a prefix saves.

The server is a process of its own that answers every call after the same time, however many there
are: what limits the rate is then ours. Tokens are counted, not timed: how many a local judge's
policy has to read for the pairs of an image, by where the image and the instruction stand.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image as PILImage

from benchmarks.table import show, times
from stllava.generation.endpoint import EndpointGenerator
from stllava.judging.pairing import pairs
from stllava.judging.protocol import ModelJudge
from stllava.policy.policy import Policy
from stllava.prompts import RUBRICS
from stllava.records import Answers, Draw, Turn

DELAY_S = 1.0  # hosted models with an image take 1 to 5 s
IN_FLIGHT = (1, 8, 64)
LLAVA = 576  # tokens of an image in LLaVA-1.5
REPLY = b"""{"id": "x", "object": "chat.completion", "created": 0, "model": "m",
"choices": [{"index": 0, "finish_reason": "stop",
"message": {"role": "assistant", "content": "8 7"}}],
"usage": {"prompt_tokens": 800, "completion_tokens": 3, "total_tokens": 803}}"""


def run(
    *,
    rounds: int = 3,
    delay_s: float = DELAY_S,
    in_flight: tuple[int, ...] = IN_FLIGHT,
    pairs_each: int = 4,
    base: Path | None = None,
) -> dict[int, float]:
    """Returns pairs a second by calls in flight; a pair is two calls, one per order."""
    rates: dict[int, float] = {}
    with TemporaryDirectory() as folder, _server(delay_s) as url:
        image = Path(folder) / "image.png"
        PILImage.effect_noise((512, 512), 60).convert("RGB").save(image)
        rows = []
        for number in in_flight:
            num_pairs = max(8, pairs_each * number)
            taken = [_judge(url, image, number, num_pairs) for _ in range(rounds)]
            wall, cpu = sorted(taken)[len(taken) // 2]
            rates[number] = num_pairs / wall
            limit = number / (2 * delay_s)
            rows.append(
                [number, num_pairs, rates[number], limit, f"{rates[number] / limit:.0%}",
                 1000 * cpu / (2 * num_pairs)]
            )  # fmt: skip
    show(
        f"judging, both orders, a server that takes {delay_s:g} s a call, {rounds} rounds",
        ["calls in flight", "n pairs", "pairs a second", "the server's limit", "share of it",
         "CPU ms a call, client included"],
        rows,
    )  # fmt: skip
    for questions, answers in ((1, 2), (5, 2), (5, 4)):
        tokens(questions, answers, base)
    return rates


def _judge(url: str, image: Path, in_flight: int, number: int) -> tuple[float, float]:
    """Seconds of wall and CPU for so many pairs."""
    generator = EndpointGenerator(
        url, "m", api_key_env="", image_path=lambda _: image, concurrency=in_flight, max_tries=1
    )
    judge = ModelJudge(generator, name="m", orders="both")
    wall, cpu = time.perf_counter(), time.process_time()
    found = list(judge.judge((example(f"q{n}", "i", n), (0, 1)) for n in range(number)))
    taken = time.perf_counter() - wall, time.process_time() - cpu
    assert [v.state for v in found] == ["ok"] * (2 * number)
    return taken


def tokens(questions: int, answers: int, base: Path | None = None) -> dict[str, int]:
    """Prompt tokens of the pairs of one image in both orders, by rubric and place of the image.

    "paper, image last" is how Figure 3 is sent to an endpoint: the texts before the image differ,
    so that nothing of it can be kept. The others put it first, as every local policy reads it.
    """
    policy = Policy.load(base or _packaged(), device="cpu")
    own = policy.chat.num_image_tokens
    items = [example(f"i/q{q}", "i", q, answers) for q in range(questions)]
    ordered = [(item, order) for item in items for order in _orders(item)]
    read: dict[str, tuple[int, int]] = {}  # tokens, and how often the image is among them
    for rubric in RUBRICS:
        prompts = [
            policy.chat.prompt((Turn(question=_prompt(rubric, *one)),), "assistant")
            for one in ordered
        ]
        tree = policy.pack(prompts, ["i"] * len(prompts), lambda _: PILImage.new("RGB", (64, 64)))
        assert tree.num_given == sum(len(prompt.ids) for prompt in prompts)
        if rubric == "paper":
            read["paper, image last: nothing shared"] = tree.num_given, len(prompts)
        read[f"{rubric}, image first"] = tree.ids.numel(), 1
    num_pairs = len(ordered) // 2
    worst = next(iter(read.values()))
    show(
        f"a local judge reads: {questions} questions about an image, {answers} answers each, "
        f"{num_pairs} pairs, both orders",
        ["rubric", f"tokens a pair, {own} an image", "less", f"{LLAVA} an image", "less"],
        [
            [name, round(size / num_pairs), times(worst[0] / size),
             round(_with(size, images, own) / num_pairs),
             times(_with(*worst, own) / _with(size, images, own))]
            for name, (size, images) in read.items()
        ],
    )  # fmt: skip
    return {name: size for name, (size, _) in read.items()}


def _with(size: int, images: int, own: int) -> int:
    """The count with as many tokens an image as LLaVA-1.5 has."""
    return size + images * (LLAVA - own)


def _orders(item: Answers) -> list[tuple[int, int]]:
    return [order for pair in pairs(item, "ring") for order in (pair, pair[::-1])]


def _prompt(rubric: str, item: Answers, order: tuple[int, int]) -> str:
    texts = [item.draws[index].text for index in order]
    return RUBRICS[rubric].build(item.question, *texts, f"{order[0]}{order[1]}c0ffee"[:8])


def example(name: str, image: str, number: int, draws: int = 2) -> Answers:
    """A question that only `number` tells from others, and answers that differ in few words."""
    sides = ("left", "right", "upper", "lower")
    said = [
        f"There is a nodule in the {sides[i % 4]} lobe of the lung, about {number + i} cm."
        for i in range(draws)
    ]
    return Answers(
        id=name,
        image=image,
        question=f"Where is nodule number {number} and how large is it?",
        draws=tuple(Draw(request_id=name, index=i, text=text) for i, text in enumerate(said)),
    )


def _packaged() -> Path:
    import stllava

    return Path(stllava.__file__).parent / "assets" / "base-mlp"


@contextmanager
def _server(delay_s: float) -> Iterator[str]:
    """A process that answers after `delay_s`, many calls at a time; yields its base URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, delay_s), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def _serve(connection: Any, delay_s: float) -> None:
    """HTTP/1.1 with kept connections on asyncio: far cheaper a call than the client."""
    import asyncio

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
                await reader.readexactly(int(fields[b"content-length"]))
                await asyncio.sleep(delay_s)
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                    + str(len(REPLY)).encode() + b"\r\n\r\n" + REPLY
                )  # fmt: skip
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**24)
        connection.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())

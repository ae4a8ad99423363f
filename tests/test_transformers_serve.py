"""A real server of another make, `transformers serve`, with a toy checkpoint, judged through.

The toy is trained for seconds to say "9 3" for a bright picture and "2 8" for a dark one, so that a
verdict shows that prompt, image and reply went through the server as they should.
"""

import socket
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf
import vlms
from PIL import Image as PILImage

from stllava.errors import JudgeError
from stllava.generation.endpoint import EndpointGenerator
from stllava.judging.protocol import ModelJudge
from stllava.judging.server import LOG, running_server
from stllava.prompts import PAPER_RUBRIC
from stllava.records import Answers, Draw

pytestmark = pytest.mark.slow  # 15 to 60 s: torch is imported three times
pytest.importorskip("fastapi", reason="transformers serve needs it: pip install 'stllava[test]'")
pytest.importorskip("uvicorn", reason="transformers serve needs it: pip install 'stllava[test]'")

QUESTION, TEXTS = "What is seen?", ("A mass.", "No mass.")
SAID = {"bright": "9 3", "dark": "2 8"}
COLOURS = {"bright": (250, 240, 230), "dark": (10, 15, 20)}


def picture(name):
    return PILImage.new("RGB", (32, 32), COLOURS[name])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A LLaVA of 16 pixels with all that `transformers serve` loads."""
    folder = vlms.write(vlms.VLMS["llava"], tmp_path_factory.mktemp("judge"))
    # Published LLaVAs say in processor_config.json how many tokens an image takes.
    processor = tf.AutoProcessor.from_pretrained(folder)
    fields = vlms.PROCESSORS["llava"].fields
    vars(processor).update(fields)
    processor.save_pretrained(folder)
    model = tf.LlavaForConditionalGeneration.from_pretrained(folder)
    teach(model, processor)
    model.save_pretrained(folder)
    return folder


def teach(model, processor):
    """Until each picture's scores are said, whatever the order of the answers."""
    batches = []
    for name, said in SAID.items():
        for order in (TEXTS, TEXTS[::-1]):
            prompt = PAPER_RUBRIC.build(QUESTION, *order, "")
            # As sent for the rubric `paper`: the image after the text.
            content = [{"type": "text", "text": prompt}, {"type": "image", "image": picture(name)}]
            asked = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            tokenizer = processor.tokenizer
            reply = [*tokenizer(said, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            ids = torch.cat([asked["input_ids"], torch.tensor([reply])], dim=1)
            labels = ids.clone()
            labels[:, : -len(reply)] = -100
            batches.append(
                {"input_ids": ids, "pixel_values": asked["pixel_values"], "labels": labels}
            )
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        losses = [
            model(**batch, attention_mask=torch.ones_like(batch["input_ids"])).loss
            for batch in batches
        ]
        total = sum(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if max(losses).item() < 0.02:
            return
    raise AssertionError(f"the toy did not learn: {[loss.item() for loss in losses]}")


@pytest.fixture(scope="module")
def served(checkpoint, tmp_path_factory):
    """Base URL and model name of a server that is up, and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("run")
    program = Path(sys.executable).with_name("transformers")
    command = (
        f"{program} serve {checkpoint} --device cpu --dtype float32 --host 127.0.0.1 "
        f"--port {port} --log-level info"
    )
    with running_server(
        command,
        ready_url=f"http://127.0.0.1:{port}/health",
        folder=folder,
        timeout_s=240,
        env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    ):
        yield f"http://127.0.0.1:{port}/v1", str(checkpoint), folder / LOG


def answers(name):
    draws = tuple(Draw(request_id=name, index=i, text=text) for i, text in enumerate(TEXTS))
    return Answers(id=name, image=name, question=QUESTION, draws=draws)


def test_pairs_are_judged_end_to_end_and_the_image_reaches_the_model(served, tmp_path):
    url, model, log = served
    for name in SAID:
        picture(name).save(tmp_path / f"{name}.png")
    generator = EndpointGenerator(
        url, model, image_path=lambda name: tmp_path / f"{name}.png", max_tries=2, timeout_s=120
    )
    judge = ModelJudge(generator, name=model, model=model, orders="both", max_tokens=8)
    found = list(judge.judge([(answers(name), (0, 1)) for name in SAID]))
    assert [(v.answers_id, v.order, v.state) for v in found] == [
        ("bright", (0, 1), "ok"),
        ("bright", (1, 0), "ok"),
        ("dark", (0, 1), "ok"),
        ("dark", (1, 0), "ok"),
    ], log.read_text()[-2000:]
    # What is shown first has 9 for the bright picture and 2 for the dark one, in both orders.
    assert [v.winner for v in found] == [0, 1, 1, 0]
    assert [v.scores for v in found] == [(9, 3), (3, 9), (2, 8), (8, 2)]
    assert {v.reply for v in found} == set(SAID.values())
    for verdict in found:
        assert verdict.usage.prompt_tokens > 500
        assert verdict.model_returned.startswith(model)


def test_a_model_that_is_not_there_stops_at_once_with_one_line(served, tmp_path):
    url, _, _ = served
    picture("dark").save(tmp_path / "dark.png")
    generator = EndpointGenerator(
        url, "nobody/nothing", image_path=lambda _: tmp_path / "dark.png", max_tries=1
    )
    judge = ModelJudge(generator, name="nobody/nothing", orders="one")
    with pytest.raises(JudgeError, match=r"judge nobody/nothing: 400 from 127\.0\.0\.1"):
        list(judge.judge([(answers("dark"), (0, 1))]))

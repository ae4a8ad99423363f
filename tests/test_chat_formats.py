"""Published conversation formats against texts written out by hand, byte for byte.

A golden file is the original's text of the conversation below, with learned spans in ⟦ ⟧ (answers)
and ⟪ ⟫ (the asker's questions). How each was derived stands in docs/checkpoints.md.
"""

import re
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from stllava.chat import ANSWER, NOT_LEARNED, QUESTION, Chat
from stllava.errors import RecipeError
from stllava.formats import FORMATS, with_asker
from stllava.records import Turn

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = ["v1", "v1_sq", "v1_sq_token", "mistral_instruct"]
MARKS = {"⟦": ANSWER, "⟪": QUESTION, "⟧": NOT_LEARNED, "⟫": NOT_LEARNED}

TURNS = (
    Turn(question="Can you describe the image in detail?", answer="A chest X-ray."),
    Turn(question="Is there a nodule?", answer="Yes, on the left."),
    Turn(question="How large?", answer="Two centimetres."),
)
ASKED = {"user": [False] * 3, "asker": [False, True, True], "first": [True, False, False]}


def characters(text):
    """A tokenizer whose tokens are characters, the image's placeholder being one token."""
    spans = [m.span() for m in re.finditer(r"<image>|.", text, re.DOTALL)]
    return [0 if text[a:b] == "<image>" else ord(text[a:b]) for a, b in spans], spans


def chat_of(form):
    return Chat(form, characters, image_token_id=0, num_image_tokens=1)


def written(tokens):
    return "".join("<image>" if i == 0 else chr(i) for i in tokens.ids)


def golden(name, who):
    """Text and code of every token, an image being one."""
    text, codes, code = "", [], NOT_LEARNED
    marked = (GOLDEN / f"{name}-{who}.txt").read_text(encoding="utf-8")
    for character in re.findall(r"<image>|.", marked, re.DOTALL):
        if character in MARKS:
            code = MARKS[character]
        else:
            text += character
            codes.append(code)
    return text, codes


@pytest.mark.parametrize("who", ASKED)
@pytest.mark.parametrize("name", PUBLISHED)
def test_training_text_and_learned_spans_equal_the_golden_file(name, who):
    tokens = chat_of(FORMATS[name]).training(TURNS, ASKED[who])
    text, codes = golden(name, who)
    assert written(tokens) == text
    assert tokens.learned == codes


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("name", PUBLISHED)
def test_assistant_prompt_is_the_golden_text_up_to_its_answer(name, number):
    text, codes = golden(name, "user")
    starts = [i for i, c in enumerate(codes) if c == ANSWER and codes[i - 1] != ANSWER]
    at = len("".join(re.findall(r"<image>|.", text, re.DOTALL)[: starts[number - 1]]))
    prompt = chat_of(FORMATS[name]).prompt(TURNS[:number], "assistant")
    assert written(prompt) == text[:at]


@pytest.mark.parametrize("name", PUBLISHED)
def test_asker_prompt_is_the_golden_text_up_to_its_question(name):
    text, codes = golden(name, "asker")
    at = len("".join(re.findall(r"<image>|.", text, re.DOTALL)[: codes.index(QUESTION)]))
    prompt = chat_of(FORMATS[name]).prompt(TURNS[:1], "asker")
    assert written(prompt) == text[:at]


@cache
def words(scheme):
    """A tokenizer that sets a blank before a text's first word, as Llama's do."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    special = ["<unk>", "<s>", "</s>", "<image>", "<vusr>"]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    bpe.train_from_iterator([golden(name, "user")[0] for name in PUBLISHED], trainer)
    return bpe


def chat_with(bpe, name):
    def encode(text):
        encoding = bpe.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    return Chat(FORMATS[name], encode, bpe.token_to_id("<image>"), num_image_tokens=1)


@pytest.mark.parametrize("scheme", ["first", "always"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_tokens_are_those_of_each_side_of_the_image_alone(name, scheme):
    bpe = words(scheme)
    before, after = golden(name, "asker")[0].removeprefix("<s>").split("<image>")
    expected = [
        bpe.token_to_id("<s>"),
        *bpe.encode(before).ids,
        bpe.token_to_id("<image>"),
        *bpe.encode(after).ids,
    ]
    tokens = chat_with(bpe, name).training(TURNS, ASKED["asker"])
    assert tokens.ids == expected
    assert said_by(bpe, tokens, ANSWER) == "".join(
        t.answer + FORMATS[name].gap + "</s>" for t in TURNS
    ).replace(" ", "")


def said_by(bpe, tokens, code):
    pairs = zip(tokens.ids, tokens.learned, strict=True)
    return "".join(bpe.id_to_token(i) for i, c in pairs if c == code).replace("▁", "")


@pytest.mark.parametrize("scheme", ["first", "always"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_sampled_ids_and_the_same_text_are_the_same_conversation(name, scheme):
    bpe = words(scheme)
    chat = chat_with(bpe, name)
    whole = chat.training(TURNS, ASKED["asker"])
    ids, spoken = [], []
    for token, code in zip(whole.ids, whole.learned, strict=True):
        ids = [*ids, token] if code else []
        if token == bpe.token_to_id("</s>"):
            spoken.append(tuple(ids))
            ids = []
    answers, questions = [spoken[0], spoken[2], spoken[4]], [None, spoken[1], spoken[3]]
    spliced = [
        t.model_copy(update={"answer_ids": a, "question_ids": q})
        for t, a, q in zip(TURNS, answers, questions, strict=True)
    ]
    assert chat.training(spliced, ASKED["asker"]) == whole


def test_the_blank_missing_in_the_released_system_text_is_missing_here():
    assert "user's questions.Also, the artificial" in FORMATS["v1_sq"].system
    assert "etc. Again, do not ask about uncertain details. " in FORMATS["v1_sq"].system


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_text_can_spell_a_control_token(name):
    form = FORMATS[name]
    nasty = "a<s>b</s>c<vusr>d<image>e"
    tokens = chat_of(form).training([Turn(question=nasty, answer=nasty)], [False])
    text = written(tokens)
    assert (text.count("<s>"), text.count("</s>"), text.count("<image>")) == (1, 1, 1)
    assert text.count("<vusr>") == (0 if form.asked_by == "token" else 2)


@pytest.mark.parametrize("asker", ["token", "text"])
@pytest.mark.parametrize("name", ["v1", "v1_sq", "v1_sq_token"])
def test_vicuna_formats_know_both_ways_to_ask(name, asker):
    form = with_asker(FORMATS[name], asker)
    assert form.asked_by == asker
    assert FORMATS[form.name] is form
    assert with_asker(FORMATS[name], "auto") is FORMATS[name]


@pytest.mark.parametrize("name", ["mistral_instruct", "stllava"])
def test_formats_without_a_text_role_refuse_one(name):
    assert with_asker(FORMATS[name], "token") is FORMATS[name]
    with pytest.raises(
        RecipeError, match=f"model.asker: text: chat format {name} has no text role"
    ):
        with_asker(FORMATS[name], "text")

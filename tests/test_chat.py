"""Which tokens are learned, and that no text can pretend to be another speaker."""

import dataclasses

import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from stllava.chat import ANSWER, NOT_LEARNED, QUESTION, Chat
from stllava.errors import DataError
from stllava.formats import STLLAVA
from stllava.records import Turn

# As published LLaVA checkpoints write it: system text first, the image inside the first question.
IMAGE_IN_TURN = dataclasses.replace(
    STLLAVA, name="in-turn", system="A chat. ", asker="VUSER:", image_first=False
)
FORMATS = pytest.mark.parametrize("form", [STLLAVA, IMAGE_IN_TURN], ids=lambda f: f.name)

TURNS = (
    Turn(question="Is there a nodule?", answer="Yes, on the left."),
    Turn(question="How large?", answer="Two centimetres."),
    Turn(question="What organ?", answer="The lung."),
)

# Text in which control tokens, roles and their fragments are likelier than by chance.
fragments = st.sampled_from(
    ["<image>", "</s>", "<vusr>", "<pad>", "<ima", "ge>", "</", "s>", "<vu", "sr>", "<", ">", " ",
     "\n", "USER:", "ASSISTANT:", "\u2028", "\x00", "é", "漢", "🫀", "yes"]
)  # fmt: skip
texts = st.lists(st.one_of(fragments, st.text(max_size=6)), max_size=8).map("".join)


def encode(text):
    encoding = toy.tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoding["input_ids"], encoding["offset_mapping"]


def chat_of(form=STLLAVA):
    return Chat(form, encode, toy.IMAGE, toy.NUM_PATCHES)


def said(tokens, code):
    """The text of all tokens learned as `code`, end tokens written out."""
    return toy.tokenizer().decode(
        [i for i, c in zip(tokens.ids, tokens.learned, strict=True) if c == code]
    )


@FORMATS
def test_answers_and_their_end_tokens_are_learned_and_nothing_else(form):
    tokens = chat_of(form).training(TURNS, [False] * 3)
    assert said(tokens, ANSWER) == " Yes, on the left.</s> Two centimetres.</s> The lung.</s>"
    assert said(tokens, QUESTION) == ""


@FORMATS
def test_asker_questions_and_their_end_tokens_are_learned_but_no_role_is(form):
    tokens = chat_of(form).training(TURNS, [True, False, True])
    first = "Is there a nodule?</s>" if form is IMAGE_IN_TURN else " Is there a nodule?</s>"
    assert said(tokens, QUESTION) == first + " What organ?</s>"
    assert said(tokens, ANSWER) == " Yes, on the left.</s> Two centimetres.</s> The lung.</s>"
    rest = said(tokens, NOT_LEARNED)
    assert rest.count(form.asker) == 2
    assert rest.count("USER: How large?") == 1
    assert rest.count(" ASSISTANT:") == 3


def test_whether_the_first_question_is_learned_is_the_callers_flag():
    assert said(chat_of().training(TURNS[:1], [True]), QUESTION) == " Is there a nodule?</s>"
    assert said(chat_of().training(TURNS[:1], [False]), QUESTION) == ""


def test_every_turn_needs_its_flag():
    with pytest.raises(ValueError, match="shorter"):
        chat_of().training(TURNS, [True])


@FORMATS
@pytest.mark.parametrize("number", [1, 2, 3])
def test_prompt_is_an_exact_token_prefix_of_the_training_sequence(form, number):
    chat = chat_of(form)
    whole = chat.training(TURNS, [False] * 3)
    open_turn = (*TURNS[: number - 1], TURNS[number - 1].model_copy(update={"answer": None}))
    prompt = chat.prompt(open_turn, "assistant")
    assert whole.ids[: len(prompt.ids)] == prompt.ids
    assert whole.learned[len(prompt.ids)] == ANSWER
    assert not any(prompt.learned)


@FORMATS
@pytest.mark.parametrize("number", [0, 1, 2])
def test_asker_prompt_is_an_exact_token_prefix_of_the_training_sequence(form, number):
    chat = chat_of(form)
    whole = chat.training(TURNS, [j == number for j in range(3)])
    prompt = chat.prompt(TURNS[:number], "asker")
    assert whole.ids[: len(prompt.ids)] == prompt.ids
    assert whole.learned[len(prompt.ids)] == QUESTION
    assert whole.learned[: len(prompt.ids)].count(QUESTION) == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.sampled_from([0, 1]))
def test_prompts_are_prefixes_whatever_the_texts_are(pairs, which):
    chat = chat_of([STLLAVA, IMAGE_IN_TURN][which])
    turns = [Turn(question=q, answer=a) for q, a in pairs]
    whole = chat.training(turns, [False] * len(turns)).ids
    prompt = chat.prompt(turns, "assistant").ids
    assert whole[: len(prompt)] == prompt
    asked = chat.training(turns, [False] * (len(turns) - 1) + [True]).ids
    prompt = chat.prompt(turns[:-1], "asker").ids
    assert asked[: len(prompt)] == prompt


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(texts, texts, st.booleans()), min_size=1, max_size=3))
def test_no_text_can_open_or_close_a_turn_or_show_an_image(turns):
    flags = [by_asker for _, _, by_asker in turns]
    tokens = chat_of().training([Turn(question=q, answer=a) for q, a, _ in turns], flags)
    assert tokens.ids.count(toy.IMAGE) == toy.NUM_PATCHES
    assert tokens.ids.count(toy.VUSR) == sum(flags)
    assert tokens.ids.count(toy.END) == len(turns) + sum(flags)
    ends = [c for i, c in zip(tokens.ids, tokens.learned, strict=True) if i == toy.END]
    expected = [[QUESTION, ANSWER] if by_asker else [ANSWER] for by_asker in flags]
    assert ends == [code for codes in expected for code in codes]


@settings(max_examples=150, deadline=None)
@given(texts)
def test_every_token_after_the_prompt_is_learned_whatever_its_script(text):
    tokens = chat_of().training([Turn(question="What?", answer=text)], [False])
    start = len(chat_of().prompt([Turn(question="What?")], "assistant").ids)
    assert set(tokens.learned[start:]) == {ANSWER}
    assert set(tokens.learned[:start]) == {NOT_LEARNED}


def test_spliced_ids_are_kept_verbatim_and_learned_whole():
    odd = (100, 5, 5, 77, toy.END)  # no tokenizer would write this text so
    spelled = tuple(encode(toy.tokenizer().decode(odd[:-1]))[0])
    assert spelled != odd[:-1]
    turns = [
        Turn(question="Is it?", answer="ignored", answer_ids=odd),
        Turn(question="x", answer="No.", question_ids=(9, 9, toy.END)),
    ]
    tokens = chat_of().training(turns, [False, True])
    answers = [i for i, c in zip(tokens.ids, tokens.learned, strict=True) if c == ANSWER]
    questions = [i for i, c in zip(tokens.ids, tokens.learned, strict=True) if c == QUESTION]
    assert tuple(answers[: len(odd)]) == odd
    assert questions == [9, 9, toy.END]


def test_spliced_ids_follow_the_same_prompt_as_the_one_they_were_sampled_after():
    prompt = chat_of().prompt([Turn(question="Is it?")], "assistant").ids
    spliced = Turn(question="Is it?", answer="", answer_ids=(100, 5, toy.END))
    assert chat_of().training([spliced], [False]).ids == [*prompt, 100, 5, toy.END]


@FORMATS
def test_the_image_placeholder_is_expanded_exactly_once(form):
    tokens = chat_of(form).training(TURNS, [True, True, False])
    at = tokens.ids.index(toy.IMAGE)
    assert tokens.ids[at : at + toy.NUM_PATCHES] == [toy.IMAGE] * toy.NUM_PATCHES
    assert tokens.ids.count(toy.IMAGE) == toy.NUM_PATCHES
    assert set(tokens.learned[: at + toy.NUM_PATCHES]) == {NOT_LEARNED}


def test_spliced_ids_with_a_second_image_are_refused():
    turn = Turn(question="Is it?", answer="", answer_ids=(5, toy.IMAGE, toy.END))
    with pytest.raises(DataError, match="exactly one <image>"):
        chat_of().training([turn], [False])

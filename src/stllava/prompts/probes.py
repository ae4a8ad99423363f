"""What `stllava judge check` asks an endpoint, and the pairs of `stllava judge selftest`."""

from __future__ import annotations

PROBES = {
    "image": "Which colour and which shape do you see in the image? Answer in two words.",
    # Says nothing of JSON: only a server that enforces the schema makes it one.
    "json_schema": "Which colour is the shape in the image, and how many sides has it?",
    "json_object": (
        "Which colour is the shape in the image? Explain in a short sentence, then give a JSON "
        "object with the field colour."
    ),
    "logprobs": "Is the shape in the image red? Reply with one word, yes or no.",
    "sampling": "Make up a name of three words for a ship. Reply with the name only.",
    "max_tokens": "Count from one to one hundred, in words.",
}
PAIR_QUESTION = "What does the image show?"


def pair_answer(colour: str, shape: str) -> str:
    """An answer to `PAIR_QUESTION`, right or wrong."""
    return f"The image shows a {colour} {shape} on a white ground."

"""Where an endpoint is, with which key, and what to say when it lets nobody in."""

from __future__ import annotations

import re
from typing import NamedTuple

import httpx2
import openai

from stllava.errors import JudgeError
from stllava.generation.key import without

# As OpenAI, vLLM, llama.cpp, Ollama, Anthropic and Gemini word it.
_TOO_LONG = re.compile(
    r"context_length|context_size|context_window|maximum_context|max_model_len|prompt_is_too_long"
    r"|input_token_count|too_many_tokens|exceeds_the_maximum_number_of_tokens"
)


class Access(NamedTuple):
    """One model behind one endpoint. `section`: the part of the recipe that errors speak of."""

    url: str
    host: str
    model: str
    key: str
    key_source: str  # where the key is from, in words
    section: str

    def __repr__(self) -> str:
        """Without the key: this may stand in a traceback."""
        return f"Access({self.model!r} at {self.host!r})"

    def client(self, http_client: httpx2.Client) -> openai.OpenAI:
        """The official client, its own retries off."""
        return openai.OpenAI(
            base_url=self.url,
            api_key=self.key or "none",  # the client refuses an empty one
            max_retries=0,
            http_client=http_client,
            default_headers={"Accept-Encoding": "identity"},  # what is read is what was sent
        )

    def away(self, num_calls: int) -> JudgeError:
        """Nobody is there, and waiting for call after call would not help."""
        kind = "judge" if self.section == "judge" else "model"
        return JudgeError(
            f"{kind} {self.model}: no connection to {self.host} for {num_calls} calls in a row; "
            f"see that the server runs and that {self.section}.base_url is right, then repeat the "
            "command: nothing is lost"
        )

    def final(self, error: openai.APIStatusError) -> JudgeError:
        """What no other try would get past, in one line and without the key."""
        kind = "judge" if self.section == "judge" else "model"
        other = f"choose another {kind} with --set {self.section}.model=..."
        if is_out_of_credit(error):
            return JudgeError(
                f"{kind} {self.model}: no credit left at {self.host}; add some or {other}"
            )
        start = f"{kind} {self.model}: {error.status_code} from {self.host}"
        if error.status_code in (401, 403):
            verb = "check" if self.key else "set"
            return JudgeError(f"{start}; {verb} {self.key_source} or {other}")
        if error.status_code == 404:
            return JudgeError(f"{start}; check {self.section}.base_url, or {other}")
        said = error.body.get("message") if isinstance(error.body, dict) else error.body
        plain = str(said or "no reason given").encode("utf-8", "replace").decode()
        text = without(self.key, " ".join(plain.split()))
        return JudgeError(f"{start}: {text[:200]}; change the request or {other}")


def is_too_long(error: openai.APIStatusError) -> bool:
    """Whether a request is refused for its length, which says nothing of the others."""
    said = re.sub(r"\W+", "_", f"{error.code} {error.body}".lower())
    return error.status_code == 413 or bool(_TOO_LONG.search(said))


def is_out_of_credit(error: openai.APIStatusError) -> bool:
    """Whether an error says that no call will pass before somebody pays."""
    return "insufficient_quota" in (error.code, error.type)

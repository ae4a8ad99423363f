"""The conversation format as a Jinja template."""

from __future__ import annotations

import re

from stllava.formats import IMAGE, ChatFormat

TEMPLATE = """\
{#- Written by stllava. Roles: user, assistant, asker (a question that the model asks itself).
One image, which comes first. speaker="asker" with add_generation_prompt opens the asker's turn. -#}
{%- macro clean(text) -%}{{ text @REPLACE@| trim }}{%- endmacro -%}
{%- set ns = namespace(images=0, place=@PLACE@, text='') -%}
{%- for message in messages if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] in ['image', 'image_url'] -%}
{%- set ns.images = ns.images + 1 -%}
{%- endfor -%}
{%- endfor -%}
{%- if ns.images != 1 -%}
{{- raise_exception('a conversation must hold exactly one image') -}}
{%- endif -%}
{{- @OPENING@ -}}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set ns.text = message['content'] -%}
{%- else -%}
{%- set ns.text = '' -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{%- set ns.text = ns.text + part['text'] -%}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{{- @ASSISTANT@ + ' ' + clean(ns.text) + @END@ -}}
{%- elif message['role'] not in ['user', 'asker'] -%}
{{- raise_exception('roles are user, assistant and asker') -}}
{%- elif ns.text | trim -%}
{{- (@USER@ if message['role'] == 'user' else @ASKER@) + (ns.place or ' ') -}}
{{- clean(ns.text) + (@END@ if message['role'] == 'asker' else '') -}}
{%- set ns.place = '' -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- @ASKER@ + ns.place if speaker is defined and speaker == 'asker' else @ASSISTANT@ -}}
{%- endif -%}
"""


def chat_template(chat_format: ChatFormat) -> str:
    """The format as a Jinja template: renders what `chat.Chat` tokenises."""
    controls = (IMAGE, *chat_format.control)
    first = chat_format.image_first
    values = {
        "REPLACE": "".join(f"| replace({_jinja(token)}, ' ') " for token in controls),
        "OPENING": _jinja(chat_format.system + (f"{IMAGE}\n" if first else "")),
        "PLACE": _jinja("" if first else f" {IMAGE}\n"),
        "USER": _jinja(chat_format.user),
        "ASKER": _jinja(chat_format.asker),
        "ASSISTANT": _jinja(chat_format.assistant),
        "END": _jinja(chat_format.gap + chat_format.end),
    }
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], TEMPLATE)


def _jinja(text: str) -> str:
    """A Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"

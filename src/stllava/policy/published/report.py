"""What a conversion did: counted, so that nothing is lost in silence."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class LoraCounts(NamedTuple):
    """What became of the adapters."""

    merged_llm: int  # weights changed by the language model's adapter
    merged_vit: int  # weights changed by the vision encoder's
    twins_equal: int  # vision tensors inside the language model's adapter, same values
    twins_different: int
    vit_zero_b: int  # vision lora_B that are all zero: never trained

    @property
    def vit_untrained(self) -> bool:
        """Every vision lora_B is zero: the published vision adapter does nothing."""
        return self.merged_vit > 0 and self.vit_zero_b == self.merged_vit


class Report(NamedTuple):
    """What `convert` wrote and what it left out."""

    title: str  # of the layout read
    out: Path
    num_tensors: int
    left_out: dict[str, int]  # published tensors by reason
    added_tokens: tuple[str, ...]
    dtypes: dict[str, int]  # number of tensors by dtype
    chat_format: str
    asker: str
    notes: tuple[str, ...] = ()
    lora: LoraCounts | None = None

    def lines(self) -> list[str]:
        """The report for a reader, a fact a line."""
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
        lines = [f"{self.out}: {self.num_tensors} tensors ({kinds}) from {self.title}"]
        lines += [f"left out: {count} x {why}" for why, count in self.left_out.items()]
        if self.added_tokens:
            lines.append(
                f"tokens added, their rows the mean of all: {', '.join(self.added_tokens)}"
            )
        lines.append(f"chat format {self.chat_format}; the asker speaks by {self.asker}")
        return [*lines, *self.notes, *self._lora_lines()]

    def _lora_lines(self) -> list[str]:
        if self.lora is None:
            return []
        counts = self.lora
        lines = [
            f"LoRA merged into {counts.merged_llm} language and {counts.merged_vit} vision weights"
        ]
        if counts.twins_equal or counts.twins_different:
            lines.append(
                f"vision adapters stored twice: {counts.twins_equal} tensors equal, "
                f"{counts.twins_different} different (those under Vit-lora were used)"
            )
        if counts.vit_untrained:
            lines.append("every vision lora_B is zero: the published vision adapter never trained")
        return lines

"""A frozen linear map in 4 bits (Dettmers et al. 2023, QLoRA, section 3). Needs bitsandbytes.

Import it where a policy is quantised: bitsandbytes is an extra.
"""

from __future__ import annotations

import bitsandbytes as bnb
import torch
from torch import Tensor, nn


class NF4Linear(bnb.nn.Linear4bit):
    """Weights as 4-bit NormalFloats in blocks of 64, whose scales are 8-bit in turn.

    PEFT knows it as a bitsandbytes layer. Its arithmetic is that of a plain linear map: fp32, or
    what autocast says. The inherited forward is not used: it rounds biases in place, and on a CPU
    with AVX512-BF16 it repacks the weights at the first call in eval mode, after which inputs get
    no gradient any more.
    """

    def __init__(self, linear: nn.Linear, device: str | torch.device) -> None:
        """Quantise `linear`, which stays as it is, on `device`."""
        super().__init__(
            linear.in_features, linear.out_features, bias=False, quant_type="nf4", device="meta"
        )
        self.weight = bnb.nn.Params4bit(
            linear.weight.detach(), requires_grad=False, compress_statistics=True, quant_type="nf4"
        ).to(device)
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().to(device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), in the dtype that `nn.Linear` would return."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        found: Tensor = bnb.matmul_4bit(
            x, self.weight, bias=bias, quant_state=self.weight.quant_state
        )
        return found

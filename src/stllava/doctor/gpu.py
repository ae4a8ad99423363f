"""GPUs, and the libraries that need one."""

from __future__ import annotations

from importlib import import_module, util
from pathlib import Path
from typing import Any

from stllava.doctor.finding import GIB, Finding
from stllava.doctor.packages import installed


def accelerator() -> list[Finding]:
    """GPUs, and which fast attention and serving libraries can be used with them."""
    try:
        torch = import_module("torch")
    except ImportError as error:
        remedy = "pip install 'stllava[train]'"
        return [Finding("gpu", "warn", f"not known: torch cannot be imported ({error})", remedy)]
    except OSError as error:  # a library that torch links against
        remedy = "pip install --force-reinstall torch"
        return [Finding("gpu", "bad", f"torch cannot be loaded: {error}", remedy)]
    has_gpu = torch.cuda.is_available()
    return [
        _gpus(torch, has_gpu),
        _flex_attention(has_gpu),
        *(_gpu_library(name, has_gpu) for name in ("flash_attn", "vllm")),
    ]


def _gpus(torch: Any, has_gpu: bool) -> Finding:
    if has_gpu:
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        text = ", ".join(f"{card.name} {card.total_memory / GIB:.0f} GiB" for card in cards)
        half = torch.cuda.is_bf16_supported()
        return Finding("gpu", "ok", f"{text}; bf16 {'yes' if half else 'no, fp32 is used'}")
    if Path("/proc/driver/nvidia/version").is_file():
        text = f"an NVIDIA driver is there, but torch {torch.__version__} sees no GPU"
        return Finding(
            "gpu", "warn", text, "install a CUDA build of torch: pytorch.org/get-started"
        )
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return Finding("gpu", "ok", f"none; the CPU is used, bf16 {'yes' if half else 'no'}")


def _flex_attention(has_gpu: bool) -> Finding:
    if util.find_spec("torch.nn.attention.flex_attention") is None:
        return Finding("flex attention", "warn", "not in this torch", "pip install 'torch>=2.6'")
    text = "used on the GPU" if has_gpu else "there, but needs a GPU; the CPU uses dense or blocks"
    return Finding("flex attention", "ok", text)


def _gpu_library(module: str, has_gpu: bool) -> Finding:
    """Optional libraries. They are looked for, not imported: importing vllm takes half a minute."""
    name = module.replace("_", "-")
    if util.find_spec(module) is None:
        return Finding(name, "ok", "not installed; not needed")
    if not has_gpu:
        return Finding(name, "warn", "installed, but there is no GPU for it", "use a GPU machine")
    return Finding(name, "ok", f"{installed(module) or 'installed'}")

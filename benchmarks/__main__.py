"""Run comparisons by name; without one, all that a CPU can do and whose data are there.

python -m benchmarks dpo generate --rounds 5
python -m benchmarks evaluate sft --data FOLDER
python -m benchmarks gpu --shape llava-7b
python -m benchmarks judge --base-url kept=http://127.0.0.1:8101/v1 none=http://127.0.0.1:8102/v1
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

import torch
import transformers

from benchmarks import dpo, evaluate, generate, gpu, judge, projector, served, sft
from stllava.errors import StllavaError

NAMES = ("dpo", "generate", "evaluate", "sft", "projector", "judge")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{platform.machine()}, {args.threads} thread(s), medians of {args.rounds} rounds"
    )
    for name in args.names or NAMES:
        if name in ("evaluate", "sft") and args.data is None:
            print(f"{name}: left out; it needs the data (--data FOLDER or STLLAVA_TEST_DATA)")
            continue
        try:
            _run(name, args)
        except StllavaError as error:
            raise SystemExit(str(error)) from None


def _run(name: str, args: argparse.Namespace) -> None:
    if name == "dpo":
        dpo.run(rounds=args.rounds, python=args.peer_python, threads=args.threads)
    elif name == "generate":
        generate.run(rounds=args.rounds)
    elif name == "evaluate":
        evaluate.run(args.data, full=args.full, rounds=args.rounds)
    elif name == "sft":
        sft.run(args.data, rounds=args.rounds)
    elif name == "projector":
        projector.run(rounds=args.rounds)
    elif name == "judge" and args.base_url:
        servers = dict(named.split("=", 1) for named in args.base_url)
        served.run(servers, rounds=args.rounds, in_flight=args.in_flight)
    elif name == "judge":
        judge.run(rounds=args.rounds)
    else:
        gpu.run(args.shape, rounds=args.rounds, tiny=args.tiny)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What sharing saves, measured."
    )
    parser.add_argument("names", nargs="*", choices=(*NAMES, "gpu", []), metavar="NAME")
    parser.add_argument(
        "--rounds", type=int, default=3, help="counted rounds, after one that is not"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="evaluate: all images")
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("STLLAVA_TEST_DATA"),
        help="folder that holds slake/ and vqa_rad/",
    )
    parser.add_argument(
        "--peer-python", default=_peer_python(), help="interpreter with trl and peft"
    )
    parser.add_argument(
        "--base-url", nargs="+", type=_named, metavar="NAME=URL", help="judge: servers that run"
    )
    parser.add_argument(
        "--in-flight", type=int, default=1, help="judge --base-url: calls at a time"
    )
    parser.add_argument("--shape", choices=tuple(gpu.SHAPES), default="llava-7b", help="gpu")
    parser.add_argument("--tiny", action="store_true", help="gpu: toy sizes, also on a CPU")
    args = parser.parse_args()
    args.data = Path(args.data) if args.data else None
    return args


def _named(text: str) -> str:
    if not all(text.partition("=")):
        raise argparse.ArgumentTypeError(f"{text}: not NAME=URL")
    return text


def _peer_python() -> str:
    own = Path(".venv-trl/bin/python")
    return str(own.absolute()) if own.exists() else sys.executable


if __name__ == "__main__":
    main()

"""`python -m stllava` is `stllava`."""

from stllava.cli import main

main()

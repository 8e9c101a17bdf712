"""`python -m pipecut`."""

from pipecut.cli import main

main()

"""`python -m whycam` is `whycam`."""

from whycam.cli import main

main()

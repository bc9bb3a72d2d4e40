"""`python -m mxd` is the `mxd` command."""

from mxd.cli.main import main

main()

"""`python -m clouddeploy.cli`."""

from clouddeploy.cli.main import main

main()

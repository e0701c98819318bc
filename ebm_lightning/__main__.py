"""`python -m ebm_lightning` is `ebm`."""

from ebm_lightning.cli.main import main

main()

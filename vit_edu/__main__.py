"""`python -m vit_edu` is the command `vit-edu`."""

import sys

from vit_edu.cli import main

sys.exit(main())

"""`python -m atomslim` is `atomslim`."""

import sys

from atomslim.cli.main import main

sys.exit(main())

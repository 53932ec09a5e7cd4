"""Compile the kernels in place, for a checkout: `python -m pipeline_recurrent.native`."""

import sys

from pipeline_recurrent.native.compile import main

sys.exit(main())

"""python -m splat2d"""

import sys

from splat2d.cli import main

sys.exit(main())

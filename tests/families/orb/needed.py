"""Can be imported where Orb can be tested: its package wants an older rich than the rest of the tests have."""

from atomslim.errors import ConfigError
from atomslim.families.orb import FAMILY

try:
    FAMILY.require_package()
except ConfigError as error:
    raise ImportError(f"{error}; make test-orb runs these tests") from error

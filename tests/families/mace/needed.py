"""Can be imported where MACE can be tested: its package pins e3nn 0.4.4, which `sevenn` cannot use."""

from atomslim.errors import ConfigError
from atomslim.families.mace import FAMILY

try:
    FAMILY.require_package()
except ConfigError as error:
    raise ImportError(f"{error}; make test-mace runs these tests") from error

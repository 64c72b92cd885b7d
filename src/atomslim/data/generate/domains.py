"""The domains: how their structures are drawn, how they are labelled, and which part of a data set they make."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from numpy.random import Generator

from atomslim.atoms.sample import Sample
from atomslim.data.generate import adsorbates, dynamics, extremes, molecules, oxides, reactions
from atomslim.data.generate.labels import Labeller, Method
from atomslim.errors import ConfigError


@dataclass(frozen=True)
class Domain:
    """One domain."""

    name: str
    title: str
    sample: Callable[[int, Generator, Labeller], Iterator[Sample]]
    """Gives labelled structures of group `number` without end; raises Dropped where the group cannot be made."""
    method: Method
    share: int
    """Parts of a data set for pre-training, by the number of structures; domains with cheap labels have more."""
    size: int
    """Structures of a group."""
    stream: int
    """Seed that makes its random numbers different from those of the others."""
    elements: tuple[str, ...]
    """All that its structures are made of."""
    bulk: bool = False
    """Whether its extremes are strained cells as well."""

    def extreme(self) -> "Domain":
        """Return the same with structures at the edges of the domain instead of ordinary ones."""
        kinds = [extremes.pairs(self.elements, self.size), extremes.squeezed(self.sample)]
        kinds += [extremes.contacts(self.sample), *([extremes.cells] if self.bulk else [])]

        def sample(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
            return kinds[number % len(kinds)](number // len(kinds), random, label)

        return replace(self, sample=sample, stream=self.stream + _EXTREME)


_EXTREME = 100
"""Added to the stream of a domain for its extremes."""

_ORGANIC = ("H", "C", "N", "O")
_METALLIC = (*_ORGANIC, *adsorbates.LATTICE)
_INSULATING = tuple(sorted({*_ORGANIC, *oxides.elements()}))

_MOLECULAR = Method("GFN2-xTB", accuracy=0.1)
_METALS = Method("GFN1-xTB", temperature=1500.0)
_INSULATORS = Method("GFN1-xTB")

_ALL = (
    Domain("molecules", "molecules off equilibrium", molecules.sample, _MOLECULAR, 51, 20, 0, _ORGANIC),
    Domain("reactions", "paths of reactions", reactions.sample, _MOLECULAR, 34, 20, 1, _ORGANIC),
    Domain("adsorbates", "adsorbates on metals", adsorbates.sample, _METALS, 17, 10, 2, _METALLIC),
    Domain("oxides", "oxides and other insulators", oxides.sample, _INSULATORS, 16, 10, 3, _INSULATING, bulk=True),
    Domain("dynamics", "dynamics of paracetamol", dynamics.sample, _MOLECULAR, 0, 50, 4, _ORGANIC),
)

DOMAINS = {domain.name: domain for domain in _ALL}
"""Domains by name."""


FOUR = tuple(name for name, domain in DOMAINS.items() if domain.share)
"""Domains that make up a data set for pre-training; the dynamics are to be asked for."""


def shares(total: int, names: Sequence[str] = FOUR) -> dict[str, int]:
    """Divide a number of structures among domains; every one gets at least one, the first takes what is left over.

    Raises:
        ConfigError: a domain that does not exist, or fewer structures than domains.

    """
    if total < len(names):
        raise ConfigError(f"{total} structures for {len(names)} domains: ask for more structures")
    parts = [domain_of(name).share or 1 for name in names]
    counts = {name: max(int(total * part / sum(parts)), 1) for name, part in zip(names, parts, strict=True)}
    counts[names[0]] += total - sum(counts.values())
    return counts


def domain_of(name: str) -> Domain:
    """Find a domain by name; raises ConfigError naming all where there is none."""
    if name not in DOMAINS:
        raise ConfigError(f"there is no domain {name!r} (there are {', '.join(DOMAINS)})")
    return DOMAINS[name]
